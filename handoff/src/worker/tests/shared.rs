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
