//! Plain tokio at several processes, with one shared listener or a socket for each.

use std::convert::Infallible;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use super::{Kind, Settings, answer, listen, runtime, spawn};
use crate::error::{Error, Result};
use crate::protocol;

/// Starts the workers and does nothing more, until it is killed.
pub(super) fn master(settings: &Settings) -> Result<()> {
    let shared = (settings.kind != Kind::TokioOwn).then(|| listen(settings.listen, false)).transpose()?;
    for _ in 0..settings.workers {
        let given = match &shared {
            Some(listener) => OwnedFd::from(listener.try_clone().map_err(Error::io("copy", "the listener"))?).into(),
            None => Stdio::null(),
        };
        spawn(settings, given)?;
    }
    drop(shared);
    loop {
        std::thread::park();
    }
}

/// Accepts and serves.
pub(super) fn worker(listener: TcpListener) -> Result<()> {
    let text = protocol::answer();
    let served: Result<Infallible> = runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::io("watch", "the listener"))?;
        loop {
            let (stream, _) = listener.accept().await.map_err(Error::io("accept on", "the listener"))?;
            tokio::spawn(answer(stream, text));
        }
    });
    served.map(|never| match never {})
}
