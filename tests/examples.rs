//! The programs that people copy do what their first lines say.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::harness::{Master, PATIENCE, Setup, http, process, soon};

const ECHO: &str = env!("CARGO_BIN_EXE_echo");
const COUNTER: &str = env!("CARGO_BIN_EXE_counter");
const UDP: &str = env!("CARGO_BIN_EXE_udp");

#[test]
fn web_says_once_what_to_do_next_and_it_works() {
    let master = Setup::web().start();
    let address = master.address();
    let pid = master.pid();
    master.output.wait_for(&[&format!("curl -i http://{address}/")]);
    master.output.wait_for(&[&format!("kill -HUP {pid}")]);
    master.hup();
    master.wait_until("the reload has ended", |status| !status.0["last_reload"].is_null());
    assert_eq!(http::get(address, "/").expect("an answer").header("x-generation"), Some("2"));
    master.settle(2);
    let ended = master.stop();
    assert_eq!(ended.output.matches("curl").count(), 1, "{}", ended.output);
    assert_eq!(ended.output.matches("kill -HUP").count(), 1, "{}", ended.output);
}

#[test]
fn web_serves_its_pages() {
    let master = Setup::web().argument("--threads").argument("2").start();
    let address = master.address();
    let mut connection = http::Connection::open(address).expect("the port is open");
    assert!(connection.get("/").expect("an answer").text().starts_with("hello from worker "));
    let upload = connection.request("POST", "/upload", &vec![7; 3_000_000]).expect("an answer");
    assert_eq!(upload.text(), "3000000 bytes\n");
    let stream = connection.get("/stream?chunks=3&ms=10").expect("an answer");
    assert_eq!(stream.header("transfer-encoding"), Some("chunked"));
    assert_eq!(stream.text().lines().count(), 3);
    assert_eq!(connection.get("/slow?ms=10").expect("an answer").status, 200);
    assert_eq!(connection.get("/block?ms=10").expect("an answer").status, 200);
    assert_eq!(connection.get("/slow?ms=soon").expect("an answer").status, 400);
    drop(connection);
    master.settle(2);
    master.check();
}

#[test]
fn web_names_what_is_wrong_with_its_arguments() {
    for (arguments, word) in [
        (["--listen", "nowhere"], "nowhere"),
        (["--threads", "0"], "--threads"),
        (["--workers", "many"], "many"),
        (["--workers", "0"], "0"),
        (["--colour", "red"], "--colour"),
    ] {
        let ended = Setup::program(crate::harness::setup::WEB, &arguments).unset("EVERPORT_WORKERS").run_to_end();
        assert!(matches!(ended.code(), Some(1 | 2)), "{arguments:?}: {}", ended.errors);
        assert!(ended.errors.contains(word), "{arguments:?}: {}", ended.errors);
    }
}

#[test]
fn echo_serves_tcp_and_unix_clients_to_their_end_over_a_reload() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("socket");
    let unix = format!("unix:{}", path.display());
    let master = Setup::program(ECHO, &["--listen", "127.0.0.1:0", "--listen", &unix]).start();
    let old: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    let mut tcp = TcpStream::connect(master.address()).expect("the port is open");
    let mut local = UnixStream::connect(&path).expect("the socket is there");
    echoes(&mut tcp);
    echoes(&mut local);
    master.reload_well();
    echoes(&mut tcp);
    echoes(&mut local);
    echoes(&mut TcpStream::connect(master.address()).expect("the port is open"));
    echoes(&mut UnixStream::connect(&path).expect("the socket is there"));
    drop((tcp, local));
    old.into_iter().for_each(process::wait_for_end);
    master.settle(2);
    master.check();
}

fn echoes(stream: &mut (impl Read + Write)) {
    stream.write_all(b"hello").expect("an open connection");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"hello");
}

#[test]
fn udp_answers_over_a_reload() {
    let master = Setup::program(UDP, &["--listen", "127.0.0.1:0", "--delay-ms", "300"]).start();
    let old: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    socket.connect(master.address()).expect("loopback");
    let mut answer = [0; 16];
    for word in [b"one", b"two"] {
        socket.send(word).expect("loopback");
        master.reload_well();
        assert_eq!(socket.recv(&mut answer).expect("an answer"), 3);
        assert_eq!(&answer[..3], word);
    }
    old.into_iter().for_each(process::wait_for_end);
    master.settle(2);
    master.check();
}

/// A line and its answer: the count, and the generation that answers.
fn count(stream: &mut BufReader<TcpStream>) -> (u64, u64) {
    stream.get_mut().write_all(b"one more\n").expect("an open connection");
    read_count(stream)
}

fn read_count(stream: &mut BufReader<TcpStream>) -> (u64, u64) {
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("an answer");
    let answer = answer.strip_suffix(")\n").and_then(|answer| answer.split_once(" (generation "));
    let (count, generation) = answer.expect("it says both");
    (count.parse().expect("a number"), generation.parse().expect("a number"))
}

fn counted_client(master: &Master) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(master.address()).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    BufReader::new(stream)
}

#[test]
fn counter_goes_on_counting_in_the_next_generation() {
    for policy in ["rr", "none"] {
        let master = Setup::program(COUNTER, &["--listen", "127.0.0.1:0"]).policy(policy).start();
        let mut clients: Vec<_> = (0..20).map(|_| counted_client(&master)).collect();
        for generation in 1..=4 {
            for client in &mut clients {
                assert_eq!(count(client), (generation * 2 - 1, generation), "{policy}");
                // The next line is half said when it moves.
                client.get_mut().write_all(b"half ").expect("an open connection");
            }
            master.reload_well();
            master.settle(2);
            for client in &mut clients {
                client.get_mut().write_all(b"a line\n").expect("an open connection");
                assert_eq!(read_count(client), (generation * 2, generation + 1), "{policy}");
            }
        }
        drop(clients);
        master.check();
    }
}

#[test]
fn counter_keeps_those_whose_state_the_next_program_does_not_understand() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0"], &[]);
    let program = setup.folder().join("program");
    let release = |version: u32| {
        let draft = program.with_extension("new");
        let text = format!("#!/bin/sh\nexec {COUNTER} --listen 127.0.0.1:0 --state-version {version}\n");
        std::fs::write(&draft, text).expect("the folder is ours");
        std::fs::set_permissions(&draft, Permissions::from_mode(0o755)).expect("the folder is ours");
        std::fs::rename(draft, &program).expect("the folder is ours");
    };
    release(1);
    let master = setup.argument(&program).start();
    let mut old = counted_client(&master);
    assert_eq!(count(&mut old), (1, 1));
    release(2);
    master.reload_well();
    assert_eq!(count(&mut old), (2, 1), "the old generation keeps it");
    let mut new = counted_client(&master);
    assert_eq!(count(&mut new), (1, 2));
    master.reload_well();
    assert_eq!(count(&mut old), (3, 1));
    assert_eq!(soon("the second generation has gone", || Some(count(&mut new)).filter(|count| count.1 == 3)).1, 3);
    drop((old, new));
    master.settle(2);
    master.check();
}
