//! The worker's copy of a socket that it shares with the master and with other workers, and how it is given up.
//!
//! Two parties hold it: the listener of the application, which uses it, and the link, which closes it when the worker
//! drains or when the master is lost, whatever the application is doing then.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::blank::blank;

/// The copy of one shared socket, registered with a runtime as an `S`.
pub(crate) struct SharedCopy<S> {
    at_drain: AtDrain,
    holding: Mutex<Holding<S>>,
}

/// What becomes of a copy when the worker drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AtDrain {
    /// It is closed as soon as nobody uses it: nothing is accepted any more.
    Close,
    /// It stays, for replies.
    Keep,
}

enum Holding<S> {
    /// There is none, or none yet.
    Nothing,
    /// It came from the master and is not registered yet.
    Arrived(OwnedFd),
    /// It is in use.
    Registered(Arc<S>),
    /// It was given up, and what still arrives is closed at once.
    Closed,
}

/// What a copy is registered as.
pub(crate) trait Registered: AsFd + Send + Sync {
    /// The worker accepts no more, for now or for ever.
    fn pause(&self) {}
    /// Looks whether it has missed something.
    fn look_again(&self) {}
    /// The master is lost, and the file about to be closed.
    fn abandon(&self) {}
}

impl Registered for tokio::net::UdpSocket {}

/// What the link does with a copy, whatever it is registered as.
pub(crate) trait Shared: Send + Sync {
    /// Keeps the socket that came from the master.
    fn arrive(&self, socket: OwnedFd);
    /// Does what is right when the worker is paused.
    fn pause(&self);
    /// Looks whether something was missed.
    fn look_again(&self);
    /// Does what is right when the worker drains.
    fn drain(&self);
    /// Closes the file at once, even while it is in use on a thread that is blocked: the port is free afterwards. The
    /// silent file takes its place.
    fn blank(&self, silent: BorrowedFd<'_>);
}

impl<S> SharedCopy<S> {
    /// A copy that has yet to arrive, if it ever does.
    pub(crate) fn new(at_drain: AtDrain) -> Self {
        Self { at_drain, holding: Mutex::new(Holding::Nothing) }
    }

    /// Registers the socket that has arrived, if one has.
    pub(crate) fn register(&self, register: impl FnOnce(OwnedFd) -> io::Result<S>) -> io::Result<()> {
        let mut holding = self.lock();
        if let Holding::Arrived(_) = *holding
            && let Holding::Arrived(socket) = std::mem::replace(&mut *holding, Holding::Nothing)
        {
            *holding = Holding::Registered(Arc::new(register(socket)?));
        }
        Ok(())
    }

    /// The socket, while it is there to be used.
    pub(crate) fn get(&self) -> Option<Arc<S>> {
        match &*self.lock() {
            Holding::Registered(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Holding<S>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Registered> Shared for SharedCopy<S> {
    fn arrive(&self, socket: OwnedFd) {
        let mut holding = self.lock();
        if let Holding::Nothing = *holding {
            *holding = Holding::Arrived(socket);
        }
    }

    fn pause(&self) {
        // Not under the lock, for what it passes on may go a long way.
        if let Some(socket) = self.get() {
            socket.pause();
        }
    }

    fn look_again(&self) {
        if let Some(socket) = self.get() {
            socket.look_again();
        }
    }

    fn drain(&self) {
        if self.at_drain == AtDrain::Close {
            let given_up = std::mem::replace(&mut *self.lock(), Holding::Closed);
            if let Holding::Registered(socket) = given_up {
                socket.pause();
            }
        }
    }

    fn blank(&self, silent: BorrowedFd<'_>) {
        let mut holding = self.lock();
        match &*holding {
            Holding::Registered(socket) => {
                socket.abandon();
                if let Err(error) = blank(socket.as_fd(), silent) {
                    tracing::debug!(%error, "close a shared socket at once");
                }
            }
            _ => *holding = Holding::Closed,
        }
    }
}

impl<S> fmt::Debug for SharedCopy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.lock() {
            Holding::Nothing => "Nothing",
            Holding::Arrived(_) => "Arrived",
            Holding::Registered(_) => "Registered",
            Holding::Closed => "Closed",
        })
    }
}
