//! Any event in any order, about anything: the machine answers something, and never panics or loops.

use std::time::Duration;

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::random::Random;
use super::super::*;
use super::world::World;

fn event(random: &mut Random) -> Event {
    let worker = WorkerId(random.below(12));
    let listener = ListenerId(random.below(4) as u32);
    let connection = ConnectionId(random.below(24));
    let reason = String::new();
    match random.below(37) {
        0 => Event::Started,
        1..=3 => Event::Deadline,
        4 => Event::ReloadAsked { ticket: Ticket(random.below(4)) },
        5 if random.below(40) == 0 => Event::StopAsked { at_once: random.below(4) == 0 },
        6 => Event::SpawnFailed { worker, reason },
        7 => Event::WorkerIncompatible { worker, reason },
        8..=11 => Event::WorkerReady { worker },
        12 => Event::WorkerLeaving { worker },
        13 => Event::WorkerDrained { worker },
        14 if random.below(4) == 0 => Event::WorkerBroke { worker, reason },
        15 => Event::WorkerExited { worker, exit: Exit::Code(0) },
        16 => {
            let spread = [Spread::Shared, Spread::Split, Spread::Offered][random.below(3) as usize];
            Event::ListenerBound { listener, spread, configured: random.below(2) == 0 }
        }
        17 => Event::ListenAsked { worker, request: RequestId(0), listener },
        18 if random.below(4) == 0 => Event::ListenerClosed { worker, listener },
        19 => Event::AcceptExhausted,
        20 => Event::OfferFailed { worker, connection },
        21 => Event::ChannelWritable { worker },
        22 => Event::Beat { worker },
        23 => Event::Accepted { listener, connection, key: None },
        24 if random.below(40) == 0 => Event::StopSignalled,
        24 => Event::ChannelClosed { worker },
        25 => Event::ScaleAsked { to: Scale::To(random.below(6) as u32) },
        26 => Event::PauseAsked,
        27 => Event::ResumeAsked,
        28 => Event::KillAsked { worker },
        29 => Event::Measured { worker, memory: Some(random.next()), taken: random.next() },
        30 => Event::RollbackAsked { ticket: Ticket(random.below(4)) },
        31 => Event::DrainingMeasured { bytes: random.below(1_000) },
        35 => Event::SocketsAdded { listener, sockets: random.below(6) as u32 },
        34 => Event::TicketKeysWanted { worker },
        32 | 33 => Event::HandedOver { worker, handover: HandoverId(random.below(4)), listener, connection, key: None },
        _ => {
            let how = [Settled::Taken, Settled::Refused, Settled::Revoked, Settled::Released];
            Event::Settled { worker, connection, how: how[random.below(4) as usize] }
        }
    }
}

#[test]
fn machine_survives_nonsense() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let strategy = if random.below(2) == 0 { Strategy::All } else { Strategy::Rolling };
        let probation = Duration::from_millis(random.below(3) * 40);
        let mut world = World::with(Settings {
            strategy,
            probation,
            drain_memory: Some(500),
            drain_generations: 2,
            ..World::settings()
        });
        let mut actions = Vec::new();
        for _ in 0..400 {
            // Not `handle`, which holds the shell to its side of the contract.
            world.machine.feed(event(&mut random), world.now, &mut actions);
            assert!(actions.len() < 1_000, "seed {seed}: an event without an end");
            actions.clear();
            world.now += Duration::from_millis(random.below(30));
        }
        // The deadlines of whatever state that was come to an end, or lie ahead.
        for _ in 0..1_000 {
            let Some(deadline) = world.machine.next_deadline() else {
                break;
            };
            world.now = world.now.max(deadline);
            world.machine.feed(Event::Deadline, world.now, &mut actions);
            assert!(world.machine.next_deadline() > Some(world.now) || world.machine.next_deadline().is_none());
            actions.clear();
        }
    }
}
