//! `everport workers`: each worker and each resting slot in a row, and what they wait for. Pure: text out.

use serde::Serialize;

use super::table::{self, Seconds, worker_state};
use crate::control::protocol::{GenerationStatus, RestingStatus, Status, WorkerState, WorkerStatus};

const HEAD: [&str; 12] = [
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

fn worker_row(generation: &GenerationStatus, worker: &WorkerStatus) -> [String; 12] {
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
        waits_for(worker).unwrap_or_else(|| "-".to_owned()),
    ]
}

fn resting_row(generation: &GenerationStatus, resting: &RestingStatus) -> [String; 12] {
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
    let limit = |what: &str| match worker.deadline_in_seconds {
        Some(seconds) => format!(", {what} in {}", Seconds(seconds)),
        None => String::new(),
    };
    match worker.state {
        WorkerState::Starting => Some(format!("its ready{}", limit("given up"))),
        WorkerState::Ready => Some("its generation".to_owned()),
        WorkerState::Active => None,
        WorkerState::Paused => Some("a resume".to_owned()),
        WorkerState::Leaving => Some(format!("its replacement{}", limit("drained"))),
        WorkerState::Draining => Some(format!("{}{}", work(worker), limit("cut"))),
        WorkerState::Drained | WorkerState::Silent | WorkerState::Hung => Some(format!("its exit{}", limit("killed"))),
        WorkerState::Killed => Some("its exit".to_owned()),
    }
}

fn work(worker: &WorkerStatus) -> String {
    let count = |number: u64, one: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        more => Some(format!("{more} {one}s")),
    };
    match (count(worker.active, "connection"), count(worker.guards, "guard")) {
        (Some(connections), Some(guards)) => format!("{connections} and {guards}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "its program to end".to_owned(),
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
        status.generations[0].workers[0].state = WorkerState::Draining;
        status.generations[0].workers[0].deadline_in_seconds = Some(18);
        let expected = "  SLOT  WORKER  GENERATION  PID   STATE     SINCE  UPTIME  MEMORY  RESTARTS  WEIGHT  ACTIVE  WAITS FOR
  0     5       3           4720  draining  1m 5s  1m 6s   12 MiB  0         1       7       7 connections and 1 guard, cut in 18s
  1     9       3           -     killed    0s     3s      -       3         5       0       its exit
  1     -       3           -     resting   40s    -       -       -         -       -       the next one starts in 12s
";
        assert_eq!(table(&status), expected);
    }

    #[test]
    fn the_json_is_one_array() {
        let rows: serde_json::Value = serde_json::from_str(&json(&sample())).unwrap();
        assert_eq!((&rows[0]["worker"], &rows[0]["generation"]), (&5.into(), &3.into()));
        assert_eq!((&rows[0]["waits_for"], &rows[1]["waits_for"]), (&serde_json::Value::Null, &"its exit".into()));
    }

    #[test]
    fn a_worker_that_drains_without_work_waits_for_its_program() {
        let mut worker = sample().generations[0].workers[0].clone();
        (worker.state, worker.active, worker.guards) = (WorkerState::Draining, 0, 0);
        assert_eq!(waits_for(&worker).unwrap(), "its program to end");
        worker.active = 1;
        assert_eq!(waits_for(&worker).unwrap(), "1 connection");
    }
}
