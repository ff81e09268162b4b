//! Load: many clients at once, none of which ever retries, and what became of each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::{Answer, Connection, Failure, get, timed};

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A connection for each request.
    Fresh,
    /// A connection for each request, which takes two seconds.
    Slow,
    /// One connection for as many requests as it lasts.
    Kept,
}

/// What the clients of one kind saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Requests with a whole answer.
    pub(crate) answered: usize,
    /// Answers that were no `200 OK`.
    pub(crate) not_ok: usize,
    /// How often a kept connection was closed between two requests, with and without a word.
    pub(crate) closed_between: usize,
    /// Everything else that went wrong.
    pub(crate) failures: BTreeMap<Failure, usize>,
    /// Requests that took a second longer than they should.
    pub(crate) stalled: usize,
    /// The longest that a request took.
    pub(crate) longest: Duration,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<Stop>,
    clients: Vec<(Kind, JoinHandle<Tally>)>,
}

impl Load {
    /// Starts this many clients of each kind.
    pub(crate) fn start(address: SocketAddr, clients: &[(Kind, usize)]) -> Self {
        let stop = Arc::new(Stop::default());
        let kinds = clients.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count));
        let clients = kinds.map(|kind| {
            let stop = Arc::clone(&stop);
            (kind, std::thread::spawn(move || run(kind, address, &stop)))
        });
        Self { clients: clients.collect(), stop }
    }

    /// Lets every client finish its request and adds up.
    pub(crate) fn finish(self) -> BTreeMap<Kind, Tally> {
        self.stop.set();
        let mut sums = BTreeMap::<Kind, Tally>::new();
        for (kind, client) in self.clients {
            let tally = client.join().expect("a client does not panic");
            sums.entry(kind).or_default().add(&tally);
        }
        sums
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.not_ok += other.not_ok;
        self.closed_between += other.closed_between;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.stalled += other.stalled;
        self.longest = self.longest.max(other.longest);
    }

    fn note(&mut self, result: Result<&Answer, Failure>, took: Duration, expected: Duration) {
        match result {
            Ok(answer) => {
                self.answered += 1;
                self.not_ok += usize::from(answer.status != 200);
            }
            Err(Failure::ClosedBetween) => self.closed_between += 1,
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
        let late = took.saturating_sub(expected);
        self.stalled += usize::from(late > Duration::from_secs(1));
        self.longest = self.longest.max(took);
    }
}

/// The pause between two requests of one client, so that many clients leave room for the servers on a small machine.
const PACE: Duration = Duration::from_millis(5);

fn run(kind: Kind, address: SocketAddr, stop: &Stop) -> Tally {
    let mut tally = Tally::default();
    while !stop.is_set() {
        match kind {
            Kind::Fresh => {
                let (answer, took) = timed(|| get(address, "/"));
                tally.note(answer.as_ref().map_err(|failure| *failure), took, Duration::ZERO);
            }
            Kind::Slow => {
                let (answer, took) = timed(|| get(address, "/slow?ms=2000"));
                tally.note(answer.as_ref().map_err(|failure| *failure), took, Duration::from_secs(2));
            }
            Kind::Kept => keep(address, stop, &mut tally),
        }
        stop.wait(PACE);
    }
    tally
}

/// Uses one connection until it is closed.
fn keep(address: SocketAddr, stop: &Stop, tally: &mut Tally) {
    let (opened, waited) = timed(|| Connection::open(address));
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(failure) => return tally.note(Err(failure), waited, Duration::ZERO),
    };
    while !stop.is_set() {
        let (answer, took) = timed(|| connection.get("/"));
        tally.note(answer.as_ref().map_err(|failure| *failure), took, Duration::ZERO);
        match answer {
            Ok(answer) if answer.says_close() => {
                tally.closed_between += 1;
                return;
            }
            Ok(_) => stop.wait(PACE),
            Err(_) => return,
        }
    }
}

#[derive(Debug, Default)]
struct Stop {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the stop, at most this long.
    fn wait(&self, at_most: Duration) {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(set, at_most, |set| !*set);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
