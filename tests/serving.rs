//! HTTP over reloads, on `everport::serve`: what the clients of kept connections notice, which is nothing.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::http::{Answer, Connection, read_answer};
use crate::harness::{Setup, http};

#[track_caller]
fn served(answer: &Answer, generation: u32) {
    assert_eq!((answer.status, answer.header("x-generation")), (200, Some(generation.to_string().as_str())));
    assert!(!answer.says_close(), "the client was told to close");
}

#[test]
fn kept_and_fresh_connections_move_and_the_old_generation_is_gone_at_once() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let open = || Connection::open(master.address()).expect("the port is open");
        let mut kept: Vec<_> = (0..32).map(|_| open()).collect();
        for connection in &mut kept {
            served(&connection.get("/").expect("an answer"), 1);
        }
        let mut fresh: Vec<_> = (0..8).map(|_| open()).collect();
        master.wait_until("every connection is taken", |status| {
            status.workers().iter().map(|worker| worker.active).sum::<u64>() == 40
        });
        for generation in 2..=4 {
            master.reload_well();
            let (_, took) = http::timed(|| master.settle(2));
            assert!(took.as_millis() < 1000, "{policy}: the drain took {took:?}");
            for connection in &mut kept {
                served(&connection.get("/").unwrap_or_else(|failure| panic!("{policy}: {failure:?}")), generation);
            }
        }
        for connection in &mut fresh {
            served(&connection.get("/").unwrap_or_else(|failure| panic!("{policy}: {failure:?}")), 4);
        }
        drop((kept, fresh));
        master.check();
    }
}

#[test]
fn busy_clients_notice_no_reload() {
    let master = Setup::web().start();
    let (address, over) = (master.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(address).expect("the port is open");
                    while !over.load(Ordering::Relaxed) {
                        let answer = connection.get("/").expect("an answer on the one connection");
                        assert!(answer.status == 200 && !answer.says_close());
                    }
                    connection.get("/").expect("an answer").header("x-generation").map(str::to_owned)
                })
            })
            .collect();
        for _ in 0..5 {
            master.reload_well();
            master.settle(2);
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().expect("no failure"), Some("6".to_owned()));
        }
    });
    master.check();
}

#[test]
fn a_request_in_pieces_over_three_reloads_is_answered() {
    let master = Setup::web().start();
    let mut stream = BufReader::new(TcpStream::connect(master.address()).expect("the port is open"));
    for piece in ["GE", "T / HTT", "P/1.1\r\nho"] {
        stream.get_mut().write_all(piece.as_bytes()).expect("the connection is open");
        master.reload_well();
        master.settle(2);
    }
    stream.get_mut().write_all(b"st: test\r\n\r\n").expect("the connection is open");
    served(&read_answer(&mut stream).expect("an answer"), 4);
    drop(stream);
    master.check();
}

#[test]
fn an_upload_that_has_begun_finishes_where_it_began_and_the_connection_moves_then() {
    let master = Setup::web().start();
    let mut stream = BufReader::new(TcpStream::connect(master.address()).expect("the port is open"));
    let send = |stream: &mut BufReader<TcpStream>, bytes: &str| {
        stream.get_mut().write_all(bytes.as_bytes()).expect("the connection is open");
    };
    let head = "POST /upload HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
    send(&mut stream, head);
    // The application reads the body from here on.
    assert_eq!(read_answer(&mut stream).expect("leave to go on").status, 100);
    send(&mut stream, "half ");
    master.reload_well();
    send(&mut stream, "done!");
    let answer = read_answer(&mut stream).expect("an answer");
    served(&answer, 1);
    assert_eq!(answer.text(), "10 bytes\n");
    master.settle(2);
    send(&mut stream, "GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    served(&read_answer(&mut stream).expect("an answer"), 2);
    drop(stream);
    master.check();
}

#[test]
fn at_a_stop_a_kept_connection_gets_one_more_answer_which_says_close() {
    let master = Setup::web().start();
    let mut connection = Connection::open(master.address()).expect("the port is open");
    served(&connection.get("/").expect("an answer"), 1);
    master.term();
    master.wait_until("the workers drain", |status| status.workers().iter().all(|worker| worker.state == "draining"));
    // The master is ahead of its workers.
    while !connection.get("/").expect("an answer in spite of the stop").says_close() {}
    drop(connection);
    assert_eq!(master.wait().code(), Some(0));
}
