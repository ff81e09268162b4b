//! What a server is about: it serves, or it drains. And how one connection drains.

use std::collections::hash_map::RandomState;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use crate::worker::link::Link;
use crate::worker::state::Step;

/// How long idle connections live when the application itself ends a server that has no master, or whose master did not
/// ask for it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How long HTTP/2 connections may be told to go away one after another, instead of all at once.
pub(super) const GOAWAY_SPREAD: Duration = Duration::from_millis(500);

/// A drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Whether another worker may take connections over.
    pub(super) successor: bool,
    /// The soft deadline: idle connections are closed before.
    pub(super) deadline: Instant,
}

/// What each connection sees of its server: the drain, once it has begun. The server is done when all have let go of it.
pub(super) type Phase = watch::Receiver<Option<Drain>>;

/// As [`next_drain`], for a connection that is woken at each of its requests: watching costs it one look at a number, but for
/// the first time.
pub(super) async fn changed(phase: &mut Phase) -> Drain {
    let (look, mut woken) = (phase.clone(), None::<Waker>);
    // Whenever it is polled it must come so far as to be woken, whatever the task has used of its budget.
    let mut next = pin!(unconstrained(next_drain(phase)));
    poll_fn(|cx| {
        let will_be_woken = woken.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if will_be_woken && matches!(look.has_changed(), Ok(false)) {
            return Poll::Pending;
        }
        woken = Some(cx.waker().clone());
        next.as_mut().poll(cx)
    })
    .await
}

/// Waits until a drain begins, or is another one.
async fn next_drain(phase: &mut Phase) -> Drain {
    while phase.changed().await.is_ok() {
        if let Some(drain) = *phase.borrow_and_update() {
            return drain;
        }
    }
    // The server's future was dropped: what was begun goes on, as with other servers.
    std::future::pending().await
}

impl Drain {
    /// The moment at which one idle connection is closed: a random one in the last half of the time, so that the clients do
    /// not all come back at once.
    pub(super) fn moment(self, now: Instant) -> Instant {
        self.deadline - random_part(self.deadline.saturating_duration_since(now) / 2)
    }
}

/// A random part of a time.
pub(super) fn random_part(whole: Duration) -> Duration {
    // Each of them has keys of its own; what is hashed does not matter.
    let random = RandomState::new().build_hasher().finish() as u32;
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Waits until the worker of a listener begins to drain. Never without a worker.
pub(super) async fn begun(link: Option<Arc<Link>>) -> Drain {
    if let Some(link) = link {
        // The sender lives as long as the link.
        if link.state.subscribe().wait_for(|state| state.step().is_some()).await.is_ok() {
            return Drain { successor: link.has_successor(), deadline: Instant::now() + link.grace() };
        }
    }
    std::future::pending().await
}

/// Waits until nothing more can come to the listener of a worker that drains.
pub(super) async fn nothing_more_comes(link: Option<Arc<Link>>) {
    if let Some(link) = link {
        // As above.
        let mut state = link.watch_drain();
        if state.wait_for(|state| state.step() >= Some(Step::Announced)).await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Wake};

    use tokio::task::coop::poll_proceed;

    use super::*;

    /// Whether it was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), woken.into())
    }

    fn drain() -> Drain {
        Drain { successor: true, deadline: Instant::now() }
    }

    #[tokio::test]
    async fn a_drain_reaches_whoever_asked_last() {
        let (server, mut phase) = watch::channel(None);
        let mut changed = pin!(changed(&mut phase));
        let wakers = [waker(), waker()];
        for (_, waker) in &wakers {
            assert!(changed.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        let begun = drain();
        server.send_replace(Some(begun));
        assert!(wakers[1].0.0.load(Ordering::Relaxed));
        assert_eq!(changed.await, begun);
    }

    #[tokio::test]
    async fn a_drain_reaches_whoever_had_used_up_its_budget() {
        let (server, mut phase) = watch::channel(None);
        let mut changed = pin!(changed(&mut phase));
        let (woken, waker) = waker();
        poll_fn(|_| {
            let mut cx = Context::from_waker(&waker);
            while let Poll::Ready(turn) = poll_proceed(&mut cx) {
                turn.made_progress();
            }
            woken.0.store(false, Ordering::Relaxed);
            assert!(changed.as_mut().poll(&mut cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(!woken.0.load(Ordering::Relaxed), "it need not come again for that");
        server.send_replace(Some(drain()));
        assert!(woken.0.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_server_that_was_dropped_says_nothing_more() {
        let (server, mut phase) = watch::channel(None);
        let mut changed = pin!(changed(&mut phase));
        let (woken, waker) = waker();
        for server in [None, Some(server)] {
            assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop(server);
        }
        assert!(woken.0.swap(false, Ordering::Relaxed));
        assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(!woken.0.load(Ordering::Relaxed), "nor is there anything to look at");
    }
}
