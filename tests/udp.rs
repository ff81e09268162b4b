//! Datagrams: one socket for all workers and generations, in every policy.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::harness::lines::{Who, parse_who};
use crate::harness::{PATIENCE, Setup};

fn client(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(address).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    socket
}

fn ask(socket: &UdpSocket, command: &str) -> String {
    socket.send(command.as_bytes()).expect("loopback");
    hear(socket)
}

fn hear(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("an answer");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn who(socket: &UdpSocket) -> Who {
    parse_who(&ask(socket, "who")).expect("an answer")
}

/// parallel/test-cluster-dgram-1.js, parallel/test-cluster-dgram-2.js: all workers receive from and send by one port.
#[test]
fn workers_share_a_udp_port_in_both_policies() {
    for policy in ["rr", "none"] {
        let master = Setup::lines_on(&["udp:127.0.0.1:0"]).workers(4).policy(policy).start();
        let socket = client(master.address());
        let mut seen = BTreeSet::new();
        // Workers that are blocked leave the socket to the others.
        for _ in 0..4 {
            let me = who(&socket);
            seen.insert(me.slot);
            socket.send(b"block 400").expect("loopback");
        }
        for _ in 0..4 {
            seen.insert(parse_who(&hear(&socket)).expect("an answer").slot);
        }
        assert!(seen.len() > 1, "{policy}: only {seen:?}");
        master.check();
    }
}

#[test]
fn no_datagram_is_lost_over_reloads() {
    let master = Setup::lines_on(&["udp:127.0.0.1:0"]).start();
    let address = master.address();
    let generations = std::thread::scope(|scope| {
        let reloads = scope.spawn(|| (0..5).for_each(|_| drop(master.reload_well())));
        let socket = client(address);
        let mut seen = BTreeSet::new();
        while !reloads.is_finished() {
            seen.insert(who(&socket).generation);
        }
        seen
    });
    assert!(generations.len() > 2, "{generations:?}");
    assert_eq!(master.addresses(), [address]);
    assert_eq!(who(&client(address)).generation, 6);
    master.settle(2);
    master.check();
}

#[test]
fn an_answer_under_way_is_sent_in_spite_of_a_reload() {
    let master = Setup::lines_on(&["udp:127.0.0.1:0"]).start();
    let socket = client(master.address());
    assert_eq!(who(&socket).generation, 1);
    socket.send(b"wait 600").expect("loopback");
    // A second question overtakes it, so the first is under way.
    let other = client(master.address());
    other.send(b"who").expect("loopback");
    hear(&other);
    master.reload_well();
    assert_eq!(parse_who(&hear(&socket)).expect("an answer").generation, 1);
    master.settle(2);
    master.check();
}

#[test]
fn a_draining_worker_receives_nothing_more() {
    let master = Setup::lines_on(&["udp:127.0.0.1:0", "127.0.0.1:0"]).start();
    let udp = master.status().0["listeners"]
        .as_array()
        .expect("a list")
        .iter()
        .position(|listener| listener["name"].as_str().is_some_and(|name| name.contains("udp")))
        .expect("the UDP listener");
    let addresses = master.addresses();
    let (udp, tcp) = (addresses[udp], addresses[1 - udp]);
    // A connection keeps the old worker alive.
    let mut held = crate::harness::Line::connect(tcp);
    assert_eq!(held.who().generation, 1);
    master.reload_well();
    let socket = client(udp);
    for _ in 0..50 {
        assert_eq!(who(&socket).generation, 2);
    }
    assert_eq!(held.who().generation, 1);
    drop(held);
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-child-index-dgram.js, sequential/test-dgram-bind-shared-ports.js,
/// known_issues/test-dgram-bind-shared-ports-after-port-0.js.
#[test]
fn udp_ports_are_shared_and_counted_like_tcp_ports() {
    let master = Setup::lines().start();
    let (mut one, mut two) = (master.line_to(0), master.line_to(1));
    let first = one.bind("udp:127.0.0.1:0").expect("a free port");
    let second = one.bind("udp:127.0.0.1:0").expect("a free port");
    assert_ne!(first, second);
    assert_eq!(two.bind("udp:127.0.0.1:0"), Ok(first.clone()), "the first port 0 of every worker is one port");
    assert_eq!(two.bind(&second), Ok(second.clone()), "and the second under its number");
    assert!(two.bind(&second).is_err(), "but only once");
    // TCP ports 0 count apart.
    assert!(one.bind("127.0.0.1:0").is_ok());
    for local in [&first, &second] {
        for line in [&mut one, &mut two] {
            assert_eq!(line.ask(&format!("close {local}")), "true");
        }
    }
    drop((one, two));
    master.stop();
}

/// parallel/test-dgram-cluster-bind-error.js, parallel/test-dgram-bind-socket-close-before-cluster-reply.js.
#[test]
fn a_udp_port_that_is_taken_is_an_error_until_it_is_free() {
    let master = Setup::lines().start();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = format!("udp:{}", taken.local_addr().expect("it is bound"));
    let mut line = master.line();
    assert_eq!(line.bind(&address), Err("AddrInUse 98".to_owned()));
    drop(taken);
    assert_eq!(line.bind(&address), Ok(address.clone()));
    assert_eq!(line.ask(&format!("close {address}")), "true");
    drop(line);
    master.wait_until("only the first listener is left", |status| status.addresses().len() == 1);
    master.check();
}

/// parallel/test-cluster-dgram-ipv6only.js.
#[test]
fn a_v6only_udp_socket_leaves_the_v4_port_free() {
    let master = Setup::lines_on(&["udp:[::]:0?v6only"]).start();
    let port = master.address().port();
    let beside = UdpSocket::bind(("127.0.0.1", port)).expect("the v4 port is free");
    let socket = UdpSocket::bind("[::1]:0").expect("a free port");
    socket.connect(("::1", port)).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    assert_eq!(who(&socket).generation, 1);
    drop(beside);
    master.check();
}

/// parallel/test-cluster-dgram-reuseport.js, parallel/test-cluster-dgram-reuse.js.
#[test]
fn a_udp_port_is_shared_with_strangers_only_when_asked() {
    let beside = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("the kernel is new enough");
        socket.bind(&address.into())
    };
    for (address, shared) in [("udp:127.0.0.1:0?reuseport", true), ("udp:127.0.0.1:0", false)] {
        let master = Setup::lines_on(&[address]).start();
        assert_eq!(beside(master.address()).is_ok(), shared, "{address}");
        master.check();
    }
}
