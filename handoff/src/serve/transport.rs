//! What a connection must be able to do besides reading and writing: to move to another worker.

use std::future::Future;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::handover::{HandoverError, Load};
use crate::net::{Kind, Stream};
use crate::worker::Activity;

/// A connection's IO.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Whether it can move at all.
    const MOVES: bool = true;

    /// Gives the connection to another worker, which reads these bytes first.
    fn hand_over(self, unread: Bytes) -> impl Future<Output = Outcome<Self>> + Send;

    /// Its place in what the worker tells its master, if it counts there.
    fn activity(&self) -> Activity {
        Activity::new(None)
    }
}

/// What became of a handover.
#[derive(Debug)]
pub(super) enum Outcome<I> {
    /// The connection is no more in this process.
    Gone,
    /// Nobody could take it.
    Returned(I, Bytes),
}

impl<K: Kind> Transport for Stream<K> {
    async fn hand_over(self, unread: Bytes) -> Outcome<Self> {
        match self.handover(Load::Unread(unread)).await {
            Ok(()) | Err(HandoverError::Lost) => Outcome::Gone,
            Err(HandoverError::Returned { stream, load, reason }) => {
                tracing::debug!(%reason, "connection returned");
                let Load::Unread(unread) = load else { unreachable!("it comes back as it was given") };
                Outcome::Returned(stream, unread)
            }
        }
    }

    fn activity(&self) -> Activity {
        Activity::new(self.link().cloned())
    }
}
