//! The handle by which connections come with a state.

use super::*;
use crate::handover::State;
use crate::message::Data;
use crate::net::Resumed;

fn state(version: u32) -> Parcel {
    Parcel::State { version, data: Data::Inline(b"state".to_vec()) }
}

/// Offers a connection with a state of this version.
fn offer(master: &mut Master, connection: &Connection, version: u32) -> OfferId {
    let fds = [OwnedFd::from(connection.server.try_clone().unwrap())];
    master.offer_moved(connection.client.local_addr().unwrap().into(), state(version), &fds)
}

async fn refuses(master: &mut Master, version: u32) {
    let connection = Connection::new();
    let id = offer(master, &connection, version);
    assert_eq!(master.moved(id, Reading::Offered).await, Reading::Refused);
    assert!(!connection.is_ended());
}

#[tokio::test]
async fn only_versions_that_the_program_has_named_are_taken() {
    let (mut master, link, listener) = Master::active().await;
    refuses(&mut master, 2).await;
    let resumed = listener.resumed(2..=3).unwrap();
    refuses(&mut master, 1).await;
    refuses(&mut master, 4).await;
    let connection = Connection::new();
    for version in [2, 3] {
        offer(&mut master, &connection, version);
        let (stream, given) = resumed.accept().await.unwrap();
        assert!(given == State::new(version, "state"));
        assert_eq!(stream.peer_addr().unwrap(), connection.client.local_addr().unwrap());
    }
    assert_eq!(link.queued.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn new_connections_and_those_with_a_state_go_each_their_way() {
    let (mut master, _link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let (fresh, moved) = (Connection::new(), Connection::new());
    offer(&mut master, &moved, 1);
    master.offer(1, &fresh);
    assert_eq!(listener.accept().await.unwrap().1, fresh.client.local_addr().unwrap());
    assert!(pends(listener.accept()));
    let (stream, _) = resumed.accept().await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), moved.client.local_addr().unwrap());
    assert!(pends(resumed.accept()));
}

#[tokio::test]
async fn there_is_one_handle_and_dropping_it_refuses_what_waits() {
    let (mut master, _link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let error = listener.resumed(2..=2).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    let connection = Connection::new();
    let waiting = offer(&mut master, &connection, 1);
    master.sync().await;
    drop(resumed);
    assert_eq!(master.board.read(waiting), Reading::Refused);
    refuses(&mut master, 1).await;
    let resumed = listener.resumed(2..=2).unwrap();
    offer(&mut master, &connection, 2);
    resumed.accept().await.unwrap();
}

#[tokio::test]
async fn the_handle_ends_with_its_listener() {
    let (mut master, _link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let connection = Connection::new();
    let waiting = offer(&mut master, &connection, 1);
    master.sync().await;
    drop(listener);
    assert_eq!(master.board.read(waiting), Reading::Refused);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    refuses(&mut master, 1).await;
    assert!(pends(resumed.accept()));
}

#[tokio::test]
async fn a_cancelled_accept_loses_no_connection() {
    let (mut master, _link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let mut cancelled = Box::pin(resumed.accept());
    assert!(still_pends(&mut cancelled));
    let connection = Connection::new();
    let id = offer(&mut master, &connection, 1);
    master.sync().await;
    drop(cancelled);
    assert_eq!(master.board.read(id), Reading::Offered);
    resumed.accept().await.unwrap();
    assert_eq!(master.board.read(id), Reading::Taken);
}

#[tokio::test]
async fn a_resumed_connection_holds_back_no_announcement() {
    let (mut master, link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let connection = Connection::new();
    offer(&mut master, &connection, 1);
    let (stream, _) = resumed.accept().await.unwrap();
    master.drain().await;
    worker(&link).draining().await;
    assert_eq!(master.board.figures().active, 1);
    drop(stream);
    worker(&link).finished().await;
}

#[tokio::test]
async fn what_a_lost_master_had_offered_is_resumed() {
    let (mut master, link, listener) = Master::active().await;
    let resumed = listener.resumed(1..=1).unwrap();
    let connection = Connection::new();
    offer(&mut master, &connection, 1);
    drop(master);
    worker(&link).drain_begins().await;
    let mut announced = Box::pin(worker(&link).draining());
    assert!(still_pends(&mut announced), "a connection may still come");
    let (_stream, _) = resumed.accept().await.unwrap();
    announced.await;
}

#[tokio::test]
async fn a_waiting_accept_is_woken() {
    let (mut master, _link, listener) = Master::active().await;
    let resumed: Resumed<_> = listener.resumed(1..=1).unwrap();
    let task = tokio::spawn(async move { resumed.accept().await.unwrap().1 });
    master.sync().await;
    let connection = Connection::new();
    offer(&mut master, &connection, 1);
    assert!(task.await.unwrap() == State::new(1, "state"));
}
