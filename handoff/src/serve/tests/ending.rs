//! How connections end that cannot move.

use super::*;
use crate::serve::connection::HEAD_TIMEOUT;
use crate::serve::linger::{LINGER_BYTES, LINGER_TIME};

#[tokio::test(start_paused = true)]
async fn without_a_successor_the_next_response_says_close_once_and_is_the_last() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    ask(&mut client, "/one").await;
    assert!(!read_until(&mut client, "GET /one").await.contains("connection"));
    server.drain(false, GRACE);
    nothing_more_happens().await;
    ask(&mut client, "/two").await;
    ask(&mut client, "/three").await;
    let response = read_to_end(&mut client).await;
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
    assert!(response.ends_with("GET /two"), "{response}");
    assert!(!task.is_finished(), "it waits for the client's end");
    drop(client);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_at_the_drain_says_close_too() {
    let server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/slow").await;
    nothing_more_happens().await;
    server.drain(false, GRACE);
    let response = read_to_end(&mut client).await;
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
}

#[tokio::test(start_paused = true)]
async fn close_is_said_once_when_the_client_said_it_first() {
    let server = Server::new();
    let (mut client, _task) = server.connect();
    server.drain(false, GRACE);
    client.write_all(b"GET /one HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let response = read_to_end(&mut client).await;
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end_one_after_another_in_the_last_half_of_the_grace() {
    let server = Server::new();
    let start = Instant::now();
    let mut ends = Vec::new();
    for _ in 0..50 {
        let (mut client, _task) = server.connect();
        ends.push(tokio::spawn(async move {
            assert_eq!(read_to_end(&mut client).await, "");
            start.elapsed()
        }));
    }
    server.drain(false, GRACE);
    let mut times = Vec::new();
    for end in ends {
        times.push(end.await.unwrap());
    }
    times.sort();
    assert!(times[0] >= GRACE / 2, "{times:?}");
    assert!(times[49] <= GRACE + Duration::from_millis(1), "{times:?}");
    assert!(times[49] - times[0] > GRACE / 10, "{times:?}");
    times.dedup();
    assert!(times.len() > 40, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_at_the_soft_deadline_finishes() {
    let server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/stream").await;
    read_until(&mut client, "piece 0;\r\n").await;
    server.drain(false, Duration::from_millis(10));
    // Its head has said nothing of an end; the connection ends all the same when it is idle.
    assert!(read_to_end(&mut client).await.ends_with("piece 3;\r\n0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn half_a_head_ends_at_the_soft_deadline() {
    let server = Server::new();
    let (mut client, _task) = server.connect();
    client.write_all(b"GET /one HT").await.unwrap();
    server.drain(false, GRACE);
    let start = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(start.elapsed().as_secs(), GRACE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_complete_before_the_soft_deadline_is_answered() {
    let server = Server::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut client, _task) = server.connect();
        client.write_all(b"GET /one HT").await.unwrap();
        clients.push(client);
    }
    nothing_more_happens().await;
    server.drain(false, GRACE);
    // Longer than the moment of any that is idle, but for the last of it.
    let _ = tokio::time::timeout(GRACE * 99 / 100, std::future::pending::<()>()).await;
    for mut client in clients {
        client.write_all(b"TP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let response = read_to_end(&mut client).await;
        assert!(response.ends_with("GET /one") && response.contains("connection: close"), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_ends_is_left_after_the_time_to_linger() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    client.write_all(b"GET /one HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    read_to_end(&mut client).await;
    let start = Instant::now();
    task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), LINGER_TIME.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_stops_is_left_after_the_bytes_to_linger() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    client.write_all(b"GET /one HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    read_to_end(&mut client).await;
    let mut sent = 0;
    while client.write_all(&[0; 1024]).await.is_ok() {
        sent += 1024;
    }
    assert!((LINGER_BYTES..LINGER_BYTES + 2 * PIPE).contains(&sent), "{sent}");
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_ends_the_connection_and_an_idle_one_lives() {
    let server = Server::new();
    let (mut slow, slow_task) = server.connect();
    let (mut idle, idle_task) = server.connect();
    for client in [&mut slow, &mut idle] {
        ask(client, "/one").await;
        read_until(client, "GET /one").await;
    }
    slow.write_all(b"GET /tw").await.unwrap();
    let start = Instant::now();
    slow_task.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    tokio::time::advance(10 * HEAD_TIMEOUT).await;
    nothing_more_happens().await;
    assert!(!idle_task.is_finished());
    ask(&mut idle, "/two").await;
    read_until(&mut idle, "GET /two").await;
}

#[tokio::test(start_paused = true)]
async fn a_head_in_time_starts_no_clock_for_what_comes_after() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    client.write_all(b"GET /one HT").await.unwrap();
    nothing_more_happens().await;
    client.write_all(b"TP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    read_until(&mut client, "GET /one").await;
    tokio::time::advance(2 * HEAD_TIMEOUT).await;
    nothing_more_happens().await;
    assert!(!task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn each_head_has_its_own_time() {
    let server = Server::new();
    let (mut client, task) = server.connect();
    for path in ["one", "two", "three"] {
        client.write_all(format!("GET /{path} HT").as_bytes()).await.unwrap();
        let _ = tokio::time::timeout(HEAD_TIMEOUT * 2 / 3, std::future::pending::<()>()).await;
        client.write_all(b"TP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        read_until(&mut client, path).await;
    }
    assert!(!task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_there_at_the_moment_of_closing_is_answered() {
    let server = Server::new();
    let (mut client, _task) = server.connect();
    ask(&mut client, "/one").await;
    read_until(&mut client, "GET /one").await;
    // The moment is now: neither the drain nor the request has been seen.
    server.drain(false, Duration::ZERO);
    ask(&mut client, "/two").await;
    let response = read_to_end(&mut client).await;
    assert!(response.ends_with("GET /two") && response.contains("connection: close"), "{response}");
}
