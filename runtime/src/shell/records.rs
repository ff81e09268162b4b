//! What the master remembers and says of reloads and exits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant, SystemTime};

use everport_handoff::bootstrap::Identity;
use everport_handoff::id::{Generation, Slot, WorkerId};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::audit::Audit;
use super::clock;
use super::link::Link;
use crate::config::Strategy;
use crate::control::protocol::{AskedBy, AuditLine, Ordered, ReloadOutcome, ReloadRecord};
use crate::machine::{Delay, Exit, Failure, KillReason, Outcome, Phases, Ticket, WorkerState, WorkerView, Worn};

/// What would be said for every connection, that accepting fails or that connections are shed, is said once in this time.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// How many reloads are remembered: enough to see what a day of deployments came to.
const MAX_RECORDS: usize = 16;

/// Somebody who asked for a reload or a rollback.
#[derive(Debug)]
struct Asked {
    by: AskedBy,
    at: Instant,
    answer: Answer,
}

/// Who is told the outcome. A client that has gone needs no answer.
#[derive(Debug)]
pub(super) enum Answer {
    Nobody,
    /// The record of the reload that was asked for.
    Outcome(oneshot::Sender<ReloadRecord>),
    /// The record of the reload that was rolled back, if there was one.
    Rollback(oneshot::Sender<Option<ReloadRecord>>),
}

impl Answer {
    fn give(self, record: Option<&ReloadRecord>) {
        match (self, record) {
            (Self::Outcome(answer), Some(record)) => drop(answer.send(record.clone())),
            (Self::Rollback(answer), record) => drop(answer.send(record.cloned())),
            (Self::Outcome(_), None) | (Self::Nobody, _) => {}
        }
    }
}

/// Reloads: who waits for which, and the records of the last ones.
#[derive(Debug)]
pub(super) struct Records {
    started: Instant,
    last_ticket: u64,
    asked: HashMap<Ticket, Asked>,
    reload_began: Option<(SystemTime, Instant)>,
    /// Why the reload that waits, or the one under way, could not begin at once.
    delayed: Option<String>,
    reloads: VecDeque<ReloadRecord>,
    /// What became of the connections of the generations that drain, so far.
    drains: HashMap<Generation, Tally>,
    audit: Audit,
    exhaustion_said: Option<Instant>,
    /// What the last workers that ended had been refused, to say it with why they could not start.
    refusals: BTreeMap<WorkerId, String>,
}

/// How many refusals are kept: more than one generation can have on any machine that is looked at.
const MAX_REFUSALS: usize = 64;

/// How many may wait for reloads. Who asks beyond that has a reload coming anyway.
const MAX_ASKED: usize = 256;

/// What became of the connections of a generation that drains.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    moved: u64,
    finished: u64,
    lingered: u64,
    cut: u64,
}

/// How a reload ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) generation: Generation,
    pub(super) retired: Option<Generation>,
    pub(super) workers: u32,
    pub(super) outcome: Outcome,
    pub(super) phases: Phases,
    pub(super) strategy: Option<Strategy>,
}

impl Records {
    pub(super) fn new(audit: Audit) -> Self {
        Self {
            started: clock::now(),
            last_ticket: 0,
            asked: HashMap::new(),
            reload_began: None,
            delayed: None,
            reloads: VecDeque::new(),
            drains: HashMap::new(),
            audit,
            exhaustion_said: None,
            refusals: BTreeMap::new(),
        }
    }

    /// How long the master has run.
    pub(super) fn uptime(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    /// The last reloads that have ended, the oldest first.
    pub(super) fn reloads(&self) -> impl DoubleEndedIterator<Item = &ReloadRecord> {
        self.reloads.iter()
    }

    /// Keeps somebody who asked for a reload, until it has ended; nobody beyond [`MAX_ASKED`].
    pub(super) fn asked(&mut self, by: AskedBy, answer: Answer) -> Option<Ticket> {
        info!(asked_by = by.to_string(), "reload asked");
        (self.asked.len() < MAX_ASKED).then(|| self.keep(by, answer))
    }

    /// Keeps somebody who asked for a rollback, until that is done or turns out to be impossible.
    pub(super) fn asked_to_roll_back(&mut self, by: AskedBy, answer: oneshot::Sender<Option<ReloadRecord>>) -> Ticket {
        info!(asked_by = ?by, "rollback asked");
        self.keep(by, Answer::Rollback(answer))
    }

    fn keep(&mut self, by: AskedBy, answer: Answer) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, Asked { by, at: clock::now(), answer });
        ticket
    }

    pub(super) fn nothing_to_roll_back(&mut self, ticket: Ticket) {
        info!("no reload to roll back");
        if let Some(asked) = self.asked.remove(&ticket) {
            asked.answer.give(None);
        }
    }

    pub(super) fn reload_delayed(&mut self, why: Delay) {
        let reason = describe_delay(why);
        info!(reason, "reload delayed");
        self.delayed.get_or_insert(reason);
    }

    pub(super) fn reload_started(&mut self, generation: Generation, tickets: &[Ticket]) {
        self.reload_began = Some((clock::wall(), clock::now()));
        info!(%generation, asked = tickets.len(), "reload started");
    }

    pub(super) fn probation_started(&self, generation: Generation, until: Instant, phases: Phases) {
        let probation_ms = millis(until.saturating_duration_since(clock::now()));
        info!(%generation, starting_ms = millis(phases.starting), probation_ms, "probation started");
    }

    pub(super) fn reload_ended(&mut self, ended: Ended, tickets: &[Ticket]) {
        let Ended { generation, retired, workers, outcome, phases, strategy } = ended;
        let delayed = self.delayed.take();
        let now = clock::now();
        let (at, began) = self.reload_began.take().unwrap_or_else(|| (clock::wall(), now));
        let asked: Vec<Asked> = tickets.iter().filter_map(|ticket| self.asked.remove(ticket)).collect();
        let reason = match &outcome {
            Outcome::Committed => None,
            Outcome::RolledBack(failure) => Some(self.describe(failure)),
        };
        let judge = match &outcome {
            Outcome::RolledBack(Failure::Asked { ticket }) => self.asked.remove(ticket),
            _ => None,
        };
        let (starting_ms, probation_ms) = (millis(phases.starting), millis(phases.probation));
        let record = asked.first().map(|first| ReloadRecord {
            generation,
            asked_by: first.by,
            at: humantime::format_rfc3339_millis(at).to_string(),
            outcome: if reason.is_none() { ReloadOutcome::Committed } else { ReloadOutcome::RolledBack },
            reason: reason.clone(),
            workers,
            starting_ms,
            total_ms: millis(now.saturating_duration_since(began)),
            finished: 0,
            lingered: 0,
            cut: 0,
            moved: 0,
            asked: u64::try_from(asked.len()).unwrap_or(u64::MAX),
            waited_ms: millis(began.saturating_duration_since(first.at)),
            probation_ms,
            retired,
            draining_ms: None,
            strategy,
            delayed,
        });
        // First: whoever reads of it in the log finds its line.
        if let Some(record) = &record {
            self.audit.append(&AuditLine::Reload(record.clone()));
        }
        match (&outcome, &reason) {
            (Outcome::Committed, _) => info!(%generation, starting_ms, probation_ms, "reload committed"),
            // Nobody needs to act: it is what was asked for.
            (Outcome::RolledBack(Failure::Stopped | Failure::Asked { .. }), reason) => {
                info!(%generation, reason, "reload rolled back");
            }
            (Outcome::RolledBack(_), reason) => error!(%generation, reason, "reload rolled back"),
        }
        let Some(record) = record else { return };
        for asked in asked.into_iter().chain(judge) {
            asked.answer.give(Some(&record));
        }
        if self.reloads.len() >= MAX_RECORDS {
            self.reloads.pop_front();
        }
        self.reloads.push_back(record);
    }

    /// Logs the end of a worker, the one exit record. If its generation was `retired`, counts what became of its
    /// connections.
    pub(super) fn exited(&mut self, link: &Link, view: WorkerView, pid: i32, exit: Exit, retired: bool) {
        let Identity { worker, slot, generation } = link.identity;
        if let Some(refused) = &link.refused {
            self.refusals.insert(worker, refused.clone());
            if self.refusals.len() > MAX_REFUSALS {
                self.refusals.pop_first();
            }
        }
        // What it has handed over moves on without it.
        let under_way = u64::try_from(link.handovers.len()).unwrap_or(u64::MAX);
        let moved = view.counters.given + under_way;
        // A worker that ends by itself has finished what it had.
        let cut = if exit == Exit::Code(0) { 0 } else { link.figures().active.saturating_sub(under_way) };
        let lingered = link.figures().lingered;
        let (voluntary, killed) = (view.state.ends_well(exit), killed(view));
        let uptime_ms = millis(clock::now().saturating_duration_since(view.started));
        let ended_otherwise = moved + lingered + cut + link.lost;
        let finished = link.active_at_drain.map_or(0, |before| before.saturating_sub(ended_otherwise));
        info!(
            %worker, %slot, %generation, pid, exit = words(exit), killed, voluntary, uptime_ms, moved, finished, lingered,
            cut, lost = link.lost, "worker exited"
        );
        if retired {
            let tally = self.drains.entry(generation).or_default();
            tally.moved += moved;
            tally.finished += finished;
            tally.lingered += lingered;
            tally.cut += cut;
            let tally = *tally;
            if let Some(record) = self.record_of(generation) {
                (record.moved, record.finished) = (tally.moved, tally.finished);
                (record.lingered, record.cut) = (tally.lingered, tally.cut);
            }
        }
    }

    /// Logs the end of a worker whose program knows nothing of Everport. What became of its connections nobody knows, so
    /// the record is silent about them.
    pub(super) fn foreign_exited(&self, identity: Identity, view: WorkerView, pid: i32, exit: Exit) {
        let Identity { worker, slot, generation } = identity;
        let (voluntary, killed) = (view.state.ends_well(exit), killed(view));
        let uptime_ms = millis(clock::now().saturating_duration_since(view.started));
        info!(%worker, %slot, %generation, pid, exit = words(exit), killed, voluntary, uptime_ms, "worker exited");
    }

    /// The last worker of a generation that drained has gone.
    pub(super) fn generation_drained(&mut self, generation: Generation, after: Duration) {
        let Tally { moved, finished, lingered, cut } = self.drains.remove(&generation).unwrap_or_default();
        let draining_ms = millis(after);
        if let Some(record) = self.record_of(generation) {
            record.draining_ms = Some(draining_ms);
        }
        let at = humantime::format_rfc3339_millis(clock::wall()).to_string();
        self.audit.append(&AuditLine::Drained { generation, at, finished, lingered, cut, moved, draining_ms });
        // Last, as in `reload_ended`.
        info!(%generation, moved, finished, lingered, cut, draining_ms, "generation drained");
    }

    /// Somebody has ordered something.
    pub(super) fn ordered(&mut self, asked_by: AskedBy, order: Ordered) {
        let at = humantime::format_rfc3339_millis(clock::wall()).to_string();
        self.audit.append(&AuditLine::Order { at, asked_by, order });
    }

    /// The record of the reload that retired this generation.
    fn record_of(&mut self, retired: Generation) -> Option<&mut ReloadRecord> {
        self.reloads.iter_mut().find(|record| record.retired == Some(retired))
    }

    /// Says, once each time, that a slot rests.
    pub(super) fn slot_rests(&self, generation: Generation, slot: Slot, pace: Duration) {
        let pace = humantime::format_duration(pace);
        error!(%generation, %slot, %pace, "slot resting; its workers failed too often");
    }

    /// Says why a worker is replaced.
    pub(super) fn recycling(&self, worker: WorkerId, why: Worn) {
        match why {
            Worn::Memory { bytes } => info!(%worker, memory_bytes = bytes, "worker recycled"),
            Worn::Age { age } => info!(%worker, age_seconds = age.as_secs(), "worker recycled"),
            Worn::Connections { taken } => info!(%worker, connections = taken, "worker recycled"),
        }
    }

    /// Why a generation could not start, or not stay, in a sentence.
    pub(super) fn describe(&self, failure: &Failure) -> String {
        match failure {
            Failure::NotPrepared { reason } => reason.clone(),
            Failure::SpawnFailed { slot, reason } => {
                format!("the worker of slot {slot} could not be started: {reason}")
            }
            Failure::Exited { slot, worker, exit } => {
                let refused =
                    self.refusals.get(worker).map(|refused| format!("; it was refused a listener: {refused}"));
                let (how, refused) = (words(*exit), refused.unwrap_or_default());
                format!("worker {worker} of slot {slot} {how} before it was ready{refused}")
            }
            Failure::Crashed { slot, worker, exit } => {
                format!("worker {worker} of slot {slot} {} after it was activated", words(*exit))
            }
            Failure::NotReady { slot, worker, after } => {
                let after = humantime::format_duration(*after);
                format!(
                    "worker {worker} of slot {slot} was not ready after {after}: a program is ready at its first accept \
                     on a listener that it has from the master, or when it says so"
                )
            }
            Failure::Incompatible { slot, worker, reason } => format!("worker {worker} of slot {slot}: {reason}"),
            Failure::Broke { slot, worker, reason } => {
                format!("worker {worker} of slot {slot} broke the protocol: {reason}")
            }
            Failure::Left { slot, worker } => {
                format!("worker {worker} of slot {slot} asked to leave before it was ready")
            }
            Failure::Hung { slot, worker } => {
                format!("worker {worker} of slot {slot} showed no sign of life for too long")
            }
            Failure::Asked { ticket } => match self.asked.get(ticket) {
                Some(asked) => format!("a rollback was asked for by {}", asked.by),
                None => "a rollback was asked for".to_owned(),
            },
            Failure::Stopped => "the master was told to stop".to_owned(),
        }
    }

    /// Says, once in a period, that accepting failed for want of something.
    pub(super) fn exhausted(&mut self, reason: &io::Error) {
        if is_news(&mut self.exhaustion_said) {
            warn!(%reason, "accepting paused; clients wait in the backlog");
        }
    }
}

/// Whether what is said at most once per period can be said again; then it counts as said.
pub(super) fn is_news(said: &mut Option<Instant>) -> bool {
    let now = clock::now();
    let is_news = said.is_none_or(|said| now.saturating_duration_since(said) >= QUIET_PERIOD);
    if is_news {
        *said = Some(now);
    }
    is_news
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why a reload does not begin, in a sentence.
pub(super) fn describe_delay(why: Delay) -> String {
    match why {
        Delay::Generations { draining: 1 } => "a generation still drains".to_owned(),
        Delay::Generations { draining } => format!("{draining} generations still drain"),
        Delay::Age { generation } => format!("generation {generation} has drained for longer than drain_age"),
        Delay::Memory { bytes } => {
            format!("the generations that drain hold {} MiB, which drain_memory does not allow", bytes / (1024 * 1024))
        }
        Delay::Measuring => "the memory of the generations that drain is being measured".to_owned(),
    }
}

/// Why a worker was killed, if it was.
fn killed(view: WorkerView) -> Option<&'static str> {
    match view.state {
        WorkerState::Killed { why, .. } => Some(describe_kill(why)),
        _ => None,
    }
}

/// Why a worker is killed, in a few words.
pub(super) fn describe_kill(why: KillReason) -> &'static str {
    match why {
        KillReason::DrainTimeout => "its time to drain was over",
        KillReason::NotReady => "it was not ready in time",
        KillReason::Left => "it asked to leave before it was ready",
        KillReason::Incompatible => "no common version of the protocol",
        KillReason::Broke => "it broke the protocol",
        KillReason::Silent => "it closed its channel and lived on",
        KillReason::Hung => "it hung and did not abort",
        KillReason::RolledBack => "its generation was given up",
        KillReason::NotNeeded => "it was not needed any more",
        KillReason::StoppedAtOnce => "the master stops at once",
        KillReason::Asked => "somebody asked for it",
    }
}

/// How a process ended, in words.
pub(super) fn words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
    }
}
