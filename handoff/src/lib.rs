//! The mechanism of Everport: what crosses between master and worker, both ends.

pub mod address;
pub mod id;
pub mod name;
