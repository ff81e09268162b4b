//! The control socket as a client of HTTP/1.1 sees it, and the status in handy form.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::clock::PATIENCE;
use super::http;

/// One request to a control socket: the status code and the JSON.
pub(crate) fn ask(socket: &Path, method: &str, path: &str) -> io::Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket)?;
    // A reload takes as long as its workers need to start.
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: master\r\nconnection: close\r\n\r\n")?;
    let answer = http::read_answer(&mut BufReader::new(stream))
        .map_err(|failure| io::Error::other(format!("{method} {path}: {failure:?}")))?;
    let json = serde_json::from_slice(&answer.body).map_err(io::Error::other)?;
    Ok((answer.status, json))
}

/// Sends bytes as they are and returns whatever comes back until the end.
pub(crate) fn say(socket: &Path, bytes: &[u8]) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The answer to `GET /status`.
#[derive(Clone, Debug)]
pub(crate) struct Status(pub(crate) Value);

/// One worker in a [`Status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerLine {
    pub(crate) generation: u64,
    pub(crate) worker: u64,
    pub(crate) slot: u64,
    pub(crate) pid: Option<u32>,
    pub(crate) state: String,
    pub(crate) restarts: u64,
    pub(crate) active: u64,
    pub(crate) offered: u64,
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    pub(crate) revoked: u64,
    pub(crate) given: u64,
    pub(crate) received: u64,
}

impl Status {
    /// `starting`, `running`, `reloading` or `stopping`.
    pub(crate) fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or_default()
    }

    /// Every worker, the oldest generation first, by slot.
    pub(crate) fn workers(&self) -> Vec<WorkerLine> {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let generations = self.0["generations"].as_array().into_iter().flatten();
        let workers = generations.flat_map(|generation| {
            let workers = generation["workers"].as_array().into_iter().flatten();
            workers.map(move |worker| (number(&generation["generation"]), worker))
        });
        let lines = workers.map(|(generation, worker)| WorkerLine {
            generation,
            worker: number(&worker["worker"]),
            slot: number(&worker["slot"]),
            pid: worker["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
            state: worker["state"].as_str().unwrap_or_default().to_owned(),
            restarts: number(&worker["restarts"]),
            active: number(&worker["active"]),
            offered: number(&worker["offered"]),
            taken: number(&worker["taken"]),
            refused: number(&worker["refused"]),
            revoked: number(&worker["revoked"]),
            given: number(&worker["given"]),
            received: number(&worker["received"]),
        });
        lines.collect()
    }

    /// The workers that take connections.
    pub(crate) fn active(&self) -> Vec<WorkerLine> {
        self.workers().into_iter().filter(|worker| worker.state == "active").collect()
    }

    /// The number and the state of every generation.
    pub(crate) fn generations(&self) -> Vec<(u64, String)> {
        let generations = self.0["generations"].as_array().into_iter().flatten();
        let pair = |generation: &Value| {
            let state = generation["state"].as_str().unwrap_or_default();
            (generation["generation"].as_u64().unwrap_or_default(), state.to_owned())
        };
        generations.map(pair).collect()
    }

    /// The addresses of all listeners.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let listeners = self.0["listeners"].as_array().into_iter().flatten();
        listeners.filter_map(|listener| Some(listener["address"].as_str()?.to_owned())).collect()
    }
}
