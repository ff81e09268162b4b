//! The two steps of a drain, and its end.

use std::io::Write;

use tokio::io::AsyncReadExt;

use super::*;
use crate::net::TcpStream;

/// A worker that has taken one connection and was told to drain.
async fn draining() -> (Master, Arc<Link>, TcpListener, Connection, TcpStream) {
    let (mut master, link, listener) = Master::active().await;
    let connection = Connection::new();
    master.offer(1, &connection);
    let (stream, _) = listener.accept().await.unwrap();
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.drain().await;
    (master, link, listener, connection, stream)
}

#[tokio::test]
async fn accept_pends_and_draining_waits_for_the_first_bytes() {
    let (master, link, listener, mut connection, mut stream) = draining().await;
    let worker = worker(&link);
    let mut announced = Box::pin(worker.draining());
    assert!(worker.is_draining());
    assert!(pends(listener.accept()));
    assert!(still_pends(&mut announced));
    connection.client.write_all(b"GET").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 3);
    announced.await;
    assert_eq!(master.heard(), None);
    drop(stream);
    assert_eq!(master.hear().await, ToMaster::Drained);
    worker.finished().await;
}

#[tokio::test]
async fn draining_waits_no_longer_than_the_grace() {
    let (_master, link, _listener, _connection, _stream) = draining().await;
    let mut announced = Box::pin(worker(&link).draining());
    assert!(still_pends(&mut announced));
    // What the watcher does when `first_byte_grace` is over.
    link.announce();
    announced.await;
}

#[tokio::test]
async fn a_stream_that_was_dropped_or_left_unread_holds_nothing_back() {
    let (_master, link, _listener, _connection, stream) = draining().await;
    let mut announced = Box::pin(worker(&link).draining());
    let (read, write) = stream.into_split();
    assert!(still_pends(&mut announced));
    drop((read, write));
    announced.await;
}

#[tokio::test]
async fn a_split_reader_s_first_read_counts() {
    let (_master, link, _listener, mut connection, mut stream) = draining().await;
    connection.client.write_all(b"GET").unwrap();
    let (mut read, _write) = stream.split();
    read.read_exact(&mut [0; 3]).await.unwrap();
    worker(&link).draining().await;
}

#[tokio::test]
async fn the_halves_try_reads_count_as_the_stream_s() {
    let (_master, link, _listener, mut connection, mut stream) = draining().await;
    let mut announced = Box::pin(worker(&link).draining());
    let peer = connection.client.local_addr().unwrap();
    let (read, write) = stream.split();
    assert_eq!(read.peer_addr().unwrap(), peer);
    assert_eq!(read.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    write.writable().await.unwrap();
    write.try_write(b"hello").unwrap();
    connection.client.write_all(b"GET").unwrap();
    let (mut read, _write) = stream.into_split();
    assert_eq!(read.peek(&mut [0; 8]).await.unwrap(), 3);
    assert!(still_pends(&mut announced), "a look is no read");
    assert_eq!(read.try_read(&mut [0; 8]).unwrap(), 3);
    announced.await;
}

#[tokio::test]
async fn a_read_that_found_nothing_is_no_read() {
    let (_master, link, _listener, mut connection, stream) = draining().await;
    let mut announced = Box::pin(worker(&link).draining());
    assert_eq!(stream.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(still_pends(&mut announced));
    connection.client.write_all(b"GET").unwrap();
    stream.readable().await.unwrap();
    stream.try_read(&mut [0; 8]).unwrap();
    announced.await;
}

#[tokio::test]
async fn a_worker_without_connections_is_drained_at_once_and_says_so_once() {
    let (mut master, link, listener) = Master::active().await;
    let guard = worker(&link).guard();
    master.drain().await;
    worker(&link).draining().await;
    assert_eq!(master.heard(), None, "the guard keeps the worker");
    assert_eq!(master.board.figures().guards, 1);
    drop(guard);
    assert_eq!(master.hear().await, ToMaster::Drained);
    drop(worker(&link).guard());
    master.say(&ToWorker::Activate, &[]);
    master.drain().await;
    assert_eq!(master.heard(), None);
    assert!(pends(listener.accept()));
}

#[tokio::test]
async fn pause_and_drain_give_back_what_nobody_took() {
    let (mut master, _link, listener) = Master::active().await;
    let connection = Connection::new();
    let (revoked, kept) = (master.offer(1, &connection), master.offer(1, &connection));
    master.sync().await;
    master.board.revoke(revoked);
    master.say(&ToWorker::Pause, &[]);
    master.sync().await;
    assert_eq!((master.board.read(revoked), master.board.read(kept)), (Reading::Released, Reading::Refused));
    assert!(pends(listener.accept()));
    let late = master.offer(1, &connection);
    master.drain().await;
    assert_eq!(master.board.read(late), Reading::Refused);
    assert!(!connection.is_ended());
}
