//! What a worker does by the clock: beat, stop waiting for first reads, leave the process. Pure; the watcher feeds it.

use std::time::{Duration, Instant};

use super::MASTER_LOST;
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
    lost: Option<Instant>,
    finished: Option<Instant>,
}

/// What the watcher must do now, and when it must ask again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Wake the driver, so that it beats.
    pub(super) beat: bool,
    /// Wait no longer for first reads.
    pub(super) announce: bool,
    /// Leave the process with this code.
    pub(super) exit: Option<i32>,
    pub(super) next: Instant,
}

impl Deadlines {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_beat: now + BEAT_INTERVAL,
            ending: None,
            lost: None,
            finished: None,
        }
    }

    /// What is due at `now` in this state. `asked`: the application has called `draining()`.
    pub(super) fn turn(&mut self, state: State, terms: Terms, asked: bool, now: Instant) -> Turn {
        let beat = now >= self.next_beat;
        if beat {
            self.next_beat = now + BEAT_INTERVAL;
        }
        let mut turn = Turn {
            beat,
            announce: false,
            exit: None,
            next: self.next_beat,
        };
        if let Some(step) = state.step() {
            let announce = *self.ending.get_or_insert(now) + terms.first_byte_grace;
            turn.announce = step == Step::Quieting && turn.is_due(announce, now);
            if state.is_lost() {
                let hard = *self.lost.get_or_insert(now) + terms.drain_timeout;
                if turn.is_due(hard, now) {
                    turn.exit = Some(MASTER_LOST);
                }
            }
            if step == Step::Finished && (state.is_lost() || !asked) {
                let end = *self.finished.get_or_insert(now) + END_GRACE;
                if turn.is_due(end, now) {
                    turn.exit = Some(if state.is_lost() { MASTER_LOST } else { 0 });
                }
            }
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

    const TERMS: Terms = Terms {
        manual_ready: false,
        first_byte_grace: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(30),
    };

    /// A process's clock cannot be made, only read.
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for times that the test makes up"
    )]
    fn origin() -> Instant {
        Instant::now()
    }

    fn ending(cause: Cause, step: Step) -> State {
        State::Ending { cause, step }
    }

    #[test]
    fn it_beats_once_per_interval() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let mut turn = |after: Duration| deadlines.turn(State::Active, TERMS, false, start + after);
        assert!(!turn(Duration::ZERO).beat);
        assert!(turn(BEAT_INTERVAL).beat);
        let next = turn(BEAT_INTERVAL);
        assert_eq!((next.beat, next.next), (false, start + 2 * BEAT_INTERVAL));
    }

    #[test]
    fn it_waits_for_first_reads_no_longer_than_the_grace() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let state = ending(Cause::Drain, Step::Quieting);
        let turn = deadlines.turn(state, TERMS, true, start);
        assert_eq!(
            (turn.announce, turn.next),
            (false, start + TERMS.first_byte_grace)
        );
        assert!(deadlines.turn(state, TERMS, true, turn.next).announce);
    }

    #[test]
    fn a_finished_worker_leaves_unless_its_application_watches_the_drain() {
        let start = origin();
        let state = ending(Cause::Drain, Step::Finished);
        let exit = |asked| {
            let mut deadlines = Deadlines::new(start);
            assert_eq!(deadlines.turn(state, TERMS, asked, start).exit, None);
            deadlines.turn(state, TERMS, asked, start + END_GRACE).exit
        };
        assert_eq!((exit(false), exit(true)), (Some(0), None));
    }

    #[test]
    fn a_lost_master_ends_the_process_at_the_deadline_or_when_all_is_done() {
        let start = origin();
        let mut deadlines = Deadlines::new(start);
        let busy = ending(Cause::MasterLost, Step::Announced);
        assert_eq!(deadlines.turn(busy, TERMS, true, start).exit, None);
        let hard = start + TERMS.drain_timeout;
        assert_eq!(
            deadlines.turn(busy, TERMS, true, hard).exit,
            Some(MASTER_LOST)
        );

        let mut deadlines = Deadlines::new(start);
        let done = ending(Cause::MasterLost, Step::Finished);
        assert_eq!(deadlines.turn(done, TERMS, true, start).exit, None);
        assert_eq!(
            deadlines.turn(done, TERMS, true, start + END_GRACE).exit,
            Some(MASTER_LOST)
        );
    }
}
