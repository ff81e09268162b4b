//! The machines in a world without processes, sockets and time: scenarios by rule, and random histories.

mod accepting;
mod care;
mod generation_states;
mod listening;
mod nonsense;
mod offers;
mod probation;
mod reload;
mod respawn;
mod simulation;
mod states;
mod stealing;
mod stopping;
mod world;
