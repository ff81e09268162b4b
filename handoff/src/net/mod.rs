//! The drop-in types: tokio's listeners, streams and UDP sockets, by the same names and with the same methods, as far as a
//! server uses them.
//!
//! In a worker, `bind` asks the master and `accept` takes what the master offers, or accepts from the socket that the
//! master shares. In a process without a master everything is as in tokio.
//!
//! Bind all, then accept: where readiness is automatic, the worker is ready at the first poll of `accept`, or of a receive on
//! a UDP socket, that finds no `bind` waiting for its answer. A program that accepts earlier says itself when it is ready,
//! by [`Worker::ready`](crate::worker::Worker::ready) and manual readiness.
//!
//! The first `bind` starts a task on its runtime that hears the master. That runtime must go on turning: one that is never
//! polled again makes the worker deaf, and the master takes it for hung. When it is dropped, the next runtime that binds or
//! accepts takes over.
//!
//! While the worker is not active, `accept` and the receiving methods of UDP wait; they do not fail, so that a loop around
//! them does not tear down the connections beside it.
//!
//! A connection that another worker has read from and handed over gives those bytes first, whichever way it is read.
//! [`Stream::handover`] gives one away, [`Listener::resumed`] takes those that come with the state of an application.
//!
//! A stream comes into its runtime's epoll the first time that somebody has to wait for it, in the runtime where that is;
//! most requests are there by then. Its `try_` methods ask the socket itself until then.
//!
//! What tokio has and these types leave out, on purpose:
//!
//! - `connect`, also of a UDP socket, with `send` and `peer_addr`: outgoing connections are not Everport's matter, and a
//!   connected socket would serve one client in all workers; use tokio's types;
//! - `TcpSocket` and the options of listeners: they stand in the address, for the master binds;
//! - `from_std`, `into_std`, `as_fd` and `take_error` of listeners, `into_std` of UDP sockets: in a worker there may be no
//!   socket, or it is taken back;
//! - `UnixDatagram`, named pipes: not handed over;
//! - `UnixStream::pair`: use tokio's;
//! - of UDP sockets `ready`, `async_io`, `peek`, `peek_sender`, and TOS, traffic class and device: use the descriptor.

#[cfg(any(feature = "axum", feature = "http"))]
mod accepting;
mod bind;
mod handover;
mod io;
mod kind;
mod listener;
mod resumed;
mod split;
mod stream;
pub mod tcp;
mod udp;
pub mod unix;
mod unread;

#[cfg(any(feature = "axum", feature = "http"))]
pub(crate) use accepting::{ACCEPT_RETRY, is_the_clients};
pub use kind::{Kind, Tcp, Unix};
pub use listener::Listener;
pub use resumed::Resumed;
pub use stream::Stream;
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixListener, UnixStream};
