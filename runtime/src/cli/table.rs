//! How answers of the master look to a human. Pure: text out.

use std::fmt::{self, Display};
use std::time::Duration;

use super::workers;
use crate::control::protocol::{
    Begun, BegunState, GenerationState, GenerationStatus, ListenerStatus, MasterState, ReloadOutcome, ReloadRecord,
    ReloadStatus, ReloadStep, Status, WorkerState, WorkerStatus,
};

/// What a committed reload did, in a line.
pub(super) fn committed(record: &ReloadRecord) -> String {
    let ReloadRecord { generation, workers, starting_ms, .. } = record;
    format!("committed: generation {generation}, {} ready in {starting_ms} ms\n", worker_count(*workers))
}

/// The whole status.
pub(super) fn status(status: &Status) -> String {
    let Status { pid, version, policy, .. } = status;
    let (state, uptime) = (master_state(status.state), Seconds(status.uptime_seconds));
    let mut text = format!("master: pid {pid}, {state}, up {uptime}, policy {policy}, everport {version}\n");
    for generation in &status.generations {
        text += &generation_line(generation);
        text += &table(WORKER_HEAD, generation.workers.iter().map(worker_row));
        text += &workers::notes(generation);
    }
    if !status.listeners.is_empty() {
        text += "\nlisteners\n";
        text += &table(LISTENER_HEAD, status.listeners.iter().map(listener_row));
    }
    if let Some(reload) = &status.reload {
        text += &reload_under_way(reload);
    }
    if let Some(record) = &status.last_reload {
        text += &last_reload(record);
    }
    text
}

fn generation_line(status: &GenerationStatus) -> String {
    let state = match status.state {
        GenerationState::Starting => "starting",
        GenerationState::Probation => "on probation",
        GenerationState::Active => "active",
        GenerationState::Paused => "paused",
        GenerationState::Draining => "draining",
        GenerationState::Failed => "failed",
    };
    format!("\ngeneration {}: {state} for {}\n", status.generation, Seconds(status.since_seconds))
}

const WORKER_HEAD: [&str; 11] =
    ["slot", "worker", "pid", "state", "since", "restarts", "active", "offered", "taken", "refused", "revoked"];

fn worker_row(status: &WorkerStatus) -> [String; 11] {
    [
        status.slot.to_string(),
        status.worker.to_string(),
        status.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        worker_state(status.state).to_owned(),
        Seconds(status.since_seconds).to_string(),
        status.restarts.to_string(),
        status.active.to_string(),
        status.offered.to_string(),
        status.taken.to_string(),
        status.refused.to_string(),
        status.revoked.to_string(),
    ]
}

pub(super) fn worker_state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Ready => "ready",
        WorkerState::Active => "active",
        WorkerState::Paused => "paused",
        WorkerState::Leaving => "leaving",
        WorkerState::Draining => "draining",
        WorkerState::Drained => "drained",
        WorkerState::Silent => "silent",
        WorkerState::Hung => "hung",
        WorkerState::Killed => "killed",
    }
}

const LISTENER_HEAD: [&str; 6] = ["name", "address", "policy", "queue", "accepted", "accepting"];

fn listener_row(status: &ListenerStatus) -> [String; 6] {
    [
        status.name.clone(),
        status.address.clone(),
        status.policy.to_string(),
        status.queue.to_string(),
        status.accepted.to_string(),
        if status.accepting { "yes" } else { "no" }.to_owned(),
    ]
}

fn reload_under_way(reload: &ReloadStatus) -> String {
    let ReloadStatus { generation, step, slot, left_seconds, pending, why } = reload;
    let step = match (step, slot, left_seconds) {
        (ReloadStep::Pending, ..) => "pending".to_owned(),
        (ReloadStep::Starting, ..) => "starting".to_owned(),
        (ReloadStep::Rolling, Some(slot), _) => format!("rolling, at slot {slot}"),
        (ReloadStep::Rolling, None, _) => "rolling".to_owned(),
        (ReloadStep::Probation, _, left) => format!("on probation for another {}", Seconds(left.unwrap_or(0))),
    };
    let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let behind = if *pending && !step.starts_with("pending") { ", and another reload waits" } else { "" };
    format!("\nreload: generation {generation} {step}{why}{behind}\n")
}

/// What has begun, in a line.
pub(super) fn begun(begun: &Begun) -> String {
    let Begun { generation, state, why } = begun;
    let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    match state {
        BegunState::Started => format!("started: generation {generation}\n"),
        BegunState::Pending => format!("pending: generation {generation}{why}\n"),
        BegunState::Ended => format!("ended already: generation {generation}, see everport status\n"),
    }
}

/// What a rollback did, in a line.
pub(super) fn rolled_back(record: &ReloadRecord) -> String {
    format!("rolled back: generation {}\n", record.generation)
}

fn last_reload(record: &ReloadRecord) -> String {
    let ReloadRecord { generation, at, asked_by, workers, starting_ms, total_ms, .. } = record;
    let drained = match (record.retired, record.draining_ms) {
        (None, _) => String::new(),
        (Some(retired), Some(took)) => {
            format!("  connections of generation {retired}: {}, in {took} ms\n", what_became(record))
        }
        (Some(retired), None) => {
            format!("  connections of generation {retired}, so far: {}\n", what_became(record))
        }
    };
    let outcome = match (record.outcome, &record.reason) {
        (ReloadOutcome::Committed, _) => format!("committed, {} ready in {starting_ms} ms", worker_count(*workers)),
        (ReloadOutcome::RolledBack, Some(reason)) => format!("rolled back: {reason}"),
        (ReloadOutcome::RolledBack, None) => "rolled back".to_owned(),
    };
    format!(
        "\nlast reload: generation {generation} {outcome}\n  \
         at {at}, asked for by {asked_by}, took {total_ms} ms\n{drained}"
    )
}

/// What became of the connections of a generation that drained.
fn what_became(record: &ReloadRecord) -> String {
    let ReloadRecord { moved, finished, lingered, cut, .. } = record;
    format!("{moved} moved, {finished} finished, {lingered} closed at the soft deadline, {cut} cut")
}

fn master_state(state: MasterState) -> &'static str {
    match state {
        MasterState::Starting => "starting",
        MasterState::Running => "running",
        MasterState::Paused => "paused",
        MasterState::Reloading => "reloading",
        MasterState::Stopping => "stopping",
    }
}

fn worker_count(workers: u32) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}

/// A length of time in the two largest units that it has: `3m 12s`.
pub(super) struct Seconds(pub(super) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(Duration::from_secs(self.0)).to_string();
        let mut units = text.split(' ').take(2);
        f.write_str(units.next().unwrap_or_default())?;
        units.try_for_each(|unit| write!(f, " {unit}"))
    }
}

/// Columns as wide as their widest cell, two spaces apart and below the heading by two.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_uppercase)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells.map(|(cell, width)| format!("  {cell:<width$}")).collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::AskedBy;
    use crate::control::protocol::tests::{record, status as sample};

    #[test]
    fn a_committed_reload_is_one_line() {
        assert_eq!(committed(&record()), "committed: generation 3, 2 workers ready in 41 ms\n");
        assert_eq!(
            committed(&ReloadRecord { workers: 1, ..record() }),
            "committed: generation 3, 1 worker ready in 41 ms\n"
        );
    }

    #[test]
    fn the_status_is_aligned() {
        let expected = "\
master: pid 4711, running, up 1h 1m, policy rr, everport 0.1.0

generation 3: active for 1m 5s
  SLOT  WORKER  PID   STATE   SINCE  RESTARTS  ACTIVE  OFFERED  TAKEN  REFUSED  REVOKED
  0     5       4720  active  1m 5s  0         7       1000     990    1        2
  1     9       -     killed  0s     3         0       20       19     0        1
  worker 9 waits for its exit
  slot 1 rests for 40s: its workers failed too often; the next one starts in 12s

listeners
  NAME            ADDRESS         POLICY  QUEUE  ACCEPTED  ACCEPTING
  127.0.0.1:8000  127.0.0.1:8000  rr      0      1020      yes

reload: generation 4 on probation for another 12s

last reload: generation 3 committed, 2 workers ready in 41 ms
  at 2026-01-02T03:04:05Z, asked for by the control client 812, uid 1000, took 52 ms
  connections of generation 2: 6 moved, 10 finished, 4 closed at the soft deadline, 1 cut, in 1500 ms
";
        assert_eq!(status(&sample()), expected);
    }

    #[test]
    fn a_rolled_back_reload_says_why() {
        let record = ReloadRecord {
            outcome: ReloadOutcome::RolledBack,
            reason: Some("slot 0: exited with code 3 before it was ready".to_owned()),
            asked_by: AskedBy::Signal { pid: 1, uid: 0 },
            ..record()
        };
        let text = last_reload(&record);
        assert!(
            text.starts_with(
                "\nlast reload: generation 3 rolled back: slot 0: exited with code 3 before it was ready\n"
            )
        );
        assert!(text.contains("asked for by a signal of process 1, uid 0"));
    }

    #[test]
    fn a_reload_that_has_not_ended_says_what_it_waits_for() {
        let sample = ReloadStatus {
            generation: everport_handoff::id::Generation(4),
            step: ReloadStep::Pending,
            slot: None,
            left_seconds: None,
            pending: true,
            why: Some("2 generations still drain".to_owned()),
        };
        assert_eq!(reload_under_way(&sample), "\nreload: generation 4 pending: 2 generations still drain\n");
        let slot = Some(everport_handoff::id::Slot(1));
        let rolling = ReloadStatus { step: ReloadStep::Rolling, slot, why: None, ..sample };
        let expected = "\nreload: generation 4 rolling, at slot 1, and another reload waits\n";
        assert_eq!(reload_under_way(&rolling), expected);
    }

    #[test]
    fn a_master_with_nothing_yet_is_one_line() {
        let bare = Status {
            generations: Vec::new(),
            listeners: Vec::new(),
            last_reload: None,
            reload: None,
            uptime_seconds: 0,
            state: MasterState::Starting,
            ..sample()
        };
        assert_eq!(status(&bare), "master: pid 4711, starting, up 0s, policy rr, everport 0.1.0\n");
    }
}
