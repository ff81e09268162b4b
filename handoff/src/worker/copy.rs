//! The worker's copy of a socket that it shares with the master and with other workers, and how it is given up. Beside it
//! there may be sockets of the same listener that are *lent*: they are some other slot's, which has no worker now.
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
    held: Mutex<Held<S>>,
}

struct Held<S> {
    own: Holding<S>,
    lent: Vec<(u32, Holding<S>)>,
    /// How often all of them were given out, so that each comes first in its turn.
    turns: usize,
}

/// What there is to accept from.
pub(crate) enum Sockets<S> {
    One(Arc<S>),
    Several(Vec<Arc<S>>),
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
    /// Keeps a socket that is lent, by its number.
    fn lend(&self, number: u32, socket: OwnedFd);
    /// Closes that one, as soon as nobody uses it.
    fn take_back(&self, number: u32);
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
        let held = Held { own: Holding::Nothing, lent: Vec::new(), turns: 0 };
        Self { at_drain, held: Mutex::new(held) }
    }

    /// Registers the socket that has arrived, if one has.
    pub(crate) fn register(&self, register: impl FnOnce(OwnedFd) -> io::Result<S>) -> io::Result<()> {
        let own = &mut self.lock().own;
        if let Holding::Arrived(_) = *own
            && let Holding::Arrived(socket) = std::mem::replace(own, Holding::Nothing)
        {
            *own = Holding::Registered(Arc::new(register(socket)?));
        }
        Ok(())
    }

    /// The socket, while it is there to be used.
    pub(crate) fn get(&self) -> Option<Arc<S>> {
        self.lock().own.get()
    }

    /// The socket and those that are lent, which are registered here, while it is there to be used.
    pub(crate) fn all(&self, register: impl Fn(OwnedFd) -> io::Result<S>) -> io::Result<Option<Sockets<S>>> {
        let mut held = self.lock();
        let Held { own, lent, turns } = &mut *held;
        let Some(own) = own.get() else { return Ok(None) };
        if lent.is_empty() {
            return Ok(Some(Sockets::One(own)));
        }
        let mut sockets = vec![own];
        for (_, holding) in lent {
            if let Holding::Arrived(socket) = holding {
                // Of a copy: what cannot be registered now is not lost, for nobody else accepts from it.
                *holding = Holding::Registered(Arc::new(register(socket.try_clone()?)?));
            }
            sockets.extend(holding.get());
        }
        *turns = turns.wrapping_add(1);
        let first = *turns % sockets.len();
        sockets.rotate_left(first);
        Ok(Some(Sockets::Several(sockets)))
    }

    fn lock(&self) -> MutexGuard<'_, Held<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Holding<S> {
    fn get(&self) -> Option<Arc<S>> {
        match self {
            Self::Registered(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }
}

impl<S: Registered> Holding<S> {
    fn blank(&mut self, silent: BorrowedFd<'_>) {
        match self {
            Self::Registered(socket) => {
                socket.abandon();
                if let Err(error) = blank(socket.as_fd(), silent) {
                    tracing::debug!(%error, "close a shared socket at once");
                }
            }
            _ => *self = Self::Closed,
        }
    }
}

impl<S: Registered> Shared for SharedCopy<S> {
    fn arrive(&self, socket: OwnedFd) {
        let own = &mut self.lock().own;
        if let Holding::Nothing = *own {
            *own = Holding::Arrived(socket);
        }
    }

    fn lend(&self, number: u32, socket: OwnedFd) {
        let mut held = self.lock();
        held.lent.retain(|(lent, _)| *lent != number);
        held.lent.push((number, Holding::Arrived(socket)));
    }

    fn take_back(&self, number: u32) {
        self.lock().lent.retain(|(lent, _)| *lent != number);
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
            let given_up = {
                let mut held = self.lock();
                held.lent.clear();
                std::mem::replace(&mut held.own, Holding::Closed)
            };
            if let Holding::Registered(socket) = given_up {
                socket.pause();
            }
        }
    }

    fn blank(&self, silent: BorrowedFd<'_>) {
        let mut held = self.lock();
        held.own.blank(silent);
        for (_, holding) in &mut held.lent {
            holding.blank(silent);
        }
    }
}

impl<S> fmt::Debug for SharedCopy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.lock().own {
            Holding::Nothing => "Nothing",
            Holding::Arrived(_) => "Arrived",
            Holding::Registered(_) => "Registered",
            Holding::Closed => "Closed",
        })
    }
}
