//! HTTP over TLS, which cannot move once something was said.

use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::board::{MasterBoard, WorkerBoard};
use crate::channel::Channel;
use crate::serve::tls::{HANDSHAKE_TIMEOUT, Tls};

/// A server with a certificate, and a client that trusts it and wants this protocol.
fn configs(protocol: &str) -> (Tls, TlsConnector) {
    let issued = rcgen::generate_simple_self_signed(["test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let certificate = issued.cert.der().clone();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![protocol.into()];
    (Tls::new(Arc::new(server)), Arc::new(client).into())
}

/// The server's side of a new connection, on which nothing was said.
fn accept(server: &Server, tls: Tls) -> (DuplexStream, JoinHandle<()>) {
    let (client, io) = tokio::io::duplex(PIPE);
    let pipe = server.pipe(io, Bytes::new());
    let service = hyper::service::service_fn(answer);
    (client, tokio::spawn(tls.secure(pipe, service, server.phase.subscribe())))
}

/// A connection after its handshake, in which both agreed on this protocol.
async fn connect(server: &Server, protocol: &str) -> (TlsStream<DuplexStream>, JoinHandle<()>) {
    let (tls, connector) = configs(protocol);
    let (client, task) = accept(server, tls);
    let client = connector.connect("test".try_into().unwrap(), client).await.unwrap();
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    (client, task)
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_the_next_response_says_close_and_the_end_is_announced() {
    for successor in [true, false] {
        let mut server = Server::new();
        let (mut client, task) = connect(&server, "http/1.1").await;
        ask(&mut client, "/one").await;
        assert!(!read_until(&mut client, "GET /one").await.contains("connection"));
        server.drain(successor, GRACE);
        nothing_more_happens().await;
        ask(&mut client, "/two").await;
        // It fails when the connection ends without the server's close_notify.
        let response = read_to_end(&mut client).await;
        assert_eq!(response.matches("connection: close").count(), 1, "{response}");
        assert!(response.ends_with("GET /two"), "{response}");
        assert!(!task.is_finished(), "it waits for the client's end");
        drop(client);
        task.await.unwrap();
        assert!(server.moved.try_recv().is_err(), "its keys did not move");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_in_the_last_half_of_the_grace_and_says_so() {
    let server = Server::new();
    let (mut client, _task) = connect(&server, "http/1.1").await;
    server.drain(true, GRACE);
    let start = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    let range = GRACE / 2..=GRACE + Duration::from_millis(1);
    assert!(range.contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_master_is_told_what_a_connection_does_and_that_it_was_closed_idle() {
    let (_channel, theirs) = Channel::pair().unwrap();
    let (master, page) = MasterBoard::create().unwrap();
    let link = Link::new(Channel::adopt(theirs), WorkerBoard::adopt(page).unwrap()).unwrap();
    let server = Server { link: Some(link), ..Server::new() };
    let told = || (master.figures().requests, master.figures().idle, master.figures().lingered);
    let (mut client, task) = connect(&server, "http/1.1").await;
    nothing_more_happens().await;
    assert_eq!(told(), (0, 1, 0));
    ask(&mut client, "/slow").await;
    nothing_more_happens().await;
    assert_eq!(told(), (1, 0, 0));
    read_until(&mut client, "slow").await;
    server.drain(true, GRACE);
    assert_eq!(read_to_end(&mut client).await, "");
    drop(client);
    task.await.unwrap();
    assert_eq!(told(), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_over_tls_finishes_in_a_drain() {
    let server = Server::new();
    let (mut client, _task) = connect(&server, "http/1.1").await;
    ask(&mut client, "/big").await;
    ask(&mut client, "/slow").await;
    nothing_more_happens().await;
    server.drain(true, GRACE);
    // The first response waits for a client that does not read; its head said nothing of an end.
    let responses = read_to_end(&mut client).await;
    assert_eq!(responses.matches("connection: close").count(), 1);
    assert!(responses.ends_with("slow"), "the last one is whole");
}

#[tokio::test(start_paused = true)]
async fn http2_is_agreed_on_and_its_streams_finish_in_a_drain() {
    let server = Server::new();
    let (client, task) = connect(&server, "h2").await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://test/slow").body(Empty::<Bytes>::new()).unwrap();
    let response = tokio::spawn(sender.send_request(request));
    nothing_more_happens().await;
    server.drain(true, GRACE);
    let body = response.await.unwrap().unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "slow");
    connection.await.unwrap().unwrap();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_ends_the_connection() {
    let server = Server::new();
    let (mut client, task) = accept(&server, configs("h2").0);
    // The begin of a ClientHello.
    client.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    let start = Instant::now();
    task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_without_tls_is_told_so_in_an_alert() {
    let server = Server::new();
    let (mut client, task) = accept(&server, configs("h2").0);
    ask(&mut client, "/one").await;
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said[0], 21, "an alert: {said:?}");
    drop(client);
    task.await.unwrap();
}
