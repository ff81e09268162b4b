//! The line: where a worker waits at shared listeners so that a connection wakes one worker, not all of them, and the one
//! that has waited longest.
//!
//! ```text
//! away --nobody is there--> waiting --a connection comes--> called --the runtime accepts--> away
//!                              |                               |
//!                              +-- pause, drain, drop ---------+-- 50 ms are over --> the thread passes one on
//! ```
//!
//! `EPOLLEXCLUSIVE` wakes one only if a thread waits in that very epoll, so there is a thread, and an epoll of its own that is
//! nested nowhere. The kernel wakes the first of its queue again and again as long as it stays there: leaving when called and
//! queueing up anew makes it fair.
//!
//! Invariant: who was called takes one connection, or passes one on through the master, whatever its runtime does: the others
//! sleep, and nobody calls them for that one. Who lines up has seen that nobody is there. What a worker takes to its grave, the
//! next one sees that looks again, within a second.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::handovers::Passed;
use super::link::Link;
use super::port::{Inbox, Port};
use super::state::Step;
use super::tie::Tie;
use super::watch::{now, until};
use crate::id::ListenerId;
use crate::name::SocketName;
use crate::socket::accept;

/// How long a worker that was called may take until its connection goes to another: as long as one that was offered one
/// (`steal_after`).
const PATIENCE: Duration = Duration::from_millis(50);

/// How many calls the thread takes at once. A process has few listeners.
const MAX_CALLS: usize = 16;

/// It only waits, accepts and writes messages.
const STACK: usize = 128 * 1024;

/// The process's epoll, and who waits there.
#[derive(Debug)]
pub(crate) struct Line {
    epoll: OwnedFd,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    last: u64,
    held: HashMap<u64, Weak<Place>>,
}

/// One shared listener, and the worker's place in the line there.
pub(crate) struct Place {
    line: Arc<Line>,
    number: u64,
    listener: ListenerId,
    link: Weak<Link>,
    inbox: Weak<Inbox>,
    wait: Mutex<Wait>,
    socket: OwnedFd,
}

/// Where the worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// It does not wait: it has something to do.
    Away,
    /// It waits, and has seen before that nobody was there.
    Waiting,
    /// A connection has come that no other worker was woken for.
    Called,
}

impl Line {
    /// Opens the line of a process, with its thread.
    pub(super) fn open() -> io::Result<Arc<Self>> {
        let line = Arc::new(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, places: Mutex::default() });
        let standing = Arc::clone(&line);
        thread::Builder::new().name("everport-line".to_owned()).stack_size(STACK).spawn(move || standing.stand())?;
        Ok(line)
    }

    /// Waits for calls, and sees to it that they are answered.
    fn stand(&self) {
        let mut called: Vec<(Instant, Weak<Place>)> = Vec::new();
        let mut calls = [const { MaybeUninit::uninit() }; MAX_CALLS];
        loop {
            let timeout: Option<Timespec> = called.first().map(|(due, _)| until(*due));
            let calls = match epoll::wait(&self.epoll, &mut calls[..], timeout.as_ref()) {
                Ok((calls, _)) => calls,
                Err(Errno::INTR) => continue,
                Err(error) => return tracing::error!(%error, "wait in line"),
            };
            // First, so that a place that is called again is in there once.
            called.retain(|(_, place)| place.upgrade().is_some_and(|place| *place.wait() == Wait::Called));
            if calls.is_empty() && called.is_empty() {
                continue;
            }
            let now = now();
            let places = calls.iter().filter_map(|call| self.place(call.data.u64())).filter(|place| place.call());
            called.extend(places.map(|place| (now + PATIENCE, Arc::downgrade(&place))));
            while let Some((_, place)) = called.first().filter(|(due, _)| *due <= now).cloned() {
                called.remove(0);
                if let Some(place) = place.upgrade()
                    && !place.relieve()
                {
                    called.push((now + PATIENCE, Arc::downgrade(&place)));
                }
            }
        }
    }

    fn place(&self, number: u64) -> Option<Arc<Place>> {
        self.places().held.get(&number).and_then(Weak::upgrade)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A place at this listener; nobody waits there yet.
    pub(crate) fn new(line: &Arc<Line>, port: &Port, socket: OwnedFd) -> Arc<Self> {
        let mut places = line.places();
        places.last += 1;
        let place = Arc::new(Self {
            line: Arc::clone(line),
            number: places.last,
            listener: port.id(),
            link: Arc::downgrade(port.link()),
            inbox: Arc::downgrade(port.inbox()),
            wait: Mutex::new(Wait::Away),
            socket,
        });
        places.held.insert(place.number, Arc::downgrade(&place));
        place
    }

    /// Accepts a connection, or waits in line: then those who wait in `accept` are woken when one is there. To be called
    /// while the worker's state is held.
    pub(crate) fn accept(&self) -> Option<io::Result<(OwnedFd, SocketName)>> {
        let mut wait = self.wait();
        if *wait == Wait::Waiting {
            return None;
        }
        match accept(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // After a failure it is still the one who was called.
            Err(error) => return Some(Err(error)),
            Ok(accepted) => {
                *wait = Wait::Away;
                return Some(Ok(accepted));
            }
        }
        // Whoever has come since is seen here: the call is at once.
        match self.queue_up() {
            Ok(()) => {
                *wait = Wait::Waiting;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Queues up anew, which sees whoever is there: another worker may have been called for them and have died since.
    pub(crate) fn look_again(&self) {
        let mut wait = self.wait();
        if *wait == Wait::Waiting {
            self.leave_epoll();
            if let Err(error) = self.queue_up() {
                tracing::debug!(%error, "line up again");
                *wait = Wait::Away;
            }
        }
    }

    fn queue_up(&self) -> io::Result<()> {
        let data = EventData::new_u64(self.number);
        Ok(epoll::add(&self.line.epoll, &self.socket, data, EventFlags::IN | EventFlags::EXCLUSIVE)?)
    }

    /// A connection is there. `false`: the worker does not wait any more.
    fn call(&self) -> bool {
        let mut wait = self.wait();
        if *wait != Wait::Waiting {
            return false;
        }
        self.leave_epoll();
        *wait = Wait::Called;
        drop(wait);
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.waiters.wake();
        }
        true
    }

    /// Waits no longer, and passes one on if it may have been called: a call may be on its way. Not to be called while the
    /// worker's state is held.
    pub(crate) fn leave(&self) {
        match self.link.upgrade() {
            Some(link) => {
                self.pass_on(&link, |wait| self.step_out(wait) != Wait::Away);
            }
            None => self.abandon(),
        }
    }

    /// Waits no longer, and passes nothing on, for there is no master.
    pub(crate) fn abandon(&self) {
        self.step_out(&mut self.wait());
    }

    /// Goes away; returns where it was.
    fn step_out(&self, wait: &mut Wait) -> Wait {
        let before = std::mem::replace(wait, Wait::Away);
        if before == Wait::Waiting {
            self.leave_epoll();
        }
        before
    }

    fn leave_epoll(&self) {
        if let Err(error) = epoll::delete(&self.line.epoll, &self.socket) {
            tracing::debug!(%error, "leave the line");
        }
    }

    /// Passes one on, if the runtime has not come since the call. `false`: it could not yet.
    fn relieve(&self) -> bool {
        self.link.upgrade().is_none_or(|link| self.pass_on(&link, |wait| *wait == Wait::Called))
    }

    /// Gives one connection to the master, for another worker, if this one `owes` that and somebody is there. `false`: it
    /// could not yet.
    fn pass_on(&self, link: &Arc<Link>, owes: impl FnOnce(&mut Wait) -> bool) -> bool {
        // Held until the connection is counted, and taken before the wait, as in `accept`.
        let state = link.state();
        let mut wait = self.wait();
        if !owes(&mut wait) || state.is_lost() || state.step() == Some(Step::Finished) {
            return true;
        }
        let Some(room) = link.handover_room_now() else { return false };
        let accepted = accept(&self.socket);
        if let Err(error) = &accepted
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::debug!(%error, "accept for another worker");
            return false;
        }
        *wait = Wait::Away;
        let Ok((socket, peer)) = accepted else { return true };
        let tie = Tie::new(link, self.listener, None);
        drop((wait, state));
        link.pass_on(Passed { socket, tie, peer }, &self.inbox, room);
        true
    }

    fn wait(&self) -> MutexGuard<'_, Wait> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        self.line.places().held.remove(&self.number);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("listener", &self.listener).field("wait", &*self.wait()).finish_non_exhaustive()
    }
}
