//! What a generation is started with: the settings as they hold at that moment, and what the workers run.
//!
//! The settings are read again for every reload. A generation keeps its own to its end, and so do those of the master
//! itself, which only a new master can change.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use everport_handoff::board;
use everport_handoff::id::{Generation, ListenerId};
use everport_handoff::message::ToWorker;
use tracing::warn;

use super::Shell;
use super::process::Launcher;
use crate::config::{Config, MAX_WORKERS, Readiness, Strategy};
use crate::error::Result;
use crate::machine::{self, Care, Event, Limits, Settings};

/// How many untaken or revoked offers a worker may have (`credit`).
///
/// Small, so that a worker which stalls holds up few clients; large enough that a busy one finds its next connections
/// waiting whenever its runtime turns, and that several go into one message.
const CREDIT: usize = 16;

/// How many accepted connections of one listener may wait in the master for a worker with credit.
///
/// They cost the master a descriptor each; beyond this the kernel's backlog holds them just as well. Enough to keep every
/// worker of a large machine supplied between two turns of the loop.
const QUEUE: usize = 64;

/// What one generation is started with.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) launcher: Launcher,
    /// The listeners that its settings name, in their order.
    pub(super) configured: Vec<ListenerId>,
}

impl Plan {
    /// How long after the begin of a drain that may take so long its soft deadline is. Whoever has less time than usual
    /// needs some after that, too.
    pub(super) fn grace(&self, time: Duration) -> Duration {
        self.config.drain_grace.min(time / 2)
    }

    /// What a worker is told first, and its limit, if there is one.
    pub(super) fn terms(&self, version: u16) -> (ToWorker, Option<ToWorker>) {
        let Config { first_byte_grace, drain_timeout, .. } = self.config;
        let manual_ready = self.config.readiness == Readiness::Manual;
        let welcome = ToWorker::Welcome { version, manual_ready, first_byte_grace, drain_timeout };
        (welcome, self.config.max_connections.map(|connections| ToWorker::Limit { connections }))
    }
}

/// The plans of the generations that workers may yet be started for.
#[derive(Debug)]
pub(super) struct Plans {
    active: Plan,
    /// Of the generation of the reload under way.
    next: Option<(Generation, Plan)>,
}

impl Plans {
    pub(super) fn new(active: Plan) -> Self {
        Self { active, next: None }
    }

    /// What the active generation was started with.
    pub(super) fn active(&self) -> &Plan {
        &self.active
    }

    pub(super) fn active_mut(&mut self) -> &mut Plan {
        &mut self.active
    }

    /// What the generation of the reload under way is started with, once that is known.
    pub(super) fn next_of(&self, generation: Generation) -> Option<&Plan> {
        self.next.as_ref().filter(|(next, _)| *next == generation).map(|(_, plan)| plan)
    }

    /// What this generation is started with.
    pub(super) fn of(&self, generation: Generation) -> &Plan {
        match &self.next {
            Some((next, plan)) if *next == generation => plan,
            _ => &self.active,
        }
    }

    pub(super) fn of_mut(&mut self, generation: Generation) -> &mut Plan {
        match &mut self.next {
            Some((next, plan)) if *next == generation => plan,
            _ => &mut self.active,
        }
    }

    /// The reload that started this generation has ended.
    pub(super) fn reload_ended(&mut self, generation: Generation, committed: bool) {
        let next = self.next.take_if(|(next, _)| *next == generation);
        if let (Some((_, plan)), true) = (next, committed) {
            self.active = plan;
        }
    }

    /// Forgets what all generations but these were started from.
    pub(super) fn keep_pins(&mut self, generations: &BTreeSet<Generation>) {
        self.active.launcher.keep_pins(generations);
        if let Some((_, plan)) = &mut self.next {
            plan.launcher.keep_pins(generations);
        }
    }
}

impl Shell {
    /// Answers the machine that wants to start a generation.
    pub(super) fn prepare(&mut self, generation: Generation) {
        match self.plan() {
            Ok(plan) => {
                let (settings, configured) = (Box::new(settings(&plan.config)), plan.configured.clone());
                self.plans.next = Some((generation, plan));
                self.note(Event::Prepared { settings, configured });
            }
            Err(error) => self.note(Event::PrepareFailed { reason: error.to_string() }),
        }
    }

    /// What a generation that starts now is started with.
    fn plan(&mut self) -> Result<Plan> {
        let (config, late) = self.origin.read_again()?;
        for key in late {
            warn!(key, "setting changed; it counts from the next start of the master on");
        }
        let launcher = self.plans.active.launcher.renewed(&config)?;
        let configured = self.bind_configured(&config.listen, config.policy)?;
        Ok(Plan { config, launcher, configured })
    }
}

/// What the machine must know of the settings.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        workers: config.workers.get(),
        ready_timeout: config.ready_timeout,
        drain_timeout: config.drain_timeout,
        strategy: match config.strategy {
            Strategy::All => machine::Strategy::All,
            Strategy::Rolling => machine::Strategy::Rolling,
        },
        probation: config.probation,
        drain_generations: config.drain_generations,
        drain_age: config.drain_age,
        drain_memory: config.drain_memory,
        steal_after: config.steal_after,
        credit: CREDIT,
        words: board::OFFER_WORDS,
        queue: QUEUE,
        max_connections: config.max_connections,
        shed: config.shed,
        care: care(config),
        ticket_rotation: config.ticket_rotation,
    }
}

/// How the workers are looked after, as the settings say.
fn care(config: &Config) -> Care {
    Care {
        seed: RandomState::new().hash_one(std::process::id()),
        most_workers: MAX_WORKERS,
        restart_limit: config.restart_limit,
        restart_period: config.restart_period,
        hang_timeout: config.hang_timeout,
        recycle: Limits {
            memory: config.recycle_memory,
            age: config.recycle_age,
            connections: config.recycle_connections,
        },
        recycle_at_once: config.recycle_at_once,
    }
}
