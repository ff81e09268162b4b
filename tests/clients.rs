//! The clients themselves: each way in which a server can fail them is noticed, and is told from every other.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::clients::{Kind, Load, Notice, Server, Target};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const FAREWELL: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";

/// One client of this kind against a server that does this with its first connection and serves the next ones well.
fn noticed(kind: Kind, mischief: fn(TcpStream)) -> Vec<Notice> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        mischief(listener.accept().expect("the client comes").0);
        // Until the test has ended.
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, usize::MAX));
        }
    });
    watch(kind, address)
}

fn watch(kind: Kind, address: SocketAddr) -> Vec<Notice> {
    let load = Load::start_on(Target { address, server: Server::Any, stall: Duration::from_millis(300) }, &[(kind, 1)]);
    load.go_on(&[(kind, 3)]);
    let notices: BTreeMap<Notice, usize> = load.finish().of(kind).notices;
    assert!(notices.values().all(|count| *count == 1), "{notices:?}");
    notices.into_keys().collect()
}

/// Answers so many requests well.
fn serve(mut stream: TcpStream, requests: usize) -> TcpStream {
    for _ in 0..requests {
        if !hear(&mut stream) || stream.write_all(ANSWER.as_bytes()).is_err() {
            break;
        }
    }
    stream
}

/// Reads one request to its end; whether there was one.
fn hear(stream: &mut TcpStream) -> bool {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Ends a connection by a reset: something that it sent was never read.
fn reset(mut stream: TcpStream, answer: &str) {
    stream.write_all(answer.as_bytes()).expect("an open connection");
    let mut byte = [0];
    let unread = stream.peek(&mut byte).is_ok_and(|length| length == 1);
    assert!(unread, "there is nothing unread");
}

#[test]
fn a_client_that_is_served_well_notices_nothing() {
    assert_eq!(noticed(Kind::Busy, |stream| drop(serve(stream, usize::MAX))), []);
    assert_eq!(noticed(Kind::Fresh, |stream| drop(serve(stream, 1))), []);
    assert_eq!(noticed(Kind::Dribble, |stream| drop(serve(stream, usize::MAX))), []);
}

#[test]
fn a_request_that_is_lost_is_told_from_one_that_crosses_a_closing_and_both_from_a_closing_between_two() {
    let closes = |stream| {
        let mut stream = serve(stream, 0);
        hear(&mut stream);
    };
    assert_eq!(noticed(Kind::Fresh, closes), [Notice::Lost]);
    let crosses = |stream| {
        let mut stream = serve(stream, 1);
        hear(&mut stream);
    };
    assert_eq!(noticed(Kind::Busy, crosses), [Notice::Crossed, Notice::Reconnected]);
    assert_eq!(noticed(Kind::Idle, |stream| drop(serve(stream, 1))), [Notice::ClosedIdle, Notice::Reconnected]);
    // Before it has asked for anything.
    assert_eq!(noticed(Kind::Idle, drop), [Notice::ClosedIdle, Notice::Reconnected]);
}

#[test]
fn an_answer_that_breaks_off_is_told_from_a_reset() {
    let breaks_off = |mut stream: TcpStream| {
        hear(&mut stream);
        stream.write_all(&ANSWER.as_bytes()[..ANSWER.len() - 1]).expect("an open connection");
    };
    assert_eq!(noticed(Kind::Fresh, breaks_off), [Notice::Truncated]);
    assert_eq!(noticed(Kind::Busy, breaks_off), [Notice::Truncated, Notice::Reconnected]);
    assert_eq!(noticed(Kind::Fresh, |stream| reset(stream, "")), [Notice::Reset]);
    assert_eq!(noticed(Kind::Busy, |stream| reset(serve(stream, 1), "")), [Notice::Crossed, Notice::Reconnected]);
}

#[test]
fn an_answer_that_does_not_come_is_a_stall() {
    let never_answers = |mut stream: TcpStream| {
        hear(&mut stream);
        // Until the client has gone.
        hear(&mut stream);
    };
    assert_eq!(noticed(Kind::Fresh, never_answers), [Notice::Stalled]);
}

#[test]
fn being_told_to_close_is_noticed_also_by_one_who_would_have_closed_anyway() {
    let says = |mut stream: TcpStream| {
        hear(&mut stream);
        stream.write_all(FAREWELL.as_bytes()).expect("an open connection");
    };
    assert_eq!(noticed(Kind::Busy, says), [Notice::ToldToClose, Notice::Reconnected]);
    assert_eq!(noticed(Kind::Fresh, says), [Notice::ToldToClose]);
}

#[test]
fn what_is_no_answer_to_the_request_is_wrong() {
    for text in ["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", "lorem ipsum\r\n\r\n", &format!("{ANSWER}{ANSWER}")] {
        let text = text.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            let mut stream = listener.accept().expect("the client comes").0;
            hear(&mut stream);
            stream.write_all(text.as_bytes()).expect("an open connection");
            hear(&mut stream);
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, usize::MAX));
            }
        });
        assert_eq!(watch(Kind::Fresh, address), [Notice::Wrong]);
    }
}

#[test]
fn a_port_that_nobody_listens_at_refuses() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let target = Target { address, server: Server::Any, stall: Duration::from_millis(300) };
    let load = Load::start_on(target, &[(Kind::Fresh, 1)]);
    load.go_on(&[(Kind::Fresh, 1)]);
    let notices = load.finish().of(Kind::Fresh).notices;
    assert_eq!(notices.into_keys().collect::<Vec<_>>(), [Notice::Refused]);
}
