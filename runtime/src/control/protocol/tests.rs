//! The JSON of the answers is an interface: its bytes are pinned here.

use super::*;
use crate::config::{Policy, Strategy};

pub(crate) fn record() -> ReloadRecord {
    ReloadRecord {
        generation: Generation(3),
        asked_by: AskedBy::Control { pid: 812, uid: 1000 },
        at: "2026-01-02T03:04:05Z".to_owned(),
        outcome: ReloadOutcome::Committed,
        reason: None,
        workers: 2,
        starting_ms: 41,
        total_ms: 52,
        finished: 10,
        lingered: 4,
        cut: 1,
        moved: 6,
        asked: 2,
        waited_ms: 7,
        probation_ms: 9,
        retired: Some(Generation(2)),
        draining_ms: Some(1500),
        strategy: Some(Strategy::Rolling),
        delayed: Some("a generation still drains".to_owned()),
    }
}

pub(crate) fn status() -> Status {
    let worker = WorkerStatus {
        worker: WorkerId(5),
        slot: Slot(0),
        pid: Some(4720),
        state: WorkerState::Active,
        since_seconds: 65,
        deadline_in_seconds: None,
        uptime_seconds: 66,
        memory_bytes: Some(12 << 20),
        restarts: 0,
        weight: Some(1),
        active: 7,
        guards: 1,
        offered: 1000,
        taken: 990,
        refused: 1,
        revoked: 2,
        given: 3,
        received: 5,
        soft_deadline_in_seconds: None,
        oldest_seconds: Some(61),
        requests: 2,
        idle: 4,
        unread: 1,
        lingered: 0,
    };
    let gone = WorkerStatus {
        worker: WorkerId(9),
        slot: Slot(1),
        pid: None,
        state: WorkerState::Killed,
        since_seconds: 0,
        deadline_in_seconds: None,
        uptime_seconds: 3,
        memory_bytes: None,
        restarts: 3,
        weight: Some(5),
        active: 0,
        guards: 0,
        offered: 20,
        taken: 19,
        refused: 0,
        revoked: 1,
        given: 0,
        received: 0,
        soft_deadline_in_seconds: None,
        oldest_seconds: None,
        requests: 0,
        idle: 0,
        unread: 0,
        lingered: 3,
    };
    Status {
        pid: 4711,
        version: "0.1.0".to_owned(),
        state: MasterState::Running,
        uptime_seconds: 3665,
        policy: Policy::RoundRobin,
        slots: 2,
        generations: vec![GenerationStatus {
            generation: Generation(3),
            state: GenerationState::Active,
            since_seconds: 65,
            workers: vec![worker, gone],
            resting: vec![RestingStatus { slot: Slot(1), since_seconds: 40, retry_in_seconds: Some(12) }],
        }],
        listeners: vec![ListenerStatus {
            name: "127.0.0.1:8000".to_owned(),
            address: "127.0.0.1:8000".to_owned(),
            policy: Policy::RoundRobin,
            queue: 0,
            accepted: 1020,
            accepting: true,
            shed: 4,
        }],
        last_reload: Some(record()),
        reload: Some(ReloadStatus {
            generation: Generation(4),
            step: ReloadStep::Probation,
            slot: None,
            left_seconds: Some(12),
            pending: false,
            why: None,
        }),
        reloads: Vec::new(),
    }
}

const STATUS: &str = concat!(
    r#"{"pid":4711,"version":"0.1.0","state":"running","uptime_seconds":3665,"policy":"rr","slots":2,"#,
    r#""generations":[{"#,
    r#""generation":3,"state":"active","since_seconds":65,"workers":[{"worker":5,"slot":0,"pid":4720,"#,
    r#""state":"active","since_seconds":65,"deadline_in_seconds":null,"uptime_seconds":66,"memory_bytes":12582912,"#,
    r#""restarts":0,"weight":1,"active":7,"guards":1,"offered":1000,"taken":990,"refused":1,"#,
    r#""revoked":2,"given":3,"received":5,"#,
    r#""soft_deadline_in_seconds":null,"oldest_seconds":61,"requests":2,"idle":4,"unread":1,"lingered":0},"#,
    r#"{"worker":9,"slot":1,"pid":null,"state":"killed","since_seconds":0,"#,
    r#""deadline_in_seconds":null,"uptime_seconds":3,"memory_bytes":null,"restarts":3,"weight":5,"active":0,"guards":0,"#,
    r#""offered":20,"taken":19,"refused":0,"revoked":1,"given":0,"received":0,"#,
    r#""soft_deadline_in_seconds":null,"oldest_seconds":null,"requests":0,"idle":0,"unread":0,"lingered":3}],"#,
    r#""resting":[{"slot":1,"since_seconds":40,"retry_in_seconds":12}]}],"listeners":[{"name":"127.0.0.1:8000","#,
    r#""address":"127.0.0.1:8000","policy":"rr","queue":0,"accepted":1020,"accepting":true,"shed":4}],"last_reload":{"#,
    r#""generation":3,"asked_by":{"by":"control","pid":812,"uid":1000},"at":"2026-01-02T03:04:05Z","#,
    r#""outcome":"committed","reason":null,"workers":2,"starting_ms":41,"total_ms":52,"finished":10,"lingered":4,"#,
    r#""cut":1,"moved":6,"asked":2,"waited_ms":7,"probation_ms":9,"retired":2,"draining_ms":1500,"#,
    r#""strategy":"rolling","delayed":"a generation still drains"},"reload":{"#,
    r#""generation":4,"step":"probation","slot":null,"left_seconds":12,"pending":false,"why":null},"reloads":[]}"#,
);

#[test]
fn the_json_of_a_status_is_this_and_no_other() {
    assert_eq!(serde_json::to_string(&status()).unwrap(), STATUS);
    assert_eq!(serde_json::from_str::<Status>(STATUS).unwrap(), status());
}

#[test]
fn the_json_of_the_other_answers_is_this_and_no_other() {
    let stopping = Stopping { at_once: false, drain_timeout_ms: 30_000 };
    assert_eq!(serde_json::to_string(&stopping).unwrap(), r#"{"at_once":false,"drain_timeout_ms":30000}"#);
    let refusal = Refusal { error: "the master is stopping".to_owned() };
    assert_eq!(serde_json::to_string(&refusal).unwrap(), r#"{"error":"the master is stopping"}"#);
    let signal = AskedBy::Signal { pid: 1, uid: 0 };
    assert_eq!(serde_json::to_string(&signal).unwrap(), r#"{"by":"signal","pid":1,"uid":0}"#);
}

#[test]
fn a_field_of_a_newer_master_is_passed_over() {
    let newer = r#"{"at_once":true,"drain_timeout_ms":1,"mood":"fine"}"#;
    let stopping: Stopping = serde_json::from_str(newer).unwrap();
    assert_eq!(stopping, Stopping { at_once: true, drain_timeout_ms: 1 });
}
