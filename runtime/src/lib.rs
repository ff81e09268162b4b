//! Everport keeps a port open for ever.
//!
//! A *master* holds the listening sockets and gives *workers* either the connections that it accepted or the listener itself
//! ([`Policy`]). On `kill -HUP` it starts a new *generation* of workers and drains the old one, without closing the port. A
//! connection that a worker did not take goes to another, whatever became of the worker.
//!
//! One program is both: [`Builder::run`] makes the first process the master, which starts the same program again for each
//! worker. In a worker, [`net`] has the listeners and streams, as tokio's of the same names.
//!
//! ```no_run
//! use everport::net::TcpListener;
//!
//! fn main() -> everport::Result<()> {
//!     everport::Builder::new().workers(2).run(async |worker| {
//!         let listener = TcpListener::bind("127.0.0.1:8000").await?;
//!         let draining = worker.draining();
//!         tokio::pin!(draining);
//!         loop {
//!             tokio::select! {
//!                 accepted = listener.accept() => {
//!                     let (mut stream, _client) = accepted?;
//!                     tokio::spawn(async move {
//!                         let (mut read, mut write) = stream.split();
//!                         tokio::io::copy(&mut read, &mut write).await
//!                     });
//!                 }
//!                 // The streams that are open keep the worker alive until they end.
//!                 () = &mut draining => return Ok::<(), std::io::Error>(()),
//!             }
//!         }
//!     })
//! }
//! ```
//!
//! For HTTP, `everport::serve` (feature `http`) moves the connections that clients keep open to the next worker, so that they notice nothing of a
//! reload. [`handover`] does that for connections of other kinds, with a state of the application.
//!
//! Programs that do not embed Everport but use its listeners run under `everport run -- PROGRAM`. The signals, settings and
//! exit codes are in the README, the design in ARCHITECTURE.md.
#![forbid(unsafe_code)]

mod builder;
#[doc(hidden)]
pub mod cli;
mod config;
mod control;
mod daemon;
mod error;
mod log_file;
mod machine;
mod pid_file;
mod shell;
mod telemetry;

#[cfg(feature = "axum")]
pub use everport_handoff::adapter::axum;
#[cfg(feature = "http")]
pub use everport_handoff::serve::{self, serve};
#[cfg(feature = "rustls")]
pub use everport_handoff::tls;
pub use everport_handoff::worker::{Activity, Guard, MASTER_LOST, Worker};
pub use everport_handoff::{handover, id, net};

pub use crate::builder::Builder;
pub use crate::config::{ConfigError, Policy, Readiness, Strategy, UnknownPolicy, UnknownReadiness, UnknownStrategy};
pub use crate::error::{Error, Result};
pub use crate::shell::PrivilegeError;
