//! The servers of this program: the baselines, and Everport with the same handlers, on the same runtime and with the same
//! flags, for they are the same binary.

mod bare;
mod everport;
mod passing;
mod plain;
mod web;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use rustix::process::{Signal, set_parent_process_death_signal};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::clock;
use crate::error::{Error, Result};
use crate::protocol::{LENGTH, Wish};

/// A way to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// One process, one loop over a blocking epoll, no runtime.
    Bare,
    /// A master that accepts and passes each descriptor on, into loops as `bare` has one.
    PassingBare,
    /// The same master, into tokio workers.
    PassingTokio,
    /// Tokio workers that share one listener.
    TokioShared,
    /// Tokio workers each with a socket of its own by `SO_REUSEPORT`.
    TokioOwn,
    /// Everport, with the policy that the environment says.
    Everport,
    /// Axum on plain tokio; workers share one listener.
    Axum,
    /// The same application on Everport.
    Web,
}

/// How a server was asked to serve.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Settings {
    /// What to run
    #[arg(value_enum)]
    kind: Kind,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// How many workers to run
    #[arg(long)]
    workers: usize,
    /// Be a worker of a baseline: standard input is what the master passed
    #[arg(long)]
    child: bool,
}

/// Serves until it is killed.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    match settings.kind {
        Kind::Everport => return everport::echo(settings),
        Kind::Web => return everport::web(settings),
        _ if settings.child => {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(Error::io("bind the life of", "a worker"))?;
        }
        _ => {}
    }
    match (settings.kind, settings.child) {
        (Kind::Bare, _) => bare::accepting(listen(settings.listen, false)?),
        (Kind::PassingBare | Kind::PassingTokio, false) => passing::master(settings),
        (Kind::PassingBare, true) => bare::receiving(inherited()?),
        (Kind::PassingTokio, true) => passing::worker(inherited()?),
        (Kind::TokioOwn, true) => plain::worker(listen(settings.listen, true)?),
        (Kind::TokioShared, true) => plain::worker(inherited()?.into()),
        (Kind::Axum, true) => web::worker(inherited()?.into()),
        _ => plain::master(settings),
    }
}

/// A listener as all baselines have it: non-blocking, with tokio's backlog. Everport's own is longer, but no part has so many
/// clients that wait.
fn listen(address: SocketAddr, own: bool) -> Result<std::net::TcpListener> {
    let make = || -> io::Result<_> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(own)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    make().map_err(Error::io("listen on", address))
}

/// Starts a worker with this as its standard input.
fn spawn(settings: &Settings, given: Stdio) -> Result<()> {
    let kind = settings.kind.to_possible_value().expect("no kind is hidden");
    // Nobody waits for it: it ends with its master, by the death signal.
    Command::new("/proc/self/exe")
        .args(["serve", kind.get_name(), "--child"])
        .args(["--listen", &settings.listen.to_string(), "--workers", "1"])
        .stdin(given)
        .spawn()
        .map_err(Error::io("start", "a worker"))?;
    Ok(())
}

fn inherited() -> Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned().map_err(Error::io("adopt", "what the master passed"))
}

/// The runtime of every worker: that of an Everport worker with one thread.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("start", "a runtime"))
}

/// Serves one connection: the handler of every tokio and Everport worker. That the client broke off is its right.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: [u8; LENGTH]) -> io::Result<()> {
    let mut request = [0; LENGTH];
    stream.read_exact(&mut request).await?;
    let wish = Wish::of(&request);
    if let Wish::Block(time) = wish {
        clock::block(time);
    }
    stream.write_all(&answer).await?;
    if wish == Wish::Hold {
        // Until the client closes, which is no error.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(())
}
