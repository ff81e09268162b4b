//! The `everport` command.

fn main() -> std::process::ExitCode {
    everport::cli::main()
}
