//! Offers: taken, refused, revoked, and never lost.

use std::os::fd::AsFd;

use tokio::io::AsyncReadExt;

use super::*;
use crate::net::{TcpStream, UnixListener};

#[tokio::test]
async fn an_offer_is_taken_before_the_application_sees_it() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let id = master.offer(1, &connection);
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(master.board.read(id), Reading::Taken);
    assert_eq!(peer, connection.client.local_addr().unwrap());
    assert_eq!(stream.peer_addr().unwrap(), peer);
    assert_eq!(master.board.figures().active, 1);
    assert_eq!(master.board.figures().taken, 1);
    drop(stream);
    assert_eq!(master.board.figures().active, 0);
}

#[tokio::test]
async fn the_peer_is_known_after_the_client_has_gone() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let peer = connection.client.local_addr().unwrap();
    master.offer(1, &connection);
    rustix::net::sockopt::set_socket_linger(&connection.client, Some(Duration::ZERO)).unwrap();
    drop(connection.client);
    let (stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), peer);
}

#[tokio::test]
async fn a_revoked_offer_is_released_and_not_shown() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let id = master.offer(1, &connection);
    // Nothing has turned the worker's runtime since: the offer is in the channel.
    assert_eq!(master.board.revoke(id), Reading::Revoked);
    master.sync().await;
    assert_eq!(master.board.read(id), Reading::Released);
    assert!(pends(listener.accept()));
    assert!(!connection.is_ended(), "the copy was closed, not the connection");
}

#[tokio::test]
async fn an_offer_revoked_in_the_queue_is_passed_over_by_accept() {
    let (mut master, link, listener) = Master::active().await;
    let (first, second) = (Connection::new(), Connection::new());
    let (revoked, good) = (master.offer(1, &first), master.offer(1, &second));
    master.sync().await;
    master.board.revoke(revoked);
    let (_stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, second.client.local_addr().unwrap());
    assert_eq!((master.board.read(revoked), master.board.read(good)), (Reading::Released, Reading::Taken));
    assert_eq!(link.queued.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert!(!first.is_ended());
}

#[tokio::test]
async fn revoked_offers_are_released_although_nobody_accepts() {
    let (mut master, _link, _listener) = Master::active().await;
    let connection = Connection::new();
    let id = master.offer(1, &connection);
    master.sync().await;
    master.board.revoke(id);
    master.say(&ToWorker::Beat, &[]);
    assert_eq!(master.moved(id, Reading::Revoked).await, Reading::Released);
}

#[tokio::test]
async fn offers_without_their_descriptor_are_refused_and_the_others_taken() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let (first, last) = (master.board.offer().unwrap().unwrap(), master.board.offer().unwrap().unwrap());
    let offers = [first, last].map(|id| connection.as_offer(id, ListenerId(1)));
    master.say(&ToWorker::Offer { offers: offers.into() }, &[connection.server.as_fd()]);
    assert_eq!(master.moved(last, Reading::Offered).await, Reading::Refused);
    listener.accept().await.unwrap();
    assert_eq!(master.board.read(first), Reading::Taken);
}

#[tokio::test]
async fn an_offer_for_a_listener_that_was_dropped_is_refused() {
    let (mut master, _link, listener) = Master::active().await;
    let (before, after) = (Connection::new(), Connection::new());
    let waiting = master.offer(1, &before);
    master.sync().await;
    drop(listener);
    assert_eq!(master.board.read(waiting), Reading::Refused);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    let late = master.offer(1, &after);
    assert_eq!(master.moved(late, Reading::Offered).await, Reading::Refused);
    assert!(!before.is_ended() && !after.is_ended());
}

#[tokio::test]
async fn a_connection_that_makes_no_stream_is_refused() {
    let (mut master, _link, listener) = Master::active().await;
    let id = master.board.offer().unwrap().unwrap();
    // A client's address of another kind than the listener's.
    let offer = Offer { id, listener: ListenerId(1), peer: SocketName::Unnamed, parcel: Parcel::Nothing };
    let connection = Connection::new();
    master.say(&ToWorker::Offer { offers: vec![offer] }, &[connection.server.as_fd()]);
    listener.accept().await.unwrap_err();
    assert_eq!(master.board.read(id), Reading::Refused);
    assert_eq!(master.board.figures().active, 0);
}

#[tokio::test]
async fn a_cancelled_accept_takes_no_connection_and_no_wake_up_along() {
    let (mut master, _link, listener) = Master::active().await;
    let mut cancelled = Box::pin(listener.accept());
    assert!(still_pends(&mut cancelled));
    let kept = async { listener.accept().await.unwrap().1 };
    let connection = Connection::new();
    let offered = async {
        master.offer(1, &connection);
        master.sync().await;
        // Woken by the offer, and gone before it could look.
        drop(cancelled);
    };
    let (peer, ()) = tokio::join!(kept, offered);
    assert_eq!(peer, connection.client.local_addr().unwrap());
}

#[tokio::test]
async fn poll_accept_is_woken() {
    let (mut master, _link, listener) = Master::active().await;
    let task = tokio::spawn(async move { std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().1 });
    master.sync().await;
    let connection = Connection::new();
    master.offer(1, &connection);
    assert_eq!(task.await.unwrap(), connection.client.local_addr().unwrap());
}

#[tokio::test]
async fn each_listener_has_its_own_offers() {
    let (mut master, link, first) = Master::active().await;
    let address = address("unix:/run/app.sock");
    let (second, _) = tokio::join!(UnixListener::bind_by(&link, &address), async {
        let ToMaster::Listen { request, .. } = master.hear().await else { panic!("not a Listen") };
        let local = SocketName::Path("/run/app.sock".into());
        let answer = Ok(Listening { listener: ListenerId(2), local, shared: None });
        master.say(&ToWorker::Listening { request, answer }, &[]);
    });
    let second = second.unwrap();
    assert_eq!(second.local_addr().unwrap().as_pathname().unwrap().to_str(), Some("/run/app.sock"));

    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let id = master.board.offer().unwrap().unwrap();
    let offer = Offer { id, listener: ListenerId(2), peer: SocketName::Unnamed, parcel: Parcel::Nothing };
    master.say(&ToWorker::Offer { offers: vec![offer] }, &[server.as_fd()]);
    let (mut stream, peer) = second.accept().await.unwrap();
    assert!(peer.is_unnamed());
    assert!(pends(first.accept()));
    drop((client, server));
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

/// A stream of an offer, with the connection's other ends.
async fn taken() -> (Master, Connection, OfferId, TcpStream) {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let id = master.offer(1, &connection);
    let (stream, _) = listener.accept().await.unwrap();
    (master, connection, id, stream)
}

#[tokio::test]
async fn dropping_a_stream_ends_the_connection_while_the_master_has_its_copy() {
    let (_master, connection, _, stream) = taken().await;
    assert!(!connection.is_ended());
    drop(stream);
    assert!(connection.is_ended());
}

#[tokio::test]
async fn dropping_a_stream_only_closes_it_once_it_is_the_workers_alone() {
    let (mut master, connection, id, stream) = taken().await;
    master.board.free(id);
    drop(stream);
    // A copy that this test kept, as a child process would: it is not shut down.
    assert!(!connection.is_ended());
    drop(connection.server);
    assert_eq!(connection.client.peek(&mut [0]).unwrap_or(0), 0);
}

#[tokio::test]
async fn what_leaves_for_std_is_neither_counted_nor_shut_down() {
    let (master, connection, _, stream) = taken().await;
    let stream = stream.into_std().unwrap();
    assert_eq!(master.board.figures().active, 0);
    drop(stream);
    assert!(!connection.is_ended());
}

#[tokio::test]
async fn halves_count_and_end_as_one_stream() {
    let (master, connection, _, stream) = taken().await;
    let (read, write) = stream.into_split();
    let (read, write) = read.reunite(write).unwrap().into_split();
    assert_eq!(read.peer_addr().unwrap(), connection.client.local_addr().unwrap());
    drop(write);
    assert!(connection.is_ended(), "the writing half shuts down writing");
    assert_eq!(master.board.figures().active, 1);
    drop(read);
    assert_eq!(master.board.figures().active, 0);
}

#[tokio::test]
async fn the_last_half_ends_the_connection() {
    let (_master, connection, _, stream) = taken().await;
    let (read, write) = stream.into_split();
    write.forget();
    assert!(!connection.is_ended());
    drop(read);
    assert!(connection.is_ended());
}

#[tokio::test]
async fn halves_of_two_streams_do_not_make_one() {
    let (_first, _, _, one) = taken().await;
    let (_second, _, _, other) = taken().await;
    let ((read, _write), (_read, write)) = (one.into_split(), other.into_split());
    let error = read.reunite(write).unwrap_err();
    error.0.peer_addr().unwrap();
}
