//! The watcher: a thread of its own, so that a worker hears signals, sees its master go and keeps its deadlines also
//! when the application blocks every thread of its runtime. It keeps all of the worker's time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::deadlines::{Deadlines, Exit, Seen};
use super::link::Link;
use super::streams::Streams;
use crate::board;

/// It only polls, reads the channel and writes the log.
const STACK: usize = 128 * 1024;

/// Starts the thread. `leave` is readable when the worker shall leave; `exit` ends the process.
pub(super) fn start(link: Arc<Link>, leave: UnixStream, exit: impl FnOnce(Exit) + Send + 'static) -> io::Result<()> {
    leave.set_nonblocking(true)?;
    thread::Builder::new()
        .name("everport-watch".to_owned())
        .stack_size(STACK)
        .spawn(move || exit(watch(&link, leave.into())))?;
    Ok(())
}

/// Watches until the process must end.
fn watch(link: &Arc<Link>, leave: OwnedFd) -> Exit {
    let mut deadlines = Deadlines::new(now());
    let mut streams = Streams::look();
    loop {
        let state = *link.state();
        let (asked, busy) = (link.is_drain_watched(), link.left().work);
        let seen = Seen { state, terms: link.terms(), grace: link.orders().grace, asked, busy };
        let turn = deadlines.turn(seen, now());
        if let Some(exit) = turn.exit {
            return exit;
        }
        if turn.beat {
            link.kick.notify_one();
            link.look_again();
        }
        if turn.soften {
            link.soften();
        }
        if turn.announce {
            link.announce();
            continue;
        }
        // Without POLLIN: that is the driver's, and here it would wake the thread for every message. The end of the
        // channel is always reported, so a channel that has ended is left out.
        let channel = PollFd::new(&link.channel, PollFlags::empty());
        let leaving = PollFd::new(&leave, PollFlags::IN);
        let alarm = PollFd::new(&link.alarm, PollFlags::IN);
        let mut fds = vec![leaving, alarm];
        match state.is_lost() {
            true => fds.extend(streams.watched()),
            false => fds.push(channel),
        }
        if let Err(error) = poll(&mut fds, Some(&until(turn.next)))
            && error != rustix::io::Errno::INTR
        {
            tracing::debug!(%error, "watch the master");
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (leaving, alarm) = (is_ready(&fds[0]), is_ready(&fds[1]));
        let ended = fds[2..].iter().any(is_ready);
        if alarm {
            board::silence(link.alarm.as_fd());
        }
        if leaving {
            // One byte or many mean the same, and nothing to read means nothing.
            let _ = rustix::io::read(&leave, &mut [0_u8; 64]);
            link.leave();
        }
        match state.is_lost() {
            false if ended => link.lose_master(),
            true if ended => {
                if let Err(error) = streams.let_go() {
                    tracing::debug!(%error, "let go of the pipes to the master");
                }
            }
            _ => {}
        }
    }
}

/// How long it is until then.
pub(super) fn until(next: Instant) -> Timespec {
    let wait = next.saturating_duration_since(now());
    // A wait too long for the system is as good as any long one.
    Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

#[expect(clippy::disallowed_methods, reason = "a worker's time enters here and nowhere else")]
pub(super) fn now() -> Instant {
    Instant::now()
}
