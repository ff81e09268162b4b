//! HTTP/2 beside HTTP/1.1.

use http_body_util::Empty;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Client = (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>);

async fn connect(server: &Server) -> (Client, JoinHandle<()>) {
    let (client, task) = server.connect();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    ((sender, tokio::spawn(connection)), task)
}

async fn get(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> hyper::Result<String> {
    let request = Request::get(format!("http://test{path}")).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await?;
    assert!(!response.headers().contains_key("connection"));
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_preface_that_comes_byte_by_byte_is_heard() {
    let server = Server::new();
    let (mut pipe, _task) = server.connect();
    // The preface and an empty SETTINGS frame.
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        pipe.write_all(&[*byte]).await.unwrap();
        nothing_more_happens().await;
    }
    let mut frame = [0; 9];
    pipe.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "the server's SETTINGS: {frame:?}");
}

#[tokio::test(start_paused = true)]
async fn what_only_begins_like_a_preface_is_http1() {
    for request in ["PUT /one HTTP/1.1\r\nhost: test\r\n\r\n", "PRI /one HTTP/1.1\r\nhost: test\r\n\r\n"] {
        let server = Server::new();
        let (mut client, _task) = server.connect();
        for byte in request.as_bytes() {
            client.write_all(&[*byte]).await.unwrap();
            nothing_more_happens().await;
        }
        read_until(&mut client, " /one").await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_streams_finish_and_the_connection_ends() {
    for successor in [true, false] {
        let mut server = Server::new();
        let ((mut sender, connection), task) = connect(&server).await;
        assert_eq!(get(&mut sender, "/one").await.unwrap(), "GET /one");
        let mut other = sender.clone();
        let slow = tokio::spawn(async move { get(&mut other, "/slow").await });
        nothing_more_happens().await;
        server.drain(successor, Duration::from_secs(1));
        assert_eq!(slow.await.unwrap().unwrap(), "slow");
        connection.await.unwrap().unwrap();
        task.await.unwrap();
        assert!(get(&mut sender, "/two").await.is_err(), "the client was told to go elsewhere");
        assert!(server.moved.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_without_an_error_within_the_spread() {
    let server = Server::new();
    let ((_sender, connection), task) = connect(&server).await;
    nothing_more_happens().await;
    server.drain(true, GRACE);
    let start = Instant::now();
    connection.await.unwrap().unwrap();
    task.await.unwrap();
    assert!(start.elapsed() <= crate::serve::phase::GOAWAY_SPREAD + Duration::from_millis(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_nothing_is_left_after_the_soft_deadline() {
    let server = Server::new();
    let (mut pipe, task) = server.connect();
    pipe.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    nothing_more_happens().await;
    server.drain(false, GRACE);
    let start = Instant::now();
    pipe.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), GRACE.as_secs());
    drop(pipe);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_response_that_a_slow_client_still_reads_is_whole_after_the_soft_deadline() {
    let server = Server::new();
    let (client, _task) = server.connect();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(16 * 1024);
    let (mut sender, connection) = builder.handshake(TokioIo::new(client)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://test/big").body(Empty::<Bytes>::new()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body();
    server.drain(false, Duration::from_secs(1));
    let _ = tokio::time::timeout(GRACE, std::future::pending::<()>()).await;
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 300 * 1024);
    connection.await.unwrap().unwrap();
}
