//! HTTP/1.1 over a unix socket for the master's own user and root, on a thread of its own.
//!
//! Invariant: a client can use up only its own patience. The number of connections has a limit, each has a deadline for one
//! request and its answer, and only those who wait for the outcome of a reload, a limited number too, may take longer.
//! Further clients wait in `connect`. See [`Limits`].

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use everport_handoff::socket::Bound;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::orders;
use super::protocol::{Refusal, ReloadOutcome};
use super::request::{Asker, Client, Request, Requests, Unanswered, queue};
use super::socket;
use crate::error::{Error, Result};

/// The control socket and its thread. Both end when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Dropped to tell the thread to end.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The thread has a copy of its socket.
    _bound: Bound,
}

impl Server {
    /// Serves the control socket at `path`. Requests come out of the second value.
    pub(crate) fn start(path: &Path) -> Result<(Self, Requests)> {
        Self::with_limits(path, LIMITS)
    }

    pub(super) fn with_limits(path: &Path, limits: Limits) -> Result<(Self, Requests)> {
        let error = |operation| Error::io(operation, &format_args!("the control socket {path:?}"));
        let bound = socket::bind(path)?;
        let listener = bound.as_fd().try_clone_to_owned().map_err(error("copy"))?;
        let (asker, requests) = queue(limits.connections).map_err(error("make an eventfd for"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(error("make a runtime for"))?;
        let listener = {
            let _context = runtime.enter();
            UnixListener::from_std(listener.into()).map_err(error("register"))?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("everport-control".to_owned())
            .spawn(move || runtime.block_on(serve(listener, asker, limits, stopped)))
            .map_err(error("start the thread of"))?;
        Ok((Self { stop: Some(stop), thread: Some(thread), _bound: bound }, requests))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("control thread panicked");
        }
    }
}

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many connections are served at a time.
    pub(super) connections: usize,
    /// How many of them may wait for a reload, so that there is always room to ask for the status.
    pub(super) waiting: usize,
    /// How long a connection may last, apart from the time that a reload takes.
    pub(super) deadline: Duration,
    /// How long the loop may take to answer anything but a reload.
    pub(super) answer: Duration,
}

/// Plenty for operators and their scripts, and next to nothing for the master.
const LIMITS: Limits =
    Limits { connections: 32, waiting: 16, deadline: Duration::from_secs(10), answer: Duration::from_secs(5) };

/// How long answers under way may still take when the master ends.
const FINISH_DEADLINE: Duration = Duration::from_millis(500);

/// How long to leave clients in the backlog when accepting fails: descriptors are short, and a retry at once would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The longest head of a request; ours have a line and a few headers.
const MAX_HEAD: usize = 16 * 1024;

async fn serve(listener: UnixListener, asker: Asker, limits: Limits, mut stopped: oneshot::Receiver<()>) {
    let waiting = Arc::new(Semaphore::new(limits.waiting));
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    if let Some(client) = identify(&stream) {
                        let (asker, waiting) = (asker.clone(), Arc::clone(&waiting));
                        let clock = Clock::start(limits.deadline);
                        connections.spawn(converse(stream, Caller { asker, waiting, limits, client, clock }));
                    }
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "control connection not accepted");
                    }
                    failing = true;
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    drop(listener);
    let finished = timeout(FINISH_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        debug!("control connections cut");
    }
}

/// Who is at the other end, if it is somebody who may ask: the master's own user, or root.
///
/// The mode of the socket says the same, but a mode can be changed.
fn identify(stream: &UnixStream) -> Option<Client> {
    let peer = stream.peer_cred().ok()?;
    let (uid, pid) = (peer.uid(), peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0));
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Some(Client { pid, uid });
    }
    warn!(pid, uid, "control client refused");
    None
}

/// One connection: one request and its answer.
async fn converse(stream: UnixStream, caller: Caller) {
    let clock = caller.clock.clone();
    let service = TowerToHyperService::new(router(caller));
    let connection =
        http1::Builder::new().keep_alive(false).max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(%error, "control connection failed");
        },
        () = clock.run_out() => debug!("control connection too slow"),
    }
}

/// What the handlers know of their client.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) asker: Asker,
    waiting: Arc<Semaphore>,
    pub(super) limits: Limits,
    pub(super) client: Client,
    clock: Clock,
}

/// What can be asked for.
const PATHS: &str =
    "GET /status, POST /reload, /rollback, /reopen, /stop, /scale, /pause, /resume, /kill, /policy or /weight";

fn router(caller: Caller) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/reopen", post(reopen))
        .route("/rollback", post(rollback))
        .route("/stop", post(stop))
        .route("/scale", post(orders::scale))
        .route("/pause", post(orders::pause))
        .route("/resume", post(orders::resume))
        .route("/kill", post(orders::kill))
        .route("/policy", post(orders::policy))
        .route("/weight", post(orders::weight))
        .fallback(async || refuse(StatusCode::NOT_FOUND, format_args!("no such path: want {PATHS}")))
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, format_args!("no such method here: want {PATHS}"))
        })
        .with_state(caller)
}

async fn status(State(caller): State<Caller>) -> Response {
    let asked = caller.asker.ask(|answer| Request::Status { answer });
    respond(soon(asked, caller.limits.answer).await, |_| StatusCode::OK)
}

#[derive(Deserialize)]
struct ReloadQuery {
    #[serde(default = "waits")]
    wait: bool,
}

fn waits() -> bool {
    true
}

async fn reload(State(caller): State<Caller>, query: Result<Query<ReloadQuery>, QueryRejection>) -> Response {
    let Ok(Query(ReloadQuery { wait })) = query else {
        return refuse(StatusCode::BAD_REQUEST, "want /reload, /reload?wait=true or /reload?wait=false");
    };
    if !wait {
        let asked = caller.asker.ask(|answer| Request::BeginReload { client: caller.client, answer });
        return respond(soon(asked, caller.limits.answer).await, |_| StatusCode::ACCEPTED);
    }
    let Ok(_place) = caller.waiting.try_acquire() else {
        return respond(Err::<(), _>(Unanswered::TooManyWaiting), |()| StatusCode::OK);
    };
    let _stopped = caller.clock.stop();
    let record = caller.asker.ask(|answer| Request::Reload { client: caller.client, answer }).await;
    respond(record, |record| match record.outcome {
        ReloadOutcome::Committed => StatusCode::OK,
        ReloadOutcome::RolledBack => StatusCode::CONFLICT,
    })
}

async fn reopen(State(caller): State<Caller>) -> Response {
    let asked = caller.asker.ask(|answer| Request::Reopen { client: caller.client, answer });
    respond(soon(asked, caller.limits.answer).await, |reopened| match reopened.failures[..] {
        [] => StatusCode::OK,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

async fn rollback(State(caller): State<Caller>) -> Response {
    let asked = caller.asker.ask(|answer| Request::Rollback { client: caller.client, answer });
    match soon(asked, caller.limits.answer).await {
        Ok(None) => refuse(StatusCode::CONFLICT, "no reload is under way, so there is nothing to roll back"),
        answer => respond(answer, |_| StatusCode::OK),
    }
}

#[derive(Deserialize)]
struct StopQuery {
    #[serde(default)]
    now: bool,
}

async fn stop(State(caller): State<Caller>, query: Result<Query<StopQuery>, QueryRejection>) -> Response {
    let Ok(Query(StopQuery { now })) = query else {
        return refuse(StatusCode::BAD_REQUEST, "want /stop, /stop?now=true or /stop?now=false");
    };
    let asked = caller.asker.ask(|answer| Request::Stop { client: caller.client, at_once: now, answer });
    respond(soon(asked, caller.limits.answer).await, |_| StatusCode::ACCEPTED)
}

pub(super) async fn soon<T>(
    asked: impl Future<Output = Result<T, Unanswered>>,
    limit: Duration,
) -> Result<T, Unanswered> {
    timeout(limit, asked).await.unwrap_or(Err(Unanswered::TooSlow))
}

pub(super) fn respond<T: Serialize>(answer: Result<T, Unanswered>, code: impl FnOnce(&T) -> StatusCode) -> Response {
    match answer {
        Ok(answer) => (code(&answer), Json(answer)).into_response(),
        Err(unanswered) => refuse(StatusCode::SERVICE_UNAVAILABLE, unanswered),
    }
}

pub(super) fn refuse(code: StatusCode, reason: impl ToString) -> Response {
    (code, Json(Refusal { error: reason.to_string() })).into_response()
}

/// A connection's clock. It stands still while the client waits for the outcome of a reload.
#[derive(Clone)]
struct Clock {
    runs: Arc<watch::Sender<bool>>,
    limit: Duration,
}

impl Clock {
    fn start(limit: Duration) -> Self {
        Self { runs: Arc::new(watch::Sender::new(true)), limit }
    }

    fn stop(&self) -> StoppedClock<'_> {
        self.runs.send_replace(false);
        StoppedClock(self)
    }

    /// Resolves once the clock has run to its limit without a stop.
    async fn run_out(self) {
        let mut runs = self.runs.subscribe();
        // `self` holds the sender, so waiting for it cannot fail.
        while runs.wait_for(|&runs| runs).await.is_ok() {
            if timeout(self.limit, runs.wait_for(|&runs| !runs)).await.is_err() {
                return;
            }
        }
    }
}

/// Starts its clock again, from zero, when it is dropped.
struct StoppedClock<'a>(&'a Clock);

impl Drop for StoppedClock<'_> {
    fn drop(&mut self) {
        self.0.runs.send_replace(true);
    }
}
