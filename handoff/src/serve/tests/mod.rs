//! Connections over pipes in memory, with paused time: whatever comes after "nothing more happens" is certain.

mod byte_exact;
mod ending;
mod http2;
mod moving;
#[cfg(feature = "rustls")]
mod tls;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::body::Body;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection;
use super::phase::Drain;
use super::transport::{Outcome, Transport};
use crate::worker::Activity;
use crate::worker::link::Link;

/// What the server's side of a pipe holds at most.
const PIPE: usize = 64 * 1024;

/// The server's end of a connection. It moves to whoever listens at the other end of `next`.
struct Pipe {
    io: DuplexStream,
    unread: Bytes,
    next: mpsc::UnboundedSender<(DuplexStream, Bytes)>,
    link: Option<Arc<Link>>,
}

impl Transport for Pipe {
    async fn hand_over(self, unread: Bytes) -> Outcome<Self> {
        assert!(self.unread.is_empty(), "what a connection came with is read before anything else");
        match self.next.send((self.io, unread)) {
            Ok(()) => Outcome::Gone,
            Err(mpsc::error::SendError((io, unread))) => {
                Outcome::Returned(Self { io, unread: Bytes::new(), next: self.next, link: self.link }, unread)
            }
        }
    }

    fn activity(&self) -> Activity {
        Activity::new(self.link.clone())
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// One server, and the queue of what moves away from it.
struct Server {
    phase: watch::Sender<Option<Drain>>,
    moved: mpsc::UnboundedReceiver<(DuplexStream, Bytes)>,
    next: mpsc::UnboundedSender<(DuplexStream, Bytes)>,
    /// To whom its connections are told, if to anybody.
    link: Option<Arc<Link>>,
}

impl Server {
    fn new() -> Self {
        let (next, moved) = mpsc::unbounded_channel();
        Self { phase: watch::Sender::new(None), moved, next, link: None }
    }

    /// A new connection.
    fn connect(&self) -> (DuplexStream, JoinHandle<()>) {
        self.connect_with(PIPE)
    }

    fn connect_with(&self, size: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, io) = tokio::io::duplex(size);
        (client, self.take((io, Bytes::new())))
    }

    /// A connection that has moved here.
    fn take(&self, (io, unread): (DuplexStream, Bytes)) -> JoinHandle<()> {
        let pipe = self.pipe(io, unread);
        let service = hyper::service::service_fn(answer);
        tokio::spawn(connection::serve(pipe, service, self.phase.subscribe()))
    }

    fn pipe(&self, io: DuplexStream, unread: Bytes) -> Pipe {
        Pipe { io, unread, next: self.next.clone(), link: self.link.clone() }
    }

    fn drain(&self, successor: bool, grace: Duration) {
        self.phase.send_replace(Some(Drain { successor, deadline: Instant::now() + grace }));
    }
}

const GRACE: Duration = Duration::from_secs(10);

/// Waits until nothing more happens by itself: with paused time a timer ends when nobody has anything to do.
async fn nothing_more_happens() {
    let _ = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
}

/// The application: what it answers depends on the request alone.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = match path.as_str() {
        "/stream" => stream(4),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Body::from("slow")
        }
        "/big" => Body::from(vec![b'x'; 300 * 1024]),
        "/ignore" => Body::from("ignored"),
        "/panic" => panic!("as asked for"),
        _ if method == Method::POST => match request.into_body().collect().await {
            Ok(body) => Body::from(body.to_bytes()),
            Err(_) => return Ok(status(StatusCode::BAD_REQUEST)),
        },
        _ => Body::from(format!("{method} {path}")),
    };
    Ok(Response::new(body))
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A body of unknown length, a piece each second.
fn stream(pieces: usize) -> Body {
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        for number in 0..pieces {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if sender.send(Frame::data(format!("piece {number};").into())).await.is_err() {
                return;
            }
        }
    });
    Body::new(body)
}

/// What comes until the server ends its side, without what changes with the time.
async fn read_to_end(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    undated(&bytes)
}

/// One response without a body, or with one that ends with `end`.
async fn read_until(client: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        assert_ne!(client.read_buf(&mut bytes).await.unwrap(), 0, "{}", String::from_utf8_lossy(&bytes));
    }
    undated(&bytes)
}

fn undated(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

async fn ask(client: &mut (impl AsyncWrite + Unpin), path: &str) {
    client.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
}
