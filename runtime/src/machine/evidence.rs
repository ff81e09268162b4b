//! When a worker is ready whose program knows nothing of Everport: from what it says, from what can be seen of it, and as a
//! last resort from the time that has passed.
//!
//! | `ready` | a program that says `READY=1` | one that does not |
//! |---|---|---|
//! | `auto` | when it is seen to accept from every listener; if nobody can see that, when it says so | when it is seen to |
//! | `manual` | when it says so | never |
//!
//! What is seen goes before what is said, for some programs say it early: gunicorn before it has loaded the application.
//! With `ready_after` it is ready at the latest then, in every row and column.

use std::time::Duration;

/// How a program shows that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Whether its word alone counts: `ready = manual`.
    pub(crate) manual: bool,
    /// After what time it counts as ready, whatever is known of it.
    pub(crate) after: Option<Duration>,
}

/// What is known of a program that starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Whether it said `READY=1`.
    pub(crate) said: bool,
    pub(crate) view: View,
    /// How long it has run.
    pub(crate) age: Duration,
}

/// What a look at a program shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// When each listener has somebody who accepts from it.
    Accepts,
    /// When some listener has nobody.
    Idle,
    /// When nobody can tell: the system does not let the master look, or the program has an io_uring.
    Opaque,
}

/// Why a program counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It was seen to accept from every listener.
    Seen,
    /// It said so.
    Said,
    /// Its time was up: no proof at all.
    Time,
}

impl Rule {
    /// Why a program of which this is known is ready, if it is.
    pub(crate) fn judge(self, evidence: Evidence) -> Option<Proof> {
        let time = self.after.filter(|after| evidence.age >= *after).map(|_| Proof::Time);
        let said = evidence.said.then_some(Proof::Said);
        let shown = match (self.manual, evidence.view) {
            (true, _) | (false, View::Opaque) => said,
            (false, View::Accepts) => Some(Proof::Seen),
            (false, View::Idle) => None,
        };
        shown.or(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    /// Every rule and every view, each without and with `READY=1`.
    #[test]
    fn the_table_holds() {
        let table = [
            (false, View::Accepts, [Some(Proof::Seen), Some(Proof::Seen)]),
            (false, View::Idle, [None, None]),
            (false, View::Opaque, [None, Some(Proof::Said)]),
            (true, View::Accepts, [None, Some(Proof::Said)]),
            (true, View::Idle, [None, Some(Proof::Said)]),
            (true, View::Opaque, [None, Some(Proof::Said)]),
        ];
        for (manual, view, expected) in table {
            for (said, proof) in [false, true].into_iter().zip(expected) {
                let young = Evidence { said, view, age: Duration::ZERO };
                let old = Evidence { age: AFTER, ..young };
                assert_eq!(Rule { manual, after: None }.judge(old), proof, "{manual} {old:?}");
                assert_eq!(Rule { manual, after: Some(AFTER) }.judge(young), proof, "{manual} {young:?}");
                let last_resort = proof.or(Some(Proof::Time));
                assert_eq!(Rule { manual, after: Some(AFTER) }.judge(old), last_resort, "{manual} {old:?}");
            }
        }
    }
}
