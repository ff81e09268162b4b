//! A running master, its workers, and what a test may ask of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::clock::{Deadline, PATIENCE, PULSE, soon};
use super::lines::Line;
use super::log::Log;
use super::process;
use super::setup::{CLI, Setup};
use super::status::{self, Status};

/// A master that a test has started. Dropping it kills and reaps everything that it started.
#[derive(Debug)]
pub(crate) struct Master {
    child: Child,
    mark: String,
    /// Standard output of the master and its workers.
    pub(crate) output: Log,
    /// Standard error of the master and its workers.
    pub(crate) log: Log,
    folder: TempDir,
    /// How many descriptors and children the master had when its first generation served.
    start: OnceLock<(usize, usize)>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Ended {
    /// Its exit code, or none if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Master {
    pub(super) fn new(child: Child, mark: String, output: Log, log: Log, folder: TempDir) -> Self {
        Self { child, mark, output, log, folder, start: OnceLock::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder().join("control")
    }

    /// What workers do that start from now on; see the fixture.
    pub(crate) fn plan(&self, plan: &str) {
        // In one step: a worker that starts this moment reads the old plan or the new one.
        let draft = self.folder().join("plan.new");
        std::fs::write(&draft, plan).expect("the folder is ours");
        std::fs::rename(draft, self.folder().join("plan")).expect("the folder is ours");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    pub(crate) fn hup(&self) {
        self.signal(Signal::SIGHUP);
    }

    pub(crate) fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// The status, or none while the control socket is not there or the master has gone.
    pub(crate) fn try_status(&self) -> Option<Status> {
        match status::ask(&self.control(), "GET", "/status") {
            Ok((200, json)) => Some(Status(json)),
            _ => None,
        }
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.wait_until("the control socket answers", |_| true)
    }

    /// Waits for a status that is as wanted: looks again at every line of the log, and now and then without one.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let deadline = Deadline::within(PATIENCE);
        let mut last = None;
        loop {
            if let Some(status) = self.try_status() {
                if wanted(&status) {
                    return status;
                }
                last = Some(status.0);
            }
            assert!(deadline.left().is_some(), "waited in vain until {what}; status: {last:#?}");
            assert!(process::lives(self.pid()), "the master ended before {what}");
            self.log.wait_for_news(PULSE);
        }
    }

    /// Waits until one generation of this many workers serves and nothing else is left.
    #[track_caller]
    pub(crate) fn settle(&self, workers: usize) -> Status {
        self.wait_until("all is calm", |status| {
            let all = status.workers();
            status.state() == "running" && all.len() == workers && status.active().len() == workers
        })
    }

    /// Reloads and waits for the outcome: whether it was committed, and the record.
    #[track_caller]
    pub(crate) fn reload(&self) -> (bool, Value) {
        match status::ask(&self.control(), "POST", "/reload") {
            Ok((200, record)) => (true, record),
            Ok((409, record)) => (false, record),
            other => panic!("reload: {other:?}"),
        }
    }

    /// Reloads, which must succeed.
    #[track_caller]
    pub(crate) fn reload_well(&self) -> Value {
        let (committed, record) = self.reload();
        assert!(committed, "{record:#}");
        record
    }

    /// The address of the first listener.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// The addresses of all TCP and UDP listeners.
    #[track_caller]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.status().addresses();
        addresses.iter().filter_map(|address| address.trim_start_matches("udp:").parse().ok()).collect()
    }

    /// Connects to the first listener and speaks lines.
    #[track_caller]
    pub(crate) fn line(&self) -> Line {
        Line::connect(self.address())
    }

    /// A line to the worker of this slot: connects until it is the one that answers.
    #[track_caller]
    pub(crate) fn line_to(&self, slot: u64) -> Line {
        let address = self.address();
        soon("a connection to the wanted slot", || {
            let mut line = Line::try_connect(address).ok()?;
            (line.try_who().ok()?.slot == slot).then_some(line)
        })
    }

    /// How many descriptors the master has open.
    pub(crate) fn descriptors(&self) -> usize {
        process::descriptors(self.pid())
    }

    /// Every living process that this master has started, itself included.
    pub(crate) fn family(&self) -> Vec<u32> {
        process::marked(&self.mark)
    }

    /// Notes how many descriptors and children there are now, for [`Self::check`].
    pub(crate) fn remember(&self) {
        // The connection that asked for the status may be closing yet.
        let counted = self.steady_counts();
        // Only the first note counts.
        let _ = self.start.set(counted);
    }

    /// Waits for the end of the master, which must come by itself and leave no process behind.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        process::wait_for_end(self.pid());
        let status = self.child.wait().expect("it is our child");
        let left = soon_empty(|| self.family());
        assert!(left.is_empty(), "processes {left:?} were left behind:\n{}", self.log.text());
        self.output.wait_for_end();
        self.log.wait_for_end();
        self.look_for_trouble(&[]);
        Ended { status, output: self.output.text(), errors: self.log.text() }
    }

    /// Stops the master gracefully; it must end well.
    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.term();
        let ended = self.wait();
        assert_eq!(ended.code(), Some(0), "{}", ended.errors);
        ended
    }

    /// Stops the master at once; it must end well.
    #[track_caller]
    pub(crate) fn stop_now(self) -> Ended {
        self.signal(Signal::SIGQUIT);
        let ended = self.wait();
        assert_eq!(ended.code(), Some(0), "{}", ended.errors);
        ended
    }

    /// The end of a test in which nothing may go wrong: no descriptor and no child more than at the start, no trouble in
    /// the log, and a stop that leaves nothing behind.
    #[track_caller]
    pub(crate) fn check(self) {
        self.check_but(&[]);
    }

    /// As [`Self::check`], but lines at level `ERROR` with one of these words are expected.
    #[track_caller]
    pub(crate) fn check_but(self, expected: &[&str]) {
        let start = *self.start.get().expect("the master was started by `start`");
        let now = soon_equal(start, || self.counts());
        assert_eq!(now, start, "descriptors and children; at first, and now:\n{}", self.log.text());
        self.look_for_trouble(expected);
        self.stop_but(expected);
    }

    fn stop_but(mut self, expected: &[&str]) {
        self.term();
        process::wait_for_end(self.pid());
        let status = self.child.wait().expect("it is our child");
        let left = soon_empty(|| self.family());
        assert!(left.is_empty(), "processes {left:?} were left behind:\n{}", self.log.text());
        assert_eq!(status.code(), Some(0), "{}", self.log.text());
        self.look_for_trouble(expected);
    }

    fn look_for_trouble(&self, expected: &[&str]) {
        for line in self.log.lines() {
            let is_error = line.contains(" ERROR ") && !expected.iter().any(|word| line.contains(word));
            assert!(!is_error && !line.contains("panicked"), "trouble: {line}\n{}", self.log.text());
        }
    }

    fn counts(&self) -> (usize, usize) {
        (self.descriptors(), process::children(self.pid()).len())
    }

    /// The counts, once two looks in a row give the same.
    fn steady_counts(&self) -> (usize, usize) {
        let mut last = self.counts();
        let mut same = 0;
        soon("the descriptors of the master stay the same", || {
            let now = self.counts();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            (same >= 3).then_some(now)
        })
    }
}

/// Runs the `everport` command against a running master.
pub(crate) fn command(master: &Master, words: &[&str]) -> Ended {
    Setup::program(CLI, words).set("EVERPORT_CONTROL", master.control()).run_to_end()
}

impl Drop for Master {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        process::sweep(&self.mark);
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows what the master said")]
            {
                eprintln!("--- log of master {}:\n{}", self.pid(), self.log.text());
            }
        }
    }
}

/// What is left after a while at most.
fn soon_empty(look: impl Fn() -> Vec<u32>) -> Vec<u32> {
    soon_equal(Vec::new(), look)
}

/// The last look: the wanted one, or another one when time is up.
fn soon_equal<T: PartialEq>(wanted: T, look: impl Fn() -> T) -> T {
    let deadline = Deadline::within(PATIENCE / 4);
    soon("a look", || {
        let seen = look();
        (seen == wanted || deadline.left().is_none()).then_some(seen)
    })
}
