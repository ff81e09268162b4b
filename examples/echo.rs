//! An echo server on plain tokio, over TCP and over a unix socket.
//!
//! ```console
//! $ cargo run --release --example echo -- --listen 127.0.0.1:7000 --listen unix:/tmp/echo.sock
//! $ nc 127.0.0.1 7000
//! ```
//!
//! A client that is connected during a reload stays with its worker, which serves it to the end; new clients get a worker
//! of the new generation.

use std::io;

use clap::Parser;
use everport::Builder;
use everport::net::{TcpListener, UnixListener};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Sends back what it gets, and reloads without hanging up on anybody.
#[derive(Parser)]
struct Arguments {
    /// Where to listen, such as 127.0.0.1:7000 or unix:/tmp/echo.sock; may be given several times
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
    listen: Vec<String>,
    /// How many workers to run [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
}

fn main() -> everport::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Builder::new();
    for address in &arguments.listen {
        // Bound by the master, before any worker starts: a wrong address or a taken port ends the start.
        builder = builder.listen(address);
    }
    if let Some(workers) = arguments.workers {
        builder = builder.workers(workers);
    }
    builder.run(async |_worker| {
        let mut servers = JoinSet::new();
        for address in arguments.listen {
            servers.spawn(serve(address));
        }
        // None ends unless it fails.
        while let Some(served) = servers.join_next().await {
            served??;
        }
        io::Result::Ok(())
    })
}

/// Accepts for ever. There is nothing to do for a drain: in a worker that drains `accept` only waits, and the process ends
/// when the last stream has been dropped.
async fn serve(address: String) -> io::Result<()> {
    // An address that the configuration names gives that listener, whichever worker asks.
    if address.starts_with("unix:") {
        let listener = UnixListener::bind(&address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream));
        }
    }
    let listener = TcpListener::bind(&address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

/// Sends back what comes until the client ends it. An error means that the client broke off, which is its right.
async fn echo(stream: impl AsyncRead + AsyncWrite) -> io::Result<u64> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await
}
