//! Workers whose program knows nothing of Everport (`--protocol listen-fds`): a process with the listeners from descriptor
//! 3 on, and what can be seen and heard of it. They have no link, so that orders by channel are none for them.
//!
//! | for an Everport worker | for these |
//! |---|---|
//! | `Ready` | what `machine/evidence.rs` makes of `READY=1` and of a look at `/proc`, every 20 ms while one is starting |
//! | `Activate` | none: it accepts from its start |
//! | `Drain` | the drain signal to its process, if the program handles it |
//! | the channel closes when the master dies | the drain signal (`PR_SET_PDEATHSIG`) |

mod look;
mod notify;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use everport_handoff::bootstrap::Identity;
use everport_handoff::id::WorkerId;
use everport_handoff::listen_fds::ListenFds;
use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use self::look::{Look, Socket};
use self::notify::NotifySocket;
use super::poller::Source;
use super::process::Process;
use super::{Shell, clock};
use crate::config::{Config, Protocol, Readiness};
use crate::machine::{Event, Evidence, Proof, RequestId, Rule, View};

/// The pause between two looks at programs that start: shorter than anybody notices, and long beside the part of a
/// millisecond that a look takes.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How many parents are looked at to find the worker of which a process is a part.
const MAX_ANCESTORS: usize = 64;

/// All workers whose program knows nothing of Everport.
#[derive(Debug)]
pub(crate) struct Foreigners {
    held: HashMap<WorkerId, Foreigner>,
    /// Nothing under another protocol.
    notify: Option<NotifySocket>,
    looked: Instant,
}

#[derive(Debug)]
struct Foreigner {
    identity: Identity,
    drain_signal: Signal,
    rule: Rule,
    /// Nothing once it has been reaped.
    process: Option<Process>,
    /// Nothing once it is ready.
    start: Option<Start>,
}

/// What is known of a worker that starts.
#[derive(Debug)]
struct Start {
    since: Instant,
    said: bool,
    hidden: bool,
    /// From which listeners nobody has been seen to accept yet.
    missing: BTreeSet<Socket>,
}

impl Start {
    fn evidence(&self) -> Evidence {
        let view = match (self.missing.is_empty(), self.hidden) {
            (true, _) => View::Accepts,
            (false, true) => View::Opaque,
            (false, false) => View::Idle,
        };
        Evidence { said: self.said, view, age: clock::now().saturating_duration_since(self.since) }
    }
}

impl Rule {
    /// As the settings of a generation say.
    fn of(config: &Config) -> Self {
        Self { manual: config.readiness == Readiness::Manual, after: config.ready_after }
    }
}

impl Foreigners {
    pub(crate) fn new(config: &Config) -> io::Result<Self> {
        let notify = match config.protocol {
            Protocol::ListenFds => Some(NotifySocket::bind()?),
            Protocol::Everport => None,
        };
        Ok(Self { held: HashMap::new(), notify, looked: clock::now() })
    }

    /// Where programs say that they are ready.
    pub(crate) fn notices(&self) -> Option<&NotifySocket> {
        self.notify.as_ref()
    }

    /// When `look_at_foreigners` must next be called, if ever.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let is_starting = |foreigner: &Foreigner| foreigner.start.is_some();
        self.held.values().any(is_starting).then(|| self.looked + LOOK_INTERVAL)
    }

    /// The process of a worker, if it has one that has not been reaped.
    pub(crate) fn process(&self, worker: WorkerId) -> Option<&Process> {
        self.held.get(&worker)?.process.as_ref()
    }

    /// Every process that has not been reaped.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.held.values().filter_map(|foreigner| foreigner.process.as_ref())
    }

    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.held.remove(&worker);
    }

    /// The worker of which a process is a part: by its process group, or by one of its ancestors.
    fn of_process(&self, pid: i32) -> Option<WorkerId> {
        let mut next = Some(pid);
        for _ in 0..MAX_ANCESTORS {
            let pid = next?;
            let (parent, group) = parent_and_group(pid)?;
            let is_it = |process: &Process| [pid, group].contains(&process.pid());
            let found = self.held.iter().find(|(_, foreigner)| foreigner.process.as_ref().is_some_and(is_it));
            if let Some((worker, _)) = found {
                return Some(*worker);
            }
            next = Some(parent);
        }
        None
    }
}

impl Shell {
    pub(super) fn try_spawn_foreign(&mut self, identity: Identity) -> io::Result<i32> {
        let worker = identity.worker;
        let plan = self.plans.of(identity.generation);
        let held = plan.configured.iter().filter_map(|listener| self.listeners.get(*listener));
        let listeners: Vec<_> = held.map(|held| (held.bound.as_fd(), held.bound.address().name())).collect();
        let missing = listeners.iter().map(|(fd, _)| Socket::of(fd)).collect::<io::Result<_>>()?;
        let (orphaned, rule) = (plan.config.drain_signal, Rule::of(&plan.config));
        let notify = self.foreigners.notify.as_ref().map(NotifySocket::name);
        let endow = |command: &mut Command, arg0: &OsStr| {
            identity.pass_to(command);
            command.envs(notify.map(|name| ("NOTIFY_SOCKET", name)));
            ListenFds { arg0, listeners: &listeners, orphaned }.pass_to(command)
        };
        let process =
            self.plans.of_mut(identity.generation).launcher.spawn(identity.generation, endow, &self.output)?;
        if let Err(error) = self.poller.add(&process, Source::Process(worker)) {
            // Nobody has been told of this process yet, so it is ended here.
            process.kill();
            process.wait()?;
            return Err(error.into());
        }
        let pid = process.pid();
        let start = Start { since: clock::now(), said: false, hidden: false, missing };
        self.foreigners.held.insert(
            worker,
            Foreigner { identity, drain_signal: orphaned, rule, process: Some(process), start: Some(start) },
        );
        Ok(pid)
    }

    /// Looks at every program that starts.
    pub(super) fn look_at_foreigners(&mut self) {
        self.foreigners.looked = clock::now();
        for foreigner in self.foreigners.held.values_mut() {
            if let (Some(process), Some(start)) = (&foreigner.process, &mut foreigner.start) {
                let look = Look::at(process.pid(), &start.missing);
                start.missing.retain(|socket| !look.accepting.contains(socket));
                start.hidden = look.hidden;
            }
        }
        self.judge_foreigners();
    }

    /// Hears what programs say.
    pub(super) fn hear_notices(&mut self) {
        let notices = self.foreigners.notify.as_ref().map(NotifySocket::notices).unwrap_or_default();
        for notice in notices.into_iter().filter(|notice| notice.is_ready) {
            let said = self.foreigners.of_process(notice.pid).and_then(|worker| self.foreigners.held.get_mut(&worker));
            match said {
                Some(foreigner) => foreigner.start.iter_mut().for_each(|start| start.said = true),
                None => warn!(pid = notice.pid, "READY=1 from a process that is part of no worker"),
            }
        }
        self.judge_foreigners();
    }

    fn judge_foreigners(&mut self) {
        let mut ready = Vec::new();
        for (worker, foreigner) in &mut self.foreigners.held {
            if let Some(proof) = foreigner.start.as_ref().and_then(|start| foreigner.rule.judge(start.evidence())) {
                foreigner.start = None;
                ready.push((*worker, proof, foreigner.identity));
            }
        }
        for (worker, proof, Identity { slot, generation, .. }) in ready {
            match proof {
                Proof::Seen => info!(%worker, %slot, %generation, by = "seen to accept", "worker ready"),
                Proof::Said => info!(%worker, %slot, %generation, by = "READY=1", "worker ready"),
                Proof::Time => warn!(%worker, %slot, %generation, by = "ready-after, unproven", "worker ready"),
            }
            // Nobody asked, but it uses all of them.
            for listener in &self.plans.of(generation).configured {
                self.events.push_back(Event::ListenAsked { worker, request: RequestId(0), listener: *listener });
            }
            self.note(Event::WorkerReady { worker });
        }
    }

    /// The process of a worker of either protocol, if it has one that has not been reaped.
    pub(super) fn process(&self, worker: WorkerId) -> Option<&Process> {
        let linked = self.links.get(&worker).and_then(|link| link.process.as_ref());
        linked.or_else(|| self.foreigners.process(worker))
    }

    /// Who a worker of either protocol is.
    pub(super) fn identity(&self, worker: WorkerId) -> Option<Identity> {
        let linked = self.links.get(&worker).map(|link| link.identity);
        linked.or_else(|| Some(self.foreigners.held.get(&worker)?.identity))
    }

    pub(super) fn pause_foreign(&self, worker: WorkerId) {
        if let Some(process) = self.foreigners.process(worker) {
            warn!(%worker, pid = process.pid(), "worker goes on accepting: its program knows no pause");
        }
    }

    pub(super) fn drain_foreign(&mut self, worker: WorkerId) {
        let Some(foreigner) = self.foreigners.held.get(&worker) else { return };
        let (Some(process), signal) = (&foreigner.process, foreigner.drain_signal) else { return };
        let pid = process.pid();
        // The default action of a signal that is not handled would cut every connection at once.
        match handles(pid, signal) {
            Ok(true) => process.signal(signal),
            Ok(false) => {
                error!(%worker, pid, %signal, "drain signal not handled by the program; it serves on until its deadline");
            }
            Err(error) => error!(%worker, pid, %signal, %error, "drain signal not sent"),
        }
    }

    /// Says of a worker that was killed before it was ready what was missing.
    pub(super) fn explain_unready(&mut self, worker: WorkerId) {
        let Some(foreigner) = self.foreigners.held.get_mut(&worker) else { return };
        let Some(process) = &foreigner.process else { return };
        let pid = process.pid();
        if let Some(start) = foreigner.start.take() {
            let Start { said, hidden, missing, .. } = start;
            let unseen: Vec<_> = self
                .listeners
                .iter()
                .filter(|(_, held)| Socket::of(&held.bound).is_ok_and(|socket| missing.contains(&socket)))
                .map(|(_, held)| held.key.as_str())
                .collect();
            let unseen = unseen.join(", ");
            warn!(%worker, pid, unseen, hidden, said, "nothing showed that the worker was ready");
        }
    }

    /// A worker's process has ended. What it leaves in its process group ends with it.
    pub(super) fn bury_foreign(&mut self, worker: WorkerId) {
        let Some(foreigner) = self.foreigners.held.get_mut(&worker) else { return };
        let Some(process) = &foreigner.process else { return };
        // As long as it is not reaped, the number of the group is its own.
        process.kill();
        let Some(exit) = process.reap() else { return };
        let (identity, pid) = (foreigner.identity, process.pid());
        self.poller.remove(process);
        foreigner.process = None;
        foreigner.start = None;
        if let Some(view) = self.machine.workers().find(|view| view.worker == worker) {
            self.records.foreign_exited(identity, view, pid, exit);
        }
        self.note(Event::WorkerExited { worker, exit });
    }
}

/// Whether a process has a handler for a signal.
fn handles(pid: i32, signal: Signal) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(caught(&status).is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 1))
}

/// The signals with handlers, one bit each, in `/proc/PID/status`.
fn caught(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// The parent and the process group of a process that lives.
fn parent_and_group(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have spaces and parentheses in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_caught_signals_is_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert_eq!(caught(status), Some(0x4002));
        assert_eq!(caught("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_has_a_parent_and_a_group() {
        let own = i32::try_from(std::process::id()).unwrap();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!(parent_and_group(own), Some((parent, group)));
    }
}
