//! `everport workers`: each worker and each resting slot in a row, and what they wait for. Pure: text out.

use serde::Serialize;

use super::table::{self, Seconds, worker_state};
use crate::control::protocol::{GenerationStatus, RestingStatus, Status, WorkerState, WorkerStatus};

const HEAD: [&str; 13] = [
    "slot",
    "worker",
    "generation",
    "pid",
    "state",
    "since",
    "uptime",
    "memory",
    "restarts",
    "weight",
    "active",
    "oldest",
    "waits for",
];

/// Every worker and every resting slot.
pub(super) fn table(status: &Status) -> String {
    let rows = status.generations.iter().flat_map(|generation| {
        let workers = generation.workers.iter().map(|worker| worker_row(generation, worker));
        workers.chain(generation.resting.iter().map(|resting| resting_row(generation, resting)))
    });
    table::table(HEAD, rows)
}

/// One worker of the JSON: its generation beside its own fields.
#[derive(Serialize)]
struct Row<'a> {
    generation: u64,
    #[serde(flatten)]
    worker: &'a WorkerStatus,
    /// What keeps it from going on, in words.
    waits_for: Option<String>,
}

/// Every worker as one JSON array.
pub(super) fn json(status: &Status) -> String {
    let rows: Vec<Row<'_>> = status
        .generations
        .iter()
        .flat_map(|generation| {
            generation.workers.iter().map(|worker| Row {
                generation: generation.generation.0,
                worker,
                waits_for: waits_for(worker),
            })
        })
        .collect();
    // Plain data: there is nothing in it that JSON cannot say.
    serde_json::to_string(&rows).unwrap_or_default() + "\n"
}

/// What is to be said of a generation below the table of its workers.
pub(super) fn notes(generation: &GenerationStatus) -> String {
    let mut text = String::new();
    for worker in &generation.workers {
        if let Some(why) = waits_for(worker) {
            text += &format!("  worker {} waits for {why}\n", worker.worker);
        }
    }
    for resting in &generation.resting {
        let RestingStatus { slot, since_seconds, .. } = resting;
        let since = Seconds(*since_seconds);
        text += &format!("  slot {slot} rests for {since}: its workers failed too often; {}\n", retry(resting));
    }
    text
}

fn worker_row(generation: &GenerationStatus, worker: &WorkerStatus) -> [String; 13] {
    [
        worker.slot.to_string(),
        worker.worker.to_string(),
        generation.generation.to_string(),
        worker.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        worker_state(worker.state).to_owned(),
        Seconds(worker.since_seconds).to_string(),
        Seconds(worker.uptime_seconds).to_string(),
        worker.memory_bytes.map_or_else(|| "-".to_owned(), megabytes),
        worker.restarts.to_string(),
        worker.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string()),
        worker.active.to_string(),
        worker.oldest_seconds.map_or_else(|| "-".to_owned(), |seconds| Seconds(seconds).to_string()),
        waits_for(worker).unwrap_or_else(|| "-".to_owned()),
    ]
}

fn resting_row(generation: &GenerationStatus, resting: &RestingStatus) -> [String; 13] {
    let none = || "-".to_owned();
    let since = Seconds(resting.since_seconds).to_string();
    let generation = generation.generation.to_string();
    let slot = resting.slot.to_string();
    [
        slot,
        none(),
        generation,
        none(),
        "resting".to_owned(),
        since,
        none(),
        none(),
        none(),
        none(),
        none(),
        none(),
        retry(resting),
    ]
}

fn retry(resting: &RestingStatus) -> String {
    match resting.retry_in_seconds {
        Some(seconds) => format!("the next one starts in {}", Seconds(seconds)),
        None => "one is being tried".to_owned(),
    }
}

/// What a worker that is on its way out, or not yet in, waits for, and for how long at most.
fn waits_for(worker: &WorkerStatus) -> Option<String> {
    let limit = |what: &str, seconds: Option<u64>| match seconds {
        Some(0) => format!(", {what} now"),
        Some(seconds) => format!(", {what} in {}", Seconds(seconds)),
        None => String::new(),
    };
    let deadline = |what: &str| limit(what, worker.deadline_in_seconds);
    match worker.state {
        WorkerState::Starting => Some(format!("its ready{}", deadline("given up"))),
        WorkerState::Ready => Some("its generation".to_owned()),
        WorkerState::Active => None,
        WorkerState::Paused => Some("a resume".to_owned()),
        WorkerState::Leaving => Some(format!("its replacement{}", deadline("drained"))),
        WorkerState::Draining => {
            let soft = worker.soft_deadline_in_seconds.filter(|seconds| *seconds > 0 && worker.active > 0);
            Some(format!("{}{}{}", work(worker), limit("idle ones closed", soft), deadline("cut")))
        }
        WorkerState::Drained => Some(format!("its program to end{}", deadline("killed"))),
        WorkerState::Silent | WorkerState::Hung => Some(format!("its exit{}", deadline("killed"))),
        WorkerState::Killed => Some("its exit".to_owned()),
    }
}

/// What keeps a draining worker.
fn work(worker: &WorkerStatus) -> String {
    match (connections(worker), count(worker.guards, "guard")) {
        (Some(connections), Some(guards)) => format!("{connections} and {guards}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "its program to end".to_owned(),
    }
}

/// How many connections are left, what they do as far as it is known, and the age of the oldest.
fn connections(worker: &WorkerStatus) -> Option<String> {
    let WorkerStatus { active, requests, idle, unread, .. } = *worker;
    let connections = count(active, "connection")?;
    // A connection may have many requests.
    let others = active.saturating_sub(idle).saturating_sub(requests);
    let told = requests > 0 || idle > 0;
    let mut parts: Vec<String> = [
        count(requests, "request"),
        Some(format!("{idle} idle")).filter(|_| idle > 0),
        Some(format!("{others} unknown")).filter(|_| told && others > 0),
        Some(format!("{unread} not read yet")).filter(|_| unread > 0),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(seconds) = worker.oldest_seconds {
        parts.push(format!("the oldest since {}", Seconds(seconds)));
    }
    Some(if parts.is_empty() { connections } else { format!("{connections} ({})", parts.join(", ")) })
}

fn count(number: u64, one: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        more => Some(format!("{more} {one}s")),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::tests::status as sample;

    #[test]
    fn the_table_has_a_row_for_each_worker_and_each_resting_slot() {
        let mut status = sample();
        let draining = &mut status.generations[0].workers[0];
        draining.state = WorkerState::Draining;
        (draining.soft_deadline_in_seconds, draining.deadline_in_seconds) = (Some(3), Some(18));
        let expected = "  SLOT  WORKER  GENERATION  PID   STATE     SINCE  UPTIME  MEMORY  RESTARTS  WEIGHT  ACTIVE  OLDEST  WAITS FOR
  0     5       3           4720  draining  1m 5s  1m 6s   12 MiB  0         1       7       1m 1s   7 connections (2 requests, \
4 idle, 1 unknown, 1 not read yet, the oldest since 1m 1s) and 1 guard, idle ones closed in 3s, cut in 18s
  1     9       3           -     killed    0s     3s      -       3         5       0       -       its exit
  1     -       3           -     resting   40s    -       -       -         -       -       -       the next one starts in 12s
";
        assert_eq!(table(&status), expected);
    }

    #[test]
    fn the_json_is_one_array() {
        let rows: serde_json::Value = serde_json::from_str(&json(&sample())).unwrap();
        assert_eq!((&rows[0]["worker"], &rows[0]["generation"]), (&5.into(), &3.into()));
        assert_eq!((&rows[0]["oldest_seconds"], &rows[0]["idle"]), (&61.into(), &4.into()));
        assert_eq!((&rows[0]["waits_for"], &rows[1]["waits_for"]), (&serde_json::Value::Null, &"its exit".into()));
    }

    #[test]
    fn a_draining_worker_says_what_it_waits_for_as_far_as_that_is_known() {
        let mut worker = sample().generations[0].workers[1].clone();
        worker.state = WorkerState::Draining;
        assert_eq!(waits_for(&worker).unwrap(), "its program to end");
        worker.guards = 2;
        assert_eq!(waits_for(&worker).unwrap(), "2 guards");
        (worker.guards, worker.active) = (0, 1);
        assert_eq!(waits_for(&worker).unwrap(), "1 connection");
        worker.oldest_seconds = Some(7200);
        assert_eq!(waits_for(&worker).unwrap(), "1 connection (the oldest since 2h)");
        (worker.active, worker.requests) = (2, 10);
        assert_eq!(waits_for(&worker).unwrap(), "2 connections (10 requests, the oldest since 2h)");
        // At the soft deadline itself, and past it.
        (worker.soft_deadline_in_seconds, worker.deadline_in_seconds) = (Some(0), Some(1));
        assert_eq!(waits_for(&worker).unwrap(), "2 connections (10 requests, the oldest since 2h), cut in 1s");
        worker.state = WorkerState::Drained;
        assert_eq!(waits_for(&worker).unwrap(), "its program to end, killed in 1s");
    }
}
