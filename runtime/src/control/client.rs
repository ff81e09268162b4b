//! Asks a running master over its control socket, and waits for the answer. For the commands: it blocks.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::protocol::Refusal;

/// A connection to a master, good for one request.
#[derive(Debug)]
pub(crate) struct Connection {
    path: PathBuf,
    runtime: Runtime,
    stream: UnixStream,
}

/// What the master said.
#[derive(Debug)]
pub(crate) struct Answer {
    path: PathBuf,
    pub(crate) code: StatusCode,
    pub(crate) body: Bytes,
}

impl Connection {
    /// Connects to the master at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, AskError> {
        let failed = |source| AskError::NoMaster { path: path.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let stream = runtime.block_on(UnixStream::connect(path)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), runtime, stream })
    }

    /// The process that listens at the other end, unless it lives in a pid namespace that we cannot see.
    pub(crate) fn master(&self) -> Option<Pid> {
        self.stream.peer_cred().ok()?.pid().and_then(Pid::from_raw)
    }

    /// Asks, and waits for the answer, at most for `patience` if there is one.
    pub(crate) fn ask(self, method: Method, uri: &str, patience: Option<Duration>) -> Result<Answer, AskError> {
        let Self { path, runtime, stream } = self;
        let asked = runtime.block_on(async {
            let exchange = exchange(stream, method, uri);
            match patience {
                Some(patience) => timeout(patience, exchange).await.unwrap_or(Err(Broken::TooSlow(patience))),
                None => exchange.await,
            }
        });
        match asked {
            Ok((code, body)) => Ok(Answer { path, code, body }),
            Err(source) => Err(AskError::Broken { path, source }),
        }
    }
}

impl Answer {
    /// The answer as `T`, if the master answered with one of these codes; else its refusal.
    pub(crate) fn read<T: DeserializeOwned>(&self, codes: &[StatusCode]) -> Result<T, AskError> {
        if codes.contains(&self.code) {
            return self.parse();
        }
        let Refusal { error: reason } = self.parse()?;
        Err(AskError::Refused { path: self.path.clone(), reason })
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, AskError> {
        serde_json::from_slice(&self.body)
            .map_err(|source| AskError::Broken { path: self.path.clone(), source: Broken::Json(source) })
    }
}

/// More than the status of the largest master.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

async fn exchange(stream: UnixStream, method: Method, uri: &str) -> Result<(StatusCode, Bytes), Broken> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().method(method).uri(uri).header(header::HOST, "everport");
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(Broken::Body)?;
        Ok((code, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the answer's last byte; its own error is the answer's too.
        _ = connection => answer.await,
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// When nobody listens at the socket.
    #[error("no master at the control socket {path:?}: {source}")]
    NoMaster { path: PathBuf, source: io::Error },
    /// When the master answered that it will not.
    #[error("the master at {path:?} refused: {reason}")]
    Refused { path: PathBuf, reason: String },
    /// When the answer did not come, or makes no sense.
    #[error("no answer from the control socket {path:?}: {source}")]
    Broken { path: PathBuf, source: Broken },
}

/// What broke an exchange.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("not within {}", humantime::format_duration(*.0))]
    TooSlow(Duration),
    #[error(transparent)]
    Request(#[from] axum::http::Error),
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    #[error("cannot read it: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("not what a master says: {0}")]
    Json(#[source] serde_json::Error),
}
