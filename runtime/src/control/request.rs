//! How requests get from the control thread to the master's loop: a bounded queue and an eventfd that the loop polls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use everport_handoff::id::{Slot, WorkerId};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use super::protocol::{
    AskedBy, Begun, Killing, Pausing, ReloadRecord, Reopened, Respread, Scaled, Status, Stopping, Weighed,
};
use crate::config::Policy;
use crate::machine::Scale;
use crate::shell::PolicyError;

/// Who asks, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// Zero if the client lives in a pid namespace that the master cannot see.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

impl From<Client> for AskedBy {
    fn from(Client { pid, uid }: Client) -> Self {
        Self::Control { pid, uid }
    }
}

/// What a client wants of the master's loop. To drop `answer` is to say that the master is stopping.
#[derive(Debug)]
pub(crate) enum Request {
    /// Answer at once.
    Status { answer: oneshot::Sender<Status> },
    /// Reload, and answer with the outcome.
    Reload { client: Client, answer: oneshot::Sender<ReloadRecord> },
    /// Open the log files again, and answer when that is done.
    Reopen { client: Client, answer: oneshot::Sender<Reopened> },
    /// Reload, and answer at once with what has begun.
    BeginReload { client: Client, answer: oneshot::Sender<Begun> },
    /// Roll the reload under way back, and answer with its record; with nothing if there is none.
    Rollback { client: Client, answer: oneshot::Sender<Option<ReloadRecord>> },
    /// Begin to stop, and answer at once.
    Stop { client: Client, at_once: bool, answer: oneshot::Sender<Stopping> },
    /// Set the number of workers, and answer at once.
    Scale { client: Client, to: Scale, answer: oneshot::Sender<Scaled> },
    /// Let the workers take no connections, or take them again, and answer at once.
    Pause { client: Client, paused: bool, answer: oneshot::Sender<Pausing> },
    /// Give a listener another policy, and answer at once.
    Policy { client: Client, listener: String, policy: Policy, answer: oneshot::Sender<Result<Respread, PolicyError>> },
    /// Give a slot another weight, and answer at once; with nothing when there is no such slot.
    Weight { client: Client, slot: Slot, weight: u32, answer: oneshot::Sender<Option<Weighed>> },
    /// Kill a worker, and answer at once; with nothing when there is none of this id.
    Kill { client: Client, worker: WorkerId, answer: oneshot::Sender<Option<Killing>> },
}

/// A queue for `capacity` requests.
pub(super) fn queue(capacity: usize) -> io::Result<(Asker, Requests)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = sync_channel(capacity);
    Ok((Asker { sender, bell: Arc::clone(&bell) }, Requests { receiver, bell }))
}

/// The loop's end. Its descriptor is readable when there is something to take.
#[derive(Debug)]
pub(crate) struct Requests {
    receiver: Receiver<Request>,
    bell: Arc<OwnedFd>,
}

impl Requests {
    /// Everything that has been asked until now. Never waits.
    pub(crate) fn take(&self) -> impl Iterator<Item = Request> + '_ {
        // Silence the bell first: what is asked from here on rings it again. An error means that it was silent already.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.receiver.try_iter()
    }
}

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The control thread's end.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    sender: SyncSender<Request>,
    bell: Arc<OwnedFd>,
}

impl Asker {
    /// Puts a request before the loop and waits for its answer.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.sender.try_send(request(answer)).map_err(|error| match error {
            TrySendError::Full(_) => Unanswered::Busy,
            TrySendError::Disconnected(_) => Unanswered::Stopping,
        })?;
        // It fails only when the counter is full, and then the bell rings anyway.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        answered.await.map_err(|_| Unanswered::Stopping)
    }
}

/// Why the master gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("the master is stopping")]
    Stopping,
    #[error("the master has too many requests to answer already")]
    Busy,
    #[error("the master did not answer in time")]
    TooSlow,
    #[error("too many clients wait for a reload already")]
    TooManyWaiting,
}
