//! Why a socket could not be bound.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::InheritedError;
use crate::address::{AddressError, ListenAddress};

/// What went wrong with which address.
#[derive(Debug, thiserror::Error)]
#[error("bind {address}: {cause}")]
pub struct BindError {
    /// The address as it prints.
    pub address: String,
    /// What went wrong.
    #[source]
    pub cause: BindCause,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindCause {
    /// When the system refuses to make the socket, to bind it or to listen.
    #[error(transparent)]
    System(io::Error),
    /// When the system refuses something on the way there.
    #[error("cannot {step}: {source}")]
    Step {
        /// What was attempted.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// When a host name has no address.
    #[error("its host name has no address")]
    NoAddress,
    /// When the absolute path is not a good address.
    #[error(transparent)]
    Address(AddressError),
    /// When a listener of another process, or of this one, holds the lock on this path.
    #[error("a live listener holds {}", .lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// When a socket is there and not dead.
    #[error("a live socket is there")]
    Live,
    /// When a file is there that is not a socket. It is never unlinked.
    #[error("a file that is not a socket is there")]
    NotASocket,
    /// When a group of sockets is wanted, and this address can have only one.
    #[error("policy split needs several TCP sockets of its own, and {0}")]
    NoGroup(&'static str),
    /// When an inherited socket cannot be used.
    #[error(transparent)]
    Inherited(InheritedError),
}

impl BindError {
    pub(super) fn new(address: &ListenAddress, cause: BindCause) -> Self {
        Self { address: address.to_string(), cause }
    }

    /// The number of the error that a plain bind would have given.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.cause {
            BindCause::System(error) | BindCause::Step { source: error, .. } => error.raw_os_error(),
            BindCause::Locked { .. } | BindCause::Live | BindCause::NotASocket => Some(Errno::ADDRINUSE.raw_os_error()),
            BindCause::Inherited(InheritedError::NotOpen(_)) => Some(Errno::BADF.raw_os_error()),
            BindCause::NoAddress | BindCause::Address(_) | BindCause::NoGroup(_) | BindCause::Inherited(_) => None,
        }
    }

    /// The kind of the error that a plain bind would have given.
    pub fn kind(&self) -> io::ErrorKind {
        match (&self.cause, self.raw_os_error()) {
            (_, Some(number)) => io::Error::from_raw_os_error(number).kind(),
            (BindCause::System(error) | BindCause::Step { source: error, .. }, None) => error.kind(),
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

impl BindCause {
    pub(super) fn step(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Step { step, source }
    }
}

impl From<io::Error> for BindCause {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<BindError> for io::Error {
    /// The system's own error where there is one, as a plain bind gives it.
    fn from(error: BindError) -> Self {
        match error.cause {
            BindCause::System(error) => error,
            _ => Self::new(error.kind(), error),
        }
    }
}
