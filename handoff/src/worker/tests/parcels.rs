//! Offers with what another worker has given along, who is not trusted.

use std::fs::File;

use super::*;
use crate::memfd;
use crate::message::{Data, MAX_INLINE, MAX_PARCEL};

const LENGTH: u32 = MAX_INLINE as u32 + 1;

fn bytes() -> Vec<u8> {
    vec![7; LENGTH as usize]
}

/// What becomes of an offer with this memory file.
async fn outcome(length: u32, file: OwnedFd) -> Reading {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let fds = [connection.server.try_clone().unwrap().into(), file];
    let id = master.offer_moved(SocketName::Unnamed, Parcel::Unread(Data::Memfd { length }), &fds);
    let reading = master.moved(id, Reading::Offered).await;
    assert!(pends(listener.accept()));
    assert!(!connection.is_ended(), "the copy was closed, not the connection");
    reading
}

#[tokio::test]
async fn a_memory_file_that_is_not_sealed_or_of_another_length_is_refused() {
    let sealed = |bytes: &[u8]| memfd::sealed("parcel", bytes).unwrap();
    assert_eq!(outcome(LENGTH + 1, sealed(&bytes())).await, Reading::Refused);
    assert_eq!(outcome(LENGTH - 1, sealed(&bytes())).await, Reading::Refused);
    let open = memfd::create("parcel").unwrap();
    std::io::Write::write_all(&mut File::from(open.try_clone().unwrap()), &bytes()).unwrap();
    assert_eq!(outcome(LENGTH, open).await, Reading::Refused);
    let file = tempfile::tempfile().unwrap();
    file.set_len(LENGTH.into()).unwrap();
    assert_eq!(outcome(LENGTH, file.into()).await, Reading::Refused);
    let (pipe, _other) = std::io::pipe().unwrap();
    assert_eq!(outcome(LENGTH, pipe.into()).await, Reading::Refused);
}

#[tokio::test]
async fn a_parcel_that_is_too_long_is_refused() {
    let long = memfd::sealed("parcel", &vec![0; MAX_PARCEL + 1]).unwrap();
    assert_eq!(outcome(MAX_PARCEL as u32 + 1, long).await, Reading::Refused);
}

#[tokio::test]
async fn a_memory_file_cannot_be_changed_any_more() {
    let file = memfd::sealed("parcel", b"bytes").unwrap();
    assert_eq!(memfd::read(&file, 5).unwrap(), b"bytes");
    let file = File::from(file);
    std::io::Write::write_all(&mut &file, b"x").unwrap_err();
    file.set_len(1).unwrap_err();
    file.set_len(10).unwrap_err();
}

#[tokio::test]
async fn whose_descriptors_did_not_all_arrive_is_refused_and_who_comes_after() {
    let (mut master, _link, listener) = Master::active().await;
    let connections = [Connection::new(), Connection::new(), Connection::new()];
    let ids: Vec<OfferId> = connections.iter().map(|_| master.board.offer().unwrap().unwrap()).collect();
    let parcel = Parcel::Unread(Data::Memfd { length: LENGTH });
    let offers = ids.iter().zip(&connections).map(|(id, connection)| {
        let peer = connection.client.local_addr().unwrap().into();
        Offer { id: *id, listener: ListenerId(1), peer, parcel: parcel.clone() }
    });
    let files = [memfd::sealed("parcel", &bytes()).unwrap(), memfd::sealed("parcel", &bytes()).unwrap()];
    // The first has both, the second only its socket, the third nothing.
    let fds = [connections[0].server.as_fd(), files[0].as_fd(), connections[1].server.as_fd()];
    master.say(&ToWorker::Offer { offers: offers.collect() }, &fds);
    master.sync().await;
    let read = |id: &OfferId| master.board.read(*id);
    assert_eq!(ids.iter().map(read).collect::<Vec<_>>(), [Reading::Offered, Reading::Refused, Reading::Refused]);
    let (mut stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, connections[0].client.local_addr().unwrap());
    assert!(stream.take_unread() == bytes());
    assert!(connections.iter().all(|connection| !connection.is_ended()));
}

#[tokio::test]
async fn revoked_and_given_back_parcels_are_released_like_any_offer() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let fds = [OwnedFd::from(connection.server.try_clone().unwrap())];
    let parcel = || Parcel::Unread(Data::Inline(b"head".to_vec()));
    let revoked = master.offer_moved(SocketName::Unnamed, parcel(), &fds);
    master.sync().await;
    master.board.revoke(revoked);
    master.sync().await;
    assert_eq!(master.board.read(revoked), Reading::Released);
    let paused = master.offer_moved(SocketName::Unnamed, parcel(), &fds);
    master.say(&ToWorker::Pause, &[]);
    master.sync().await;
    assert_eq!(master.board.read(paused), Reading::Refused);
    assert!(pends(listener.accept()));
}
