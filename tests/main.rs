//! Real masters, real workers, real clients: one story for each thing that Everport promises.
//!
//! Some stories have a forerunner in Node's cluster tests; the comment above them names its file.
#![forbid(unsafe_code)]

mod harness;

mod backpressure; // What the master does with more than it can give away.
mod chat; // WebSockets that stay open.
mod cli; // The `everport` command, and every way to start it wrongly.
mod clients; // The clients themselves: that they notice what they should.
mod config; // The configuration file.
mod control; // The control socket.
mod crash; // A worker, or the master, is gone from one moment to the next.
mod daemon; // A master that lives for years: its log files, and its life in the background.
mod drain; // What becomes of work under way.
mod examples; // The programs that people copy.
mod foreign; // Programs that know nothing of Everport.
mod generations; // What follows when a new generation serves.
mod handoff; // Who owns a connection.
mod handover; // Live connections that move.
mod identity; // What a worker knows and inherits, and what it does not.
mod limits; // How many connections a worker may have.
mod line; // Many workers that share a listener.
mod listening; // Addresses, options and errors of `bind`.
mod log; // Whoever reads the log may stall or go.
mod misbehaviour; // Workers that break the rules.
mod policies; // How connections are spread over the workers.
mod privileges; // As whom and within what workers run.
mod reload; // Generations: committed, or rolled back.
mod service; // A master under a service manager, and as process 1 of a container.
mod serving; // HTTP on connections that outlive their worker.
mod signals; // What signals do, to the master and to workers.
mod soak; // Everything at once, for as long as asked.
mod split; // A queue for every slot.
mod supervision; // Restarts, hung and worn workers, scaling, the pause.
mod terminal; // A master in the foreground of a terminal.
mod tidy; // Rules for the code itself.
mod tls; // TLS sessions, in whichever worker.
mod udp; // Datagrams.
mod unnoticed; // That HTTP clients notice nothing.
