//! A crowd: thousands of kept connections on which nothing happens.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::kind::Kind;
use super::tally::Notice;
use super::{STALL, Server};

/// Idle connections to the `web` example.
#[derive(Debug)]
pub(crate) struct Crowd {
    runtime: Runtime,
    connections: Vec<Connection>,
}

/// How many connections have one address of ours: the ports of one address would not last for all tests that run.
const PER_ADDRESS: usize = 500;

/// How many are at something at the same time: fewer than a backlog holds.
const AT_ONCE: usize = 100;

/// How many descriptors a process with a crowd needs beside it.
const SPARE: u64 = 500;

impl Crowd {
    /// As many as wanted, or as the limit of descriptors permits, which is said then.
    pub(crate) fn size(wanted: usize) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let permitted = usize::try_from(limit.saturating_sub(SPARE)).unwrap_or(usize::MAX);
        if permitted < wanted {
            #[expect(clippy::print_stderr, reason = "the test shows less than it says")]
            {
                eprintln!("only {permitted} of {wanted} connections: the limit of descriptors is {limit}");
            }
        }
        wanted.min(permitted)
    }

    /// Makes so many connections, each of which has one answer.
    #[track_caller]
    pub(crate) fn gather(address: SocketAddr, size: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connections = runtime.block_on(at_once(0..size, move |number| async move {
            let [third, fourth] = u16::try_from(number / PER_ADDRESS).expect("a crowd, not a city").to_be_bytes();
            let source = Ipv4Addr::new(127, 1, third, fourth + 1);
            let mut connection = Connection::open_from((source, 0).into(), address).await?;
            ask(&mut connection).await?;
            Ok(connection)
        }));
        let connections = connections.into_iter().collect::<Result<_, Notice>>();
        Self { runtime, connections: connections.expect("everybody is served") }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Every connection is as it was, and has one more answer; how many of them from another process than before.
    #[track_caller]
    pub(crate) fn ask_all(&mut self) -> usize {
        let (noticed, moved) = self.ask();
        assert!(noticed.is_empty(), "{} connections noticed something: {noticed:?}", noticed.len());
        moved
    }

    /// What those noticed that are no more, and how many of the others have an answer from another process than before.
    pub(crate) fn ask(&mut self) -> (Vec<Notice>, usize) {
        let connections = std::mem::take(&mut self.connections);
        let answers = self.runtime.block_on(at_once(connections, |mut connection| async move {
            let (_stop, mut stopped) = watch::channel(false);
            connection.rest(Duration::from_millis(1), &mut stopped).await?;
            let moved = ask(&mut connection).await?;
            Ok((connection, moved))
        }));
        let (mut noticed, mut moved) = (Vec::new(), 0);
        for answer in answers {
            match answer {
                Ok((connection, has_moved)) => {
                    self.connections.push(connection);
                    moved += usize::from(has_moved);
                }
                Err(notice) => noticed.push(notice),
            }
        }
        (noticed, moved)
    }
}

/// One request; whether another process answered than the last time.
async fn ask(connection: &mut Connection) -> Result<bool, Notice> {
    let request = Kind::Idle.request();
    let answer = connection.exchange(&request.pieces, request.pause, STALL).await?;
    if answer.status != 200 || !Server::Web.is_right(Kind::Idle, &answer.text()) {
        return Err(Notice::Wrong);
    }
    if answer.says_close() {
        return Err(Notice::ToldToClose);
    }
    Ok(connection.is_answered_by_another(&answer))
}

/// Does it with each of them, a bounded number at a time.
async fn at_once<T, R, F>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> Vec<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    for item in items {
        if running.len() >= AT_ONCE {
            done.extend(running.join_next().await.map(|one| one.expect("no panic")));
        }
        running.spawn(work(item));
    }
    done.extend(running.join_all().await);
    done
}
