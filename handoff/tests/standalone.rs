//! A server's life in a process without a master: everything is as in tokio.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use everport_handoff::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use everport_handoff::worker::Worker;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn tcp_serves_with_whole_split_and_owned_streams() {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_ne!(address.port(), 0);
    let server = tokio::spawn(async move {
        let (mut stream, peer) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), peer);
        assert_eq!(stream.local_addr().unwrap(), address);
        stream.set_nodelay(true).unwrap();
        assert!(stream.nodelay().unwrap());
        stream.set_ttl(33).unwrap();
        assert_eq!(stream.ttl().unwrap(), 33);
        let mut buffer = [0; 4];
        assert_eq!(stream.peek(&mut buffer).await.unwrap(), 4);
        stream.read_exact(&mut buffer).await.unwrap();
        let (mut read, mut write) = stream.split();
        let (read_result, write_result) = tokio::join!(read.read_exact(&mut buffer), write.write_all(b"pong"));
        read_result.unwrap();
        write_result.unwrap();
        let (mut read, mut write) = stream.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        (listener, read.reunite(write).unwrap())
    });
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"pingpong").await.unwrap();
    let mut buffer = [0; 4];
    client.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"pong");
    client.write_all(b"echo").await.unwrap();
    client.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"echo");
    client.shutdown().await.unwrap();
    let (listener, stream) = server.await.unwrap();
    drop(stream);
    assert_eq!(client.read(&mut buffer).await.unwrap(), 0);

    let error = TcpListener::bind(address).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(listener);
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_unix_listener_takes_a_path_and_unlinks_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).await.unwrap();
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    let (client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
    let (mut stream, peer) = accepted.unwrap();
    assert!(peer.is_unnamed(), "{peer:?}");
    assert_eq!(stream.peer_cred().unwrap().pid(), i32::try_from(std::process::id()).ok());
    client.unwrap().write_all(b"hello").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    drop(listener);
    assert!(!path.exists());
    let address = format!("unix:{}?mode=0600", path.display());
    UnixListener::bind(&address).await.unwrap();
    UnixListener::bind_addr(address.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_unix_client_may_be_bound_to_the_longest_path() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("app.sock")).await.unwrap();
    let mut long = directory.path().to_str().unwrap().to_owned() + "/";
    // All of `sun_path`, so that there is no room for a zero byte at its end.
    long += &"x".repeat(108 - long.len());
    let client = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&client, &SocketAddrUnix::new(long).unwrap()).unwrap();
    rustix::net::connect(&client, &SocketAddrUnix::new(directory.path().join("app.sock")).unwrap()).unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn udp_receives_and_sends() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    client.send(b"ping").await.unwrap();
    let mut buffer = [0; 16];
    let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], peer), (&b"ping"[..], client.local_addr().unwrap()));
    socket.send_to(b"pong", peer).await.unwrap();
    assert_eq!(client.recv(&mut buffer).await.unwrap(), 4);
}

#[tokio::test]
async fn an_address_of_another_kind_is_a_clear_error() {
    let error = TcpListener::bind("unix:/run/app.sock").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("is not a TCP listener"), "{error}");
    let error = UnixListener::bind_addr("127.0.0.1:0").await.unwrap_err();
    assert!(error.to_string().contains("is not a unix listener"), "{error}");
}

#[tokio::test]
async fn streams_come_from_tokio_and_go_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let client = TcpStream::from(client);
    assert_eq!(client.local_addr().unwrap(), peer);
    assert_eq!(client.peer_addr().unwrap(), listener.local_addr().unwrap());
    let std = stream.into_std().unwrap();
    let tokio: tokio::net::TcpStream = client.into();
    assert_eq!(std.local_addr().unwrap(), tokio.peer_addr().unwrap());
}

#[tokio::test]
async fn the_worker_of_no_master_never_drains() {
    let worker = Worker::current().unwrap();
    assert!(!worker.is_managed() && !worker.is_draining());
    assert_eq!((worker.id(), worker.slot(), worker.generation()), (None, None, None));
    worker.ready();
    worker.leave();
    drop(worker.guard());
    worker.exit_if_master_lost();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pin!(worker.draining()).poll(&mut cx).is_pending());
    assert!(pin!(worker.finished()).poll(&mut cx).is_pending());
}
