//! What the master does with more connections than it can give away: it leaves them in the kernel's backlog.

use std::time::Duration;

use crate::harness::{Line, Master, Setup, http, process};

/// Node holds 403.
const MOST_SOCKETS: usize = 200;

/// Blocks the runtime of every worker.
fn block_everybody(master: &Master, workers: u64, milliseconds: u64) -> Vec<Line> {
    (0..workers)
        .map(|slot| {
            let mut line = master.line_to(slot);
            line.tell(&format!("block {milliseconds}"));
            line
        })
        .collect()
}

/// node-v0.x-archive#8746: with all workers blocked Node's primary accepts without bound.
#[test]
fn with_all_workers_blocked_the_master_holds_few_sockets_and_everybody_is_served_later() {
    let master = Setup::lines_on(&["127.0.0.1:0?backlog=1024"]).start();
    let address = master.address();
    let before = master.descriptors();
    let blocked = block_everybody(&master, 2, 1500);
    let mut waiting: Vec<Line> = (0..400).map(|_| Line::connect(address)).collect();
    waiting.iter_mut().for_each(|line| line.tell("who"));
    let status = master.status();
    assert!(status.0["listeners"][0]["accepting"] == false, "{:#}", status.0["listeners"]);
    let held = master.descriptors() - before;
    assert!(held < MOST_SOCKETS, "the master holds {held} sockets");
    assert!(process::backlog(address) >= 400 - MOST_SOCKETS);
    for line in &mut waiting {
        line.hear().expect("every client is served");
    }
    drop((waiting, blocked));
    master.settle(2);
    master.check();
}

#[test]
fn clients_that_gave_up_while_they_waited_are_no_trouble() {
    let master = Setup::lines_on(&["127.0.0.1:0?backlog=1024"]).start();
    let address = master.address();
    let blocked = block_everybody(&master, 2, 500);
    for _ in 0..300 {
        drop(Line::connect(address));
    }
    assert_eq!(Line::connect(address).ask("echo next"), "next");
    drop(blocked);
    master.settle(2);
    master.check();
}

/// A master that may open few descriptors. Its workers may open as many, which is enough for their share of the clients.
fn short_of_descriptors() -> Master {
    Setup::lines_on(&["127.0.0.1:0?backlog=1024"]).shell("ulimit -n 96").start()
}

/// parallel/test-cluster-accept-fail.js: for want of descriptors the master pauses, and goes on when there are some.
#[test]
fn without_descriptors_the_master_pauses_and_goes_on() {
    let master = short_of_descriptors();
    let address = master.address();
    let blocked = block_everybody(&master, 2, 1500);
    let mut waiting: Vec<Line> = (0..100).map(|_| Line::connect(address)).collect();
    waiting.iter_mut().for_each(|line| line.tell("echo served"));
    master.log.wait_for(&["accepting paused"]);
    let ((), took) = http::timed(|| {
        for line in &mut waiting {
            assert_eq!(line.hear().expect("every client is served"), "served");
        }
    });
    assert!(took < Duration::from_secs(5), "served after {took:?}");
    assert!(master.log.count(&["accepting paused"]) < 10, "once for each period");
    drop((waiting, blocked));
    master.settle(2);
    master.check();
}

#[test]
fn a_master_without_descriptors_can_still_answer_and_reload() {
    let master = short_of_descriptors();
    let address = master.address();
    let blocked = block_everybody(&master, 2, 60000);
    let waiting: Vec<Line> = (0..100).map(|_| Line::connect(address)).collect();
    master.log.wait_for(&["accepting paused"]);
    // However long it lasts, the reserve is not used up bit by bit.
    master.log.pass(Duration::from_millis(1500));
    assert_eq!(master.status().state(), "running");
    master.reload_well();
    drop((waiting, blocked));
    master.stop_now();
}

#[test]
fn a_master_without_descriptors_does_not_spin() {
    let master = short_of_descriptors();
    let address = master.address();
    let blocked = block_everybody(&master, 2, 1500);
    let waiting: Vec<Line> = (0..100).map(|_| Line::connect(address)).collect();
    master.log.wait_for(&["accepting paused"]);
    let before = processor_time(master.pid());
    master.log.pass(Duration::from_millis(1000));
    let used = processor_time(master.pid()) - before;
    // In hundredths of a second.
    assert!(used <= 30, "{used} hundredths of a second of processor time in one second");
    drop((waiting, blocked));
    master.settle(2);
    master.check();
}

/// User and system time of a process in the kernel's ticks, which are hundredths of a second.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("the kernel's format").1.split_whitespace().collect();
    // Fields 14 and 15 of the line; the first behind the name is field 3.
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}
