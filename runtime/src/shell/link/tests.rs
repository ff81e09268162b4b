//! What one message holds, and what waits for the next.

use everport_handoff::board::WorkerBoard;
use everport_handoff::bootstrap;
use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};
use everport_handoff::message::MAX_INLINE;
use everport_handoff::name::SocketName;

use super::*;
use crate::config::{Config, RawConfig, Setting, Source};
use crate::shell::process::Launcher;
use crate::shell::surroundings::Output;

/// A link to a process that keeps its end of the channel open and reads nothing.
fn link() -> Link {
    link_over(bootstrap::prepare().unwrap())
}

fn link_over(ends: MasterEnds) -> Link {
    let mut raw = RawConfig::default();
    for word in ["sleep", "60"] {
        raw.add(Setting::Program, word, Source::Flag);
    }
    let config = Config::try_from(raw).unwrap();
    let identity = Identity { worker: WorkerId(1), slot: Slot(0), generation: Generation(1) };
    let mut launcher = Launcher::new(&config, None).unwrap();
    let inherited = &ends.inherited;
    let process = launcher
        .spawn(identity.generation, |command, _| inherited.pass_to(command, identity), &Output::Inherited)
        .unwrap();
    let bell = || everport_handoff::board::bell().unwrap();
    Link::new(identity, ends, [bell(), bell()], process)
}

fn end(mut link: Link) {
    let process = link.process.take().unwrap();
    process.kill();
    process.wait().unwrap();
}

fn connection(peer: SocketName) -> Connection {
    Connection::new(everport_handoff::board::bell().unwrap(), peer, ListenerId(1))
}

#[test]
fn an_offer_that_no_message_can_hold_is_found_among_the_others() {
    let mut link = link();
    let mut connections = Connections::default();
    let peers = [SocketName::Unnamed, SocketName::Path("x".repeat(20_000).into()), SocketName::Unnamed];
    let ids = peers.map(|peer| connections.keep(connection(peer)));
    for id in ids {
        assert!(link.stage(id).unwrap());
    }
    let sent = link.send_offers(&connections);
    assert_eq!((sent.failed, sent.unsayable), (Vec::new(), vec![ids[1]]));
    assert_eq!(sent.room.unwrap(), Room::Enough);
    end(link);
}

#[test]
fn offers_with_the_longest_parcels_and_names_fit_into_their_messages() {
    let mut link = link();
    let mut connections = Connections::default();
    let mut keep = |length: usize, memfd: bool| {
        let mut connection = connection(SocketName::Path("x".repeat(108).into()));
        let data = match memfd {
            true => Data::Memfd { length: u32::MAX },
            false => Data::Inline(vec![0xff; length]),
        };
        connection.memfd = memfd.then(|| everport_handoff::board::bell().unwrap());
        connection.parcel = Parcel::State { version: u32::MAX, data };
        connections.keep(connection)
    };
    let memfds: Vec<_> = (0..MAX_OFFERS).map(|_| keep(0, true)).collect();
    let inline: Vec<_> = [MAX_INLINE, MAX_INLINE, 100, MAX_INLINE].map(|length| keep(length, false)).into();
    assert_eq!(batch_length(&memfds, &connections), MAX_OFFERS);
    assert_eq!(batch_length(&inline, &connections), 1);
    assert_eq!(batch_length(&inline[2..], &connections), 2);
    for id in memfds.into_iter().chain(inline) {
        assert!(link.stage(id).unwrap());
    }
    let sent = link.send_offers(&connections);
    assert_eq!((sent.failed, sent.unsayable), (Vec::new(), Vec::new()));
    end(link);
}

#[test]
fn so_many_orders_wait_and_no_more_and_what_was_to_be_returned_is_kept() {
    let mut link = link();
    while link.order(ToWorker::Beat.into()).unwrap() == Room::Enough {}
    let returned = |number| Order {
        message: ToWorker::HandedOver { id: HandoverId(number), outcome: HandoverOutcome::Returned },
        cargo: Cargo::Connection(Box::new(connection(SocketName::Unnamed))),
    };
    for number in 1..MAX_WAITING as u64 {
        assert_eq!(link.order(returned(number)).unwrap(), Room::Full);
    }
    assert!(matches!(link.order(returned(0)), Err(OrderError::Unread)));
    let numbers = |link: &Link| link.undelivered.iter().map(|(id, _)| id.0).collect::<Vec<_>>();
    assert_eq!(numbers(&link), [0]);
    link.give_up_waiting();
    assert_eq!(numbers(&link), (0..MAX_WAITING as u64).collect::<Vec<_>>());
    end(link);
}

#[test]
fn a_message_that_did_not_go_out_is_not_counted_so_whoever_has_read_all_knows_it() {
    let (board, page) = MasterBoard::create().unwrap();
    let (channel, theirs) = Channel::pair().unwrap();
    let mut link = link_over(MasterEnds { channel, board, ..bootstrap::prepare().unwrap() });
    while link.order(ToWorker::Beat.into()).unwrap() == Room::Enough {}
    let (worker, channel) = (WorkerBoard::adopt(page).unwrap(), Channel::adopt(theirs));
    let read = std::iter::from_fn(|| channel.receive::<ToWorker>().ok()).count();
    assert_eq!(worker.messages(), read as u64);
    assert_eq!(link.send_waiting().unwrap(), Room::Enough);
    assert_eq!(worker.messages(), read as u64 + 1);
    end(link);
}
