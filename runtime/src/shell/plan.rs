//! What a generation is started with: the settings as they hold at that moment, and what the workers run.
//!
//! The settings are read again for every reload. A generation keeps its own to its end, and so do those of the master
//! itself, which only a new master can change.

use std::hash::{BuildHasher, RandomState};

use everport_handoff::board;
use everport_handoff::id::{Generation, ListenerId};
use tracing::warn;

use super::Shell;
use super::process::Launcher;
use crate::config::{Config, MAX_WORKERS, Strategy};
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

/// What the generation of the reload under way is started with.
#[derive(Debug)]
pub(super) struct Next {
    generation: Generation,
    config: Config,
    launcher: Launcher,
}

impl Shell {
    /// Answers the machine that wants to start a generation.
    pub(super) fn prepare(&mut self, generation: Generation) {
        match self.try_prepare(generation) {
            Ok((next, configured)) => {
                let settings = Box::new(settings(&next.config));
                self.next = Some(next);
                self.note(Event::Prepared { settings, configured });
            }
            Err(error) => self.note(Event::PrepareFailed { reason: error.to_string() }),
        }
    }

    fn try_prepare(&mut self, generation: Generation) -> Result<(Next, Vec<ListenerId>)> {
        let (config, late) = self.origin.read_again()?;
        for key in late {
            warn!(key, "setting changed; it counts from the next start of the master on");
        }
        let launcher = self.launcher.renewed(&config);
        let configured = self.bind_configured(&config.listen)?;
        Ok((Next { generation, config, launcher }, configured))
    }

    /// The reload that started this generation has ended.
    pub(super) fn adopt(&mut self, generation: Generation, committed: bool) {
        let next = self.next.take_if(|next| next.generation == generation);
        if let (Some(next), true) = (next, committed) {
            (self.config, self.launcher) = (next.config, next.launcher);
        }
    }

    /// What this generation was started with.
    pub(super) fn config_of(&self, generation: Generation) -> &Config {
        match &self.next {
            Some(next) if next.generation == generation => &next.config,
            _ => &self.config,
        }
    }

    /// What the workers of this generation run.
    pub(super) fn launcher_of(&mut self, generation: Generation) -> &mut Launcher {
        match &mut self.next {
            Some(next) if next.generation == generation => &mut next.launcher,
            _ => &mut self.launcher,
        }
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
        care: care(config),
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
