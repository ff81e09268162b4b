//! The worker that this process is: found once, with its signals and its end.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::deadlines::Exit;
use super::link::Link;
use super::{MASTER_LOST, Managed, Worker, watch};
use crate::bootstrap;

/// The worker of this process. The first call takes over what a master left.
pub(super) fn current() -> io::Result<Worker> {
    static CURRENT: OnceLock<Result<Worker, Arc<io::Error>>> = OnceLock::new();
    CURRENT.get_or_init(|| find().map_err(Arc::new)).clone().map_err(|error| io::Error::new(error.kind(), error))
}

fn find() -> io::Result<Worker> {
    let Some(adopted) = bootstrap::adopt()? else {
        return Ok(Worker { managed: None });
    };
    // Before the master hears of the worker: from then on a signal means what the documentation says.
    let term = signals()?;
    let link = Link::new(adopted.channel, adopted.board)?;
    watch::start(Arc::clone(&link), term, leave)?;
    let identity = adopted.identity;
    Ok(Worker { managed: Some(Managed { link, identity }) })
}

/// TERM makes the stream readable: leave. INT and HUP are caught and do nothing: ignoring them would reach the children
/// of the application.
fn signals() -> io::Result<UnixStream> {
    let (readable, written) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, written)?;
    let noticed = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&noticed))?;
    }
    Ok(readable)
}

/// Ends the process as the watcher says.
pub(super) fn leave(exit: Exit) {
    match exit {
        Exit::Drained => self::exit(0),
        Exit::MasterLost => self::exit(MASTER_LOST),
        // At once: what runs at a process's end, in its libraries, may wait for a thread that never comes.
        Exit::Overdue => signal_hook::low_level::exit(MASTER_LOST),
    }
}

/// Ends the process, whatever its threads are doing.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the end of a worker: its application may never return, and its deadline has come"
)]
pub(super) fn exit(code: i32) {
    std::process::exit(code)
}
