//! The control socket: how operators ask a running master.
//!
//! - [`protocol`]: what goes over the wire, plain data;
//! - [`server`]: HTTP over a unix socket, on a thread of its own, so that no client can slow the master's loop;
//! - [`orders`]: the requests to scale, pause, resume and kill;
//! - [`request`]: the way from that thread to the loop and back;
//! - [`client`]: the other end, for the commands.

pub(crate) mod client;
mod orders;
pub(crate) mod protocol;
pub(crate) mod request;
pub(crate) mod server;
mod socket;
#[cfg(test)]
mod tests;
