//! A master that has gone: what was offered is taken, the port is free at once, the process ends by its own code.

use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use super::*;
use crate::worker::deadlines::{END_GRACE, Exit};
use crate::worker::watch;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Starts the watcher; the receiver gets its end, the stream is its signal.
fn watched(link: &Arc<Link>) -> (mpsc::Receiver<Exit>, UnixStream) {
    let (readable, signal) = UnixStream::pair().unwrap();
    let (exit, exited) = mpsc::channel();
    watch::start(Arc::clone(link), readable, move |why| exit.send(why).unwrap()).unwrap();
    (exited, signal)
}

#[test]
fn a_blocked_runtime_does_not_keep_the_port_nor_the_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (master, link) = Master::welcomed().await;
        let shared = StdListener::bind("127.0.0.1:0").unwrap();
        shared.set_nonblocking(true).unwrap();
        let address = shared.local_addr().unwrap();
        let _listener = master.listen(&link, 1, Some(shared.as_fd())).await;
        let (exited, _signal) = watched(&link);
        drop((master, shared));
        // From here on nothing turns this runtime: only the watcher can have done it.
        assert_eq!(exited.recv_timeout(LONG), Ok(Exit::MasterLost));
        StdListener::bind(address).unwrap();
    });
}

#[tokio::test]
async fn what_a_lost_master_had_offered_is_taken_and_finished() {
    let (mut master, link, listener) = Master::active().await;
    let (first, second) = (Connection::new(), Connection::new());
    master.offer(1, &first);
    master.offer(1, &second);
    drop(master);
    let worker = worker(&link);
    let mut announced = Box::pin(worker.draining());
    let (one, _) = listener.accept().await.unwrap();
    assert!(still_pends(&mut announced));
    let (two, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, second.client.local_addr().unwrap());
    assert!(pends(listener.accept()));
    assert!(still_pends(&mut announced), "neither was read from");
    drop(one);
    drop(two);
    announced.await;
    worker.finished().await;
    assert!(link.state().is_lost());
}

#[tokio::test]
async fn an_offer_of_a_lost_master_that_was_revoked_holds_no_drain_back() {
    let (mut master, link, listener) = Master::active().await;
    let connection = Connection::new();
    let id = master.offer(1, &connection);
    master.board.revoke(id);
    let Master { channel, board, readable, .. } = master;
    drop((channel, readable));
    let mut announced = Box::pin(worker(&link).draining());
    assert!(still_pends(&mut announced));
    assert!(pends(listener.accept()));
    announced.await;
    assert_eq!(board.read(id), Reading::Released);
}

#[tokio::test]
async fn a_lost_master_ends_the_process_when_all_is_done_although_draining_was_asked_for() {
    let (master, link, _listener) = Master::active().await;
    let (exited, _signal) = watched(&link);
    let worker = worker(&link);
    let guard = worker.guard();
    drop(master);
    worker.draining().await;
    assert_eq!(exited.try_recv(), Err(mpsc::TryRecvError::Empty));
    drop(guard);
    worker.finished().await;
    assert_eq!(exited.recv_timeout(LONG), Ok(Exit::MasterLost));
}

#[tokio::test]
async fn a_drained_worker_whose_application_never_asked_ends_with_zero() {
    let (mut master, link, _listener) = Master::active().await;
    let (exited, _signal) = watched(&link);
    master.drain().await;
    assert_eq!(master.hear().await, ToMaster::Drained);
    assert_eq!(exited.recv_timeout(LONG), Ok(Exit::Drained));
}

#[tokio::test]
async fn a_guard_that_is_taken_after_the_drain_keeps_the_process() {
    let (mut master, link, _listener) = Master::active().await;
    master.drain().await;
    assert_eq!(master.hear().await, ToMaster::Drained);
    let guard = worker(&link).guard();
    let (exited, _signal) = watched(&link);
    assert_eq!(exited.recv_timeout(2 * END_GRACE), Err(mpsc::RecvTimeoutError::Timeout));
    drop(guard);
    assert_eq!(exited.recv_timeout(LONG), Ok(Exit::Drained));
}

#[tokio::test]
async fn a_signal_makes_the_worker_leave() {
    let (master, link, _listener) = Master::active().await;
    let (_exited, mut signal) = watched(&link);
    std::io::Write::write_all(&mut signal, b"xx").unwrap();
    assert_eq!(master.hear().await, ToMaster::Leave);
}

#[tokio::test]
async fn a_master_that_makes_no_sense_is_a_lost_one_and_learns_it() {
    let (mut master, link) = Master::welcomed().await;
    let _listener = master.listen(&link, 1, None).await;
    master.sync().await;
    let answer = Err(ListenFailure { errno: None, reason: String::new() });
    master.say(&ToWorker::Listening { request: 77, answer }, &[]);
    worker(&link).draining().await;
    assert!(link.state().is_lost());
    assert!(matches!(master.channel.receive::<ToMaster>(), Err(ReceiveError::Closed)));
}

#[tokio::test]
async fn a_waiting_accept_does_not_look_for_a_lost_master_again_and_again() {
    let (master, link, listener) = Master::active().await;
    let accepting = tokio::spawn(async move { drop(listener.accept().await) });
    let Master { channel, board, readable, .. } = master;
    drop((channel, readable));
    worker(&link).finished().await;
    // Every driver beats when it starts.
    let heartbeat = board.figures().heartbeat;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(board.figures().heartbeat, heartbeat);
    assert!(!accepting.is_finished());
    accepting.abort();
}

#[tokio::test]
async fn a_bind_that_was_never_answered_pends_until_the_process_ends() {
    let (master, link) = Master::welcomed().await;
    let address = address("127.0.0.1:1");
    let mut bind = Box::pin(TcpListener::bind_by(&link, &address));
    assert!(still_pends(&mut bind));
    drop(master);
    worker(&link).finished().await;
    assert!(still_pends(&mut bind));
}
