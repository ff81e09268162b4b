//! One connection of a client that does not wait for anybody else, and what can become of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::STALL;
use super::tally::Notice;
use crate::harness::http::{Answer, Failure, read_answer};

/// A connection and what has come on it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    answered: usize,
    /// Which process gave the last answer.
    by: Option<String>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Notice> {
        Self::over(TcpStream::connect(address)).await
    }

    /// From this address of our own.
    pub(super) async fn open_from(source: SocketAddr, address: SocketAddr) -> Result<Self, Notice> {
        Self::over(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(source)?;
            socket.connect(address).await
        })
        .await
    }

    async fn over(connected: impl Future<Output = io::Result<TcpStream>>) -> Result<Self, Notice> {
        let connected = timeout(STALL, connected).await.map_err(|_| Notice::Stalled)?;
        let stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Notice::Refused,
            _ => Notice::NotConnected,
        })?;
        stream.set_nodelay(true).map_err(|_| Notice::NotConnected)?;
        Ok(Self { stream, received: Vec::new(), answered: 0, by: None })
    }

    /// Does nothing for this long, or until the stop, and notices when the connection does not stay as it is.
    pub(super) async fn rest(&mut self, time: Duration, stop: &mut watch::Receiver<bool>) -> Result<(), Notice> {
        let mut byte = [0];
        tokio::select! {
            biased;
            read = self.stream.read(&mut byte) => Err(match read {
                Ok(0) | Err(_) => Notice::ClosedIdle,
                Ok(_) => Notice::Wrong,
            }),
            // That the sender has gone is a stop too.
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            () = sleep(time) => Ok(()),
        }
    }

    /// One request, piece by piece, and its whole answer.
    pub(super) async fn exchange(
        &mut self,
        pieces: &[Vec<u8>],
        pause: Duration,
        at_most: Duration,
    ) -> Result<Answer, Notice> {
        let exchange = async {
            self.send(pieces, pause).await;
            self.receive().await
        };
        timeout(at_most, exchange).await.unwrap_or(Err(Notice::Stalled))
    }

    /// Sends it; a failure is not told, for an answer may have come early: reading tells more.
    pub(super) async fn send(&mut self, pieces: &[Vec<u8>], pause: Duration) {
        for piece in pieces {
            if self.stream.write_all(piece).await.is_err() {
                return;
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    async fn receive(&mut self) -> Result<Answer, Notice> {
        loop {
            let mut rest = &self.received[..];
            match read_answer(&mut rest) {
                Ok(answer) if rest.is_empty() => {
                    self.received.clear();
                    self.answered += 1;
                    return Ok(answer);
                }
                // Something that nobody asked for.
                Ok(_) | Err(Failure::Nonsense) => return Err(Notice::Wrong),
                // There is more to come.
                Err(_) => {}
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) if !self.received.is_empty() => return Err(Notice::Truncated),
                Ok(0) | Err(_) if self.received.is_empty() && self.answered > 0 => return Err(Notice::Crossed),
                Ok(0) => return Err(Notice::Lost),
                Ok(_) => {}
                Err(_) => return Err(Notice::Reset),
            }
        }
    }

    /// Whether another process gives this answer than gave the last one. Asked once for each answer.
    pub(super) fn is_answered_by_another(&mut self, answer: &Answer) -> bool {
        let by = answer.header("x-pid").map(str::to_owned);
        let last = std::mem::replace(&mut self.by, by);
        last.is_some() && last != self.by
    }
}

/// Lets this much time pass, or what there is of it until the stop.
pub(super) async fn pause(time: Duration, stop: &mut watch::Receiver<bool>) {
    // Whichever it was.
    let _ = timeout(time, stop.wait_for(|stop| *stop)).await;
}

/// Whether it is time to stop.
pub(super) fn is_set(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow()
}
