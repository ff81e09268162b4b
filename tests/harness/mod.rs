//! What every test uses: a master with its log and its control socket, and clients that never retry.
//!
//! Invariants: nothing here sleeps; a wait ends by an event or by a deadline that fails the test. Whatever a test starts is
//! killed and reaped when its [`Master`] is dropped, also in a panic.

pub(crate) mod clients;
pub(crate) mod clock;
pub(crate) mod http;
pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod master;
pub(crate) mod process;
pub(crate) mod setup;
pub(crate) mod status;

pub(crate) use clock::{PATIENCE, soon};
pub(crate) use lines::Line;
pub(crate) use master::{Ended, Master, command};
pub(crate) use setup::Setup;
