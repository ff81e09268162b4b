//! A connection that moves in the middle of an exchange, cut at every byte of it, gives the client the bytes of one that
//! stays.

use tokio::io::AsyncWriteExt;

use super::*;

/// Requests of every kind, one behind the other.
const EXCHANGE: &[&str] = &[
    "GET /one HTTP/1.1\r\nhost: test\r\n\r\n",
    "POST /two HTTP/1.1\r\nhost: test\r\ncontent-length: 11\r\n\r\nhello world",
    "HEAD /three HTTP/1.1\r\nhost: test\r\n\r\n",
    "POST /four HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "\r\nGET /stream HTTP/1.1\r\nhost: test\r\n\r\n",
    "POST /five HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
    "POST /six HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: 1\r\n\r\n",
    "GET /seven HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    "PUT /eight HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n",
    "GET /nine HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n",
];

/// When the connection may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    /// Once nothing more happens with the bytes before the cut.
    Settled(usize),
    /// While the bytes before the cut are not read yet.
    Unread(usize),
}

/// Waits longer than the longest request takes.
async fn all_is_answered() {
    let _ = tokio::time::timeout(Duration::from_secs(5), std::future::pending::<()>()).await;
}

/// Sends the exchange, and returns what came back and how often the connection moved.
async fn run(exchange: &[u8], cut: Cut) -> (String, usize) {
    let (mut old, new) = (Server::new(), Server::new());
    let (mut client, _task) = old.connect();
    let at = match cut {
        Cut::Never => exchange.len(),
        Cut::Settled(at) | Cut::Unread(at) => at,
    };
    client.write_all(&exchange[..at]).await.unwrap();
    if let Cut::Settled(_) = cut {
        all_is_answered().await;
    }
    if cut != Cut::Never {
        old.drain(true, GRACE);
    }
    all_is_answered().await;
    // It fails when the server has given up a body that nobody reads, and waited for the rest of it.
    let _ = client.write_all(&exchange[at..]).await;
    let mut moves = 0;
    let received = tokio::select! {
        biased;
        received = read_to_end(&mut client) => received,
        () = async {
            while let Some(moved) = old.moved.recv().await {
                moves += 1;
                new.take(moved);
            }
        } => unreachable!("the server holds a sender"),
    };
    (received, moves)
}

#[tokio::test(start_paused = true)]
async fn a_connection_cut_at_every_byte_goes_on_as_if_nothing_had_happened() {
    let exchange = EXCHANGE.concat().into_bytes();
    let (whole, _) = run(&exchange, Cut::Never).await;
    assert_eq!(whole.matches("HTTP/1.").count(), EXCHANGE.len() + 1, "one is 100 Continue: {whole}");
    assert!(whole.ends_with("GET /nine"), "{whole}");
    for at in 0..=exchange.len() {
        for cut in [Cut::Settled(at), Cut::Unread(at)] {
            let (received, moves) = run(&exchange, cut).await;
            assert_eq!(received, whole, "{cut:?}");
            // Within a body it finishes that request, and hyper begins the next one, if it is there, in the same turn.
            assert!(moves == 1 || !is_between_requests(at) || at == exchange.len(), "{cut:?}");
        }
    }
}

/// Whether all that was sent up to a cut is whole requests, and perhaps a part of a head.
fn is_between_requests(at: usize) -> bool {
    let mut start = 0;
    EXCHANGE.iter().any(|request| {
        let head = start..start + request.find("\r\n\r\n").unwrap();
        start += request.len();
        head.contains(&at)
    })
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_application_leaves_unread_never_becomes_a_request() {
    let ignored =
        "POST /ignore HTTP/1.1\r\nhost: test\r\ncontent-length: 36\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: bad\r\n\r\n";
    let exchange = format!("{ignored}GET /last HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").into_bytes();
    for at in 0..=exchange.len() {
        for cut in [Cut::Settled(at), Cut::Unread(at)] {
            let (received, _) = run(&exchange, cut).await;
            assert!(!received.contains("smuggled"), "{cut:?}: {received}");
            assert!(received.ends_with("GET /last") || received.ends_with("ignored"), "{cut:?}: {received}");
            assert_eq!(received.matches("HTTP/1.1 200").count(), received.matches("HTTP/1.1").count(), "{received}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_byte_at_a_time_over_many_moves_is_one_exchange() {
    let exchange = EXCHANGE.concat().into_bytes();
    let (whole, _) = run(&exchange, Cut::Never).await;
    let mut server = Server::new();
    let (mut client, _task) = server.connect();
    let mut received = Vec::new();
    let mut moves = 0;
    for byte in &exchange {
        // An old server may be gone before its connection is: what it holds goes on.
        client.write_all(&[*byte]).await.unwrap();
        nothing_more_happens().await;
        server.drain(true, GRACE);
        let next = Server::new();
        // Within a request nothing moves before its end, which may be some bytes away.
        all_is_answered().await;
        if let Ok(moved) = server.moved.try_recv() {
            moves += 1;
            next.take(moved);
            server = next;
        }
    }
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(undated(&received), whole);
    assert!(moves > exchange.len() / 2, "{moves} of {}", exchange.len());
}
