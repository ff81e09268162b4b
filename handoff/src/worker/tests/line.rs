//! The line: one connection wakes one worker, each gets its share, and whoever is called and does not come keeps nobody
//! waiting.

use std::mem::MaybeUninit;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::*;

/// A worker that is active and has a place at the shared listener, number 1.
pub(super) async fn joins(shared: &StdListener) -> (Master, Arc<Link>, TcpListener) {
    let (mut master, link) = Master::welcomed().await;
    let answer = master.answer_as(1, Some((Sharing::InLine, shared.as_fd())));
    let (listener, _) = tokio::join!(bind(&link, "127.0.0.1:0"), answer);
    master.say(&ToWorker::Activate, &[]);
    master.sync().await;
    (master, link, listener)
}

pub(super) fn shared() -> StdListener {
    let shared = StdListener::bind("127.0.0.1:0").unwrap();
    shared.set_nonblocking(true).unwrap();
    shared
}

pub(super) fn connect(shared: &StdListener) -> StdStream {
    StdStream::connect(shared.local_addr().unwrap()).unwrap()
}

/// The worker passes this client on, unread.
pub(super) async fn gives(master: &Master, client: &StdStream) -> Handover {
    let handover = master.hear_handover().await;
    let offer = (handover.offer, handover.peer.clone(), handover.parcel.clone());
    assert_eq!(offer, (None, client.local_addr().unwrap().into(), Parcel::Nothing));
    handover
}

#[tokio::test]
async fn whoever_has_waited_longest_gets_the_next_one() {
    let shared = shared();
    let (one, two, three) = (joins(&shared).await, joins(&shared).await, joins(&shared).await);
    for listener in [&one.2, &two.2, &three.2] {
        assert!(pends(listener.accept()));
    }
    for listener in [&one.2, &two.2, &three.2].into_iter().cycle().take(9) {
        let client = connect(&shared);
        assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
        assert!(pends(listener.accept()), "lines up again");
    }
    assert_eq!([one, two, three].map(|worker| worker.0.board.figures().taken), [3, 3, 3]);
}

#[tokio::test]
async fn poll_accept_lines_up_as_well() {
    let shared = shared();
    let (_master, _link, listener) = joins(&shared).await;
    let mut accept = Box::pin(std::future::poll_fn(|cx| listener.poll_accept(cx)));
    assert!(still_pends(&mut accept));
    let client = connect(&shared);
    assert_eq!(accept.await.unwrap().1, client.local_addr().unwrap());
}

#[tokio::test]
async fn what_a_worker_was_called_for_and_does_not_accept_goes_to_another() {
    let shared = shared();
    let (mut master, _link, listener) = joins(&shared).await;
    assert!(pends(listener.accept()));
    let client = connect(&shared);
    let handover = gives(&master, &client).await;
    assert_eq!(master.board.figures().active, 1, "it is counted until somebody else has it");
    master.end(handover.id, HandoverOutcome::Moved, &[]);
    master.sync().await;
    // It lines up again, and gets the next one.
    let next = connect(&shared);
    assert_eq!(listener.accept().await.unwrap().1, next.local_addr().unwrap());
    assert_eq!((master.board.figures().active, master.board.figures().taken), (0, 1));
}

#[tokio::test]
async fn what_nobody_else_could_take_is_accepted_here() {
    let shared = shared();
    let (master, _link, listener) = joins(&shared).await;
    assert!(pends(listener.accept()));
    let client = connect(&shared);
    let handover = gives(&master, &client).await;
    master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!((master.board.figures().active, master.board.figures().taken), (1, 1));
    drop(stream);
    assert_eq!(master.board.figures().active, 0);
}

#[tokio::test]
async fn what_went_with_a_lost_master_is_counted_no_more() {
    let shared = shared();
    let (master, link, listener) = joins(&shared).await;
    assert!(pends(listener.accept()));
    let client = connect(&shared);
    let handover = gives(&master, &client).await;
    drop((handover, master));
    link.lose_master();
    assert!(pends(listener.accept()));
    assert!(!link.left().work);
}

/// Somebody before it in the line was called, and has gone.
#[tokio::test]
async fn what_another_one_took_to_its_grave_is_seen_within_a_beat() {
    let shared = shared();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &shared, EventData::new_u64(0), EventFlags::IN | EventFlags::EXCLUSIVE).unwrap();
    let dying = std::thread::spawn(move || {
        epoll::wait(&epoll, &mut [const { MaybeUninit::uninit() }; 1][..], None).unwrap().1.len()
    });
    let (_master, link, listener) = joins(&shared).await;
    let mut accept = Box::pin(listener.accept());
    assert!(still_pends(&mut accept));
    let client = connect(&shared);
    dying.join().unwrap();
    // The watcher calls this once for each beat.
    link.look_again();
    assert_eq!(accept.await.unwrap().1, client.local_addr().unwrap());
}

#[tokio::test]
async fn a_paused_worker_is_not_in_line() {
    let shared = shared();
    let (mut master, _link, listener) = joins(&shared).await;
    let (other_master, _other_link, other) = joins(&shared).await;
    assert!(pends(listener.accept()));
    assert!(pends(other.accept()));
    master.say(&ToWorker::Pause, &[]);
    master.sync().await;
    let client = connect(&shared);
    assert_eq!(other.accept().await.unwrap().1, client.local_addr().unwrap());
    assert!(pends(listener.accept()));
    master.say(&ToWorker::Activate, &[]);
    master.sync().await;
    assert!(pends(listener.accept()), "lines up again");
    let client = connect(&shared);
    assert_eq!(listener.accept().await.unwrap().1, client.local_addr().unwrap());
    assert_eq!(other_master.board.figures().taken, 1);
}

/// For what it was called for, nobody else is.
#[tokio::test]
async fn a_worker_that_was_called_and_accepts_no_more_passes_one_on() {
    let pause = ToWorker::Pause;
    let drain = ToWorker::Drain { successor: true, grace: Duration::from_secs(10) };
    for order in [pause, drain] {
        let shared = shared();
        let (master, _link, listener) = joins(&shared).await;
        assert!(pends(listener.accept()));
        let client = connect(&shared);
        // Said before anybody looks again.
        master.say(&order, &[]);
        gives(&master, &client).await;
        assert_eq!(shared.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(listener);
    }
}

#[tokio::test]
async fn a_listener_that_is_dropped_when_it_was_called_passes_one_on() {
    let shared = shared();
    let (master, _link, listener) = joins(&shared).await;
    assert!(pends(listener.accept()));
    let client = connect(&shared);
    drop(listener);
    assert_eq!(master.hear().await, ToMaster::Ready);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    gives(&master, &client).await;
}

#[tokio::test]
async fn what_comes_back_to_a_draining_worker_is_passed_on_once_more_and_then_ends() {
    let shared = shared();
    let (mut master, _link, listener) = joins(&shared).await;
    assert!(pends(listener.accept()));
    let client = connect(&shared);
    let handover = gives(&master, &client).await;
    master.drain().await;
    master.end(handover.id, HandoverOutcome::Returned, &handover.fds);
    drop(handover);
    let again = gives(&master, &client).await;
    master.end(again.id, HandoverOutcome::Returned, &again.fds);
    drop(again);
    assert_eq!(master.hear().await, ToMaster::Drained);
    let ended = Connection { server: client.try_clone().unwrap(), client };
    assert!(ended.is_ended());
}

#[tokio::test]
async fn a_draining_worker_closes_the_listener_at_once() {
    let shared = shared();
    let (mut master, _link, listener) = joins(&shared).await;
    let address = shared.local_addr().unwrap();
    assert!(pends(listener.accept()));
    master.drain().await;
    drop(shared);
    StdListener::bind(address).unwrap();
}

#[tokio::test]
async fn a_lost_master_takes_the_worker_out_of_the_line_and_frees_the_port() {
    let shared = shared();
    let address = shared.local_addr().unwrap();
    let (lost, link, listener) = joins(&shared).await;
    let (_master, _link, other) = joins(&shared).await;
    assert!(pends(listener.accept()));
    assert!(pends(other.accept()));
    drop(lost);
    link.lose_master();
    // Were it still there, it would be called, and nobody would accept this.
    let client = connect(&shared);
    assert_eq!(other.accept().await.unwrap().1, client.local_addr().unwrap());
    drop((other, shared));
    StdListener::bind(address).unwrap();
    drop(listener);
}
