//! What a worker does by the clock: beat, stop waiting for first reads, close what is idle, leave
//! the process. Pure; the watcher feeds it.

use std::time::{Duration, Instant};

use super::link::Terms;
use super::state::{State, Step};

/// How often the driver shows at least that its runtime turns. The master steals offers only for workers that beat
/// lately; what it measures is far below a second and goes by `Beat`, so this is for display.
pub(crate) const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long the application's main future may still run when nothing is left that it serves and it never asked for
/// `draining()`. Enough for a loop that was woken by its last connection to return, and short enough for an operator.
pub(crate) const END_GRACE: Duration = Duration::from_millis(250);

/// When what was seen first.
#[derive(Debug)]
pub(super) struct Deadlines {
    next_beat: Instant,
    ending: Option<Instant>,
    softened: bool,
    /// When nothing was left, unless something is again.
    finished: Option<Instant>,
}

/// What the watcher sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) terms: Terms,
    /// How long after the beginning of the end the soft deadline is.
    pub(super) grace: Duration,
    /// The application has called `draining()`.
    pub(super) asked: bool,
    /// Streams or guards are left. A guard may also be new in a worker that had finished.
    pub(super) busy: bool,
}

/// What the watcher must do now, and when it must ask again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Wake the driver, so that it beats.
    pub(super) beat: bool,
    /// Wait no longer for first reads.
    pub(super) announce: bool,
    /// Say that the soft deadline has come.
    pub(super) soften: bool,
    /// Leave the process.
    pub(super) exit: Option<Exit>,
    pub(super) next: Instant,
}

/// Why the process is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// The worker was drained and its application does not end by itself.
    Drained,
    /// The master is lost and nothing is left to do.
    MasterLost,
    /// The master is lost and the time is over for what is left.
    Overdue,
}

impl Deadlines {
    pub(super) fn new(now: Instant) -> Self {
        Self { next_beat: now + BEAT_INTERVAL, ending: None, softened: false, finished: None }
    }

    /// What is due at `now`.
    pub(super) fn turn(&mut self, seen: Seen, now: Instant) -> Turn {
        let Seen { state, terms, grace, asked, busy } = seen;
        let beat = now >= self.next_beat;
        if beat {
            self.next_beat = now + BEAT_INTERVAL;
        }
        let mut turn = Turn { beat, announce: false, soften: false, exit: None, next: self.next_beat };
        let Some(step) = state.step() else { return turn };
        let ending = *self.ending.get_or_insert(now);
        turn.announce = step == Step::Quieting && turn.is_due(ending + terms.first_byte_grace, now);
        if !self.softened && turn.is_due(ending + grace, now) {
            self.softened = true;
            turn.soften = true;
        }
        if step != Step::Finished || busy {
            self.finished = None;
        } else if state.is_lost() || !asked {
            let end = *self.finished.get_or_insert(now) + END_GRACE;
            if turn.is_due(end, now) {
                turn.exit = Some(if state.is_lost() { Exit::MasterLost } else { Exit::Drained });
            }
        }
        // A drain that had begun before the master was lost has no more time for that.
        if state.is_lost() && turn.is_due(ending + terms.drain_timeout, now) {
            turn.exit = Some(Exit::Overdue);
        }
        turn
    }
}

impl Turn {
    fn is_due(&mut self, deadline: Instant, now: Instant) -> bool {
        if now < deadline {
            self.next = self.next.min(deadline);
        }
        now >= deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::state::Cause;

    const TERMS: Terms =
        Terms { manual_ready: false, first_byte_grace: Duration::from_secs(1), drain_timeout: Duration::from_secs(30) };

    const GRACE: Duration = Duration::from_secs(10);

    /// A process's clock cannot be made, only read.
    #[expect(clippy::disallowed_methods, reason = "an origin for times that the test makes up")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn seen(state: State, asked: bool, busy: bool) -> Seen {
        Seen { state, terms: TERMS, grace: GRACE, asked, busy }
    }

    fn ending(cause: Cause, step: Step) -> State {
        State::Ending { cause, step }
    }

    #[test]
    fn it_beats_once_per_interval() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let mut turn = |after: Duration| deadlines.turn(seen(State::Active, false, false), start + after);
        assert!(!turn(Duration::ZERO).beat);
        assert!(turn(BEAT_INTERVAL).beat);
        let next = turn(BEAT_INTERVAL);
        assert_eq!((next.beat, next.next), (false, start + 2 * BEAT_INTERVAL));
    }

    #[test]
    fn it_waits_for_first_reads_no_longer_than_the_grace() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let quieting = seen(ending(Cause::Drain, Step::Quieting), true, true);
        let turn = deadlines.turn(quieting, start);
        assert_eq!((turn.announce, turn.next), (false, start + TERMS.first_byte_grace));
        assert!(deadlines.turn(quieting, turn.next).announce);
    }

    #[test]
    fn the_soft_deadline_is_said_once_and_counts_from_the_beginning_of_the_end() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let mut turn = |state, after| deadlines.turn(seen(state, true, true), start + after);
        let draining = ending(Cause::Drain, Step::Announced);
        assert!(!turn(State::Active, Duration::ZERO).soften);
        assert!(!turn(draining, GRACE).soften);
        let before = turn(draining, 2 * GRACE - Duration::from_millis(1));
        assert_eq!((before.soften, before.next), (false, start + 2 * GRACE));
        assert!(turn(ending(Cause::MasterLost, Step::Announced), 2 * GRACE).soften);
        assert!(!turn(draining, 3 * GRACE).soften);
    }

    #[test]
    fn a_finished_worker_leaves_unless_its_application_watches_the_drain() {
        let start = origin();
        let exit = |asked| {
            let mut deadlines = Deadlines::new(start);
            let finished = seen(ending(Cause::Drain, Step::Finished), asked, false);
            assert_eq!(deadlines.turn(finished, start).exit, None);
            deadlines.turn(finished, start + END_GRACE).exit
        };
        assert_eq!((exit(false), exit(true)), (Some(Exit::Drained), None));
    }

    #[test]
    fn a_finished_worker_with_a_new_guard_stays_until_that_has_ended_as_well() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let mut exit = |busy, graces| {
            deadlines.turn(seen(ending(Cause::Drain, Step::Finished), false, busy), start + graces * END_GRACE).exit
        };
        assert_eq!((exit(false, 0), exit(true, 1), exit(false, 2)), (None, None, None));
        assert_eq!(exit(false, 3), Some(Exit::Drained));
    }

    #[test]
    fn a_lost_master_ends_the_process_at_the_deadline_or_when_all_is_done() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let busy = seen(ending(Cause::MasterLost, Step::Announced), true, true);
        assert_eq!(deadlines.turn(busy, start).exit, None);
        let hard = start + TERMS.drain_timeout;
        assert_eq!(deadlines.turn(busy, hard).exit, Some(Exit::Overdue));

        let mut deadlines = Deadlines::new(start);
        let done = seen(ending(Cause::MasterLost, Step::Finished), true, false);
        assert_eq!(deadlines.turn(done, start).exit, None);
        assert_eq!(deadlines.turn(done, start + END_GRACE).exit, Some(Exit::MasterLost));
    }

    #[test]
    fn losing_the_master_during_a_drain_moves_no_deadline() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        deadlines.turn(seen(ending(Cause::Drain, Step::Announced), true, true), start);
        let lost = seen(ending(Cause::MasterLost, Step::Announced), true, true);
        let late = start + TERMS.drain_timeout - Duration::from_millis(1);
        let turn = deadlines.turn(lost, late);
        assert_eq!((turn.exit, turn.next), (None, start + TERMS.drain_timeout));
        assert_eq!(deadlines.turn(lost, turn.next).exit, Some(Exit::Overdue));
    }
}
