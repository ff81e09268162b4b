//! One connection, from its first byte to its end or its move.
//!
//! ```text
//!                        +-- it says the preface of HTTP/2 --> http2
//! HTTP/1 (or not known) -+-- drain, idle, a successor -------> handed over -- returned --> HTTP/1, leaving
//!                        +-- drain, idle, the moment has come -> half-closed, lingers
//!                        +-- its end, or its last response ---> half-closed, lingers
//! ```
//!
//! *Leaving* is a connection that cannot move: its next response says `Connection: close`, or it is closed at a moment
//! before the soft deadline at which it is idle; half a head is waited for until that deadline. hyper's own graceful shutdown is not used here: it closes connections
//! whose next request is under way, and tells busy ones to close that could move.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until};

use super::head::HeadTimer;
use super::http2;
use super::linger::linger;
use super::phase::{Drain, Phase, changed};
use super::pulse::Pulse;
use super::request::Counted;
use super::transport::{Outcome, Transport};
use super::wire::Wire;

/// How long the head of a request may take, from its first byte.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves a connection to its end, or until it has moved.
pub(super) async fn serve<I: Transport, S: HttpService>(mut io: I, service: S, mut phase: Phase) {
    let (mut unread, mut service, mut moves) = (Bytes::new(), service, I::MOVES);
    let mut drain = *phase.borrow_and_update();
    loop {
        let end = Http1::new(io, unread, service, moves).run(&mut phase, &mut drain).await;
        let idle = match end {
            End::Idle(parts) => parts,
            End::Http2(parts) => return http2::serve(parts, phase, drain).await,
            End::Closed(io) => return linger(io).await,
            End::Gone => return,
        };
        // Idle ones with a successor move, all others have had their time.
        if !(moves && drain.is_some_and(|drain| drain.successor)) {
            idle.io.activity().lingered();
            return linger(idle.io).await;
        }
        match idle.io.hand_over(idle.unread).await {
            Outcome::Gone => return,
            Outcome::Returned(returned, bytes) => (io, unread, service, moves) = (returned, bytes, idle.service, false),
        }
    }
}

/// A hyper service of an application, by its bounds.
pub trait HttpService:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error: Into<BoxError>, Future: Send + 'static>
    + Send
    + 'static
{
    /// The body of its responses.
    type Body: HttpBody;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>
        + Send
        + 'static,
    B: HttpBody,
{
    type Body = B;
}

/// The body of a response, by its bounds.
pub trait HttpBody: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

impl<B> HttpBody for B where B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

/// Any error.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// A connection that was taken out of hyper.
pub(super) struct Parts<I, S> {
    pub(super) io: I,
    /// Read from the connection and not used.
    pub(super) unread: Bytes,
    pub(super) service: S,
}

/// How a connection's time in HTTP/1 ends.
enum End<I, S> {
    /// Between two requests.
    Idle(Parts<I, S>),
    /// The client speaks HTTP/2.
    Http2(Parts<I, S>),
    /// hyper has ended this side.
    Closed(I),
    /// The client has gone, or the application has the connection.
    Gone,
}

/// What a poll of hyper leads to.
enum Turn {
    Idle,
    Http2,
    Ended(hyper::Result<()>),
    /// The head that has begun and is not complete is another one, or there is none any more.
    Head(Option<u64>),
}

type Connection<I, S> = http1::UpgradeableConnection<TokioIo<Wire<I>>, Counted<S>>;

struct Http1<I: Transport, S: HttpService> {
    connection: Connection<I, S>,
    pulse: Arc<Pulse>,
    /// Whether it can move, and nobody has refused to take it over.
    moves: bool,
}

impl<I: Transport, S: HttpService> Http1<I, S> {
    fn new(io: I, unread: Bytes, service: S, moves: bool) -> Self {
        let pulse = Arc::new(Pulse::new(io.activity()));
        let wire = Wire::new(io, unread, Arc::clone(&pulse));
        let connection = http1::Builder::new()
            .timer(HeadTimer::new(Arc::clone(&pulse)))
            .serve_connection(TokioIo::new(wire), Counted::new(service, Arc::clone(&pulse)))
            .with_upgrades();
        Self { connection, pulse, moves }
    }

    async fn run(mut self, phase: &mut Phase, drain: &mut Option<Drain>) -> End<I, S> {
        let (mut head, mut head_time) = (None, None);
        let mut closing = self.leave_by(*drain);
        let mut deadline = drain.map(until);
        loop {
            // A connection that can move does so as soon as it is idle, one that cannot when its moment has come.
            let when_idle = drain.is_some() && closing.as_ref().is_none_or(|closing| closing.is_elapsed());
            // One that is closed early is not closed in the middle of a head, which is waited for until the deadline.
            let spares_head = closing.is_some() && deadline.is_some();
            tokio::select! {
                biased;
                now = changed(phase) => {
                    *drain = Some(now);
                    closing = self.leave_by(*drain);
                    deadline = Some(until(now));
                }
                turn = poll_fn(|cx| self.poll(cx, when_idle, spares_head, head)) => match turn {
                    Turn::Head(present) => {
                        head = present;
                        head_time = head.map(|_| Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT)));
                    }
                    turn => return self.end(turn),
                },
                () = elapsed(&mut closing), if !when_idle => {}
                // A client that sends requests without a pause leaves no moment to move.
                () = elapsed(&mut deadline) => {
                    deadline = None;
                    self.pulse.leave_soon();
                }
                () = elapsed(&mut head_time) => {
                    head_time = None;
                    self.pulse.end_of_head_time();
                }
            }
        }
    }

    /// In a drain in which it cannot move: makes the next response the last, and says when to close an idle connection.
    fn leave_by(&self, drain: Option<Drain>) -> Option<Pin<Box<Sleep>>> {
        let drain = drain.filter(|drain| !(drain.successor && self.moves))?;
        self.pulse.leave();
        Some(Box::pin(sleep_until(drain.moment(Instant::now()))))
    }

    /// Polls hyper until it waits. `when_idle`: the connection shall be taken out between two requests; `spares_head`: but
    /// not while a head is half there. `head`: whose time is counted.
    fn poll(&mut self, cx: &mut Context<'_>, when_idle: bool, spares_head: bool, head: Option<u64>) -> Poll<Turn> {
        // hyper may say only at its next poll that it waits for another head.
        for _ in 0..2 {
            // First, so that a request that is there already is answered.
            if let Poll::Ready(outcome) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(Turn::Ended(outcome));
            }
            if self.pulse.speaks_http2() {
                return Poll::Ready(Turn::Http2);
            }
            if !when_idle || !self.pulse.is_unused() {
                break;
            }
            if self.pulse.is_idle() && !(spares_head && self.pulse.present_head().is_some()) {
                return Poll::Ready(Turn::Idle);
            }
        }
        let present = self.pulse.present_head();
        if present != head { Poll::Ready(Turn::Head(present)) } else { Poll::Pending }
    }

    fn end(self, turn: Turn) -> End<I, S> {
        let ended = match &turn {
            Turn::Ended(Err(error)) => {
                tracing::trace!(%error, "connection ended");
                true
            }
            Turn::Ended(Ok(())) => true,
            _ => false,
        };
        // An upgraded connection is the application's.
        let Some(parts) = self.connection.into_parts() else { return End::Gone };
        let wire = parts.io.into_inner();
        let lingers = wire.is_half_closed();
        let (io, rest) = wire.into_parts();
        let parts = Parts { io, unread: join(parts.read_buf, rest), service: parts.service.into_inner() };
        match turn {
            Turn::Http2 => End::Http2(parts),
            _ if !ended => End::Idle(parts),
            _ if lingers => End::Closed(parts.io),
            _ => End::Gone,
        }
    }
}

fn until(drain: Drain) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(drain.deadline))
}

/// Waits for a moment, if there is one.
pub(super) async fn elapsed(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// What hyper has read, then what it has not.
pub(super) fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => {
            let mut both = BytesMut::from(first);
            both.extend_from_slice(&second);
            both.freeze()
        }
    }
}
