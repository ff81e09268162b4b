//! An axum server that never closes its port, nor the connections that its clients keep open.
//!
//! ```console
//! $ cargo run --release --example web
//! $ cargo run --release --example web -- --listen 127.0.0.1:9000 --workers 4
//! ```
//!
//! `/` says who answers, `/you` who asks, `/slow?ms=2000` takes its time, `POST /upload` counts the bytes,
//! `/stream?chunks=5&ms=100` answers piece by piece. `/block?ms=1000`, `/exit?code=3` and `/abort` do what a server should
//! not, to see what becomes of it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::process::parent_id;
use std::process;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use clap::Parser;
use everport::net::TcpListener;
use everport::{Builder, Worker, serve};
use http_body_util::channel::Channel;
use serde::Deserialize;

/// A web server that reloads without losing a connection.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: String,
    /// How many workers to run [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How many threads the runtime of each worker has
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroUsize,
}

fn main() -> everport::Result<()> {
    // This runs in the master and in every worker.
    let arguments = Arguments::parse();
    let mut builder = Builder::new().threads(arguments.threads.get()).listen(&arguments.listen);
    if let Some(workers) = arguments.workers {
        builder = builder.workers(workers);
    }
    // And this runs in the workers only.
    builder.run(async |worker| {
        let listener = TcpListener::bind(&arguments.listen).await?;
        let me = Identity::of(&worker);
        if me.worker == 1 {
            say_what_to_do(listener.local_addr()?)?;
        }
        // As `axum::serve`, but that idle connections move to the next worker when this one drains.
        serve(listener, app(me).into_make_service_with_connect_info::<SocketAddr>()).await
    })
}

/// The first of all workers says it, once the port is bound, so that it is said once and is true.
fn say_what_to_do(address: SocketAddr) -> io::Result<()> {
    let master = parent_id();
    writeln!(
        io::stdout(),
        "listening on {address}, master is process {master}\n\
         \x20 ask:     curl -i http://{address}/\n\
         \x20 reload:  kill -HUP {master}\n\
         \x20 stop:    kill {master}   (or Ctrl-C)"
    )
}

fn app(me: Identity) -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/you", get(you))
        .route("/slow", get(slow))
        .route("/upload", post(upload))
        .route("/stream", get(stream))
        .route("/block", get(block))
        .route("/exit", get(exit))
        .route("/abort", get(abort))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(me, sign))
        .with_state(me)
}

async fn hello(State(me): State<Identity>) -> String {
    format!("hello from worker {} in slot {}, generation {}, process {}\n", me.worker, me.slot, me.generation, me.pid)
}

/// The same after any number of moves.
async fn you(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    format!("you are {client}\n")
}

/// A drain waits for requests like this one.
async fn slow(Query(Milliseconds { ms }): Query<Milliseconds>) -> String {
    tokio::time::sleep(Duration::from_millis(ms.unwrap_or(2000))).await;
    "slow, but done\n".to_owned()
}

async fn upload(body: Bytes) -> String {
    format!("{} bytes\n", body.len())
}

async fn stream(Query(Chunks { chunks, ms }): Query<Chunks>) -> Body {
    let (chunks, pause) = (chunks.unwrap_or(5), Duration::from_millis(ms.unwrap_or(100)));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        for number in 1..=chunks {
            let piece = format!("piece {number} of {chunks}\n");
            if sender.send_data(piece.into()).await.is_err() {
                return; // The client has gone.
            }
            tokio::time::sleep(pause).await;
        }
    });
    Body::new(body)
}

/// Blocks the thread that the worker's runtime has, as a computation without an `await` does: the worker accepts nothing
/// and answers nobody meanwhile. What it was offered but has not taken goes to another worker.
async fn block(Query(Milliseconds { ms }): Query<Milliseconds>) -> String {
    #[expect(clippy::disallowed_methods, reason = "to block is the point here")]
    std::thread::sleep(Duration::from_millis(ms.unwrap_or(1000)));
    "blocked, and back\n".to_owned()
}

/// The master starts another worker in this slot.
async fn exit(Query(ExitCode { code }): Query<ExitCode>) -> String {
    #[expect(clippy::exit, clippy::disallowed_methods, reason = "to crash is the point here")]
    process::exit(code.unwrap_or(3))
}

async fn abort() -> String {
    process::abort()
}

#[derive(Deserialize)]
struct Milliseconds {
    ms: Option<u64>,
}

#[derive(Deserialize)]
struct Chunks {
    chunks: Option<u32>,
    ms: Option<u64>,
}

#[derive(Deserialize)]
struct ExitCode {
    code: Option<i32>,
}

/// Who answers: zeros when there is no master.
#[derive(Clone, Copy)]
struct Identity {
    worker: u64,
    slot: u32,
    generation: u64,
    pid: u32,
}

impl Identity {
    fn of(worker: &Worker) -> Self {
        Self {
            worker: worker.id().map_or(0, |id| id.0),
            slot: worker.slot().map_or(0, |slot| slot.0),
            generation: worker.generation().map_or(0, |generation| generation.0),
            pid: process::id(),
        }
    }
}

/// Puts the identity into the headers of every response.
async fn sign(State(me): State<Identity>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let signature = [
        ("x-worker", me.worker),
        ("x-slot", me.slot.into()),
        ("x-generation", me.generation),
        ("x-pid", me.pid.into()),
    ];
    for (name, value) in signature {
        response.headers_mut().insert(name, HeaderValue::from(value));
    }
    response
}
