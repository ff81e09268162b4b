//! A plain TCP session with a state: it counts the lines of each client, and goes on counting over reloads.
//!
//! ```console
//! $ cargo run --release --example counter
//! $ nc 127.0.0.1 7000
//! ```
//!
//! In a drain each connection moves to a worker that stays, with the count and with what has come of the next line. A
//! program whose state has another form says so by another version: it is not given what it does not understand, and the
//! old worker keeps those clients to their end.

use std::io;
use std::pin::pin;

use clap::Parser;
use everport::handover::{HandoverError, State};
use everport::net::{TcpListener, TcpStream};
use everport::{Builder, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Counts lines, and does not lose count.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
    listen: String,
    /// How many workers to run [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// What this program calls the form of its state
    #[arg(long, value_name = "N", default_value = "1")]
    state_version: u32,
}

/// The longest line.
const MAX_LINE: usize = 4096;

fn main() -> everport::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Builder::new().listen(&arguments.listen);
    if let Some(workers) = arguments.workers {
        builder = builder.workers(workers);
    }
    builder.run(async |worker| serve_all(worker, &arguments.listen, arguments.state_version).await)
}

/// Accepts new clients and those who come from other workers.
async fn serve_all(worker: Worker, address: &str, version: u32) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let resumed = listener.resumed(version..=version)?;
    let mut draining = pin!(worker.draining());
    loop {
        let (stream, session) = tokio::select! {
            accepted = listener.accept() => (accepted?.0, Session::default()),
            resumed = resumed.accept() => {
                let (stream, state) = resumed?;
                (stream, Session::from_state(&state)?)
            }
            // The process ends when the last connection has gone.
            () = &mut draining => return Ok(()),
        };
        tokio::spawn(serve(stream, session, worker.clone(), version));
    }
}

/// What is known of a client.
#[derive(Debug, Default)]
struct Session {
    count: u64,
    /// What has come of the next line.
    unread: Vec<u8>,
}

impl Session {
    fn to_state(&self, version: u32) -> State {
        State::new(version, [&self.count.to_be_bytes(), &self.unread[..]].concat())
    }

    fn from_state(state: &State) -> io::Result<Self> {
        let (count, unread) = state.bytes.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { count: u64::from_be_bytes(*count), unread: unread.to_vec() })
    }

    /// Counts the next line, if it is whole.
    fn count_line(&mut self) -> Option<u64> {
        let end = self.unread.iter().position(|byte| *byte == b'\n')?;
        self.unread.drain(..=end);
        self.count += 1;
        Some(self.count)
    }
}

/// Serves a client until it leaves or moves. An error means that the client broke off, which is its right.
async fn serve(mut stream: TcpStream, mut session: Session, worker: Worker, version: u32) -> io::Result<()> {
    let (mut draining, mut time_to_go) = (pin!(worker.drain_begins()), pin!(worker.soft_deadline()));
    let mut stays = false;
    loop {
        while let Some(count) = session.count_line() {
            let generation = worker.generation().map_or(0, |generation| generation.0);
            stream.write_all(format!("{count} (generation {generation})\n").as_bytes()).await?;
        }
        if session.unread.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        tokio::select! {
            read = stream.read_buf(&mut session.unread) => if read? == 0 {
                return Ok(());
            },
            () = &mut draining, if !stays => match stream.handover(session.to_state(version)).await {
                Ok(()) => return Ok(()),
                // Nobody understands it, or nobody is there: this worker goes on.
                Err(HandoverError::Returned { stream: back, .. }) => (stream, stays) = (back, true),
                Err(lost) => return Err(io::Error::other(lost)),
            },
            // At a stop nobody goes on with those who do not leave by themselves.
            () = &mut time_to_go, if stays && !worker.has_successor() => return Ok(()),
        }
    }
}
