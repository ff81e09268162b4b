//! Clients of HTTP/1.1 notice nothing: `web` on `everport::serve`, whatever leaves and whatever comes.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::clients::{Crowd, Kind, Load, Notice, Tallies};
use crate::harness::clock::Deadline;
use crate::harness::status::{self, WorkerLine};
use crate::harness::{Master, PATIENCE, Setup, http, process, soon};

/// Nobody of them retries.
pub(crate) const CLIENTS: [(Kind, usize); 6] =
    [(Kind::Busy, 32), (Kind::Idle, 64), (Kind::Fresh, 16), (Kind::Slow, 4), (Kind::Upload, 4), (Kind::Dribble, 2)];

/// The next event meets the clients in full swing.
pub(crate) const SWING: [(Kind, usize); 4] =
    [(Kind::Busy, 320), (Kind::Idle, 32), (Kind::Fresh, 160), (Kind::Upload, 2)];

/// Whether the long form of the tests is asked for.
pub(crate) fn is_long() -> bool {
    std::env::var_os("EVERPORT_SOAK").is_some()
}

/// Nobody noticed anything, though those who keep their connections were moved.
#[track_caller]
pub(crate) fn assert_unnoticed(tallies: &Tallies) {
    tallies.assert_unnoticed();
    for kind in [Kind::Busy, Kind::Idle] {
        assert!(tallies.of(kind).moved > 0, "nobody was moved:\n{tallies}");
    }
}

/// So many reloads: one after the other, or, in the long form, at this pace.
fn reloads_under_load(policy: &str, reloads: u32, pace: Duration) {
    let master = Setup::web().policy(policy).start();
    let load = Load::start(master.address(), &CLIENTS);
    for _ in 0..reloads {
        load.go_on(&SWING);
        let next = Deadline::within(pace);
        master.reload_well();
        if let Some(left) = next.left().filter(|_| is_long()) {
            master.log.pass(left);
        }
    }
    load.go_on(&CLIENTS);
    let tallies = load.finish();
    assert_unnoticed(&tallies);
    master.settle(2);
    let status = master.status();
    let records = status.0["reloads"].as_array().expect("records");
    assert!(records.iter().all(|record| record["cut"] == 0), "{records:#?}");
    master.check();
}

/// In the long form 10 reloads in 20 s, then 100 in 100 s.
fn reloads(policy: &str) {
    reloads_under_load(policy, 10, Duration::from_secs(2));
    if is_long() {
        reloads_under_load(policy, 100, Duration::from_secs(1));
    }
}

#[test]
fn reloads_are_not_noticed_when_the_master_accepts() {
    reloads("rr");
}

#[test]
fn reloads_are_not_noticed_when_the_workers_accept() {
    reloads("none");
}

/// The old generation ends by itself, with all of them moved.
fn idle_connections_move(policy: &str, size: usize) {
    let master = Setup::web().policy(policy).drain_timeout("60s").start();
    let mut crowd = Crowd::gather(master.address(), size);
    for generation in 1..=2 {
        master.reload_well();
        let moved = format!("moved={size} ");
        let old = format!("generation={generation} ");
        master.log.wait_for(&["generation drained", &old, &moved, "cut=0"]);
        master.settle(2);
        assert_eq!(crowd.ask_all(), size, "{policy}: every answer is from another process");
    }
    drop(crowd);
    master.check();
}

#[test]
fn three_hundred_idle_connections_move() {
    for policy in ["rr", "none"] {
        idle_connections_move(policy, 300);
    }
}

/// In the long form ten thousand.
#[test]
fn thousands_of_idle_connections_move() {
    idle_connections_move("rr", Crowd::size(if is_long() { 10_000 } else { 2_000 }));
}

/// A client that writes as it likes.
fn connect(master: &Master) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(master.address()).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_nodelay(true).expect("an option");
    BufReader::new(stream)
}

#[track_caller]
fn say(client: &mut BufReader<TcpStream>, bytes: &[u8]) {
    client.get_mut().write_all(bytes).expect("an open connection");
}

/// The right answer, which says nothing about closing; the process that gave it.
#[track_caller]
fn hear(client: &mut BufReader<TcpStream>) -> u32 {
    let answer = http::read_answer(client).expect("a whole answer");
    assert!(answer.status == 200 && !answer.says_close(), "{answer:?}");
    answer.header("x-pid").and_then(|pid| pid.parse().ok()).expect("a pid")
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

#[test]
fn a_request_that_waits_in_the_kernel_at_the_drain_is_answered() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).workers(1).start();
        let mut clients: Vec<_> = (0..8).map(|_| connect(&master)).collect();
        let mut fresh = connect(&master);
        for client in &mut clients {
            say(client, GET);
            hear(client);
        }
        let old = master.status().active()[0].pid.expect("it lives");
        process::signal(old, Signal::SIGSTOP);
        let (pipelined, single) = clients.split_at_mut(4);
        single.iter_mut().for_each(|client| say(client, GET));
        pipelined.iter_mut().for_each(|client| say(client, &[GET, GET, &GET[..20]].concat()));
        master.reload_well();
        // It finds the drain and the requests at the same moment.
        process::signal(old, Signal::SIGCONT);
        for client in single {
            hear(client);
        }
        for client in pipelined {
            hear(client);
            hear(client);
            say(client, &GET[20..]);
            hear(client);
        }
        process::wait_for_end(old);
        say(&mut fresh, GET);
        assert_ne!(hear(&mut fresh), old, "{policy}: one that never asked for anything moves too");
        drop((clients, fresh));
        master.settle(1);
        master.check();
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_over_three_reloads_is_answered() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let mut client = connect(&master);
        say(&mut client, b"GET / HTTP/1.1\r\nhost: test\r\nx-padding: ");
        std::thread::scope(|scope| {
            let reloads = scope.spawn(|| (0..3).for_each(|_| drop(master.reload_well())));
            while !reloads.is_finished() {
                say(&mut client, b"x");
                master.log.pass(Duration::from_millis(10));
            }
            reloads.join().expect("all are committed");
        });
        // Nobody but the newest generation is left, and the request is with it.
        let newest: Vec<_> = master.settle(2).active().iter().filter_map(|worker| worker.pid).collect();
        for byte in b"\r\n\r\n" {
            say(&mut client, &[*byte]);
            master.log.pass(Duration::from_millis(10));
        }
        assert!(newest.contains(&hear(&mut client)), "{policy}");
        drop(client);
        master.check();
    }
}

#[test]
fn an_application_sees_the_same_client_before_and_after() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let mut client = connect(&master);
        let expected = format!("you are {}\n", client.get_ref().local_addr().expect("it is connected"));
        for generation in ["1", "2", "3"] {
            say(&mut client, b"GET /you HTTP/1.1\r\nhost: test\r\n\r\n");
            let answer = http::read_answer(&mut client).expect("a whole answer");
            assert_eq!((answer.text().as_str(), answer.header("x-generation")), (&*expected, Some(generation)));
            master.reload_well();
            master.settle(2);
        }
        drop(client);
        master.check();
    }
}

#[track_caller]
fn order(master: &Master, path: &str) {
    let (code, answer) = status::ask(&master.control(), "POST", path).expect("an answer");
    assert_eq!(code, 200, "{path}: {answer}");
}

/// The worker that has most: when the kernel picks, one may have all.
pub(crate) fn fullest(master: &Master) -> WorkerLine {
    master.status().active().into_iter().max_by_key(|worker| worker.active).expect("somebody serves")
}

#[test]
fn scaling_down_and_leaving_are_not_noticed() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let load = Load::start(master.address(), &CLIENTS);
        for _ in 0..2 {
            load.go_on(&SWING);
            order(&master, "/scale?to=1");
            load.go_on(&SWING);
            order(&master, "/scale?to=2");
            master.settle(2);
            load.go_on(&SWING);
            process::signal(fullest(&master).pid.expect("it lives"), Signal::SIGTERM);
            load.go_on(&SWING);
            master.settle(2);
        }
        assert_unnoticed(&load.finish());
        master.settle(2);
        master.check();
    }
}

/// Within the second that the victim has.
#[test]
fn idle_connections_of_a_worker_that_the_operator_kills_move() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let mut crowd = Crowd::gather(master.address(), 50);
        let victim = fullest(&master);
        order(&master, &format!("/kill?worker={}", victim.worker));
        process::wait_for_end(victim.pid.expect("it lived"));
        let moved = crowd.ask_all();
        assert!(moved > 0, "{policy}: nobody was moved");
        drop(crowd);
        master.settle(2);
        master.check();
    }
}

#[test]
fn recycling_is_not_noticed() {
    let master = Setup::web().set("EVERPORT_RECYCLE_CONNECTIONS", "100").start();
    let before: Vec<u64> = master.status().active().iter().map(|worker| worker.worker).collect();
    let load = Load::start(master.address(), &CLIENTS);
    master.wait_until("both are recycled", |status| {
        status.active().len() == 2 && status.workers().iter().all(|worker| !before.contains(&worker.worker))
    });
    load.go_on(&CLIENTS);
    assert_unnoticed(&load.finish());
    master.stop();
}

/// How many idle connections are at stake when somebody is killed.
const CROWD: usize = 1000;

/// Kills somebody while connections move. Those that the victim still owned are lost, as closed; nobody else notices, and
/// nobody is left hanging.
fn kill_in_the_middle(is_victim: fn(&WorkerLine) -> bool) {
    let master = Setup::web().start();
    let mut crowd = Crowd::gather(master.address(), CROWD);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.reload());
        let victim = soon("somebody hands over, or all is over", || {
            let status = master.try_status()?;
            let victim = status.workers().into_iter().find(is_victim);
            victim
                .or_else(|| status.workers().into_iter().find(|_| reload.is_finished() && status.workers().len() == 2))
        });
        let pid = victim.pid.expect("it lives");
        process::signal(pid, Signal::SIGKILL);
        master.settle(2);
        let line = master.log.wait_for(&["worker exited", &format!("pid={pid} ")]);
        let cut: usize =
            line.split("cut=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number");
        let (noticed, _) = crowd.ask();
        let only_closed = |notice: &Notice| matches!(notice, Notice::ClosedIdle | Notice::Crossed);
        assert!(noticed.iter().all(only_closed), "{noticed:?}");
        assert!(noticed.len() <= cut, "{} connections are lost, and the victim had {cut}", noticed.len());
        assert_eq!(noticed.len() + crowd.len(), CROWD);
    });
    // Those who are left are served on.
    assert_eq!(crowd.ask_all(), 0);
    drop(crowd);
    master.settle(2);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_giver_that_is_killed_in_the_middle_loses_only_what_it_still_owned() {
    kill_in_the_middle(|worker| worker.generation == 1 && worker.given > 0);
}

#[test]
fn a_taker_that_is_killed_in_the_middle_loses_only_what_it_had_taken() {
    kill_in_the_middle(|worker| worker.generation == 2 && worker.received > 0);
}

#[test]
fn a_stop_tells_those_who_ask_and_closes_the_others_at_the_soft_deadline() {
    let master = Setup::web().set("EVERPORT_DRAIN_GRACE", "1s").start();
    let mut silent = connect(&master);
    let mut asking = connect(&master);
    for client in [&mut silent, &mut asking] {
        say(client, GET);
        hear(client);
    }
    let mut slow = connect(&master);
    say(&mut slow, b"GET /slow?ms=2000 HTTP/1.1\r\nhost: test\r\n\r\n");
    master.wait_until("the slow request is under way", |status| {
        status.workers().iter().map(|worker| worker.active).sum::<u64>() == 3
    });
    master.term();
    master.wait_until("both drain", |status| status.workers().iter().all(|worker| worker.state == "draining"));
    // Its worker may not have heard of it yet.
    soon("an answer tells to close", || {
        say(&mut asking, GET);
        let answer = http::read_answer(&mut asking).expect("a whole answer");
        assert_eq!(answer.status, 200);
        answer.says_close().then_some(())
    });
    // An end, and no reset.
    assert!(matches!(http::read_answer(&mut silent), Err(http::Failure::ClosedAtFirst)));
    let answer = http::read_answer(&mut slow).expect("it is finished");
    assert!(answer.status == 200 && answer.says_close(), "{answer:?}");
    drop((silent, asking, slow));
    let ended = master.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    assert!(!ended.errors.contains("SIGKILL"), "{}", ended.errors);
}
