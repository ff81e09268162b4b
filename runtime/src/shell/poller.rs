//! What the loop waits for: one epoll, and a name for each thing in it.

use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, WorkerId};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::clock;

/// Everything that can wake the master, but for the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A client waits in this listener's backlog.
    Listener(ListenerId),
    /// A worker sent a message, closed its channel, or has room for more.
    Channel(WorkerId),
    /// A worker changed its board and was asked to say so.
    Bell(WorkerId),
    /// A worker's process has ended.
    Process(WorkerId),
    /// A signal came.
    Signals,
    /// A control client asks.
    Control,
    /// A program that knows nothing of Everport says something.
    Notices,
}

impl Source {
    /// The kind goes into the low three bits of epoll's number, the id above.
    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener(id) => (0, u64::from(id.0)),
            Self::Channel(id) => (1, id.0),
            Self::Bell(id) => (2, id.0),
            Self::Process(id) => (3, id.0),
            Self::Signals => (4, 0),
            Self::Control => (5, 0),
            Self::Notices => (6, 0),
        };
        id << 3 | kind
    }

    fn decode(value: u64) -> Self {
        let id = value >> 3;
        match value & 7 {
            // A listener's id was 32 bits long when it went in.
            0 => Self::Listener(ListenerId(id as u32)),
            1 => Self::Channel(WorkerId(id)),
            2 => Self::Bell(WorkerId(id)),
            3 => Self::Process(WorkerId(id)),
            4 => Self::Signals,
            5 => Self::Control,
            _ => Self::Notices,
        }
    }
}

/// A source that has something to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) source: Source,
    /// Whether it has room to write, if that was asked for.
    pub(crate) writable: bool,
}

/// How many sources one wait reports at most; the others come with the next.
const BATCH: usize = 64;

/// One epoll instance, level-triggered: what is not finished in one turn is reported again.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    /// What the last wait reported, and how much of it has been looked at.
    reported: [EpollEvent; BATCH],
    rest: Range<usize>,
}

impl Poller {
    pub(crate) fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, reported: [EpollEvent::empty(); BATCH], rest: 0..0 })
    }

    /// Reports when `fd` is readable. Remove it before it is closed: another process may hold the same file.
    pub(crate) fn add(&self, fd: impl AsFd, source: Source) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.encode()))
    }

    /// Reports when `fd`, which was added, is writable too, or only readable again.
    pub(crate) fn want_writable(&self, fd: impl AsFd, source: Source, wanted: bool) -> nix::Result<()> {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wanted);
        self.epoll.modify(fd, &mut EpollEvent::new(flags, source.encode()))
    }

    /// Reports nothing of `fd` any more.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It fails only when the descriptor was not added: then there is nothing to remove.
        let _ = self.epoll.delete(fd);
    }

    /// Waits until something happens or `deadline` has come; [`next`](Self::next) says what.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> nix::Result<()> {
        self.rest = 0..0;
        match self.epoll.wait(&mut self.reported, timeout(deadline)) {
            Ok(count) => self.rest = 0..count,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next source that the last wait found ready.
    pub(crate) fn next(&mut self) -> Option<Ready> {
        self.rest.next().map(|index| Ready::from(&self.reported[index]))
    }
}

impl From<&EpollEvent> for Ready {
    fn from(event: &EpollEvent) -> Self {
        Self { source: Source::decode(event.data()), writable: event.events().contains(EpollFlags::EPOLLOUT) }
    }
}

/// Rounded up to milliseconds: waking before the deadline would only mean to wait again.
fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(clock::now());
    let millis = left.saturating_add(Duration::from_nanos(999_999)).as_millis();
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_survives_the_number_that_epoll_keeps() {
        let sources = [
            Source::Listener(ListenerId(u32::MAX)),
            Source::Channel(WorkerId(7)),
            Source::Bell(WorkerId(u64::MAX >> 3)),
            Source::Process(WorkerId(1)),
            Source::Signals,
            Source::Control,
            Source::Notices,
        ];
        for source in sources {
            assert_eq!(Source::decode(source.encode()), source);
        }
    }
}
