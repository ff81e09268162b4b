//! Connections that come with the state of an application.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::task::coop;

use super::kind::Kind;
use super::listener::{Taken, take_offer};
use super::stream::Stream;
use super::unread::Unread;
use crate::handover::State;
use crate::worker::link::Link;
use crate::worker::port::Inbox;

/// The connections of a listener that come with a state, made by [`Listener::resumed`](super::Listener::resumed).
///
/// Dropping it refuses what waits here and what comes; it goes to another worker, or stays where it is. It ends with its
/// listener: when that is dropped, it waits for ever.
pub struct Resumed<K> {
    source: Option<Source>,
    kind: PhantomData<fn() -> K>,
}

/// Where the connections come from.
struct Source {
    link: Arc<Link>,
    inbox: Arc<Inbox>,
}

impl<K: Kind> Resumed<K> {
    /// One that nothing comes to, for there is no master.
    pub(super) fn never() -> Self {
        Self { source: None, kind: PhantomData }
    }

    pub(super) fn new(link: Arc<Link>, inbox: Arc<Inbox>) -> Self {
        Self { source: Some(Source { link, inbox }), kind: PhantomData }
    }

    /// Takes the next connection that another worker has handed over with a state. It waits while the worker is not
    /// active, for ever once it drains, and for ever without a master.
    ///
    /// Cancelling it loses no connection. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// When this process has no room for another socket. The connection goes to another worker then.
    pub async fn accept(&self) -> io::Result<(Stream<K>, State)> {
        let Some(Source { link, inbox }) = &self.source else {
            return std::future::pending().await;
        };
        loop {
            coop::consume_budget().await;
            link.drive()?;
            let woken = inbox.waiters.woken();
            if let Some(taken) = take_offer::<K, _>(link, || inbox.pop_resumed()) {
                let Taken { io, peer, tie, load } = taken?;
                // It is no new client, whose first bytes a drain would wait for.
                tie.was_read();
                return Ok((Stream::new(io, Some(peer), Some(tie), Unread::default()), load));
            }
            woken.await;
        }
    }
}

impl<K> Drop for Resumed<K> {
    fn drop(&mut self) {
        if let Some(Source { link, inbox }) = &self.source {
            link.give_back(inbox.stop_resuming());
            link.settle();
        }
    }
}

impl<K> fmt::Debug for Resumed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumed").field("inbox", &self.source.as_ref().map(|source| &source.inbox)).finish()
    }
}
