//! The only `unsafe` of the workspace: what the safe wrappers of the system's calls cannot express.
//!
//! - `scm`: one message with its descriptors over one socket;
//! - `memory`: a sealed page that two processes share;
//! - `readiness`: watching a descriptor in a tokio runtime;
//! - `image`: a program laid out for exec before the fork;
//! - `spawn`: what happens in a child between fork and exec;
//! - `blank`: taking a file away from under a descriptor number that other threads use;
//! - `inherit`: adopting descriptors that came with exec, each once.
#![allow(unsafe_code)]

pub(crate) mod blank;
pub(crate) mod image;
pub(crate) mod inherit;
pub(crate) mod memory;
pub(crate) mod readiness;
pub(crate) mod scm;
pub(crate) mod spawn;
