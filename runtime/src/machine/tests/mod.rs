//! The machines in a world without processes, sockets and time: scenarios by rule, and random histories.

mod accepting;
mod care;
mod listening;
mod nonsense;
mod offers;
mod reload;
mod respawn;
mod simulation;
mod states;
mod stealing;
mod stopping;
mod world;
