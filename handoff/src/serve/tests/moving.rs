//! When a connection moves, and with what.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_fresh_and_an_idle_connection_move_at_once_with_nothing() {
    let mut server = Server::new();
    let (_fresh, _task) = server.connect();
    let (mut idle, _task) = server.connect();
    ask(&mut idle, "/one").await;
    read_until(&mut idle, "GET /one").await;
    server.drain(true, GRACE);
    for _ in 0..2 {
        let (_, unread) = server.moved.recv().await.unwrap();
        assert_eq!(unread, "");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_head_moves_with_its_bytes() {
    let mut server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/one").await;
    client.write_all(b"GET /two HTTP").await.unwrap();
    read_until(&mut client, "GET /one").await;
    server.drain(true, GRACE);
    assert_eq!(server.moved.recv().await.unwrap().1, "GET /two HTTP");
}

#[tokio::test(start_paused = true)]
async fn what_may_become_http2_moves_with_its_bytes() {
    for length in 0..24 {
        let mut server = Server::new();
        let (mut client, _task) = server.connect();
        client.write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..length]).await.unwrap();
        nothing_more_happens().await;
        server.drain(true, GRACE);
        assert_eq!(server.moved.recv().await.unwrap().1.len(), length);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_moves_after_its_response_and_says_nothing_of_it() {
    let mut server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/slow").await;
    nothing_more_happens().await;
    server.drain(true, GRACE);
    nothing_more_happens().await;
    assert!(server.moved.try_recv().is_err());
    assert!(!read_until(&mut client, "slow").await.contains("connection"));
    server.moved.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_streamed_response_ends_before_the_connection_moves() {
    let mut server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/stream").await;
    read_until(&mut client, "piece 0;\r\n").await;
    // Longer than the soft deadline.
    server.drain(true, Duration::from_millis(10));
    read_until(&mut client, "piece 3;\r\n0\r\n\r\n").await;
    server.moved.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_reader_has_not_read_is_not_lost() {
    let mut server = Server::new();
    let (mut client, _task) = server.connect_with(1000);
    ask(&mut client, "/big").await;
    nothing_more_happens().await;
    server.drain(true, GRACE);
    nothing_more_happens().await;
    assert!(server.moved.try_recv().is_err(), "most of the response is not written yet");
    let mut bytes = vec![0; 300 * 1024];
    client.read_exact(&mut bytes).await.unwrap();
    let (io, unread) = server.moved.recv().await.unwrap();
    assert_eq!(unread, "");
    drop(io);
    client.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.ends_with(b"xxx"), "{:?}", bytes.last());
    assert_eq!(bytes.iter().filter(|&&byte| byte == b'x').count(), 300 * 1024);
}

#[tokio::test(start_paused = true)]
async fn a_returned_connection_goes_on_with_the_same_bytes_and_says_close() {
    let mut server = Server::new();
    let (mut client, task) = server.connect();
    client.write_all(b"GET /one HT").await.unwrap();
    nothing_more_happens().await;
    server.moved.close();
    server.drain(true, GRACE);
    nothing_more_happens().await;
    client.write_all(b"TP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let response = read_to_end(&mut client).await;
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
    assert!(response.ends_with("GET /one"), "{response}");
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_gone_does_not_move() {
    let mut server = Server::new();
    let (client, task) = server.connect();
    drop(client);
    task.await.unwrap();
    server.drain(true, GRACE);
    assert!(server.moved.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_connection_alone() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    ask(&mut client, "/panic").await;
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(read_to_end(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_pauses_is_told_to_close_after_the_soft_deadline() {
    let mut server = Server::new();
    let (mut client, _task) = server.connect();
    client.write_all("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n".repeat(100).as_bytes()).await.unwrap();
    nothing_more_happens().await;
    server.drain(true, GRACE);
    let responses = read_to_end(&mut client).await;
    // Two seconds each: the sixth is in progress after ten seconds, and the next one is the last.
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 7, "{responses}");
    assert_eq!(responses.matches("connection: close").count(), 1, "{responses}");
    assert!(server.moved.try_recv().is_err());
}
