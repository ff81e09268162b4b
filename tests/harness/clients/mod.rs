//! Many clients at once, none of which ever retries, and one tally of everything that they noticed.
//!
//! They are tasks of one thread, so that a hundred of them leave a small machine to the servers.

mod connection;
mod crowd;
mod kind;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::connection::{Connection, is_set, pause};
use self::kind::Dice;
use super::clock::{Deadline, PATIENCE, now};
use super::http::Answer;

pub(crate) use self::crowd::Crowd;
pub(crate) use self::kind::{Kind, Server};
pub(crate) use self::tally::{Notice, Tallies, Tally};

/// How long a client waits for an answer beyond the time that it should take, before it calls it stalled.
const STALL: Duration = Duration::from_secs(10);

/// Whom the clients ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    /// How long beyond its time an answer may take.
    pub(crate) stall: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    progress: Arc<Progress>,
    thread: JoinHandle<Tallies>,
}

impl Load {
    /// Starts this many clients of each kind against the `web` example.
    pub(crate) fn start(address: SocketAddr, clients: &[(Kind, usize)]) -> Self {
        Self::start_on(Target { address, server: Server::Web, stall: STALL }, clients)
    }

    /// Starts them against any server.
    pub(crate) fn start_on_any(address: SocketAddr, clients: &[(Kind, usize)]) -> Self {
        Self::start_on(Target { address, server: Server::Any, stall: STALL }, clients)
    }

    pub(crate) fn start_on(target: Target, clients: &[(Kind, usize)]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let kinds: Vec<Kind> = clients.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).collect();
        let counted = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut clients = JoinSet::new();
                for (kind, seed) in kinds.into_iter().zip(1..) {
                    let (dice, tally) = (Dice::new(seed), Tally::default());
                    let (stop, progress) = (stopped.clone(), Arc::clone(&counted));
                    let client = Client { target, kind, dice, stop, tally, progress };
                    clients.spawn(async move { (kind, client.run().await) });
                }
                clients.join_all().await.into_iter().collect()
            })
        });
        Self { stop, progress, thread }
    }

    /// Waits until the clients of each of these kinds have had as many turns more, together: an answer, or something worse.
    #[track_caller]
    pub(crate) fn go_on(&self, wanted: &[(Kind, usize)]) {
        let start = self.progress.count().clone();
        let so_many = |counts: &Counts, kind| counts.get(&kind).copied().unwrap_or_default();
        self.progress.wait_until(|counts| {
            wanted.iter().all(|(kind, more)| so_many(counts, *kind) >= so_many(&start, *kind) + more)
        });
    }

    /// Lets every client finish its request and adds up.
    pub(crate) fn finish(self) -> Tallies {
        self.stop.send_replace(true);
        self.thread.join().expect("a client does not panic")
    }
}

/// One client.
#[derive(Debug)]
struct Client {
    target: Target,
    kind: Kind,
    dice: Dice,
    stop: watch::Receiver<bool>,
    tally: Tally,
    progress: Arc<Progress>,
}

impl Client {
    async fn run(mut self) -> Tally {
        let mut kept = None;
        while !is_set(&self.stop) {
            let had_one = self.tally.connections > 0;
            if self.kind.keeps() && had_one && kept.is_none() {
                self.tally.note(Notice::Reconnected);
            }
            match self.turn(kept.take()).await {
                Ok(connection) => kept = connection,
                Err(notice) => self.tally.note(notice),
            }
            self.progress.add(self.kind);
        }
        self.tally
    }

    /// Rests and makes one request; returns the connection if there is to be another one on it.
    async fn turn(&mut self, kept: Option<Connection>) -> Result<Option<Connection>, Notice> {
        let rest = self.kind.rest(&mut self.dice);
        let connection = match kept {
            Some(connection) => Some(connection),
            // Most of the time of an idle client shall be one in which it is connected.
            None if self.kind == Kind::Idle => Some(self.open().await?),
            None => None,
        };
        let mut connection = match connection {
            Some(mut connection) => {
                connection.rest(rest, &mut self.stop).await?;
                if is_set(&self.stop) {
                    return Ok(None);
                }
                connection
            }
            None => {
                pause(rest, &mut self.stop).await;
                if is_set(&self.stop) {
                    return Ok(None);
                }
                self.open().await?
            }
        };
        let request = self.kind.request();
        let start = now();
        let answer = connection.exchange(&request.pieces, request.pause, request.takes + self.target.stall).await?;
        self.tally.longest = self.tally.longest.max((now() - start).saturating_sub(request.takes));
        self.judge(&answer)?;
        let goes_on = self.kind.keeps() && !answer.says_close();
        if self.kind.keeps() && self.target.server == Server::Web {
            self.tally.moved += usize::from(connection.is_answered_by_another(&answer));
        }
        Ok(goes_on.then_some(connection))
    }

    async fn open(&mut self) -> Result<Connection, Notice> {
        self.tally.connections += 1;
        Connection::open(self.target.address).await
    }

    /// Whether it is the right answer, and whether it says that the connection will be closed.
    fn judge(&mut self, answer: &Answer) -> Result<(), Notice> {
        if answer.status != 200 || !self.target.server.is_right(self.kind, &answer.text()) {
            return Err(Notice::Wrong);
        }
        self.tally.answered += 1;
        if answer.says_close() {
            self.tally.note(Notice::ToldToClose);
        }
        Ok(())
    }
}

type Counts = BTreeMap<Kind, usize>;

/// How many turns the clients had so far, for those who wait for more.
#[derive(Debug, Default)]
struct Progress {
    turns: Mutex<Counts>,
    changed: Condvar,
}

impl Progress {
    fn add(&self, kind: Kind) {
        *self.count().entry(kind).or_default() += 1;
        self.changed.notify_all();
    }

    #[track_caller]
    fn wait_until(&self, wanted: impl Fn(&Counts) -> bool) {
        let deadline = Deadline::within(PATIENCE);
        let mut counts = self.count();
        while !wanted(&counts) {
            let left = deadline.left().unwrap_or_else(|| panic!("the clients get no further: {counts:?}"));
            counts = self.changed.wait_timeout(counts, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn count(&self) -> MutexGuard<'_, Counts> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
