//! Everything at once, for as long as asked: reloads, recycling, scaling and kills under clients of every kind, and a table
//! of what they noticed. `ops/soak` is the way to run it for long.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::clients::{Crowd, Kind, Load, Notice};
use crate::harness::clock::{Deadline, now};
use crate::harness::{Master, Setup, process, soon, status};
use crate::unnoticed::{CLIENTS, SWING, fullest};

/// How long it runs if nobody says otherwise: each event comes once.
const SHORT: Duration = Duration::from_secs(5);

/// How many connections do nothing at all, if nobody says otherwise.
const SILENT: u64 = 200;

/// How many of them stay to the end.
const FEW: usize = 100;

/// Lets something happen. After a reload it tells how long the old generation was still there.
type Event = fn(&Master) -> Option<Duration>;

/// What happens again and again.
const EVENTS: [(&str, Event); 5] = [
    ("reload", |master| Some(reload(master))),
    ("scale down", |master| order(master, "/scale?to=1")),
    ("scale up", |master| order(master, "/scale?to=2")),
    ("leave", |master| {
        process::signal(fullest(master).pid.expect("it lives"), Signal::SIGTERM);
        None
    }),
    // Only when a length is asked for: it gives 5 s to what is under way, which is little on a busy machine.
    ("kill --worker", |master| order(master, &format!("/kill?worker={}", fullest(master).worker))),
];

/// Reloads; how long the old generation was still there after the commit.
fn reload(master: &Master) -> Duration {
    let record = master.reload_well();
    let committed = now();
    let new = record["generation"].as_u64().expect("a number");
    soon("the old generation is gone", || {
        let generations = master.try_status()?.generations();
        generations.iter().all(|(generation, _)| *generation >= new).then_some(())
    });
    now() - committed
}

fn order(master: &Master, path: &str) -> Option<Duration> {
    let (code, answer) = status::ask(&master.control(), "POST", path).expect("an answer");
    assert_eq!(code, 200, "{path}: {answer}");
    None
}

/// What happened, and what came of it.
#[derive(Debug, Default)]
struct Report {
    events: BTreeMap<&'static str, u64>,
    /// From a commit until the old generation was gone, with nothing but idle connections.
    idle_gone: Duration,
    /// From each later commit until the old generation was gone: as long as the longest request at least.
    gone: Vec<Duration>,
    /// Of all generations that drained.
    connections: BTreeMap<&'static str, u64>,
}

impl Report {
    fn count(&mut self, record: &Value) {
        for name in ["moved", "finished", "lingered", "cut"] {
            *self.connections.entry(name).or_default() += record[name].as_u64().unwrap_or_default();
        }
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "events: {:?}", self.events);
        let _ = writeln!(text, "connections of generations that drained: {:?}", self.connections);
        let _ = writeln!(text, "old generation gone after its commit, all idle: {:?}", self.idle_gone);
        self.gone.sort();
        if let (Some(shortest), Some(longest)) = (self.gone.first(), self.gone.last()) {
            let middle = self.gone[self.gone.len() / 2];
            let _ = writeln!(
                text,
                "old generation gone after its commit, under load: {shortest:?} to {longest:?}, median {middle:?}"
            );
        }
        text
    }
}

/// A number from the environment.
fn wanted(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nobody_notices_anything_for_as_long_as_asked() {
    let policy = std::env::var("EVERPORT_SOAK_POLICY").unwrap_or_else(|_| "rr".to_owned());
    let master = Setup::web().policy(&policy).set("EVERPORT_RECYCLE_AGE", "30s").start();
    let silent = usize::try_from(wanted("EVERPORT_SOAK_IDLE").unwrap_or(SILENT)).expect("a crowd");
    let silent = Crowd::size(silent);
    let mut crowd = Crowd::gather(master.address(), silent);
    // While nothing is under way.
    let mut report = Report { idle_gone: reload(&master), ..Report::default() };
    assert_eq!(crowd.ask_all(), silent);
    // From now on few enough that a kill leaves time for all of them.
    drop(crowd);
    let mut crowd = Crowd::gather(master.address(), FEW);
    let length = wanted("EVERPORT_SOAK_SECONDS").map(Duration::from_secs);
    let events = if length.is_some() { &EVENTS[..] } else { &EVENTS[..4] };
    let end = Deadline::within(length.unwrap_or(SHORT));
    let load = Load::start(master.address(), &CLIENTS);
    let mut coming = events.iter().cycle();
    while report.events.len() < events.len() || end.left().is_some() {
        let (name, event) = coming.next().expect("it goes round");
        load.go_on(&SWING);
        master.wait_until("it runs", |status| status.state() == "running" && !status.active().is_empty());
        report.gone.extend(event(&master));
        *report.events.entry(name).or_default() += 1;
        if *name == "reload" {
            report.count(&master.status().0["last_reload"]);
        }
    }
    load.go_on(&CLIENTS);
    let tallies = load.finish();
    crowd.ask_all();
    #[expect(clippy::print_stdout, reason = "the table is what a soak is for")]
    {
        println!("{tallies}\n{silent} idle connections\n{}", report.text());
    }
    let takes_long = |kind| matches!(kind, Kind::Slow | Kind::Upload);
    let was_killed = report.events.contains_key("kill --worker");
    tallies.assert_each(|kind, notice| was_killed && takes_long(kind) && notice == Notice::Lost);
    assert_eq!(report.connections["cut"], 0);
    drop(crowd);
    master.stop();
}
