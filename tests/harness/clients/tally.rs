//! What clients noticed, as numbers and as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Kind;

/// A way in which a client can notice that something is going on at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// The connection was refused.
    Refused,
    /// The connection could not be made for another reason.
    NotConnected,
    /// The first request of a connection found it closed, with not one byte of an answer.
    Lost,
    /// A later request of a connection found it closed or reset, with not one byte of an answer.
    Crossed,
    /// The answer broke off.
    Truncated,
    /// The connection was reset before the answer was whole.
    Reset,
    /// No whole answer came for a very long time.
    Stalled,
    /// The connection was closed or reset while no request was under way.
    ClosedIdle,
    /// An answer said `Connection: close`.
    ToldToClose,
    /// A client that keeps its connection had to make another one.
    Reconnected,
    /// What came was not the answer to the request.
    Wrong,
}

impl Notice {
    const ALL: [(Self, &str); 11] = [
        (Self::Refused, "refused"),
        (Self::NotConnected, "no conn"),
        (Self::Lost, "lost"),
        (Self::Crossed, "crossed"),
        (Self::Truncated, "truncated"),
        (Self::Reset, "reset"),
        (Self::Stalled, "stalled"),
        (Self::ClosedIdle, "closed idle"),
        (Self::ToldToClose, "told to close"),
        (Self::Reconnected, "reconnected"),
        (Self::Wrong, "wrong"),
    ];

    /// Whether a server may do that to somebody who keeps a connection: he has to make another one, and no more. A
    /// request may cross the closing.
    fn is_farewell(self) -> bool {
        matches!(self, Self::Crossed | Self::ClosedIdle | Self::ToldToClose | Self::Reconnected)
    }
}

/// What the clients of one kind saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Right answers.
    pub(crate) answered: usize,
    /// Connections made, or tried.
    pub(crate) connections: usize,
    /// How often a kept connection had its next answer from another process.
    pub(crate) moved: usize,
    pub(crate) notices: BTreeMap<Notice, usize>,
    /// The longest that anybody waited beyond what a request should take.
    pub(crate) longest: Duration,
}

impl Tally {
    pub(super) fn note(&mut self, notice: Notice) {
        *self.notices.entry(notice).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.connections += other.connections;
        self.moved += other.moved;
        for (notice, count) in &other.notices {
            *self.notices.entry(*notice).or_default() += count;
        }
        self.longest = self.longest.max(other.longest);
    }
}

/// What all clients saw, by kind. Its text is a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tallies(BTreeMap<Kind, Tally>);

impl Tallies {
    /// The clients of one kind.
    pub(crate) fn of(&self, kind: Kind) -> Tally {
        self.0.get(&kind).cloned().unwrap_or_default()
    }

    /// Everybody got answers, and nobody noticed anything.
    #[track_caller]
    pub(crate) fn assert_unnoticed(&self) {
        self.assert(|_| false);
    }

    /// Everybody got answers, and nobody noticed more than that a kept connection was closed between two requests.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self) {
        self.assert(Notice::is_farewell);
    }

    /// Everybody got answers, and nobody noticed anything but what may be.
    #[track_caller]
    pub(crate) fn assert(&self, may_be: impl Fn(Notice) -> bool) {
        self.assert_each(|_, notice| may_be(notice));
    }

    /// As [`assert`](Self::assert), by kind.
    #[track_caller]
    pub(crate) fn assert_each(&self, may_be: impl Fn(Kind, Notice) -> bool) {
        let is_good = |(kind, tally): (&Kind, &Tally)| {
            tally.answered > 0 && tally.notices.keys().all(|notice| may_be(*kind, *notice))
        };
        assert!(!self.0.is_empty() && self.0.iter().all(is_good), "clients noticed something:\n{self}");
    }
}

impl FromIterator<(Kind, Tally)> for Tallies {
    fn from_iter<I: IntoIterator<Item = (Kind, Tally)>>(clients: I) -> Self {
        let mut sums = BTreeMap::<Kind, Tally>::new();
        for (kind, tally) in clients {
            sums.entry(kind).or_default().add(&tally);
        }
        Self(sums)
    }
}

impl fmt::Display for Tallies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:>9} {:>9} {:>7}", "clients", "answered", "connects", "moved")?;
        Notice::ALL.iter().try_for_each(|(_, name)| write!(f, "  {name}"))?;
        writeln!(f, "  longest wait")?;
        for (kind, tally) in &self.0 {
            let kind = format!("{kind:?}").to_lowercase();
            write!(f, "{kind:<8} {:>9} {:>9} {:>7}", tally.answered, tally.connections, tally.moved)?;
            for (notice, name) in Notice::ALL {
                let count = tally.notices.get(&notice).copied().unwrap_or_default();
                write!(f, "  {count:>width$}", width = name.len())?;
            }
            writeln!(f, "  {:>9} ms", tally.longest.as_millis())?;
        }
        Ok(())
    }
}
