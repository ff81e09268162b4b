//! Connections that leave: moved, returned, lost, and never in doubt.

use std::io::Write;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::*;
use crate::handover::{HandoverError, Load, ReturnReason, State};
use crate::message::{Data, MAX_HANDOVERS, MAX_INLINE, MAX_PARCEL};
use crate::net::{Tcp, TcpStream};

type Outcome = Result<(), HandoverError<Tcp>>;

/// A worker with one connection, which was taken.
struct Giver {
    master: Master,
    link: Arc<Link>,
    _listener: TcpListener,
    connection: Connection,
    offer: OfferId,
}

impl Giver {
    async fn new() -> (Self, TcpStream) {
        let (mut master, link, listener) = Master::active().await;
        let mut connection = Connection::new();
        let offer = master.offer(1, &connection);
        let (stream, _) = listener.accept().await.unwrap();
        // Its next bytes, which wait in the kernel all the time.
        connection.client.write_all(b"next").unwrap();
        (Self { master, link, _listener: listener, connection, offer }, stream)
    }

    /// The master frees the word and closes its copy, as it does once it has seen that the offer was taken.
    fn settle(&mut self) {
        self.master.board.free(self.offer);
        self.connection.server = self.connection.client.try_clone().unwrap();
    }

    fn active(&self) -> u64 {
        self.master.board.figures().active
    }
}

fn load(length: usize) -> Bytes {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[track_caller]
fn returned(outcome: Outcome) -> (TcpStream, Load, ReturnReason) {
    match outcome {
        Err(HandoverError::Returned { stream, load, reason }) => (stream, load, reason),
        other => panic!("not returned: {other:?}"),
    }
}

async fn reads(stream: &mut TcpStream, bytes: &[u8]) {
    let mut found = vec![0; bytes.len()];
    stream.read_exact(&mut found).await.unwrap();
    assert!(found == bytes, "{} bytes came otherwise than they were given", bytes.len());
}

#[tokio::test]
async fn a_connection_moves_with_loads_of_every_length() {
    for length in [0, 1, MAX_INLINE, MAX_INLINE + 1, MAX_PARCEL] {
        for with_state in [false, true] {
            let (mut giver, stream) = Giver::new().await;
            giver.settle();
            let (peer, local) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
            let (mut other, _link, listener) = Master::active().await;
            let resumed = listener.resumed(7..=7).unwrap();
            let bytes = load(length);
            let given = match with_state {
                true => Load::State(State::new(7, bytes.clone())),
                false => Load::Unread(bytes.clone()),
            };
            let moving = tokio::spawn(stream.handover(given));
            let handover = giver.master.hear_handover().await;
            assert_eq!((handover.offer, &handover.peer), (None, &peer.into()));
            assert_eq!(handover.parcel.descriptors(), if length > MAX_INLINE { 2 } else { 1 });
            let id = other.offer_moved(handover.peer, handover.parcel, &handover.fds);
            drop(handover.fds);
            let mut stream = match with_state {
                true => {
                    let (stream, state) = resumed.accept().await.unwrap();
                    assert!(state == State::new(7, bytes));
                    stream
                }
                false => {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    reads(&mut stream, &bytes).await;
                    stream
                }
            };
            assert_eq!((stream.peer_addr().unwrap(), stream.local_addr().unwrap()), (peer, local));
            assert_eq!((other.board.read(id), giver.active()), (Reading::Taken, 1), "it counts until the outcome");
            giver.master.end(handover.id, HandoverOutcome::Moved, &[]);
            moving.await.unwrap().unwrap();
            assert_eq!(giver.active(), 0);
            reads(&mut stream, b"next").await;
            assert!(!giver.connection.is_ended());
            other.board.free(id);
            drop(stream);
            assert!(giver.connection.is_ended(), "nobody else has a copy");
        }
    }
}

#[tokio::test]
async fn what_moves_twice_keeps_all_of_its_bytes_in_order() {
    let (giver, stream) = Giver::new().await;
    let (mut second, _link, listener) = Master::active().await;
    let moving = tokio::spawn(stream.handover(Load::Unread(Bytes::from_static(b"one two "))));
    let first = giver.master.hear_handover().await;
    second.offer_moved(first.peer, first.parcel, &first.fds);
    let (mut stream, peer) = listener.accept().await.unwrap();
    // It has read a part, which it gives back, and left a part.
    reads(&mut stream, b"one ").await;
    let again = tokio::spawn(stream.handover(Load::Unread(Bytes::from_static(b"one "))));
    let handover = second.hear_handover().await;
    let (mut third, _link, listener) = Master::active().await;
    third.offer_moved(handover.peer, handover.parcel, &handover.fds);
    let (mut stream, same) = listener.accept().await.unwrap();
    assert_eq!(peer, same);
    reads(&mut stream, b"one two next").await;
    giver.master.end(first.id, HandoverOutcome::Moved, &[]);
    second.end(handover.id, HandoverOutcome::Moved, &[]);
    moving.await.unwrap().unwrap();
    again.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_offer_is_named_only_while_the_master_may_have_its_copy() {
    let (giver, stream) = Giver::new().await;
    let _moving = tokio::spawn(stream.handover(Load::default()));
    let handover = giver.master.hear_handover().await;
    assert_eq!(handover.offer, Some(giver.offer));
    assert_eq!(handover.parcel, Parcel::Nothing);
}

#[tokio::test]
async fn its_own_copy_is_closed_once_the_message_is_sent() {
    let (mut giver, mut stream) = Giver::new().await;
    giver.settle();
    reads(&mut stream, b"next").await;
    let mut moving = Box::pin(stream.handover(Load::default()));
    assert!(still_pends(&mut moving));
    let handover = giver.master.hear_handover().await;
    assert!(!giver.connection.is_ended());
    drop(handover.fds);
    assert!(giver.connection.is_ended(), "the message had the last copy");
    assert_eq!(giver.active(), 1);
}

#[tokio::test]
async fn a_returned_connection_goes_on_where_it_was() {
    let (mut giver, stream) = Giver::new().await;
    giver.settle();
    let given = Load::Unread(load(MAX_INLINE + 1));
    let moving = tokio::spawn(stream.handover(given.clone()));
    let handover = giver.master.hear_handover().await;
    giver.master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    drop(handover.fds);
    let (mut stream, back, reason) = returned(moving.await.unwrap());
    assert!(back == given && matches!(reason, ReturnReason::NotTaken));
    assert_eq!(giver.active(), 1);
    reads(&mut stream, b"next").await;
    stream.try_write(b"answer").unwrap();
    let mut answer = [0; 6];
    std::io::Read::read_exact(&mut giver.connection.client, &mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // Somebody who hangs may have a copy now: closing is not enough.
    let copy = stream.as_fd().try_clone_to_owned().unwrap();
    drop(stream);
    assert!(giver.connection.is_ended());
    assert_eq!(giver.active(), 0);
    drop(copy);
}

#[tokio::test]
async fn a_returned_stream_has_its_unread_bytes_again() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let data = Data::Inline(b"head".to_vec());
    let fds = [OwnedFd::from(connection.server.try_clone().unwrap())];
    master.offer_moved(connection.client.local_addr().unwrap().into(), Parcel::Unread(data), &fds);
    let (mut stream, _) = listener.accept().await.unwrap();
    reads(&mut stream, b"he").await;
    let moving = tokio::spawn(stream.handover(Load::Unread(Bytes::from_static(b"he"))));
    let handover = master.hear_handover().await;
    assert_eq!(handover.parcel, Parcel::Unread(Data::Inline(b"head".to_vec())));
    master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    let (mut stream, back, _) = returned(moving.await.unwrap());
    assert!(back == Load::Unread(Bytes::from_static(b"he")));
    reads(&mut stream, b"ad").await;
}

#[tokio::test]
async fn what_cannot_move_comes_back_at_once_and_the_master_hears_nothing() {
    let (mut giver, stream) = Giver::new().await;
    giver.master.sync().await;
    assert_eq!(giver.master.hear().await, ToMaster::Ready);
    let (stream, back, reason) = returned(stream.handover(State::new(1, load(MAX_PARCEL + 1))).await);
    assert!(matches!(reason, ReturnReason::TooLong { length } if length == MAX_PARCEL + 1));
    assert_eq!(back.bytes().len(), MAX_PARCEL + 1);
    giver.master.drain().await;
    let (mut stream, _, reason) = returned(stream.handover(back).await);
    assert!(matches!(reason, ReturnReason::TooLong { .. }));
    let (same, _, reason) = returned(stream.handover(Load::default()).await);
    assert!(matches!(reason, ReturnReason::NoSuccessor));
    stream = same;
    assert_eq!(giver.master.heard(), None);
    reads(&mut stream, b"next").await;

    let other = StdListener::bind("127.0.0.1:0").unwrap();
    let plain = tokio::net::TcpStream::connect(other.local_addr().unwrap()).await.unwrap();
    let (_, _, reason) = returned(TcpStream::from(plain).handover(Load::default()).await);
    assert!(matches!(reason, ReturnReason::NotManaged));
}

#[tokio::test]
async fn a_state_does_not_go_with_unread_bytes() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let data = Data::Inline(b"head".to_vec());
    let fds = [OwnedFd::from(connection.server.try_clone().unwrap())];
    master.offer_moved(connection.client.local_addr().unwrap().into(), Parcel::Unread(data), &fds);
    let (stream, _) = listener.accept().await.unwrap();
    let (mut stream, _, reason) = returned(stream.handover(State::new(1, "s")).await);
    assert!(matches!(reason, ReturnReason::UnreadLeft));
    assert_eq!(stream.take_unread(), "head");
    let _moving = tokio::spawn(stream.handover(State::new(1, "s")));
    let state = Parcel::State { version: 1, data: Data::Inline(b"s".to_vec()) };
    assert_eq!(master.hear_handover().await.parcel, state);
}

#[tokio::test]
async fn what_was_under_way_when_the_master_went_is_lost() {
    let (giver, stream) = Giver::new().await;
    let moving = tokio::spawn(stream.handover(Load::default()));
    let handover = giver.master.hear_handover().await;
    let Giver { master, link, connection, .. } = giver;
    let Master { channel, board, readable, .. } = master;
    drop((channel, readable, handover.fds, connection.server));
    assert!(matches!(moving.await.unwrap(), Err(HandoverError::Lost)));
    worker(&link).finished().await;
    assert_eq!(board.figures().active, 0);
}

#[tokio::test]
async fn an_outcome_that_a_lost_master_left_in_the_channel_counts() {
    let (giver, stream) = Giver::new().await;
    let moving = tokio::spawn(stream.handover(Load::default()));
    let handover = giver.master.hear_handover().await;
    giver.master.end(handover.id, HandoverOutcome::Moved, &[]);
    drop(giver.master);
    moving.await.unwrap().unwrap();
}

/// Lets messages of `bind` wait until the channel is full.
fn fill(link: &Arc<Link>) -> Vec<impl Future + use<>> {
    let mut asked = Vec::new();
    while link.desk().outbox.is_empty() {
        let link = Arc::clone(link);
        let mut bind = Box::pin(async move { TcpListener::bind_by(&link, &address("127.0.0.1:0")).await });
        assert!(still_pends(&mut bind));
        asked.push(bind);
        assert!(asked.len() < 1_000_000, "the channel is bounded");
    }
    asked
}

#[tokio::test]
async fn what_waits_for_room_is_sent_in_its_order_with_its_own_descriptors() {
    let (giver, stream) = Giver::new().await;
    let asked = fill(&giver.link);
    let mut moving = Box::pin(stream.handover(Load::Unread(load(MAX_INLINE + 1))));
    assert!(still_pends(&mut moving));
    worker(&giver.link).leave();
    let mut questions = 0;
    let Received { message, fds, .. } = loop {
        let received = giver.master.receive().await;
        match received.message {
            ToMaster::Ready => {}
            ToMaster::Listen { .. } => questions += 1,
            _ => break received,
        }
        assert!(received.fds.is_empty());
    };
    assert!(matches!(message, ToMaster::Handover { .. }), "{message:?}");
    assert_eq!((questions, fds.len()), (asked.len(), 2));
    let socket = StdStream::from(fds.into_iter().next().unwrap());
    assert_eq!(socket.peer_addr().unwrap(), giver.connection.client.local_addr().unwrap());
    assert_eq!(giver.master.hear().await, ToMaster::Leave);
}

#[tokio::test]
async fn what_the_channel_had_no_room_for_is_not_lost_with_the_master() {
    let (giver, stream) = Giver::new().await;
    let Giver { master, link, .. } = giver;
    let _asked = fill(&link);
    let mut moving = Box::pin(stream.handover(Load::Unread(Bytes::from_static(b"head"))));
    assert!(still_pends(&mut moving));
    let mut late = Box::pin(worker(&link).drain_begins());
    assert!(still_pends(&mut late));
    drop(master);
    let (mut stream, back, reason) = returned(moving.await);
    assert!(matches!(reason, ReturnReason::MasterLost));
    assert!(back == Load::Unread(Bytes::from_static(b"head")));
    reads(&mut stream, b"next").await;
    late.await;
    let (_, _, reason) = returned(stream.handover(back).await);
    assert!(matches!(reason, ReturnReason::MasterLost));
}

#[tokio::test]
async fn a_cancelled_handover_moves_on_and_counts_until_its_outcome() {
    let (mut giver, stream) = Giver::new().await;
    giver.settle();
    let mut moving = Box::pin(stream.handover(Load::default()));
    assert!(still_pends(&mut moving));
    drop(moving);
    let handover = giver.master.hear_handover().await;
    assert_eq!(giver.active(), 1);
    giver.master.end(handover.id, HandoverOutcome::Moved, &[]);
    giver.master.sync().await;
    assert_eq!(giver.active(), 0);
    assert!(!giver.connection.is_ended());
}

#[tokio::test]
async fn a_connection_that_comes_back_to_nobody_ends() {
    for outcome_first in [false, true] {
        let (mut giver, stream) = Giver::new().await;
        giver.settle();
        let mut moving = Some(Box::pin(stream.handover(Load::default())));
        assert!(still_pends(moving.as_mut().unwrap()));
        let handover = giver.master.hear_handover().await;
        if !outcome_first {
            moving = None;
        }
        giver.master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
        giver.master.sync().await;
        // In the other case the outcome has arrived and was not looked at.
        drop(moving);
        assert!(giver.connection.is_ended(), "although the master of this test has a copy");
        assert_eq!(giver.active(), 0);
    }
}

#[tokio::test]
async fn a_connection_whose_descriptor_does_not_come_back_is_lost_and_not_counted() {
    let (giver, stream) = Giver::new().await;
    let moving = tokio::spawn(stream.handover(Load::default()));
    let handover = giver.master.hear_handover().await;
    giver.master.end(handover.id, HandoverOutcome::Returned, &[]);
    assert!(matches!(moving.await.unwrap(), Err(HandoverError::Lost)));
    assert_eq!(giver.active(), 0);
}

#[tokio::test]
async fn no_more_than_so_many_are_under_way() {
    let (mut master, link, listener) = Master::active().await;
    let mut moving = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..=MAX_HANDOVERS {
        let connection = Connection::new();
        master.offer(1, &connection);
        let (stream, _) = listener.accept().await.unwrap();
        let mut handover = Box::pin(stream.handover(Load::default()));
        assert!(still_pends(&mut handover));
        moving.push(handover);
        connections.push(connection);
    }
    let mut ids = Vec::new();
    for _ in 0..MAX_HANDOVERS {
        ids.push(master.hear_handover().await.id);
    }
    master.sync().await;
    assert_eq!(master.heard(), None);
    // Whoever waits for room learns of a drain without a successor.
    let mut last = moving.pop().unwrap();
    assert!(still_pends(&mut last));
    master.end(ids[0], HandoverOutcome::Moved, &[]);
    let (outcome, handover) = tokio::join!(tokio::spawn(last), async {
        let handover = master.hear_handover().await;
        master.end(handover.id, HandoverOutcome::Moved, &[]);
        handover
    });
    outcome.unwrap().unwrap();
    assert!(!ids.contains(&handover.id), "a number is not used twice");
    drop(link);
}

#[tokio::test]
async fn who_waits_for_room_learns_that_there_is_no_successor_or_no_master() {
    for lost in [false, true] {
        let (mut giver, stream) = Giver::new().await;
        let room = Arc::clone(&giver.link.handover_room).acquire_many_owned(MAX_HANDOVERS as u32).await.unwrap();
        let mut moving = Box::pin(stream.handover(Load::default()));
        assert!(still_pends(&mut moving));
        if lost {
            drop(giver.master);
            let (_, _, reason) = returned(moving.await);
            assert!(matches!(reason, ReturnReason::MasterLost));
        } else {
            giver.master.drain().await;
            drop(room);
            let (_, _, reason) = returned(moving.await);
            assert!(matches!(reason, ReturnReason::NoSuccessor));
        }
    }
}

#[tokio::test]
async fn what_is_under_way_holds_back_the_end_of_a_drain_and_not_its_announcement() {
    let (mut giver, stream) = Giver::new().await;
    let worker = worker(&giver.link);
    assert!(!worker.has_successor());
    let (mut began, mut announced) = (Box::pin(worker.drain_begins()), Box::pin(worker.draining()));
    assert!(still_pends(&mut began));
    giver.master.say(&ToWorker::Drain { successor: true, grace: Duration::from_secs(10) }, &[]);
    giver.master.sync().await;
    began.await;
    assert!(worker.has_successor());
    assert!(still_pends(&mut announced), "nothing was read from the stream");
    let moving = tokio::spawn(stream.handover(Load::default()));
    announced.await;
    let handover = giver.master.hear_handover().await;
    giver.master.sync().await;
    assert_eq!(giver.master.heard(), None, "not drained yet");
    giver.master.end(handover.id, HandoverOutcome::Moved, &[]);
    moving.await.unwrap().unwrap();
    assert_eq!(giver.master.hear().await, ToMaster::Drained);
}

#[tokio::test]
async fn a_master_that_ends_what_is_not_under_way_makes_no_sense() {
    let (giver, _stream) = Giver::new().await;
    giver.master.end(HandoverId(1), HandoverOutcome::Moved, &[]);
    worker(&giver.link).drain_begins().await;
    assert!(giver.link.state().is_lost());
}

#[tokio::test]
async fn the_soft_deadline_is_that_of_the_drain_and_with_a_lost_master_half_of_the_rest() {
    let (mut master, link, _listener) = Master::active().await;
    let worker = worker(&link);
    let mut soft = Box::pin(worker.soft_deadline());
    assert!(still_pends(&mut soft));
    assert_eq!(link.orders().grace, Duration::from_secs(30), "of the 60 that the master said");
    master.drain().await;
    assert_eq!(link.orders().grace, Duration::from_secs(10));
    assert!(still_pends(&mut soft));
    // What the watcher does then.
    link.soften();
    soft.await;
    worker.soft_deadline().await;
}
