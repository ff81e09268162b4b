//! What a worker may do: one state, which the master's words and the loss of the master move.
//!
//! ```text
//! Starting --Activate--> Active <--Pause/Activate--> Paused
//!     |                    |                            |
//!     +---------- Drain, or the master is lost ---------+--> Ending: Quieting -> Announced -> Finished
//! ```

/// What a worker may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for `Activate`: takes nothing yet.
    Starting,
    /// Takes connections.
    Active,
    /// Takes nothing and keeps what it has; waits for `Activate` or `Drain`.
    Paused,
    /// Finishes what it has, then leaves. Never goes back.
    Ending {
        /// Why.
        cause: Cause,
        /// How far it is.
        step: Step,
    },
}

/// Why a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The master said `Drain`.
    Drain,
    /// The master has gone without a word.
    MasterLost,
}

/// How far a worker's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Waits for the first read of every stream that was taken, or for the end of `first_byte_grace`.
    Quieting,
    /// `draining()` has resolved; waits for the last stream and the last guard.
    Announced,
    /// Nothing is left.
    Finished,
}

/// What is left to do in an ending worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Streams that nothing was read from yet, and connections that nobody took yet.
    pub(crate) unread: bool,
    /// Streams or guards.
    pub(crate) work: bool,
}

impl State {
    /// Whether `accept` may take offers. When the master is lost, what it had offered has no other owner any more.
    pub(crate) fn takes_offers(self) -> bool {
        match self {
            Self::Active => true,
            Self::Ending { cause, step } => cause == Cause::MasterLost && step < Step::Finished,
            Self::Starting | Self::Paused => false,
        }
    }

    /// Whether the worker may accept from, and receive on, sockets that it shares with others.
    pub(crate) fn uses_shared(self) -> bool {
        self == Self::Active
    }

    /// The step of the end, if the worker ends.
    pub(crate) fn step(self) -> Option<Step> {
        match self {
            Self::Ending { step, .. } => Some(step),
            _ => None,
        }
    }

    /// Whether the worker ends because its master is lost.
    pub(crate) fn is_lost(self) -> bool {
        matches!(
            self,
            Self::Ending {
                cause: Cause::MasterLost,
                ..
            }
        )
    }

    /// Obeys `Activate` or `Pause`. `false` when nothing changed.
    pub(crate) fn turn_to(&mut self, state: Self) -> bool {
        let change = self.step().is_none() && *self != state;
        if change {
            *self = state;
        }
        change
    }

    /// Begins to end, or learns that the master is lost besides. `false` when nothing changed.
    pub(crate) fn end(&mut self, cause: Cause) -> bool {
        let step = match *self {
            Self::Ending { cause: old, step } if old == Cause::Drain && cause != old => step,
            Self::Ending { .. } => return false,
            _ => Step::Quieting,
        };
        *self = Self::Ending { cause, step };
        true
    }

    /// Goes as far as what is left allows. `false` when nothing changed.
    pub(crate) fn advance(&mut self, left: Left) -> bool {
        let Self::Ending { step, .. } = self else {
            return false;
        };
        let before = *step;
        if *step == Step::Quieting && !left.unread {
            *step = Step::Announced;
        }
        if *step == Step::Announced && !left.work {
            *step = Step::Finished;
        }
        *step != before
    }

    /// Waits no longer for first reads. `false` when nothing changed.
    pub(crate) fn announce(&mut self) -> bool {
        match self {
            Self::Ending { step, .. } if *step == Step::Quieting => {
                *step = Step::Announced;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAINING: State = State::Ending {
        cause: Cause::Drain,
        step: Step::Quieting,
    };

    #[test]
    fn an_ending_worker_never_goes_back() {
        let mut state = DRAINING;
        assert!(!state.turn_to(State::Active));
        assert!(!state.end(Cause::Drain));
        assert_eq!(state, DRAINING);
    }

    #[test]
    fn a_draining_worker_that_loses_its_master_keeps_its_step() {
        let mut state = DRAINING;
        assert!(state.announce());
        assert!(state.end(Cause::MasterLost));
        assert_eq!(
            (state.is_lost(), state.step()),
            (true, Some(Step::Announced))
        );
        assert!(!state.end(Cause::Drain));
        assert!(state.is_lost());
    }

    #[test]
    fn the_steps_come_in_their_order() {
        let mut state = DRAINING;
        let left = |unread, work| Left { unread, work };
        assert!(!state.advance(left(true, true)));
        assert!(state.advance(left(false, true)));
        assert_eq!(state.step(), Some(Step::Announced));
        assert!(state.advance(left(false, false)));
        assert_eq!(state.step(), Some(Step::Finished));
        assert!(!state.advance(left(false, false)));
    }

    #[test]
    fn offers_of_a_lost_master_are_still_taken() {
        let mut state = State::Active;
        state.end(Cause::MasterLost);
        assert!(state.takes_offers() && !state.uses_shared());
        state.advance(Left {
            unread: false,
            work: false,
        });
        assert!(!state.takes_offers());
        assert!(!DRAINING.takes_offers());
    }
}
