//! The mechanism of Everport: what crosses between master and worker, both ends.

pub mod adapter;
pub mod address;
pub mod board;
pub mod bootstrap;
pub mod channel;
pub mod id;
pub mod listen_fds;
pub mod message;
pub mod name;
pub mod net;
pub mod offer;
pub mod privileges;
pub mod socket;
mod sys;
pub mod worker;
