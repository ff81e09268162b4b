//! Live connections that move: to whom, with what, and what becomes of them when somebody dies, refuses or stops.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Line, Master, Setup, process, soon, status};

fn mobile() -> Setup {
    Setup::lines_on(&["--mobile", "127.0.0.1:0"])
}

/// Sessions that have counted to one, two, and so on.
fn sessions(master: &Master, count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = (0..count).map(|_| master.line()).collect();
    for (steps, line) in lines.iter_mut().enumerate() {
        for step in 0..=steps {
            assert_eq!(line.ask("add"), (step + 1).to_string());
        }
    }
    lines
}

/// Every session goes on where it was, with a worker of this generation.
#[track_caller]
fn go_on(lines: &mut [Line], generation: u64) {
    for (steps, line) in lines.iter_mut().enumerate() {
        assert_eq!(line.who().generation, generation);
        assert_eq!(line.ask("add"), (steps + 2).to_string());
    }
}

#[track_caller]
fn order(master: &Master, path: &str) -> Value {
    let (code, answer) = status::ask(&master.control(), "POST", path).expect("an answer");
    assert_eq!(code, 200, "{path}: {answer}");
    answer
}

#[test]
fn sessions_move_over_a_reload_with_their_state() {
    for policy in ["rr", "none"] {
        let master = mobile().policy(policy).start();
        let mut lines = sessions(&master, 6);
        let ends: Vec<String> = lines.iter_mut().map(|line| line.ask("ends")).collect();
        master.reload_well();
        master.settle(2);
        go_on(&mut lines, 2);
        let moved: Vec<String> = lines.iter_mut().map(|line| line.ask("ends")).collect();
        assert_eq!(ends, moved, "{policy}: both ends are the same");
        let record = &master.status().0["last_reload"];
        assert_eq!((&record["moved"], &record["finished"], &record["cut"]), (&6.into(), &0.into(), &0.into()));
        let received: u64 = master.status().workers().iter().map(|worker| worker.received).sum();
        assert_eq!(received, 6, "{policy}");
        master.log.wait_for(&["generation drained", "generation=1", "moved=6", "finished=0", "cut=0"]);
        drop(lines);
        master.check();
    }
}

#[test]
fn options_of_a_connection_move_with_it() {
    for policy in ["rr", "none"] {
        let master = mobile().policy(policy).start();
        let mut line = master.line();
        let plain = line.ask("options");
        let tuned = line.ask("tune");
        assert_eq!(tuned, "Some(true) Some(true) Some(77s)", "{policy}, and before {plain}");
        master.reload_well();
        master.settle(2);
        assert_eq!((line.who().generation, line.ask("options")), (2, tuned), "{policy}");
        drop(line);
        master.check();
    }
}

#[test]
fn session_moves_again_and_again_with_more_than_a_message_holds() {
    let master = mobile().start();
    let mut line = master.line();
    for (generation, length) in (2..).zip([1, 8 * 1024, 8 * 1024 + 1, 1024 * 1024 - 8]) {
        assert_eq!(line.ask(&format!("keep {length}")), "kept");
        master.reload_well();
        master.settle(2);
        assert_eq!((line.who().generation, line.ask("text")), (generation, format!("{length} true")));
    }
    drop(line);
    master.check();
}

#[test]
fn what_was_half_read_is_continued_by_the_next_worker() {
    for flag in ["--mobile", "--stateless"] {
        let master = Setup::lines_on(&[flag, "127.0.0.1:0"]).start();
        let mut line = master.line();
        assert_eq!(line.who().generation, 1);
        line.tell_half("wh");
        master.reload_well();
        master.settle(2);
        line.tell("o");
        assert!(line.hear().expect("an answer").split(' ').nth(2) == Some("2"), "{flag}");
        drop(line);
        master.check();
    }
}

#[test]
fn two_hundred_sessions_move_at_once() {
    let master = mobile().start();
    let mut lines: Vec<Line> = (0..200).map(|_| master.line()).collect();
    lines.iter_mut().for_each(|line| assert_eq!(line.ask("add"), "1"));
    master.reload_well();
    master.settle(2);
    lines.iter_mut().for_each(|line| assert_eq!(line.ask("add"), "2"));
    drop(lines);
    master.check();
}

#[test]
fn state_that_the_new_program_does_not_know_stays_where_it_is_to_its_end() {
    let master = mobile().start();
    let mut lines = sessions(&master, 4);
    master.plan("g2 version 2");
    master.reload_well();
    go_on(&mut lines, 1);
    assert_eq!(master.status().0["last_reload"]["moved"], 0);
    drop(lines);
    master.settle(2);
    master.check();
}

#[test]
fn stop_moves_nothing_and_lets_sessions_end() {
    let master = mobile().start();
    let mut lines = sessions(&master, 4);
    master.term();
    master.wait_until("both drain", |status| status.workers().iter().all(|worker| worker.state == "draining"));
    go_on(&mut lines, 1);
    drop(lines);
    let ended = master.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}

#[test]
fn sessions_of_a_worker_that_is_killed_by_an_operator_move() {
    let master = mobile().start();
    let mut lines = sessions(&master, 6);
    let victim = lines[0].who();
    order(&master, &format!("/kill?worker={}", victim.worker));
    process::wait_for_end(victim.pid);
    go_on(&mut lines, 1);
    assert_ne!(lines[0].who().worker, victim.worker);
    master.settle(2);
    drop(lines);
    master.check();
}

#[test]
fn sessions_of_a_worker_that_hangs_die_with_it_when_an_operator_kills_it() {
    let master = mobile().start();
    let mut line = master.line_to(0);
    let victim = line.who();
    process::signal(victim.pid, Signal::SIGSTOP);
    order(&master, &format!("/kill?worker={}", victim.worker));
    process::wait_for_end(victim.pid);
    assert!(line.ends());
    master.settle(2);
    master.check();
}

#[test]
fn sessions_move_when_there_are_fewer_workers() {
    let master = mobile().start();
    let mut lines = sessions(&master, 6);
    order(&master, "/scale?to=1");
    master.settle(1);
    go_on(&mut lines, 1);
    assert!(lines.iter_mut().all(|line| line.who().slot == 0));
    order(&master, "/scale?to=2");
    master.settle(2);
    drop(lines);
    master.check();
}

#[test]
fn sessions_move_when_a_worker_leaves() {
    let master = mobile().start();
    let mut lines = sessions(&master, 4);
    let leaver = lines[0].who();
    process::signal(leaver.pid, Signal::SIGTERM);
    process::wait_for_end(leaver.pid);
    go_on(&mut lines, 1);
    drop(lines);
    master.settle(2);
    master.check();
}

/// Sessions of one old worker that lie before new ones, which never take anything.
fn in_the_middle() -> (Master, Vec<Line>, u32) {
    let master = mobile().workers(1).start();
    let mut lines = sessions(&master, 4);
    let giver = lines[0].who().pid;
    master.plan("g2 idle");
    master.reload_well();
    master.wait_until("all is offered", |status| status.active().iter().any(|worker| worker.offered == 4));
    (master, lines, giver)
}

#[test]
fn giver_that_dies_in_the_middle_loses_nothing() {
    let (master, mut lines, giver) = in_the_middle();
    process::signal(giver, Signal::SIGKILL);
    process::wait_for_end(giver);
    master.plan("");
    let idle = master.status().active()[0].pid.expect("it lives");
    process::signal(idle, Signal::SIGKILL);
    go_on(&mut lines, 2);
    drop(lines);
    master.settle(1);
    master.check();
}

#[test]
fn taker_that_dies_in_the_middle_loses_nothing() {
    let (master, mut lines, giver) = in_the_middle();
    master.plan("");
    let idle = master.status().active()[0].pid.expect("it lives");
    process::signal(idle, Signal::SIGKILL);
    // Nobody was there to take them, so they are their giver's again.
    go_on(&mut lines, 1);
    assert_eq!(lines[0].who().pid, giver);
    drop(lines);
    master.settle(1);
    master.check();
}

/// Beside the only worker of slot 0, one that hands over what it must not is killed and replaced.
fn is_noticed(plan: &str, what: &str, asleep: bool) {
    let master = mobile().start();
    let mut line = master.line_to(0);
    let healthy = line.who().pid;
    master.plan(&format!("s1 {plan}"));
    let victim = master.line_to(1).who().pid;
    if asleep {
        process::signal(healthy, Signal::SIGSTOP);
    }
    process::signal(victim, Signal::SIGKILL);
    master.log.wait_for(&["worker broke the protocol", what]);
    master.plan("");
    process::signal(healthy, Signal::SIGCONT);
    assert_eq!(line.who().pid, healthy, "{plan}");
    soon("slot 1 is healthy again", || {
        let mut other = Line::try_connect(master.address()).ok()?;
        (other.try_who().ok()?.slot == 1).then_some(())
    });
    drop(line);
    master.settle(2);
    master.check();
}

#[test]
fn what_is_no_connection_is_noticed() {
    is_noticed("hand-listener", "no stream socket", false);
    is_noticed("hand-datagrams", "no stream socket", false);
    is_noticed("hand-file", "it handed over what is no connection", false);
    is_noticed("hand-nothing", "0 descriptors", false);
}

#[test]
fn more_handovers_than_may_be_under_way_are_noticed() {
    is_noticed("hand-many", "more than 64 handovers", true);
}

#[test]
fn as_many_handovers_as_may_be_under_way_are_no_offence() {
    let master = mobile().start();
    let healthy = master.line_to(0).who().pid;
    master.plan("s1 hand-most");
    let victim = master.line_to(1).who().pid;
    process::signal(healthy, Signal::SIGSTOP);
    process::signal(victim, Signal::SIGKILL);
    let queued = |status: &status::Status| {
        let healthy = status.workers().iter().find(|worker| worker.slot == 0).map_or(0, |worker| worker.offered);
        healthy > 1 && status.0["listeners"][0]["queue"].as_u64().is_some_and(|queue| queue > 40)
    };
    master.wait_until("all 64 wait", queued);
    process::signal(healthy, Signal::SIGCONT);
    master.wait_until("all have moved", |status| status.workers().iter().any(|worker| worker.given == 64));
    assert!(!master.log.text().contains("broke the protocol"));
    master.plan("");
    order(
        &master,
        &format!(
            "/kill?worker={}",
            master.status().workers().iter().find(|worker| worker.slot == 1).map_or(0, |worker| worker.worker)
        ),
    );
    master.settle(2);
    master.check();
}
