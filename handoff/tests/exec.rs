//! The contract of exec with real processes: this program is the master, starts itself as workers, and they start
//! themselves once more as children that are no workers. It runs without a test harness, for it is its own worker.

use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use everport_handoff::board;
use everport_handoff::bootstrap::{self, Identity, MasterEnds};
use everport_handoff::channel::{Channel, ReceiveError};
use everport_handoff::id::{Generation, Slot, WorkerId};
use everport_handoff::message::{NEWEST, OLDEST, ToMaster, ToWorker};
use everport_handoff::worker::{MASTER_LOST, Worker};
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::SIGTERM;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};

const IDENTITY: Identity = Identity { worker: WorkerId(7), slot: Slot(3), generation: Generation(2) };

/// Longer than anything here takes.
const LIMIT: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => return be_worker(),
        Some("worker-with-a-child") => return be_worker_with_a_child(),
        Some("grandchild") => return be_grandchild(),
        // What `cargo test` passes on to harnesses means nothing here.
        _ => {}
    }
    a_worker_knows_who_it_is_and_its_children_are_nobody();
    signals_make_a_worker_leave_or_do_nothing();
    a_worker_that_lost_its_master_says_so_by_its_exit_code();
}

/// Holds its main thread for ever: whatever happens, happens on the watcher's thread.
fn be_worker() {
    let _worker = Worker::current().unwrap();
    loop {
        std::thread::park();
    }
}

/// Leaves if everything is as it should be.
fn be_worker_with_a_child() {
    let worker = Worker::current().unwrap();
    let found = (worker.id(), worker.slot(), worker.generation());
    let expected = (Some(IDENTITY.worker), Some(IDENTITY.slot), Some(IDENTITY.generation));
    assert_eq!(found, expected);
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program).arg("grandchild").status().unwrap();
    assert!(status.success());
    worker.leave();
    be_worker();
}

fn be_grandchild() {
    assert!(std::env::var_os("EVERPORT_CHANNEL").is_some(), "the variables stay");
    assert!(!Worker::current().unwrap().is_managed());
}

/// A started worker. Killed on drop.
struct Started {
    channel: Channel,
    child: Child,
}

impl Started {
    fn new(mode: &str) -> Self {
        let MasterEnds { channel, board: _, inherited } = bootstrap::prepare().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(mode).stdin(Stdio::null());
        inherited.pass_to(&mut command, IDENTITY).unwrap();
        let child = command.spawn().unwrap();
        Self { channel, child }
    }

    fn hear(&self) -> ToMaster {
        loop {
            match self.channel.receive() {
                Ok(received) => return received.message,
                Err(ReceiveError::Empty) => {
                    let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
                    assert_ne!(poll(&mut fds, Some(&LIMIT)).unwrap(), 0, "the worker says nothing");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn kill(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The worker's end. It has a limit of its own: the watcher's.
    fn end(mut self) -> ExitStatus {
        self.channel = Channel::pair().unwrap().0;
        self.child.wait().unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has ended already, where the test has waited for it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_worker_knows_who_it_is_and_its_children_are_nobody() {
    let started = Started::new("worker-with-a-child");
    assert_eq!(started.hear(), ToMaster::Hello { oldest: OLDEST, newest: NEWEST });
    assert_eq!(started.hear(), ToMaster::Leave);
    passed("a worker knows who it is, and its children are nobody");
}

fn signals_make_a_worker_leave_or_do_nothing() {
    // What the master's own parent blocked is not blocked in a worker.
    let blocked = SigSet::from(SIGTERM);
    blocked.thread_block().unwrap();
    let started = Started::new("worker");
    blocked.thread_unblock().unwrap();
    assert!(matches!(started.hear(), ToMaster::Hello { .. }));
    for signal in [Signal::INT, Signal::HUP, Signal::TERM, Signal::TERM] {
        started.kill(signal);
    }
    assert_eq!(started.hear(), ToMaster::Leave);
    passed("TERM makes a worker leave, INT and HUP do nothing");
}

fn a_worker_that_lost_its_master_says_so_by_its_exit_code() {
    let started = Started::new("worker");
    assert!(matches!(started.hear(), ToMaster::Hello { .. }));
    let bell = board::bell().unwrap();
    let welcome = ToWorker::Welcome {
        version: NEWEST,
        manual_ready: false,
        first_byte_grace: Duration::ZERO,
        drain_timeout: Duration::from_secs(10),
    };
    started.channel.send(&welcome, &[bell.as_fd()]).unwrap();
    assert_eq!(started.end().code(), Some(MASTER_LOST));
    passed("a worker that lost its master says so by its exit code");
}

#[expect(clippy::print_stdout, reason = "in the manner of a harness")]
fn passed(what: &str) {
    println!("test {what} ... ok");
}
