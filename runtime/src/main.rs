//! The `everport` command.
fn main() {}
