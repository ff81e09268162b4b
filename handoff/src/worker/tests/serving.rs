//! HTTP on connections that move from one worker to another by way of the master.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use axum_core::body::Body;
use bytes::Bytes;
use hyper::{Request, Response};
use tokio::task::{JoinHandle, spawn_blocking};

use super::*;
use crate::message::Data;
use crate::net::Tcp;
use crate::serve::{Accepted, serve};

const GRACE: Duration = Duration::from_secs(10);

/// Makes services that answer with the client's address and the path.
struct ByPeer;

#[derive(Clone)]
struct Peer(SocketAddr);

impl<'a> tower_service::Service<Accepted<'a, Tcp>> for ByPeer {
    type Response = Peer;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Peer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, accepted: Accepted<'a, Tcp>) -> Self::Future {
        std::future::ready(Ok(Peer(*accepted.peer_addr())))
    }
}

impl tower_service::Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        std::future::ready(Ok(Response::new(Body::from(format!("{} at {}!", self.0, request.uri())))))
    }
}

/// A worker that serves, and its master.
async fn start() -> (Master, JoinHandle<std::io::Result<()>>) {
    let (master, _link, listener) = Master::active().await;
    let server = serve(listener, ByPeer).into_future();
    (master, tokio::spawn(server))
}

/// Sends bytes, and reads what comes until a point.
async fn exchange(connection: &Connection, bytes: &'static str) -> String {
    let mut client = connection.client.try_clone().unwrap();
    let turn = move || {
        client.write_all(bytes.as_bytes()).unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"!") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            response.push(byte[0]);
        }
        String::from_utf8(response).unwrap()
    };
    spawn_blocking(turn).await.unwrap()
}

impl Master {
    fn say_drain(&self, successor: bool) {
        self.say(&ToWorker::Drain { successor, grace: GRACE }, &[]);
    }

    async fn hear_drained(&self) {
        while self.hear().await != ToMaster::Drained {}
    }
}

#[tokio::test]
async fn an_idle_connection_moves_and_its_client_sees_nothing() {
    let (mut old, server) = start().await;
    let (mut new, _server) = start().await;
    let connection = Connection::new();
    old.offer(1, &connection);
    let peer = connection.client.local_addr().unwrap();
    let first = exchange(&connection, "GET /one HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(first.ends_with(&format!("{peer} at /one!")), "{first}");

    old.say_drain(true);
    let handover = old.hear_handover().await;
    assert_eq!(handover.parcel, Parcel::Nothing);
    assert!(!server.is_finished(), "it does not know yet what becomes of the connection");
    new.offer_moved(handover.peer, handover.parcel, &handover.fds);
    old.end(handover.id, HandoverOutcome::Moved, &[]);
    server.await.unwrap().unwrap();
    old.hear_drained().await;

    let second = exchange(&connection, "GET /two HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(second.ends_with(&format!("{peer} at /two!")), "{second}");
    assert!(!second.contains("connection:"), "{second}");
}

#[tokio::test]
async fn half_a_head_moves_and_is_answered_by_the_next_worker() {
    let (mut old, server) = start().await;
    let (mut new, _server) = start().await;
    let connection = Connection::new();
    old.offer(1, &connection);
    // The second request is half there when the first one is answered.
    exchange(&connection, "GET /one HTTP/1.1\r\nhost: test\r\n\r\nGET /two HT").await;
    old.say_drain(true);
    let handover = old.hear_handover().await;
    assert_eq!(handover.parcel, Parcel::Unread(Data::Inline(b"GET /two HT".to_vec())));
    new.offer_moved(handover.peer, handover.parcel, &handover.fds);
    old.end(handover.id, HandoverOutcome::Moved, &[]);
    server.await.unwrap().unwrap();
    let second = exchange(&connection, "TP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(second.ends_with(" at /two!"), "{second}");
}

#[tokio::test]
async fn a_connection_that_comes_back_is_served_to_its_end() {
    let (mut old, server) = start().await;
    let connection = Connection::new();
    old.offer(1, &connection);
    exchange(&connection, "GET /one HTTP/1.1\r\nhost: test\r\n\r\nGET /two HT").await;
    old.say_drain(true);
    let handover = old.hear_handover().await;
    old.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    drop(handover.fds);
    let second = exchange(&connection, "TP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(second.ends_with(" at /two!"), "{second}");
    assert_eq!(second.matches("connection: close").count(), 1, "{second}");
    connection.client.shutdown(std::net::Shutdown::Write).unwrap();
    server.await.unwrap().unwrap();
    old.hear_drained().await;
}

#[tokio::test]
async fn at_a_stop_a_connection_lives_until_its_next_response() {
    let (mut master, server) = start().await;
    let connection = Connection::new();
    master.offer(1, &connection);
    exchange(&connection, "GET /one HTTP/1.1\r\nhost: test\r\n\r\n").await;
    master.say_drain(false);
    master.sync().await;
    let second = exchange(&connection, "GET /two HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(second.matches("connection: close").count(), 1, "{second}");
    connection.client.shutdown(std::net::Shutdown::Write).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn when_the_master_is_lost_what_it_had_offered_is_still_served() {
    let (mut master, server) = start().await;
    let connection = Connection::new();
    master.offer(1, &connection);
    drop(master);
    let last = exchange(&connection, "GET /one HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(last.ends_with(" at /one!"), "{last}");
    connection.client.shutdown(std::net::Shutdown::Write).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_long_half_head_moves_whole() {
    let (mut old, _server) = start().await;
    let connection = Connection::new();
    let offer = old.offer(1, &connection);
    assert_eq!(old.moved(offer, Reading::Offered).await, Reading::Taken);
    let head = format!("GET /one HTTP/1.1\r\nhost: test\r\nx: {}", "y".repeat(100 * 1024));
    (&connection.client).write_all(head.as_bytes()).unwrap();
    old.say_drain(true);
    let handover = old.hear_handover().await;
    let (mut new, _link, listener) = Master::active().await;
    new.offer_moved(handover.peer, handover.parcel, &handover.fds);
    let (mut stream, _) = listener.accept().await.unwrap();
    // What was not read before the move is still in the socket.
    let mut received = vec![0; head.len()];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut received).await.unwrap();
    assert!(Bytes::from(received) == head);
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_the_pause_after_a_failed_accept() {
    let (mut master, _server) = start().await;
    let connection = Connection::new();
    let offer = master.offer(1, &connection);
    assert_eq!(master.moved(offer, Reading::Offered).await, Reading::Taken);
    // A name that no client of this listener has stands for any reason why a connection cannot be accepted.
    let socket = connection.server.as_fd().try_clone_to_owned().unwrap();
    let offer = master.offer_moved(SocketName::Unnamed, Parcel::Nothing, &[socket]);
    assert_eq!(master.moved(offer, Reading::Offered).await, Reading::Refused);
    let start = tokio::time::Instant::now();
    master.say_drain(true);
    master.hear_handover().await;
    assert!(start.elapsed() < crate::net::ACCEPT_RETRY, "{:?}", start.elapsed());
}
