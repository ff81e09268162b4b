//! axum on Everport's listeners: as they are, and with the client's address.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use everport_handoff::adapter::axum::with_peer;
use everport_handoff::net::{TcpListener, UnixListener};
use everport_handoff::worker::Worker;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

async fn body(mut client: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_router_is_served_on_tcp_and_unix() {
    let app = || Router::new().route("/", get(async || "hello"));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let draining = Worker::current().unwrap().draining();
    tokio::spawn(async move { axum::serve(tcp, app()).with_graceful_shutdown(draining).await });
    assert_eq!(body(tokio::net::TcpStream::connect(address).await.unwrap()).await, "hello");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let unix = UnixListener::bind(&path).await.unwrap();
    tokio::spawn(async move { axum::serve(unix, app()).await });
    assert_eq!(body(tokio::net::UnixStream::connect(&path).await.unwrap()).await, "hello");
}

#[tokio::test]
async fn with_peer_tells_handlers_the_client_s_address() {
    let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(with_peer(listener), service).await });
    let client = tokio::net::TcpStream::connect(address).await.unwrap();
    let local = client.local_addr().unwrap();
    assert_eq!(body(client).await, local.to_string());
}
