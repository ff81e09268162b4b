//! The client: never retries, and says what went wrong. It runs on one thread of its own process, so that what it costs is
//! known and kept apart.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::clock;
use crate::error::{Error, Result};
use crate::http;
use crate::protocol::{self, LENGTH};
use crate::server::Server;

/// How long a client waits before it calls it a hang.
pub(crate) const HANG: Duration = Duration::from_secs(20);

/// What can become of a request that gets no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The connection could not be made.
    NotConnected,
    /// The connection ended without one byte of an answer.
    Closed,
    /// The answer broke off, or was something else.
    Broken,
    /// Nothing came for a very long time.
    Hung,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotConnected => "not connected",
            Self::Closed => "closed without an answer",
            Self::Broken => "a broken answer",
            Self::Hung => "no answer for a long time",
        })
    }
}

/// Whatever a server speaks, once.
pub(crate) async fn ask_once(server: &Server) -> std::result::Result<u32, Failure> {
    if server.side.speaks_http() {
        http::Connection::open(server.address).await?.get().await.map(|answer| answer.pid)
    } else {
        ask(server.address, &protocol::SHORT).await
    }
}

/// One connection: 16 bytes there, 16 back, and the end. Returns who answered.
pub(crate) async fn ask(address: SocketAddr, request: &[u8; LENGTH]) -> std::result::Result<u32, Failure> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(|_| Failure::NotConnected)?;
        stream.write_all(request).await.map_err(|_| Failure::Closed)?;
        let mut answer = [0; 2 * LENGTH];
        let mut length = 0;
        loop {
            match stream.read(&mut answer[length..]).await {
                Ok(0) => return protocol::pid_of(&answer[..length]).ok_or(closed(length)),
                Ok(more) => length += more,
                Err(_) => return Err(closed(length)),
            }
        }
    };
    tokio::time::timeout(HANG, exchange).await.unwrap_or(Err(Failure::Hung))
}

/// Opens a connection that stays. Returns it with who serves it.
pub(crate) async fn hold(address: SocketAddr) -> std::result::Result<(TcpStream, u32), Failure> {
    let exchange = async {
        let mut stream = connect_from(held_by(address), address).await.map_err(|_| Failure::NotConnected)?;
        stream.write_all(&protocol::HOLD).await.map_err(|_| Failure::Closed)?;
        let mut answer = [0; LENGTH];
        stream.read_exact(&mut answer).await.map_err(|_| Failure::Closed)?;
        protocol::pid_of(&answer).map(|pid| (stream, pid)).ok_or(Failure::Broken)
    };
    tokio::time::timeout(HANG, exchange).await.unwrap_or(Err(Failure::Hung))
}

/// Where connections that stay come from: they leave the ports of the usual address to those that come and go, and those of
/// another server, which linger when it has ended, to itself.
fn held_by(server: SocketAddr) -> Ipv4Addr {
    let [high, low] = server.port().to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.connect(address).await
}

fn closed(after: usize) -> Failure {
    if after == 0 { Failure::Closed } else { Failure::Broken }
}

/// Makes so many connections, so many at a time, and returns who answered each. One that fails is an error: no server may
/// fail where cost or balance is measured.
pub(crate) async fn load(server: &Server, connections: usize, at_a_time: usize) -> Result<Vec<u32>> {
    let left = Rc::new(Cell::new(connections));
    let mut clients = JoinSet::new();
    for _ in 0..at_a_time {
        let (left, address) = (Rc::clone(&left), server.address);
        clients.spawn_local(async move {
            let mut answers = Vec::new();
            while let Some(next) = left.get().checked_sub(1) {
                left.set(next);
                answers.push(ask(address, &protocol::SHORT).await);
            }
            answers
        });
    }
    let answers: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let failures: Vec<Failure> = answers.iter().filter_map(|answer| answer.err()).collect();
    match failures.first() {
        None => Ok(answers.into_iter().flatten().collect()),
        Some(first) => Err(Error::Clients {
            side: server.side.to_string(),
            failed: failures.len(),
            total: answers.len(),
            first: first.to_string(),
        }),
    }
}

/// For `map_err`: a client of this server failed where none may.
pub(crate) fn failed(server: &Server) -> impl Fn(Failure) -> Error {
    let side = server.side.to_string();
    move |failure| Error::Clients { side: side.clone(), failed: 1, total: 1, first: failure.to_string() }
}

/// Lets a server finish what the last client left to do.
pub(crate) async fn settle() {
    clock::pass(Duration::from_millis(20)).await;
}
