//! Streams that come with bytes which another worker has read: these first, whichever way they are read.

use std::io::{IoSliceMut, Write};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, Interest, Ready};

use super::*;
use crate::message::Data;
use crate::net::{TcpStream, UnixListener, UnixStream};

/// A stream that has `unread` bytes, and its client, which sends `sent`.
async fn stream(unread: &[u8], sent: &[u8]) -> (Master, Arc<Link>, Connection, TcpStream) {
    let (mut master, link, listener) = Master::active().await;
    let mut connection = Connection::new();
    connection.client.write_all(sent).unwrap();
    let fds = [OwnedFd::from(connection.server.try_clone().unwrap())];
    let parcel = Parcel::Unread(Data::Inline(unread.to_vec()));
    master.offer_moved(connection.client.local_addr().unwrap().into(), parcel, &fds);
    let (stream, _) = listener.accept().await.unwrap();
    (master, link, connection, stream)
}

#[tokio::test]
async fn readiness_is_at_once_while_bytes_are_left() {
    let (_master, _link, _connection, mut stream) = stream(b"ab", b"").await;
    assert!(!pends(stream.readable()));
    assert!(stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready());
    stream.writable().await.unwrap();
    let both = Interest::READABLE | Interest::WRITABLE;
    assert_eq!(stream.ready(both).await.unwrap(), Ready::READABLE | Ready::WRITABLE);
    assert_eq!(stream.ready(Interest::READABLE).await.unwrap(), Ready::READABLE);
    {
        let (read, _write) = stream.split();
        assert!(!pends(read.readable()));
        assert_eq!(read.ready(Interest::READABLE).await.unwrap(), Ready::READABLE);
    }
    let (read, write) = stream.into_split();
    assert!(!pends(read.readable()));
    assert_eq!(read.ready(Interest::READABLE).await.unwrap(), Ready::READABLE);
    assert_eq!(write.ready(both).await.unwrap(), Ready::READABLE | Ready::WRITABLE);
    let mut stream = read.reunite(write).unwrap();
    stream.read_exact(&mut [0; 2]).await.unwrap();
    assert!(pends(stream.readable()));
    assert!(pends(stream.ready(Interest::READABLE)));
    assert!(stream.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[tokio::test]
async fn a_look_takes_nothing() {
    let (_master, link, _connection, mut stream) = stream(b"abc", b"de").await;
    let mut buffer = [0; 8];
    assert_eq!(stream.peek(&mut buffer).await.unwrap(), 3);
    assert_eq!(&buffer[..3], b"abc");
    let mut cx = Context::from_waker(Waker::noop());
    let mut small = [0; 2];
    let mut some = tokio::io::ReadBuf::new(&mut small);
    assert!(matches!(stream.poll_peek(&mut cx, &mut some), Poll::Ready(Ok(2))));
    assert_eq!(some.filled(), b"ab");
    assert_eq!(stream.split().0.peek(&mut buffer).await.unwrap(), 3);
    let (mut read, write) = stream.into_split();
    assert_eq!(read.peek(&mut buffer).await.unwrap(), 3);
    stream = read.reunite(write).unwrap();
    assert!(link.left().unread, "a look is no read");
    stream.read_exact(&mut buffer[..3]).await.unwrap();
    assert_eq!(stream.peek(&mut buffer).await.unwrap(), 2);
    assert_eq!(&buffer[..2], b"de");
}

#[tokio::test]
async fn nobody_reads_the_socket_past_bytes_that_are_left() {
    let (_master, _link, _connection, mut stream) = stream(b"ab", b"cd").await;
    stream.readable().await.unwrap();
    let error = stream.try_io(Interest::READABLE, || Ok(())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    stream.async_io(Interest::READABLE, || Ok(())).await.unwrap_err();
    stream.async_io(Interest::WRITABLE, || Ok(())).await.unwrap();
    assert_eq!(stream.take_unread(), "ab");
    stream.async_io(Interest::READABLE, || Ok(())).await.unwrap();
    assert_eq!(stream.take_unread(), "");
}

#[tokio::test]
async fn a_stream_does_not_leave_with_bytes_that_are_left() {
    let (_master, link, connection, left) = stream(b"ab", b"cd").await;
    let error = left.into_std().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(connection.is_ended());
    drop(link);
    let (_master, link, mut connection, mut taken) = stream(b"ab", b"cd").await;
    assert!(link.left().unread, "nobody has read it");
    assert_eq!(taken.take_unread(), "ab");
    assert!(!link.left().unread, "taking is reading");
    let mut std = taken.into_std().unwrap();
    let mut rest = [0; 2];
    std::io::Read::read_exact(&mut std, &mut rest).unwrap();
    assert_eq!(&rest, b"cd");
    connection.client.write_all(b"x").unwrap();
}

#[tokio::test]
async fn unread_bytes_hold_back_a_drain_until_they_are_read() {
    let (mut master, link, _connection, mut stream) = stream(b"ab", b"").await;
    master.drain().await;
    let mut announced = Box::pin(worker(&link).draining());
    assert!(still_pends(&mut announced));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 1);
    announced.await;
}

#[tokio::test]
async fn a_unix_stream_gives_them_as_well() {
    let (mut master, link) = Master::welcomed().await;
    let address = address("unix:/run/app.sock");
    let (listener, ()) = tokio::join!(UnixListener::bind_by(&link, &address), async {
        let ToMaster::Listen { request, .. } = master.hear().await else { panic!("not a Listen") };
        let local = SocketName::Path("/run/app.sock".into());
        let answer = Ok(Listening { listener: ListenerId(1), local, shared: None });
        master.say(&ToWorker::Listening { request, answer }, &[]);
    });
    let listener = listener.unwrap();
    master.say(&ToWorker::Activate, &[]);
    let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    client.write_all(b"cd").unwrap();
    let parcel = Parcel::Unread(Data::Inline(b"ab".to_vec()));
    master.offer_moved(SocketName::Path("/client".into()), parcel, &[server.into()]);
    let (mut stream, _): (UnixStream, _) = listener.accept().await.unwrap();
    let mut all = [0; 4];
    stream.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"abcd");
    // And the client's name goes on with it.
    let _moving = tokio::spawn(stream.handover(crate::handover::Load::default()));
    assert_eq!(master.hear_handover().await.peer, SocketName::Path("/client".into()));
}

/// One way to read a stream.
#[derive(Clone, Copy, Debug)]
enum Way {
    Read,
    TryRead,
    TryReadVectored,
    TryReadBuf,
    Split,
    SplitTry,
    Owned,
    OwnedTry,
}

const WAYS: [Way; 8] = [
    Way::Read,
    Way::TryRead,
    Way::TryReadVectored,
    Way::TryReadBuf,
    Way::Split,
    Way::SplitTry,
    Way::Owned,
    Way::OwnedTry,
];

/// Reads at most `room` bytes in this way.
async fn read(stream: TcpStream, way: Way, room: usize) -> (TcpStream, Vec<u8>) {
    let mut stream = stream;
    let mut buffer = vec![0; room];
    let (first, second) = buffer.split_at_mut(room / 2);
    let mut vectored = [IoSliceMut::new(first), IoSliceMut::new(second)];
    stream.readable().await.unwrap();
    let count = match way {
        Way::Read => stream.read(&mut buffer).await,
        Way::TryRead => stream.try_read(&mut buffer),
        Way::TryReadVectored => stream.try_read_vectored(&mut vectored),
        Way::TryReadBuf => {
            let mut some = bytes::BufMut::limit(Vec::with_capacity(room), room);
            let count = stream.try_read_buf(&mut some);
            let some = some.into_inner();
            assert!(count.is_err() || count.as_ref().unwrap() == &some.len());
            buffer[..some.len()].copy_from_slice(&some);
            count
        }
        Way::Split => stream.split().0.read(&mut buffer).await,
        Way::SplitTry => stream.split().0.try_read(&mut buffer),
        Way::Owned | Way::OwnedTry => {
            let (mut read, write) = stream.into_split();
            let count = match way {
                Way::Owned => read.read(&mut buffer).await,
                _ => read.try_read(&mut buffer),
            };
            stream = read.reunite(write).unwrap();
            count
        }
    };
    match count {
        Ok(count) => buffer.truncate(count),
        // Readiness may be wrong once.
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            buffer.clear();
        }
    }
    (stream, buffer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_comes_once_and_in_order_whichever_way_it_is_read(
        unread in proptest::collection::vec(any::<u8>(), 0..100),
        sent in proptest::collection::vec(any::<u8>(), 0..100),
        reads in proptest::collection::vec((proptest::sample::select(&WAYS), 1_usize..40), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (found, way) = runtime.block_on(async {
            let (_master, _link, connection, mut stream) = stream(&unread, &sent).await;
            connection.client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut found = Vec::new();
            let whole = unread.len() + sent.len();
            for (way, room) in reads.iter().copied().cycle().take(10_000) {
                if found.len() == whole {
                    return (found, stream.read(&mut [0; 8]).await.unwrap());
                }
                let (same, mut bytes) = read(stream, way, room).await;
                stream = same;
                found.append(&mut bytes);
            }
            (found, usize::MAX)
        });
        prop_assert_eq!(way, 0, "the end comes after the last byte");
        prop_assert_eq!(found, [unread, sent].concat());
    }
}
