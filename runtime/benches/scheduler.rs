//! What the decision costs who gets a connection, by policy and number of workers: it must not grow with their number, or
//! only as its logarithm.
//!
//! `cargo bench -p everport`
//!
//! The machine is private, and pure: it is compiled here once more, from its own files.
#![forbid(unsafe_code)]
// What the shell uses, and this does not.
#![allow(dead_code, unused_imports)]

#[path = "../src/machine/mod.rs"]
mod machine;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use everport_handoff::board::OFFER_WORDS;
use everport_handoff::id::{ListenerId, WorkerId};
use machine::{
    Action, Care, ConnectionId, Event, Limits, Machine, OfferedPolicy, RequestId, Settings, Settled, Spread, Strategy,
};

const PORT: ListenerId = ListenerId(1);

/// So many connections are accepted before the first of them is taken: more than one, fewer than fill the workers.
const UNTAKEN: usize = 8;

/// A master whose workers take what they are offered.
struct Master {
    machine: Machine,
    workers: Vec<WorkerId>,
    now: Instant,
    actions: Vec<Action>,
    last: u64,
}

impl Master {
    fn serving(workers: u32, policy: OfferedPolicy) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the machine's time must begin somewhere")]
        let now = Instant::now();
        let machine = Machine::new(settings(workers));
        let mut master = Self { machine, workers: Vec::new(), now, actions: Vec::new(), last: 0 };
        master.feed(Event::ListenerBound { listener: PORT, spread: Spread::Offered, configured: true });
        master.feed(Event::PolicyAsked { listener: PORT, policy });
        master.feed(Event::Started);
        let spawned = |action: &Action| match action {
            Action::Spawn { worker, .. } => Some(*worker),
            _ => None,
        };
        master.workers = master.actions.iter().filter_map(spawned).collect();
        for worker in master.workers.clone() {
            master.feed(Event::ListenAsked { worker, request: RequestId(1), listener: PORT });
            master.feed(Event::WorkerReady { worker });
        }
        assert_eq!(master.workers.len(), workers as usize);
        master.actions.clear();
        master
    }

    fn feed(&mut self, event: Event) {
        self.machine.handle(event, self.now, &mut self.actions);
    }

    /// As many connections as may lie untaken, from `accept` to the close of the master's copy, as the shell does it.
    fn spread(&mut self) {
        for _ in 0..UNTAKEN {
            self.now += Duration::from_micros(10);
            if self.machine.wants_loads(PORT, self.now) {
                let active = self.workers.iter().map(|worker| (*worker, 0)).collect();
                self.feed(Event::LoadsRead { active });
            }
            assert!(self.machine.room(PORT) > 0);
            self.last += 1;
            let (connection, key) = (ConnectionId(self.last), Some(self.last));
            self.feed(Event::Accepted { listener: PORT, connection, key });
        }
        let mut offered = 0;
        for action in std::mem::take(&mut self.actions) {
            if let Action::Offer { worker, connection } = action {
                offered += 1;
                self.feed(Event::Settled { worker, connection, how: Settled::Taken });
            }
        }
        assert_eq!(offered, UNTAKEN);
        black_box(self.machine.next_deadline());
        self.actions.clear();
    }
}

/// Those of a master that was told nothing.
fn settings(workers: u32) -> Settings {
    Settings {
        workers,
        ready_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(30),
        strategy: Strategy::All,
        probation: Duration::ZERO,
        drain_generations: 4,
        drain_age: None,
        drain_memory: None,
        steal_after: Duration::from_millis(50),
        credit: 16,
        words: OFFER_WORDS,
        queue: 64,
        max_connections: None,
        shed: false,
        care: Care {
            seed: 1,
            most_workers: 1024,
            restart_limit: 60,
            restart_period: Duration::from_secs(60),
            hang_timeout: None,
            recycle: Limits::default(),
            recycle_at_once: 1,
        },
        ticket_rotation: Duration::from_secs(12 * 60 * 60),
    }
}

fn decisions(criterion: &mut Criterion) {
    let policies = [
        ("rr", OfferedPolicy::RoundRobin),
        ("least", OfferedPolicy::Least),
        ("p2c", OfferedPolicy::TwoChoices),
        ("hash", OfferedPolicy::Hash),
    ];
    let mut group = criterion.benchmark_group("8 connections, from accept to close");
    for (name, policy) in policies {
        for workers in [2, 8, 128] {
            let mut master = Master::serving(workers, policy);
            let id = BenchmarkId::new(name, format!("{workers} workers"));
            group.bench_function(id, |bencher| bencher.iter(|| master.spread()));
        }
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
