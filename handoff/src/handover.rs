//! Giving a live connection to another worker: what goes with it, and how it ends.
//!
//! [`Stream::handover`](crate::net::Stream::handover) gives, `accept` takes what is to be served as a new connection, and
//! [`Listener::resumed`](crate::net::Listener::resumed) takes what comes with the state of an application.
//!
//! ```
//! use everport_handoff::handover::{HandoverError, State};
//! use everport_handoff::net::{TcpListener, TcpStream};
//! use everport_handoff::worker::Worker;
//!
//! /// The form of the state of this program.
//! const VERSION: u32 = 1;
//!
//! # async fn session(_: TcpStream, _: Vec<u8>) {}
//! async fn serve(worker: &Worker, listener: TcpListener) -> std::io::Result<()> {
//!     let resumed = listener.resumed(VERSION..=VERSION)?;
//!     let drained = worker.drain_begins();
//!     tokio::pin!(drained);
//!     loop {
//!         let (stream, state) = tokio::select! {
//!             accepted = listener.accept() => (accepted?.0, Vec::new()),
//!             moved = resumed.accept() => moved.map(|(stream, state)| (stream, state.bytes.to_vec()))?,
//!             // The listener stays until the sessions have moved.
//!             () = &mut drained => return Ok(worker.finished().await),
//!         };
//!         tokio::spawn(session(stream, state));
//!     }
//! }
//!
//! /// For a session, when the drain begins and nothing of it is under way: gives it to another worker, or goes on.
//! async fn leave(stream: TcpStream, state: Vec<u8>) {
//!     match stream.handover(State::new(VERSION, state)).await {
//!         Err(HandoverError::Returned { stream, load, .. }) => session(stream, load.into_bytes().to_vec()).await,
//!         // Another worker has it, or it is lost.
//!         Ok(()) | Err(HandoverError::Lost) => {}
//!     }
//! }
//! # let _ = (serve, leave);
//! ```
//!
//! Invariant: whoever waits for a handover ends with the connection and its load, or with neither.

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::message::MAX_PARCEL;
use crate::net::{Kind, Stream};

/// What an application remembers of a connection, for whoever goes on with it.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// What the application calls the form of these bytes: only a worker that knows this version takes the connection.
    pub version: u32,
    /// The state itself, at most [`MAX_PARCEL`].
    pub bytes: Bytes,
}

/// What goes with a connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Load {
    /// Bytes that were read from the connection and not used, at most [`MAX_PARCEL`]. Whoever takes it serves it as a new
    /// one that gives these bytes first.
    Unread(Bytes),
    /// A state. Whoever takes the connection goes on with it.
    State(State),
}

/// Why a connection is not with another worker.
pub enum HandoverError<K: Kind> {
    /// When nothing has happened: the connection is the caller's as before, and it goes on with it.
    Returned {
        /// The connection.
        stream: Stream<K>,
        /// What should have gone with it.
        load: Load,
        /// Why it is back.
        reason: ReturnReason,
    },
    /// When the connection was under way and nobody can say where: the master is lost, or this process could not take it
    /// back.
    Lost,
}

/// Why a connection was returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnReason {
    /// When no master started this process, or the stream was made from one of tokio's.
    #[error("no master has given this connection")]
    NotManaged,
    /// When the master is lost.
    #[error("the master is lost")]
    MasterLost,
    /// When the worker drains and nobody comes after it.
    #[error("the worker drains without a successor")]
    NoSuccessor,
    /// When the load is too long.
    #[error("a load of {length} bytes is longer than {MAX_PARCEL}")]
    TooLong {
        /// How long it is, with what the stream had unread.
        length: usize,
    },
    /// When a state should go with a stream that has unread bytes: [`Stream::take_unread`], and let them be part of it.
    #[error("the stream has unread bytes, which a state must contain")]
    UnreadLeft,
    /// When the system refused a step before anything was sent.
    #[error("prepare the handover: {0}")]
    System(#[from] io::Error),
    /// When nobody could take it: no worker uses this listener, or all refused, for example this version of the state.
    #[error("no other worker has taken the connection")]
    NotTaken,
}

impl State {
    /// The state in this form.
    pub fn new(version: u32, bytes: impl Into<Bytes>) -> Self {
        Self { version, bytes: bytes.into() }
    }
}

impl Load {
    /// The bytes, whichever they are.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Unread(bytes) | Self::State(State { bytes, .. }) => bytes,
        }
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Unread(bytes) | Self::State(State { bytes, .. }) => bytes,
        }
    }
}

impl Default for Load {
    /// Nothing but the connection.
    fn default() -> Self {
        Self::Unread(Bytes::new())
    }
}

impl From<State> for Load {
    fn from(state: State) -> Self {
        Self::State(state)
    }
}

/// How long, and not what: it may be anybody's secret.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("version", &self.version).field("length", &self.bytes.len()).finish()
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(bytes) => f.debug_struct("Unread").field("length", &bytes.len()).finish(),
            Self::State(state) => state.fmt(f),
        }
    }
}

impl<K: Kind> fmt::Debug for HandoverError<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned { stream, load, reason } => {
                f.debug_struct("Returned").field("stream", stream).field("load", load).field("reason", reason).finish()
            }
            Self::Lost => f.write_str("Lost"),
        }
    }
}

impl<K: Kind> fmt::Display for HandoverError<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned { reason, .. } => write!(f, "the connection was not handed over: {reason}"),
            Self::Lost => f.write_str("the connection was lost while it was handed over"),
        }
    }
}

impl<K: Kind> std::error::Error for HandoverError<K> {}
