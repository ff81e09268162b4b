//! The worker side of a process: what it hears from its master, says to it, and counts.
//!
//! - `state`: what the worker may do, one enum;
//! - `link`, `dispatch`: what was asked, said and counted, and how the master's messages are obeyed; synchronous;
//! - `handovers`: what was handed over and whose outcome is not known; `orders`: what `Drain` allows;
//! - `driver`: the task that reads the channel; `watch`, `deadlines`: the thread that keeps time and sees the master go;
//! - `port`, `copy`, `waiters`, `index`: one listener as the worker holds it;
//! - `line`: how it waits at shared listeners, so that a connection wakes one worker; `limit`: how many connections it may
//!   have;
//! - `tie`: one connection in the worker's count; `ages`: which of them is the oldest; `activity`: which is in a request;
//! - `tickets`: the keys of session tickets;
//! - `process`: the one worker of this process, its signals and its end.
//!
//! Invariant: in a process without a master nothing here does anything, and a server runs as it would without Everport.

mod activity;
mod ages;
pub(crate) mod copy;
mod deadlines;
mod dispatch;
mod driver;
pub(crate) mod handovers;
mod index;
pub(crate) mod limit;
pub(crate) mod line;
pub(crate) mod link;
mod orders;
pub(crate) mod port;
mod process;
pub(crate) mod state;
mod streams;
#[cfg(test)]
mod tests;
mod tickets;
pub(crate) mod tie;
pub(crate) mod waiters;
mod watch;

use std::future::Future;
use std::io;
use std::sync::Arc;

pub use self::activity::Activity;
use crate::bootstrap::Identity;
use crate::id::{Generation, Slot, WorkerId};
use link::Link;
use state::Step;

/// The exit code of a worker whose master has gone without a word.
pub const MASTER_LOST: i32 = 110;

/// The worker that this process is, or a stand-in for one when no master started it.
///
/// Copies are cheap and mean the same worker.
#[derive(Clone, Debug)]
pub struct Worker {
    managed: Option<Managed>,
}

#[derive(Clone, Debug)]
struct Managed {
    link: Arc<Link>,
    identity: Identity,
}

/// Work that keeps the worker alive while it drains, until it is dropped.
#[derive(Debug)]
pub struct Guard {
    link: Option<Arc<Link>>,
}

impl Worker {
    /// The worker of this process. The first call takes over what the master left, greets the master, and starts the
    /// thread that watches it: from then on TERM means leave, and INT and HUP do nothing.
    ///
    /// # Errors
    ///
    /// What the master left makes no sense to this program, or the system refuses a thread or a descriptor.
    pub fn current() -> io::Result<Self> {
        process::current()
    }

    /// Whether a master started this process.
    pub fn is_managed(&self) -> bool {
        self.managed.is_some()
    }

    /// Its id, never used for another worker. `None` without a master.
    pub fn id(&self) -> Option<WorkerId> {
        self.identity().map(|identity| identity.worker)
    }

    /// The slot that it fills. `None` without a master.
    pub fn slot(&self) -> Option<Slot> {
        self.identity().map(|identity| identity.slot)
    }

    /// The generation that it belongs to. `None` without a master.
    pub fn generation(&self) -> Option<Generation> {
        self.identity().map(|identity| identity.generation)
    }

    fn identity(&self) -> Option<Identity> {
        self.managed.as_ref().map(|managed| managed.identity)
    }

    /// Says that the worker can serve. The first call counts, and it is needed only where readiness is manual: else the
    /// first poll of `accept`, or of a receive on a UDP socket, that finds every `bind` answered says so.
    pub fn ready(&self) {
        if let Some(link) = self.link() {
            link.ready();
            link.drive_if_possible();
        }
    }

    /// Resolves when the worker drains and its application may stop: nothing more is accepted, and every connection
    /// that was has been read from once, or had `first_byte_grace` for it. Never without a master.
    ///
    /// A program that asks for this is trusted to end by itself: it may run on to the hard deadline.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let watched = self.link().map(|link| (Arc::clone(link), link.watch_drain()));
        async move {
            if let Some((link, _)) = &watched {
                link.drive_if_possible();
            }
            if let Some((_, mut state)) = watched
                // The sender lives as long as the process's worker: an error can only come with its end.
                && state.wait_for(|state| state.step() >= Some(Step::Announced)).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// Whether the worker drains, or its master is lost: it accepts nothing more.
    pub fn is_draining(&self) -> bool {
        self.link().is_some_and(|link| link.state().step().is_some())
    }

    /// Resolves as soon as the worker drains, or its master is lost: earlier than [`draining`](Self::draining), which waits
    /// for first reads. For a program that hands connections over: they need no first read here. Never without a master.
    pub fn drain_begins(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let watched = self.link().map(|link| (Arc::clone(link), link.state.subscribe()));
        async move {
            if let Some((link, _)) = &watched {
                link.drive_if_possible();
            }
            if let Some((_, mut state)) = watched
                // As in `draining`.
                && state.wait_for(|state| state.step().is_some()).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// Whether the worker drains and others may take its connections over. It is `false` at a stop, when the master is
    /// lost, and as long as the worker does not drain.
    pub fn has_successor(&self) -> bool {
        self.is_draining() && self.link().is_some_and(|link| link.has_successor())
    }

    /// Resolves at the soft deadline of a drain: what is idle and could not be handed over is to be closed gently now, so
    /// that the worker ends before it is killed. When the master is lost, that is at half of the time that is left. Never
    /// without a master.
    pub fn soft_deadline(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let watched = self.link().map(|link| link.softened.subscribe());
        async move {
            if let Some(mut softened) = watched
                // As in `draining`.
                && softened.wait_for(|softened| *softened).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }

    /// Resolves when a draining worker has no stream and no guard left and has told its master. The process ends then,
    /// by itself or by its master. Never without a master.
    pub async fn finished(&self) {
        if let Some(link) = self.link() {
            let mut state = link.state.subscribe();
            if state.wait_for(|state| state.step() == Some(Step::Finished)).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Keeps the worker alive while it drains, for work that is no stream of [`net`](crate::net): background work,
    /// replies that are under way on UDP, sockets that left by `into_std`.
    #[must_use = "the worker may end when the guard is dropped"]
    pub fn guard(&self) -> Guard {
        let link = self.link().cloned();
        if let Some(link) = &link {
            link.guard_begins();
        }
        Guard { link }
    }

    /// Counts a connection whose requests the server can tell, so that `everport status` shows what a draining worker waits
    /// for. The connection itself is counted by its stream.
    #[must_use = "the connection is known only as long as this is held"]
    pub fn activity(&self) -> Activity {
        Activity::new(self.link().cloned())
    }

    /// Asks the master for a replacement, and to drain this worker once that is ready. Does nothing without a master.
    pub fn leave(&self) {
        if let Some(link) = self.link() {
            link.leave();
        }
    }

    /// Ends the process with [`MASTER_LOST`] if the master is lost. For the end of `main`, after the application and its
    /// runtime have ended.
    pub fn exit_if_master_lost(&self) {
        if self.link().is_some_and(|link| link.state().is_lost()) {
            process::exit(MASTER_LOST);
        }
    }

    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.managed.as_ref().map(|managed| &managed.link)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.guard_ends();
        }
    }
}
