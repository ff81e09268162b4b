//! What the master remembers and says of reloads and exits.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant, SystemTime};

use everport_handoff::bootstrap::Identity;
use everport_handoff::id::{Generation, Slot, WorkerId};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::clock;
use super::link::Link;
use crate::control::protocol::{AskedBy, ReloadOutcome, ReloadRecord};
use crate::machine::{Exit, Failure, Outcome, Phases, Ticket, WorkerView, Worn};

/// Accepting that fails for want of descriptors is said once in this time.
const EXHAUSTION_PERIOD: Duration = Duration::from_secs(10);

/// Somebody who asked for a reload.
#[derive(Debug)]
struct Asked {
    by: AskedBy,
    answer: Option<oneshot::Sender<ReloadRecord>>,
}

/// Reloads: who waits for which, and the last one's record.
#[derive(Debug)]
pub(super) struct Records {
    started: Instant,
    last_ticket: u64,
    asked: HashMap<Ticket, Asked>,
    reload_began: Option<(SystemTime, Instant)>,
    /// The last reload, and the generation that it replaced.
    last_reload: Option<(ReloadRecord, Option<Generation>)>,
    exhaustion_said: Option<Instant>,
    /// What the last workers that ended had been refused, to say it with why they could not start.
    refusals: BTreeMap<WorkerId, String>,
}

/// How many refusals are kept: more than one generation can have on any machine that is looked at.
const MAX_REFUSALS: usize = 64;

/// How many may wait for reloads. Who asks beyond that has a reload coming anyway.
const MAX_ASKED: usize = 256;

/// How a reload ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) generation: Generation,
    pub(super) replaced: Option<Generation>,
    pub(super) workers: u32,
    pub(super) outcome: Outcome,
    pub(super) phases: Phases,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            started: clock::now(),
            last_ticket: 0,
            asked: HashMap::new(),
            reload_began: None,
            last_reload: None,
            exhaustion_said: None,
            refusals: BTreeMap::new(),
        }
    }

    /// How long the master has run.
    pub(super) fn uptime(&self) -> Duration {
        clock::now().saturating_duration_since(self.started)
    }

    /// Keeps somebody who asked for a reload, until it has ended; nobody beyond [`MAX_ASKED`].
    pub(super) fn asked(&mut self, by: AskedBy, answer: Option<oneshot::Sender<ReloadRecord>>) -> Option<Ticket> {
        info!(asked_by = ?by, "reload asked");
        if self.asked.len() >= MAX_ASKED {
            return None;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, Asked { by, answer });
        Some(ticket)
    }

    pub(super) fn reload_started(&mut self, generation: Generation, tickets: &[Ticket]) {
        self.reload_began = Some((clock::wall(), clock::now()));
        info!(%generation, asked = tickets.len(), "reload started");
    }

    pub(super) fn reload_ended(&mut self, ended: Ended, tickets: &[Ticket]) {
        let Ended { generation, replaced, workers, outcome, phases } = ended;
        let (at, began) = self.reload_began.take().unwrap_or_else(|| (clock::wall(), clock::now()));
        let asked: Vec<Asked> = tickets.iter().filter_map(|ticket| self.asked.remove(ticket)).collect();
        let reason = match &outcome {
            Outcome::Committed => None,
            Outcome::RolledBack(failure) => Some(self.describe(failure)),
        };
        let starting_ms = millis(phases.starting);
        match (&outcome, &reason) {
            (Outcome::Committed, _) => info!(%generation, starting_ms, "reload committed"),
            // Nobody needs to act: it is what was asked for.
            (Outcome::RolledBack(Failure::Stopped), reason) => info!(%generation, reason, "reload rolled back"),
            (Outcome::RolledBack(_), reason) => error!(%generation, reason, "reload rolled back"),
        }
        let Some(first) = asked.first() else { return };
        let record = ReloadRecord {
            generation,
            asked_by: first.by,
            at: humantime::format_rfc3339_millis(at).to_string(),
            outcome: if reason.is_none() { ReloadOutcome::Committed } else { ReloadOutcome::RolledBack },
            reason,
            workers,
            starting_ms,
            total_ms: millis(clock::now().saturating_duration_since(began)),
            finished: 0,
            cut: 0,
        };
        for answer in asked.into_iter().filter_map(|asked| asked.answer) {
            // A client that has gone needs no answer.
            drop(answer.send(record.clone()));
        }
        self.last_reload = Some((record, replaced));
    }

    /// Logs the end of a worker, the one exit record, and adds what became of its connections to the reload that replaced
    /// it.
    pub(super) fn exited(&mut self, link: &Link, view: WorkerView, pid: i32, exit: Exit) {
        let Identity { worker, slot, generation } = link.identity;
        if let Some(refused) = &link.refused {
            self.refusals.insert(worker, refused.clone());
            if self.refusals.len() > MAX_REFUSALS {
                self.refusals.pop_first();
            }
        }
        // A worker that ends by itself has finished what it had.
        let cut = if exit == Exit::Code(0) { 0 } else { link.figures().active };
        let voluntary = view.state.ends_well(exit);
        let uptime_ms = millis(clock::now().saturating_duration_since(view.started));
        let finished = link.active_at_drain.map_or(0, |before| before.saturating_sub(cut));
        info!(
            %worker, %slot, %generation, pid, exit = words(exit), voluntary, uptime_ms, finished, cut,
            "worker exited"
        );
        if let (Some(_), Some((record, replaced))) = (link.active_at_drain, &mut self.last_reload)
            && *replaced == Some(generation)
        {
            record.finished += finished;
            record.cut += cut;
        }
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

    /// Why a generation could not start, in a sentence.
    pub(super) fn describe(&self, failure: &Failure) -> String {
        match failure {
            Failure::SpawnFailed { slot, reason } => {
                format!("the worker of slot {slot} could not be started: {reason}")
            }
            Failure::Exited { slot, worker, exit } => {
                let refused =
                    self.refusals.get(worker).map(|refused| format!("; it was refused a listener: {refused}"));
                let (how, refused) = (words(*exit), refused.unwrap_or_default());
                format!("worker {worker} of slot {slot} {how} before it was ready{refused}")
            }
            Failure::NotReady { slot, worker, after } => {
                let after = humantime::format_duration(*after);
                format!(
                    "worker {worker} of slot {slot} was not ready after {after}: a program is ready at its first accept \
                     on one of Everport's listeners, or when it says so"
                )
            }
            Failure::Incompatible { slot, worker, reason } => format!("worker {worker} of slot {slot}: {reason}"),
            Failure::Broke { slot, worker, reason } => {
                format!("worker {worker} of slot {slot} broke the protocol before it was ready: {reason}")
            }
            Failure::Left { slot, worker } => {
                format!("worker {worker} of slot {slot} asked to leave before it was ready")
            }
            Failure::Hung { slot, worker } => {
                format!("worker {worker} of slot {slot} hung before its generation was activated")
            }
            Failure::Stopped => "the master was told to stop".to_owned(),
        }
    }

    pub(super) fn last_reload(&self) -> Option<&ReloadRecord> {
        self.last_reload.as_ref().map(|(record, _)| record)
    }

    /// Says, once in a period, that accepting failed for want of something.
    pub(super) fn exhausted(&mut self, reason: &io::Error) {
        let now = clock::now();
        let is_news = self.exhaustion_said.is_none_or(|said| now.saturating_duration_since(said) >= EXHAUSTION_PERIOD);
        if is_news {
            self.exhaustion_said = Some(now);
            warn!(%reason, "accepting paused; clients wait in the backlog");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How a process ended, in words.
fn words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
    }
}
