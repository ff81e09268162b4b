//! A worker that may have only so many connections: the others get those beyond, and when there are no others, clients wait.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::line::{connect, gives, joins, shared};
use super::*;
use crate::net::TcpStream;

/// A worker that is active, waits at a shared listener, 1, in this way, and may have so many connections.
async fn limited(shared: &StdListener, how: Sharing, most: u64) -> (Master, Arc<Link>, Arc<TcpListener>) {
    let (mut master, link) = Master::welcomed().await;
    master.say(&ToWorker::Limit { connections: most }, &[]);
    let (listener, _) = tokio::join!(bind(&link, "127.0.0.1:0"), master.answer_as(1, Some((how, shared.as_fd()))));
    assert!(pends(listener.accept()));
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.say(&ToWorker::Activate, &[]);
    master.sync().await;
    (master, link, Arc::new(listener))
}

const WAYS: [Sharing; 2] = [Sharing::Together, Sharing::InLine];

#[tokio::test]
async fn a_full_worker_leaves_the_listener_to_others_until_a_connection_ends() {
    for how in WAYS {
        let shared = shared();
        let (master, _link, listener) = limited(&shared, how, 2).await;
        let _clients = [connect(&shared), connect(&shared)];
        let (first, _) = listener.accept().await.unwrap();
        let _second = listener.accept().await.unwrap();
        let mut accept = Box::pin(listener.accept());
        assert!(still_pends(&mut accept));
        let waiting = connect(&shared);
        let mut poll = Box::pin(std::future::poll_fn(|cx| listener.poll_accept(cx)));
        assert!(still_pends(&mut accept) && still_pends(&mut poll), "{how:?}");
        assert_eq!((master.board.figures().active, master.heard()), (2, None), "{how:?}");
        drop(first);
        let (third, peer) = accept.await.unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        let waiting = connect(&shared);
        assert!(still_pends(&mut poll), "{how:?}");
        drop(third);
        let (_fourth, peer) = poll.await.unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        assert_eq!(master.board.figures().active, 2);
    }
}

#[tokio::test]
async fn the_end_of_a_connection_wakes_whoever_waits() {
    for how in WAYS {
        let shared = shared();
        let (_master, _link, listener) = limited(&shared, how, 1).await;
        let _client = connect(&shared);
        let (only, _) = listener.accept().await.unwrap();
        let waiting = connect(&shared);
        let accepting = tokio::spawn(async move { listener.accept().await.unwrap().1 });
        tokio::task::yield_now().await;
        assert!(!accepting.is_finished());
        drop(only);
        assert_eq!(accepting.await.unwrap(), waiting.local_addr().unwrap());
    }
}

#[tokio::test]
async fn whoever_waits_at_a_full_worker_is_not_woken_until_a_connection_ends() {
    for how in WAYS {
        let shared = shared();
        let (_master, _link, listener) = limited(&shared, how, 1).await;
        let _clients = [connect(&shared), connect(&shared)];
        let (only, _) = listener.accept().await.unwrap();
        let wakes = Arc::new(Wakes::default());
        let mut accept = Box::pin(listener.accept());
        let mut poll = || accept.as_mut().poll(&mut Context::from_waker(&Arc::clone(&wakes).into())).is_pending();
        assert!(poll());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "{how:?}");
        drop(only);
        assert!(!poll());
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tasks on many threads look at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_get_the_last_place() {
    for how in WAYS {
        let shared = shared();
        let (master, _link, listener) = limited(&shared, how, 3).await;
        let _clients: Vec<_> = (0..40).map(|_| connect(&shared)).collect();
        let (accepted, mut streams) = tokio::sync::mpsc::channel(1);
        for _ in 0..8 {
            let (listener, accepted) = (Arc::clone(&listener), accepted.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = accepted.send(stream).await;
                }
            });
        }
        for _ in 0..40 {
            let stream = streams.recv().await.unwrap();
            assert!(master.board.figures().active <= 3, "{how:?}");
            drop(stream);
        }
    }
}

#[tokio::test]
async fn a_full_worker_is_not_in_line() {
    let shared = shared();
    let (_master, _link, full) = limited(&shared, Sharing::InLine, 1).await;
    let (other_master, _other_link, other) = joins(&shared).await;
    assert!(pends(full.accept()));
    let _client = connect(&shared);
    let (stream, _) = full.accept().await.unwrap();
    assert!(pends(full.accept()) && pends(other.accept()));
    for _ in 0..3 {
        let client = connect(&shared);
        assert_eq!(other.accept().await.unwrap().1, client.local_addr().unwrap());
        assert!(pends(full.accept()) && pends(other.accept()));
    }
    assert_eq!(other_master.board.figures().taken, 3);
    drop(stream);
    assert!(pends(full.accept()), "lines up again, behind the other");
    for listener in [&other, &*full] {
        let client = connect(&shared);
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
    }
}

/// What it is full of came from elsewhere: by then it may have been called.
#[tokio::test]
async fn a_worker_that_fills_up_while_it_is_in_line_leaves_and_passes_on_what_it_was_called_for() {
    let shared = shared();
    let (mut master, _link, listener) = limited(&shared, Sharing::InLine, 1).await;
    assert!(pends(listener.accept()), "it waits in line");
    let moved = Connection::new();
    let id = master.offer(1, &moved);
    let (_stream, peer) = listener.accept().await.unwrap();
    assert_eq!((peer, master.board.read(id)), (moved.client.local_addr().unwrap(), Reading::Taken));
    let client = connect(&shared);
    assert!(pends(listener.accept()));
    let handover = gives(&master, &client).await;
    // Somebody has room after all.
    master.end(handover.id, HandoverOutcome::Moved, &[]);
    master.sync().await;
    assert_eq!(master.board.figures().active, 1);
    let _next = connect(&shared);
    assert!(pends(listener.accept()));
    master.sync().await;
    assert_eq!(master.heard(), None, "nobody calls it any more");
}

#[tokio::test]
async fn what_comes_back_to_a_full_worker_waits_until_there_is_room() {
    let shared = shared();
    let (mut master, _link, listener) = limited(&shared, Sharing::InLine, 1).await;
    assert!(pends(listener.accept()));
    let moved = Connection::new();
    master.offer(1, &moved);
    let (stream, _) = listener.accept().await.unwrap();
    let client = connect(&shared);
    assert!(pends(listener.accept()));
    let handover = gives(&master, &client).await;
    master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    master.sync().await;
    let mut accept = Box::pin(listener.accept());
    assert!(still_pends(&mut accept));
    drop(stream);
    assert_eq!(accept.await.unwrap().1, client.local_addr().unwrap());
}

/// A worker that may have one connection, has it, and has passed on what it was called for at two listeners.
struct Full {
    master: Master,
    listeners: [Arc<TcpListener>; 2],
    clients: [StdStream; 2],
    /// By listener.
    passed: BTreeMap<ListenerId, (HandoverId, Vec<OwnedFd>)>,
}

/// And the one that it has.
async fn full_and_called_twice() -> (Full, TcpStream) {
    let sockets = [shared(), shared()];
    let (mut master, link, first) = limited(&sockets[0], Sharing::InLine, 1).await;
    let bound =
        tokio::join!(bind(&link, "127.0.0.1:0"), master.answer_as(2, Some((Sharing::InLine, sockets[1].as_fd()))));
    let second = Arc::new(bound.0);
    assert!(pends(first.accept()) && pends(second.accept()), "it waits in two lines");
    let moved = Connection::new();
    master.offer(1, &moved);
    let (only, _) = first.accept().await.unwrap();
    let clients = [connect(&sockets[0]), connect(&sockets[1])];
    assert!(pends(first.accept()) && pends(second.accept()));
    let mut passed = BTreeMap::new();
    for _ in 0..2 {
        let received = master.receive().await;
        let ToMaster::Handover { id, listener, .. } = received.message else { panic!("not a Handover") };
        passed.insert(listener, (id, received.fds));
    }
    (Full { master, listeners: [first, second], clients, passed }, only)
}

impl Full {
    /// What was passed on at this listener comes back.
    async fn comes_back(&mut self, listener: u32) {
        let (id, fds) = self.passed.remove(&ListenerId(listener)).expect("passed on");
        self.master.end(id, HandoverOutcome::Returned, &fds);
        self.master.sync().await;
    }
}

#[tokio::test]
async fn of_several_that_come_back_each_is_served_in_its_turn() {
    let (mut full, only) = full_and_called_twice().await;
    full.comes_back(1).await;
    full.comes_back(2).await;
    let [first, second] = &full.listeners;
    assert!(pends(first.accept()) && pends(second.accept()), "it is full");
    drop(only);
    let (one, _) = first.accept().await.unwrap();
    assert!(pends(second.accept()), "it is full again");
    drop(one);
    assert_eq!(second.accept().await.unwrap().1, full.clients[1].local_addr().unwrap());
}

#[tokio::test]
async fn one_that_comes_back_gives_its_place_to_another_that_waits() {
    let (mut full, only) = full_and_called_twice().await;
    full.comes_back(1).await;
    let first = Arc::clone(&full.listeners[0]);
    let mut accepting = tokio::spawn(async move { first.accept().await.unwrap().1 });
    assert!(still_pends(&mut accepting));
    // The other one, which is under way, has the only place.
    drop(only);
    tokio::task::yield_now().await;
    assert!(still_pends(&mut accepting));
    // Nobody asks for it when it is back.
    full.comes_back(2).await;
    assert_eq!(accepting.await.unwrap(), full.clients[0].local_addr().unwrap());
}

#[tokio::test]
async fn what_moves_to_a_full_worker_is_refused_and_counts_otherwise() {
    let shared = shared();
    let (mut master, _link, listener) = limited(&shared, Sharing::Together, 1).await;
    let (moved, too_many) = (Connection::new(), Connection::new());
    let offers = [master.offer(1, &moved), master.offer(1, &too_many)];
    let (stream, _) = listener.accept().await.unwrap();
    let _client = connect(&shared);
    assert!(pends(listener.accept()));
    assert_eq!(offers.map(|id| master.board.read(id)), [Reading::Taken, Reading::Refused]);
    drop(stream);
    let id = master.offer(1, &too_many);
    // It takes what is offered before it accepts itself.
    master.sync().await;
    assert_eq!(listener.accept().await.unwrap().1, too_many.client.local_addr().unwrap());
    assert_eq!(master.board.read(id), Reading::Taken);
}

#[tokio::test]
async fn a_lost_masters_offers_are_taken_by_a_full_worker_too() {
    let (mut master, link, listener) = Master::active().await;
    master.say(&ToWorker::Limit { connections: 1 }, &[]);
    let (first, second) = (Connection::new(), Connection::new());
    master.offer(1, &first);
    let _stream = listener.accept().await.unwrap();
    master.offer(1, &second);
    drop(master);
    link.lose_master();
    assert_eq!(listener.accept().await.unwrap().1, second.client.local_addr().unwrap());
}
