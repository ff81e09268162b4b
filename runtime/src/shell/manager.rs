//! What the service manager is told, by the protocol of sd_notify(3), and when the next sign of life is due.
//!
//! | when | message |
//! |---|---|
//! | the first generation serves | `READY=1` |
//! | a reload begins, ends | `RELOADING=1` with `MONOTONIC_USEC`, `READY=1` |
//! | a stop begins | `STOPPING=1` |
//! | generation or counts change | `STATUS=` |
//! | half of `WATCHDOG_USEC` has passed | `WATCHDOG=1` |
//!
//! Invariant: nothing here waits. What a busy manager does not take is sent again later, and the order is kept.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

use super::clock;

/// How soon to try again when the manager does not take a message.
const RETRY: Duration = Duration::from_millis(100);

/// How many messages may wait for a manager that takes none. Later ones are dropped: it is not coming back.
const MAX_WAITING: usize = 64;

/// The manager that started this master, if one did that wants to know.
#[derive(Debug)]
pub(super) struct Manager {
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
    waiting: VecDeque<String>,
    retry: Option<Instant>,
    watchdog: Option<Watchdog>,
    status: String,
    is_stopping: bool,
}

#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Manager {
    /// The manager that the environment names.
    pub(super) fn from_env() -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self { link: None });
        };
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|every| !every.is_zero());
        Ok(Self { link: Some(Link::new(&name, every)?) })
    }

    /// The first generation serves.
    pub(super) fn ready(&mut self) {
        if self.link.as_ref().is_some_and(|link| !link.is_stopping) {
            self.say(&[NotifyState::Ready]);
        }
    }

    /// A reload has begun.
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(error) => warn!(%error, "service manager not told of a reload"),
        }
    }

    /// The reload has ended, well or not.
    pub(super) fn reloaded(&mut self) {
        self.ready();
    }

    /// A stop has begun. Whatever else ends from now on, the master is not ready any more.
    pub(super) fn stopping(&mut self) {
        if let Some(link) = &mut self.link {
            link.is_stopping = true;
        }
        self.say(&[NotifyState::Stopping]);
    }

    /// The state in a line; told only if it is another one than the last time.
    pub(super) fn status(&mut self, line: String) {
        let Some(link) = &mut self.link else { return };
        if link.status != line {
            link.status.clone_from(&line);
            self.say(&[NotifyState::Status(&line)]);
        }
    }

    /// When [`keep_up`](Self::keep_up) must be called next, if ever.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let link = self.link.as_ref()?;
        let watchdog = link.watchdog.as_ref().map(|watchdog| watchdog.next);
        watchdog.into_iter().chain(link.retry).min()
    }

    /// Gives a sign of life, and sends what waits, if it is time.
    pub(super) fn keep_up(&mut self) {
        let now = clock::now();
        let Some(link) = &mut self.link else { return };
        let is_due = link.retry.is_some_and(|retry| retry <= now);
        if let Some(watchdog) = link.watchdog.as_mut().filter(|watchdog| watchdog.next <= now) {
            watchdog.next = now + watchdog.every;
            self.say(&[NotifyState::Watchdog]);
        } else if is_due {
            link.flush();
        }
    }

    fn say(&mut self, state: &[NotifyState<'_>]) {
        let Some(link) = &mut self.link else { return };
        if link.waiting.len() < MAX_WAITING {
            link.waiting.push_back(state.iter().map(|state| format!("{state}\n")).collect());
        }
        link.flush();
    }
}

impl Link {
    fn new(name: &OsStr, every: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let watchdog = every.map(|every| Watchdog { every, next: clock::now() + every });
        Ok(Self {
            socket,
            address,
            waiting: VecDeque::new(),
            retry: None,
            watchdog,
            status: String::new(),
            is_stopping: false,
        })
    }

    /// Sends what waits, as far as the manager takes it.
    fn flush(&mut self) {
        self.retry = None;
        while let Some(message) = self.waiting.front() {
            match self.socket.send_to_addr(message.as_bytes(), &self.address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.retry = Some(clock::now() + RETRY);
                    return;
                }
                // A manager that is gone for a moment, as in its own upgrade, will ask again.
                Err(error) => warn!(%error, "service manager not told"),
            }
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (UnixDatagram, Manager) {
        let unique = format!("everport-test-{}-{name}", std::process::id());
        let end = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&unique).unwrap()).unwrap();
        end.set_nonblocking(true).unwrap();
        let link = Link::new(OsStr::new(&format!("@{unique}")), Some(Duration::ZERO)).unwrap();
        (end, Manager { link: Some(link) })
    }

    fn next(end: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        let length = end.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        let (end, mut manager) = pair("protocol");
        manager.ready();
        manager.reloading();
        manager.status("one".to_owned());
        manager.status("one".to_owned());
        manager.status("two".to_owned());
        manager.keep_up();
        manager.reloaded();
        manager.stopping();
        manager.reloaded();
        assert_eq!(next(&end).unwrap(), "READY=1\n");
        let reloading = next(&end).unwrap();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
        assert!(time.parse::<u64>().unwrap() > 0);
        for expected in ["STATUS=one\n", "STATUS=two\n", "WATCHDOG=1\n", "READY=1\n", "STOPPING=1\n"] {
            assert_eq!(next(&end).unwrap(), expected);
        }
        assert_eq!(next(&end), None);
    }

    #[test]
    fn a_manager_that_takes_nothing_holds_nobody_up_and_gets_it_later_in_order() {
        let (end, mut manager) = pair("busy");
        let mut told = 0;
        while manager.next_deadline().is_none_or(|_| manager.link.as_ref().unwrap().retry.is_none()) {
            told += 1;
            assert!(told < 10_000, "the queue of a socket has no end");
            manager.status(told.to_string());
        }
        for _ in 0..2 * MAX_WAITING {
            told += 1;
            manager.status(told.to_string());
        }
        assert_eq!(manager.link.as_ref().unwrap().waiting.len(), MAX_WAITING);
        let mut seen = 0;
        loop {
            while let Some(message) = next(&end) {
                seen += 1;
                assert_eq!(message, format!("STATUS={seen}\n"));
            }
            if manager.link.as_ref().unwrap().waiting.is_empty() {
                break;
            }
            manager.link.as_mut().unwrap().flush();
        }
        assert!(seen > MAX_WAITING);
    }

    #[test]
    fn nobody_is_told_when_nobody_asked() {
        let mut manager = Manager { link: None };
        manager.ready();
        manager.status("well".to_owned());
        assert_eq!(manager.next_deadline(), None);
    }
}
