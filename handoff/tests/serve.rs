//! `serve` as a program uses it, without a master: every form of an application, upgrades, and the graceful end.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdStream};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use axum::routing::get;
use everport_handoff::net::{Tcp, TcpListener, TcpStream, UnixListener};
use everport_handoff::serve::{App, downcast, serve};
use everport_handoff::worker::Worker;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";

/// Serves an application until the sender is used.
async fn start<A: App<Tcp, Form>, Form: 'static>(
    app: A,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = serve(listener, app).with_graceful_shutdown(async move { stopped.await.unwrap() });
    (address, stop, tokio::spawn(server.into_future()))
}

async fn body(mut client: impl AsyncRead + AsyncWrite + Unpin) -> String {
    client.write_all(LAST).await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

async fn connect(address: SocketAddr) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn routers_and_services_of_axum_tower_and_hyper_are_served() {
    let router = || Router::new().route("/", get(async || "hello"));
    let (address, _stop, _) = start(router()).await;
    assert_eq!(body(connect(address).await).await, "hello");
    let (address, _stop, _) = start(router().into_make_service()).await;
    assert_eq!(body(connect(address).await).await, "hello");
    let (address, _stop, _) = start(get(async || "hello")).await;
    assert_eq!(body(connect(address).await).await, "hello");
    let (address, _stop, _) = start(Tower).await;
    assert_eq!(body(connect(address).await).await, "tower");
    let outer =
        axum::middleware::from_fn(async |request: Request, next: axum::middleware::Next| next.run(request).await);
    let (address, _stop, _) = start(tower_layer::Layer::layer(&outer, router())).await;
    assert_eq!(body(connect(address).await).await, "hello");
    let hyper = hyper::service::service_fn(async |_: hyper::Request<Incoming>| {
        Ok::<_, Infallible>(hyper::Response::new(Body::from("hyper")))
    });
    let (address, _stop, _) = start(hyper).await;
    assert_eq!(body(connect(address).await).await, "hyper");
}

/// A tower service by hand.
#[derive(Clone)]
struct Tower;

impl tower_service::Service<Request> for Tower {
    type Response = Response;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        std::future::ready(Ok(Response::new(Body::from("tower"))))
    }
}

#[tokio::test]
async fn handlers_are_told_the_client_s_address() {
    let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
    let (address, _stop, _) = start(app.into_make_service_with_connect_info::<SocketAddr>()).await;
    let client = connect(address).await;
    let local = client.local_addr().unwrap();
    assert_eq!(body(client).await, local.to_string());
}

#[tokio::test]
async fn unix_sockets_are_served_and_without_a_signal_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).await.unwrap();
    let draining = Worker::current().unwrap().draining();
    let server = serve(listener, Router::new().route("/", get(async || "hello"))).with_graceful_shutdown(draining);
    let server = tokio::spawn(server.into_future());
    assert_eq!(body(tokio::net::UnixStream::connect(&path).await.unwrap()).await, "hello");
    assert!(!server.is_finished());
}

/// Answers an upgrade, and echoes from then on what comes, by the stream itself.
async fn upgrade(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut stream, early): (TcpStream, Bytes) = downcast::<Tcp>(upgrade.await.unwrap()).unwrap();
        stream.write_all(&early).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn an_upgraded_connection_can_be_had_as_a_stream_with_what_came_early() {
    let (address, stop, server) = start(Router::new().route("/", get(upgrade))).await;
    let mut client = connect(address).await;
    let request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly";
    client.write_all(request).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"early") {
        assert_ne!(client.read_buf(&mut response).await.unwrap(), 0);
    }
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101") && response.contains("connection: upgrade"), "{response}");
    // The server does not wait for what is not HTTP any more.
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    client.write_all(b" late").await.unwrap();
    let mut late = [0; 5];
    client.read_exact(&mut late).await.unwrap();
    assert_eq!(&late, b" late");
}

#[tokio::test]
async fn after_the_signal_the_port_is_closed_and_the_last_response_ends_with_fin_and_not_with_a_reset() {
    let (address, stop, server) = start(Router::new().route("/", get(async || "hello"))).await;
    let mut client = connect(address).await;
    // Served once, so that the server knows of it.
    client.write_all(GET).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"hello") {
        assert_ne!(client.read_buf(&mut response).await.unwrap(), 0);
    }
    stop.send(()).unwrap();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // More than one request, so that some bytes are unread when the server ends its side.
    let asked = tokio::task::spawn_blocking(move || {
        let mut client: StdStream = client.into_std().unwrap();
        client.set_nonblocking(false).unwrap();
        client.write_all(&GET.repeat(1000)).unwrap();
        let mut response = String::new();
        // A reset is an error here.
        client.read_to_string(&mut response).unwrap();
        client.write_all(GET).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        response
    });
    let response = asked.await.unwrap();
    assert_eq!(response.matches("HTTP/1.1 200").count(), 1, "{response}");
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
    server.await.unwrap().unwrap();
}
