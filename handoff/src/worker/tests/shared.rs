//! Sockets that the master shares: when they are used, and when they are given up.

use std::net::UdpSocket as StdUdp;

use tokio::io::AsyncReadExt;

use super::*;
use crate::net::UdpSocket;

/// A worker with a shared listener, 1, that is not active yet.
async fn sharing() -> (Master, Arc<Link>, TcpListener, StdListener) {
    let (master, link) = Master::welcomed().await;
    let shared = StdListener::bind("127.0.0.1:0").unwrap();
    shared.set_nonblocking(true).unwrap();
    let listener = master.listen(&link, 1, Some(shared.as_fd())).await;
    (master, link, listener, shared)
}

#[tokio::test]
async fn nothing_is_accepted_before_the_worker_is_active() {
    let (mut master, _link, listener, shared) = sharing().await;
    let client = StdStream::connect(shared.local_addr().unwrap()).unwrap();
    assert!(pends(listener.accept()));
    master.sync().await;
    assert!(pends(listener.accept()));
    master.say(&ToWorker::Activate, &[]);
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(stream.peer_addr().unwrap(), peer);
    let figures = master.board.figures();
    assert_eq!((figures.active, figures.taken), (1, 1));
}

#[tokio::test]
async fn a_waiting_accept_sees_activation_pause_and_activation_again() {
    let (mut master, _link, listener, shared) = sharing().await;
    let address = shared.local_addr().unwrap();
    let (accepted, mut peers) = tokio::sync::mpsc::channel(2);
    let task = tokio::spawn(async move {
        accepted.send(listener.accept().await.unwrap().1).await.unwrap();
        let polled = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        accepted.send(polled.1).await.unwrap();
    });
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.say(&ToWorker::Activate, &[]);
    let first = StdStream::connect(address).unwrap();
    assert_eq!(peers.recv().await.unwrap(), first.local_addr().unwrap());
    master.say(&ToWorker::Pause, &[]);
    master.sync().await;
    let second = StdStream::connect(address).unwrap();
    master.sync().await;
    // It waits in the kernel, for whoever is active.
    assert!(!task.is_finished());
    master.say(&ToWorker::Activate, &[]);
    assert_eq!(peers.recv().await.unwrap(), second.local_addr().unwrap());
}

#[tokio::test]
async fn offers_come_to_a_shared_listener_as_well() {
    let (mut master, _link, listener, _shared) = sharing().await;
    master.say(&ToWorker::Activate, &[]);
    let returned = Connection::new();
    let id = master.offer(1, &returned);
    assert_eq!(listener.accept().await.unwrap().1, returned.client.local_addr().unwrap());
    assert_eq!(master.board.read(id), Reading::Taken);
}

#[tokio::test]
async fn draining_closes_the_shared_listener_under_a_waiting_accept() {
    let (mut master, _link, listener, shared) = sharing().await;
    let address = shared.local_addr().unwrap();
    let listener = Arc::new(listener);
    let mut task = tokio::spawn({
        let listener = Arc::clone(&listener);
        async move { drop(listener.accept().await) }
    });
    master.say(&ToWorker::Activate, &[]);
    master.sync().await;
    master.drain().await;
    assert!(still_pends(&mut task));
    drop(shared);
    assert_eq!(StdStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(listener.local_addr().unwrap().port(), 8000);
    task.abort();
}

#[tokio::test]
async fn a_udp_socket_receives_while_active_and_sends_while_draining() {
    let (mut master, link) = Master::welcomed().await;
    let shared = StdUdp::bind("127.0.0.1:0").unwrap();
    shared.set_nonblocking(true).unwrap();
    let client = StdUdp::bind("127.0.0.1:0").unwrap();
    client.connect(shared.local_addr().unwrap()).unwrap();
    let address = address("udp:127.0.0.1:0");
    let (socket, (asked, _)) =
        tokio::join!(UdpSocket::bind_by(&link, &address), master.answer(1, Some(shared.as_fd())));
    let socket = socket.unwrap();
    assert_eq!(asked, "udp:127.0.0.1:0");

    client.send(b"early").unwrap();
    let mut buffer = [0; 16];
    assert!(pends(socket.recv_from(&mut buffer)));
    assert_eq!(master.hear().await, ToMaster::Ready);
    assert_eq!(socket.try_recv_from(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    master.say(&ToWorker::Activate, &[]);
    let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], peer), (&b"early"[..], client.local_addr().unwrap()));

    let guard = worker(&link).guard();
    master.drain().await;
    client.send(b"late").unwrap();
    assert!(pends(socket.recv_from(&mut buffer)));
    socket.send_to(b"reply", peer).await.unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    assert_eq!(master.heard(), None, "the guard keeps the worker");
    drop(guard);
    assert_eq!(master.hear().await, ToMaster::Drained);
}

#[tokio::test]
async fn a_socket_of_another_kind_is_refused_and_given_back() {
    let (master, link) = Master::welcomed().await;
    let udp = StdUdp::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let address = address("fd:3");
    let (bound, _) = tokio::join!(TcpListener::bind_by(&link, &address), master.answer(1, Some(udp.as_fd())));
    assert_eq!(bound.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    let (bound, _) = tokio::join!(UdpSocket::bind_by(&link, &address), master.answer(2, None));
    assert_eq!(bound.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_is_accepted_from_a_shared_listener_is_counted_until_it_is_dropped() {
    let (master, _link, listener, shared) = sharing().await;
    master.say(&ToWorker::Activate, &[]);
    let client = StdStream::connect(shared.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(client);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    assert_eq!(master.board.figures().active, 0);
}

#[tokio::test]
async fn what_is_accepted_from_a_shared_listener_can_be_handed_over() {
    let (master, _link, listener, shared) = sharing().await;
    master.say(&ToWorker::Activate, &[]);
    let client = StdStream::connect(shared.local_addr().unwrap()).unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    let moving = tokio::spawn(stream.handover(crate::handover::Load::default()));
    let handover = master.hear_handover().await;
    assert_eq!((handover.offer, handover.peer), (None, peer.into()));
    master.end(handover.id, HandoverOutcome::Moved, &[]);
    moving.await.unwrap().unwrap();
    assert_eq!(master.board.figures().active, 0);
}

/// A socket with a queue of its own, to be lent to a worker.
fn spare() -> StdListener {
    let spare = StdListener::bind("127.0.0.1:0").unwrap();
    spare.set_nonblocking(true).unwrap();
    spare
}

const LISTENER: ListenerId = ListenerId(1);

#[tokio::test]
async fn a_waiting_accept_takes_from_a_socket_that_is_lent_until_it_is_taken_back() {
    let (mut master, _link, listener, own) = sharing().await;
    let (first, second) = (spare(), spare());
    let waiting = StdStream::connect(first.local_addr().unwrap()).unwrap();
    let (accepted, mut peers) = tokio::sync::mpsc::channel(2);
    let task = tokio::spawn(async move {
        for _ in 0..4 {
            accepted.send(listener.accept().await.unwrap().1).await.unwrap();
        }
        for _ in 0..2 {
            let polled = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            accepted.send(polled.1).await.unwrap();
        }
        listener
    });
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.say(&ToWorker::Share { listener: LISTENER, socket: 1 }, &[first.as_fd()]);
    master.sync().await;
    assert!(peers.try_recv().is_err(), "the worker is not active");
    master.say(&ToWorker::Activate, &[]);
    assert_eq!(peers.recv().await.unwrap(), waiting.local_addr().unwrap());
    master.say(&ToWorker::Share { listener: LISTENER, socket: 2 }, &[second.as_fd()]);
    for socket in [&second, &own, &first, &second, &own] {
        let client = StdStream::connect(socket.local_addr().unwrap()).unwrap();
        assert_eq!(peers.recv().await.unwrap(), client.local_addr().unwrap());
    }
    let listener = task.await.unwrap();
    master.say(&ToWorker::Unshare { listener: LISTENER, socket: 1 }, &[]);
    master.sync().await;
    let kept = StdStream::connect(first.local_addr().unwrap()).unwrap();
    let served = StdStream::connect(second.local_addr().unwrap()).unwrap();
    assert_eq!(listener.accept().await.unwrap().1, served.local_addr().unwrap());
    assert!(pends(listener.accept()));
    assert_eq!(first.accept().unwrap().1, kept.local_addr().unwrap(), "who waits there waits for another worker");
}

#[tokio::test]
async fn no_socket_among_several_waits_for_ever_behind_a_busy_one() {
    let (mut master, _link, listener, own) = sharing().await;
    let lent = spare();
    assert!(pends(listener.accept()));
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.say(&ToWorker::Share { listener: LISTENER, socket: 1 }, &[lent.as_fd()]);
    master.say(&ToWorker::Activate, &[]);
    let connect = |socket: &StdListener| StdStream::connect(socket.local_addr().unwrap()).unwrap();
    let _busy: Vec<_> = (0..8).map(|_| connect(&own)).collect();
    let patient = connect(&lent);
    // By this it is registered; then the runtime hears of the client there.
    let mut peers = vec![listener.accept().await.unwrap().1];
    master.sync().await;
    for _ in 0..2 {
        peers.push(listener.accept().await.unwrap().1);
    }
    assert!(peers.contains(&patient.local_addr().unwrap()));
}

#[tokio::test]
async fn what_is_lent_is_closed_at_once_when_the_worker_drains_or_the_master_is_lost() {
    for lost in [false, true] {
        let (mut master, link, listener, _own) = sharing().await;
        let lent = spare();
        let address = lent.local_addr().unwrap();
        assert!(pends(listener.accept()));
        assert_eq!(master.hear().await, ToMaster::Ready);
        master.say(&ToWorker::Share { listener: LISTENER, socket: 1 }, &[lent.as_fd()]);
        master.say(&ToWorker::Activate, &[]);
        master.sync().await;
        assert!(pends(listener.accept()), "it is registered");
        drop(lent);
        if lost {
            drop(master);
            link.lose_master();
        } else {
            master.drain().await;
        }
        assert_eq!(StdStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{lost}");
    }
}
