//! A chat over WebSockets whose users stay over reloads: connected, with their nick, in their room.
//!
//! ```console
//! $ cargo run --release --example chat
//! $ xdg-open http://127.0.0.1:8000/
//! ```
//!
//! A WebSocket starts as a request to an axum route and is taken out of HTTP. In a drain it moves with the user's state to a
//! worker that goes on. [`whole`] makes it possible to take a WebSocket library apart, [`log`] lets users of different
//! workers and generations speak to each other.

mod log;
mod session;
mod whole;

use std::io;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, Response};
use axum::routing::get;
use clap::Parser;
use everport::net::{Resumed, Tcp, TcpListener};
use everport::serve::downcast;
use everport::{Builder, Worker, serve};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::log::Log;
use crate::session::{Session, User, VERSION};

/// A chat that nobody falls out of.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: String,
    /// How many workers to run [default: one for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
}

/// What all users of a worker have in common.
struct Chat {
    log: Log,
    worker: Worker,
}

fn main() -> everport::Result<()> {
    let arguments = Arguments::parse();
    let mut builder = Builder::new().listen(&arguments.listen);
    if let Some(workers) = arguments.workers {
        builder = builder.workers(workers);
    }
    let ended = builder.run(async |worker| {
        let listener = TcpListener::bind(&arguments.listen).await?;
        let chat = Arc::new(Chat { log: Log::open(&log_of(parent_id()))?, worker });
        tokio::spawn(welcome_back(listener.resumed(VERSION..=VERSION)?, Arc::clone(&chat)));
        serve(listener, app(chat)).await
    });
    // In the master, for no worker is the master of anybody.
    drop(std::fs::remove_file(log_of(process::id())));
    ended
}

/// The log that the workers of this master share.
fn log_of(master: u32) -> PathBuf {
    std::env::temp_dir().join(format!("everport-chat-{master}"))
}

/// Goes on with those who come from other workers.
async fn welcome_back(resumed: Resumed<Tcp>, chat: Arc<Chat>) -> io::Result<()> {
    loop {
        let (stream, state) = resumed.accept().await?;
        if let Some(session) = Session::resume(stream, &state).await {
            tokio::spawn(session.run(Arc::clone(&chat)));
        }
    }
}

fn app(chat: Arc<Chat>) -> Router {
    Router::new().route("/", get(async || Html(include_str!("page.html")))).route("/chat", get(join)).with_state(chat)
}

#[derive(Deserialize)]
struct Join {
    room: String,
    nick: String,
}

/// Answers the handshake of a WebSocket (RFC 6455, section 4.2), and speaks with the user when it has been sent.
async fn join(
    State(chat): State<Arc<Chat>>,
    Query(Join { room, nick }): Query<Join>,
    request: Request,
) -> Result<Response, (StatusCode, &'static str)> {
    if ![&room, &nick].into_iter().all(|name| is_name(name)) {
        return Err((StatusCode::BAD_REQUEST, "a name has 1 to 32 letters, digits and hyphens\n"));
    }
    let key = websocket_key(request.headers()).ok_or((StatusCode::UPGRADE_REQUIRED, "this is for WebSockets\n"))?;
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key))
        .body(Body::empty())
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "the answer is no answer\n"))?;
    tokio::spawn(async move {
        // It fails when the client has gone meanwhile.
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let Ok((stream, unread)) = downcast::<Tcp>(upgraded) else { return };
        if let Ok(place) = chat.log.end() {
            Session::new(stream, unread, User { room, nick, place }).await.welcome(chat).await;
        }
    });
    Ok(answer)
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn websocket_key(headers: &HeaderMap) -> Option<&[u8]> {
    let is = |name, value: &str| {
        headers.get(name).is_some_and(|header| header.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
    };
    let wanted = is(UPGRADE, "websocket") && is(SEC_WEBSOCKET_VERSION, "13");
    headers.get(SEC_WEBSOCKET_KEY).filter(|_| wanted).map(|key| key.as_bytes())
}
