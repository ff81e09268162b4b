//! Everport keeps a port open for ever.
#![forbid(unsafe_code)]

mod builder;
#[doc(hidden)]
pub mod cli;
mod config;
mod control;
mod error;
mod machine;
mod pid_file;
mod shell;
mod telemetry;

#[cfg(feature = "axum")]
pub use everport_handoff::adapter::axum;
pub use everport_handoff::worker::{Guard, MASTER_LOST, Worker};
pub use everport_handoff::{id, net};

pub use crate::builder::Builder;
pub use crate::config::{ConfigError, Policy, Readiness, Strategy, UnknownPolicy, UnknownReadiness, UnknownStrategy};
pub use crate::error::{Error, Result};
