//! A UDP echo server. Every worker receives from the same socket, which stays open over reloads: what arrives between two
//! generations waits in the kernel.
//!
//! ```console
//! $ cargo run --release --example udp -- --listen 127.0.0.1:7000
//! $ nc -u 127.0.0.1 7000
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use everport::net::UdpSocket;
use everport::{Builder, Worker};

/// Sends back every datagram, and reloads without losing one.
#[derive(Parser)]
struct Arguments {
    /// Where to receive
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// How many workers to run [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How long to think about each answer
    #[arg(long, value_name = "MS", default_value = "0")]
    delay_ms: u64,
}

fn main() -> everport::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Builder::new();
    if let Some(workers) = arguments.workers {
        builder = builder.workers(workers);
    }
    let delay = Duration::from_millis(arguments.delay_ms);
    builder.run(async |worker| serve(worker, arguments.listen, delay).await)
}

/// Answers for ever. In a worker that drains `recv_from` only waits, and the process ends when the last guard has gone.
async fn serve(worker: Worker, address: SocketAddr, delay: Duration) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::bind(address).await?);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await?;
        let datagram = buffer[..length].to_owned();
        // A datagram is no connection: the guard is what keeps the worker alive until the answer is out.
        let (guard, socket) = (worker.guard(), Arc::clone(&socket));
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // A client that has gone gets no answer, and nobody is told: this is UDP.
            let _ = socket.send_to(&datagram, client).await;
            drop(guard);
        });
    }
}
