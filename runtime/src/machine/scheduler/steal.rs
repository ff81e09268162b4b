//! Stealing: what a worker leaves lying for `steal_after` goes to another that has just shown itself alive.
//!
//! - A worker with an overdue offer is `Late`: it gets nothing until it shows life.
//! - While an offer is overdue, every worker that could have it is `Wanted`: it gets nothing else, is asked for a beat, and
//!   rings. The first that is proven alive and empty-handed gets all that its credit allows. So a busy thief is soon
//!   empty-handed, and a hung one delays nobody: all that are `Wanted` for long are hung.
//! - After `STEALS` times an overdue connection is held back until some worker takes or releases anything.
//!   The revoked copies that it leaves behind use up credit, which ends any wandering.

use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;

use super::super::{Action, ConnectionId};
use super::worker::{Pace, Standing, Word, Worker};
use super::{Scheduler, State, Then};

/// How often a connection is stolen.
const STEALS: u8 = 2;
/// How long a wanted worker may be silent before it is asked again. One question stays in the channel of a hung worker
/// until it is back; another is only needed if the first did not fit.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Finds the offers that have been untaken for `steal_after`.
    pub(super) fn find_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(&(since, connection)) = self.clock.front() {
            if let Some(holder) = self.holder_since(connection, since) {
                if now.saturating_duration_since(since) < self.settings.steal_after {
                    return;
                }
                self.mark_overdue(connection, holder, actions);
            }
            self.clock.pop_front();
        }
    }

    fn mark_overdue(&mut self, connection: ConnectionId, holder: WorkerId, actions: &mut Vec<Action>) {
        let (Some(overdue), Some(late)) = (self.connections.get_mut(&connection), self.workers.get_mut(&holder)) else {
            return;
        };
        late.set_pace(Pace::Late);
        late.set_word(connection, Word::Awaited);
        self.touched.push(holder);
        if overdue.steals >= STEALS {
            self.revoke(holder, connection, Then::Hold, actions);
        } else {
            overdue.state = State::Overdue { worker: holder };
            self.overdue.insert(connection);
        }
    }

    /// Gives overdue offers to the workers that may have them, and asks the others that could.
    /// Costs time only while something is overdue.
    pub(super) fn deal_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.overdue.is_empty() && self.ask_again.is_none() {
            return;
        }
        for (connection, holder, thief) in self.steals(now) {
            self.revoke(holder, connection, Then::GiveTo(thief), actions);
        }
        self.ask_again = None;
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for id in workers {
            self.want_or_release(id, now, actions);
        }
    }

    /// Which overdue offers can be stolen now, from whom, by whom: dealt out in turn, so that all thieves get a share.
    fn steals(&self, now: Instant) -> Vec<(ConnectionId, WorkerId, WorkerId)> {
        let may_steal = |worker: &Worker| {
            worker.could_steal(&self.settings)
                && worker.untaken() == 0
                && worker.is_proven(self.settings.steal_after, now)
        };
        let mut thieves: Vec<_> = self
            .workers
            .iter()
            .filter(|(_, worker)| may_steal(worker))
            .map(|(id, worker)| (*id, worker, worker.credit(&self.settings).min(worker.places())))
            .collect();
        let mut steals = Vec::new();
        for &connection in &self.overdue {
            let Some(overdue) = self.connections.get(&connection) else {
                continue;
            };
            let State::Overdue { worker: holder } = overdue.state else {
                continue;
            };
            let fits =
                thieves.iter().position(|(id, worker, credit)| *credit > 0 && overdue.fits(connection, *id, worker));
            if let Some(fit) = fits {
                let (id, worker, credit) = thieves.remove(fit);
                steals.push((connection, holder, id));
                thieves.push((id, worker, credit - 1));
            }
        }
        steals
    }

    fn want_or_release(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let wanted = worker.could_steal(&self.settings)
            && self.overdue.iter().any(|connection| {
                let overdue = self.connections.get(connection);
                overdue.is_some_and(|overdue| overdue.fits(*connection, id, worker))
            });
        let proven = worker.is_proven(self.settings.steal_after, now);
        let Standing::Active { pace, .. } = worker.standing else {
            return;
        };
        let pace = match pace {
            Pace::Wanted { asked } if wanted && now.saturating_duration_since(asked) < ASK_AGAIN => pace,
            Pace::Prompt | Pace::Wanted { .. } if wanted => {
                if !proven {
                    actions.push(Action::AskBeat { worker: id });
                }
                Pace::Wanted { asked: now }
            }
            Pace::Wanted { .. } => Pace::Prompt,
            Pace::Prompt | Pace::Late => return,
        };
        if let Pace::Wanted { asked } = pace {
            let again = asked + ASK_AGAIN;
            self.ask_again = Some(self.ask_again.map_or(again, |other| other.min(again)));
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.set_pace(pace);
        }
        self.seat(id);
    }

    /// Offers a stolen connection to its thief, if that one can still have it.
    pub(super) fn give(&mut self, connection: ConnectionId, thief: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(stolen) = self.connections.get_mut(&connection) else {
            return;
        };
        let can = self.workers.get(&thief).is_some_and(|worker| {
            worker.could_steal(&self.settings)
                && worker.credit(&self.settings) > 0
                && stolen.fits(connection, thief, worker)
        });
        if can {
            stolen.steals += 1;
            self.offer(connection, thief, now, actions);
        } else {
            self.enqueue(connection, actions);
        }
    }
}
