//! The programs that people copy do what their first lines say.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use crate::harness::{PATIENCE, Setup, http, process};

const ECHO: &str = env!("CARGO_BIN_EXE_echo");
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
