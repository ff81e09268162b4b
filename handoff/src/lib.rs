//! The mechanism of Everport: what crosses between master and worker, both ends.
//!
//! The master binds, accepts and starts workers. A worker is any program that uses [`net`] in the place of tokio's types.
//! They share three things, one set for each worker ([`bootstrap`] says how the worker finds them):
//!
//! - the **channel** ([`channel`]), a `SOCK_SEQPACKET` socket pair: one packet is one [`message`] with its descriptors;
//! - the **board** ([`board`]), a sealed page of memory: the words of offers, counters and the heartbeat;
//! - the **bell**, an eventfd by which the worker wakes a master that has asked for it.
//!
//! ```text
//! worker                                   master
//! Hello (versions)             -------->
//!                              <--------   Welcome (terms, the bell), Limit (if there is one)
//! Listen (address)             -------->
//!                              <--------   Listening (id, real address, the socket if it is shared)
//! Ready                        -------->
//!                              <--------   Activate
//!                              <--------   Offer (a connection on a word of the board)
//! takes or refuses it on the board
//! Leave, if it wants to        -------->
//!                              <--------   Drain
//! Handover (a live connection) -------->   offers it to another
//!                              <--------   HandedOver (moved, or returned)
//! Drained                      -------->   ends it, or it ends by itself
//! ```
//!
//! **The word** ([`offer`]) decides who owns a connection. Both have a descriptor while it is offered, and exactly one of
//! the worker's *take* and *refuse* and the master's *revoke* wins; the application never sees a connection before it is
//! taken. So no connection is lost or served twice, whichever side dies when.
//!
//! **A handover** ([`handover`]) gives a connection that a worker owns to another one, through the master, which offers it like
//! a new one. The giver counts it until it knows the outcome, and is its owner again if nobody takes it.
//!
//! **A lost master** is the end of the channel: the worker gives up the shared sockets at once, takes what was offered,
//! finishes what it has and leaves by a code of its own ([`worker`]).
//!
//! [`address`] and [`name`] are the text and the value of an address, [`socket`] binds, [`policy`] says how connections are
//! spread, [`id`] names things. [`adapter`] fits the listeners into frameworks, `serve` (feature `http`) serves HTTP on
//! connections that move. [`tickets`] are the keys by which a TLS client resumes its session in any worker. [`listen_fds`] and
//! [`privileges`] are what a worker's process is started with besides.

#[cfg(not(target_os = "linux"))]
compile_error!("everport runs on Linux (5.10 or newer) only: it is built on pidfd, memfd seals, eventfd and epoll");

pub mod adapter;
pub mod address;
pub mod board;
pub mod bootstrap;
pub mod channel;
pub mod handover;
pub mod id;
pub mod listen_fds;
mod memfd;
pub mod message;
pub mod name;
pub mod net;
pub mod offer;
mod parcel;
pub mod policy;
pub mod privileges;
#[cfg(feature = "http")]
pub mod serve;
pub mod socket;
mod sys;
pub mod tickets;
#[cfg(feature = "rustls")]
pub mod tls;
pub mod worker;
