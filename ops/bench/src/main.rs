//! The benchmarks of Everport; `ops/bench/run` is the command, and `README.md` beside it says what each figure means.
#![forbid(unsafe_code)]

mod client;
mod clock;
mod cpu;
mod error;
mod figures;
mod http;
mod machine;
mod parts;
mod plot;
mod protocol;
mod report;
mod serve;
mod server;
mod side;
mod statistics;
mod tools;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use error::{Error, Result};
use machine::Machine;
use parts::Part;
use rustix::process::{Resource, Rlimit, getpid, getrlimit, set_child_subreaper, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::task::LocalSet;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write what was found
    Measure(Measure),
    /// Serve, as one of the sides that are measured
    Serve(serve::Settings),
}

#[derive(clap::Args)]
struct Measure {
    /// Which parts, by name or number [default: all]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Show that everything runs, in a minute
    #[arg(long)]
    quick: bool,
    /// Where to write
    #[arg(long)]
    output: PathBuf,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve(settings) => serve::run(&settings),
        Command::Measure(measure) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Error::io("start", "a runtime"))?;
            // On a signal the servers are dropped, which ends them.
            runtime.block_on(async {
                let clients = LocalSet::new();
                tokio::select! {
                    done = clients.run_until(run(&measure)) => done,
                    interrupted = interrupted()? => interrupted,
                }
            })
        }
    }
}

async fn run(measure: &Measure) -> Result<()> {
    // What loses its parent becomes ours, so that it can be reaped.
    set_child_subreaper(Some(getpid())).map_err(Error::io("adopt", "orphans"))?;
    allow_many_descriptors()?;
    let machine = Machine::here();
    let all = Part::value_variants();
    let parts = if measure.parts.is_empty() { all } else { &measure.parts };
    for part in parts {
        let findings = part.measure(measure.quick).await?;
        report::write(&measure.output, &machine, &findings)?;
        let text = format!("# {}\n\n{}\n", findings.title, report::tables(&findings));
        io::stdout().write_all(text.as_bytes()).map_err(Error::io("print", "the findings"))?;
    }
    Ok(())
}

/// For us and for the servers, which inherit it: as many as the hard limit allows.
fn allow_many_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).map_err(Error::io("raise", "the limit of descriptors"))
}

/// Resolves when somebody wants it to end.
fn interrupted() -> Result<impl Future<Output = Result<()>>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(Error::io("handle", "signals"))?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The measurement may have ended already.
            let _ = sender.send(signal);
        }
    });
    Ok(async { Err(Error::Interrupted(receiver.await.unwrap_or(SIGTERM))) })
}
