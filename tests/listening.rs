//! Addresses, options and errors of `bind`, as the worker that asks sees them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::setup::WORKER;
use crate::harness::{Line, Master, Setup, process, soon};

const POLICIES: [&str; 2] = ["rr", "none"];

/// What `bind` of the fixture says of these errors.
const IN_USE: &str = "AddrInUse 98";
const DENIED: &str = "PermissionDenied 13";

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// parallel/test-cluster-net-listen.js, parallel/test-cluster-listening-port.js, sequential/test-net-listen-shared-ports.js:
/// no port is port 0, and the n-th port 0 of every worker is one real port.
#[test]
fn the_nth_port_zero_of_every_worker_is_one_port() {
    for policy in POLICIES {
        let master = Setup::lines_on(&["127.0.0.1", "127.0.0.1:0", "127.0.0.1:0"]).policy(policy).start();
        let addresses = master.addresses();
        assert_eq!(addresses.len(), 3, "{policy}: {addresses:?}");
        assert!(addresses.iter().all(|address| address.port() > 0), "{policy}: {addresses:?}");
        for generation in 1..=3 {
            for address in &addresses {
                soon("both workers serve the port", || (Line::connect(*address).who().slot == 0).then_some(()));
                let line = Line::connect(*address).who();
                assert_eq!(line.generation, generation, "{policy}");
            }
            master.reload_well();
            assert_eq!(master.addresses(), addresses, "{policy}");
        }
        master.settle(2);
        master.check();
    }
}

/// parallel/test-cluster-child-index-net.js: several ports 0, opened and closed in any order.
#[test]
fn ports_zero_may_be_opened_and_closed_in_any_order() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let mut line = master.line_to(0);
        let first = line.bind("127.0.0.1:0").expect("a free port");
        let second = line.bind("127.0.0.1:0").expect("a free port");
        assert_ne!(first, second);
        assert_eq!(line.ask(&format!("close {first}")), "true");
        // The lowest index is free again, but the old port may have gone with its last user.
        let third = line.bind("127.0.0.1:0").expect("a free port");
        assert_ne!(third, second, "{policy}");
        for local in [&second, &third] {
            let address = local.parse().expect("an address");
            assert_eq!(Line::connect(address).who().slot, 0, "{policy}");
        }
        for local in [second, third] {
            assert_eq!(line.ask(&format!("close {local}")), "true");
        }
        drop(line);
        master.wait_until("only the first listener is left", |status| status.addresses().len() == 1);
        master.check();
    }
}

/// sequential/test-cluster-port-reuse-between-workers.js (nodejs/node#60086).
#[test]
fn a_second_bind_of_an_address_in_one_worker_is_in_use_and_another_worker_shares_it() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let address = free_address().to_string();
        let (mut one, mut two) = (master.line_to(0), master.line_to(1));
        assert_eq!(one.bind(&address), Ok(address.clone()), "{policy}");
        assert_eq!(one.bind(&address), Err(IN_USE.to_owned()), "{policy}");
        assert_eq!(two.bind(&address), Ok(address.clone()), "{policy}");
        assert_eq!(one.ask(&format!("close {address}")), "true");
        assert_eq!(Line::connect(address.parse().expect("an address")).who().slot, 1, "{policy}");
        assert_eq!(one.bind(&address), Ok(address.clone()), "{policy}: open again");
        for line in [&mut one, &mut two] {
            assert_eq!(line.ask(&format!("close {address}")), "true");
        }
        drop((one, two));
        master.wait_until("only the first listener is left", |status| status.addresses().len() == 1);
        master.check();
    }
}

/// parallel/test-cluster-eaddrinuse.js, parallel/test-cluster-shared-handle-bind-error.js, parallel/test-cluster-eaccess.js:
/// the error reaches the worker that asked, is not remembered, and hurts nobody else.
#[test]
fn a_port_that_is_taken_is_an_error_until_it_is_free() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("it is bound").to_string();
        let mut lines = [master.line_to(0), master.line_to(1)];
        for line in &mut lines {
            assert_eq!(line.bind(&address), Err(IN_USE.to_owned()), "{policy}");
            assert_eq!(line.bind(&address), Err(IN_USE.to_owned()), "{policy}");
        }
        drop(taken);
        for line in &mut lines {
            assert_eq!(line.bind(&address), Ok(address.clone()), "{policy}");
            assert_eq!(line.ask(&format!("close {address}")), "true");
        }
        drop(lines);
        master.wait_until("only the first listener is left", |status| status.addresses().len() == 1);
        master.check();
    }
}

/// parallel/test-cluster-bind-privileged-port.js, parallel/test-cluster-shared-handle-bind-privileged-port.js.
#[test]
fn a_port_for_root_alone_is_denied_to_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup_of = |policy| {
        let is_root = rustix::process::geteuid().is_root();
        // The built program may lie where other users cannot reach it.
        let program = folder.path().join("server");
        fs::copy(WORKER, &program).expect("the folder is ours");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let setup = Setup::program(program, &["127.0.0.1:0"]).policy(policy);
        if is_root { setup.user(65534) } else { setup }
    };
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("it is Linux");
    let anybody_may = lowest.trim().parse::<u16>().expect("a port") <= 42;
    for policy in POLICIES {
        let master = setup_of(policy).start();
        let bound = master.line().bind("127.0.0.1:42");
        if !anybody_may {
            assert_eq!(bound, Err(DENIED.to_owned()), "{policy}");
        }
        assert_eq!(master.line().bind("unix:/proc/no-socket-can-be-here").map_err(|_| ()), Err(()));
        master.check();
    }
}

#[test]
fn nonsense_is_an_error_of_the_one_that_asked() {
    let master = Setup::lines().start();
    let mut line = master.line();
    for address in ["nonsense:1:2", "127.0.0.1:0?color=red", "127.0.0.1:0?backlog=0", "fd:999", "unix:", "256.1.1.1:0"]
    {
        assert!(line.bind(address).is_err(), "{address}");
    }
    assert_eq!(line.ask("echo still here"), "still here");
    drop(line);
    master.check();
}

/// parallel/test-net-server-close-before-ipc-response.js, parallel/test-net-listen-twice.js: given up before the answer.
#[test]
fn a_bind_that_is_given_up_leaks_nothing() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let address = free_address();
        let mut line = master.line_to(0);
        let files = line.ask("files");
        assert_eq!(line.ask(&format!("cancel-bind {address} 50")), "cancelled", "{policy}");
        assert_eq!(line.ask("cancel-bind 127.0.0.1:0 50"), "cancelled", "{policy}");
        master.wait_until("what was given up is closed", |status| status.addresses().len() == 1);
        soon("the worker has closed it too", || (line.ask("files") == files).then_some(()));
        // And it is free for whoever asks.
        assert_eq!(line.bind(&address.to_string()), Ok(address.to_string()), "{policy}");
        assert_eq!(line.ask(&format!("close {address}")), "true");
        drop(line);
        master.wait_until("only the first listener is left", |status| status.addresses().len() == 1);
        master.check();
    }
}

/// k/test-dgram-bind-shared-ports-after-port-0.js, for TCP: a port that port 0 gave is shared under its number too.
#[test]
fn a_port_is_shared_however_it_was_asked_for() {
    let master = Setup::lines().start();
    let mut one = master.line_to(0);
    let given = one.bind("127.0.0.1:0").expect("a free port");
    let mut two = master.line_to(1);
    assert_eq!(two.bind(&given), Ok(given.clone()));
    let address = given.parse().expect("an address");
    soon("both serve it", || (Line::connect(address).who().slot == 0).then_some(()));
    soon("both serve it", || (Line::connect(address).who().slot == 1).then_some(()));
    drop((one, two));
    master.stop();
}

/// parallel/test-cluster-net-listen-ipv6only-false.js.
#[test]
fn a_listener_on_any_v6_address_serves_v4_too_unless_told_otherwise() {
    for policy in POLICIES {
        let master = Setup::lines_on(&["[::]:0"]).policy(policy).start();
        let port = master.address().port();
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
            assert_eq!(Line::connect(address).who().generation, 1, "{policy}");
        }
        master.check();
    }
}

/// sequential/test-cluster-net-listen-ipv6only-rr.js, sequential/test-cluster-net-listen-ipv6only-none.js.
#[test]
fn a_v6only_listener_leaves_the_v4_port_free() {
    for policy in POLICIES {
        let master = Setup::lines_on(&["[::]:0?v6only"]).policy(policy).start();
        let port = master.address().port();
        let beside = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the v4 port is free");
        assert_eq!(Line::connect((Ipv6Addr::LOCALHOST, port).into()).who().generation, 1, "{policy}");
        drop(beside);
        master.check();
    }
}

/// parallel/test-cluster-net-listen-backlog.js.
#[test]
fn the_backlog_is_the_configured_one() {
    let master = Setup::lines_on(&["127.0.0.1:0?backlog=4"]).policy("none").start();
    let address = master.address();
    let pids: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    let clients: Vec<Socket> = (0..20)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
            // It goes on by itself, as far as the backlog lets it.
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    // The kernel takes one more than the backlog says.
    soon("the backlog is full", || (process::backlog(address) == 5).then_some(()));
    master.log.pass(std::time::Duration::from_millis(100));
    assert_eq!(process::backlog(address), 5);
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGCONT));
    drop(clients);
    master.wait_until("the workers go on", |status| status.workers().iter().all(|worker| worker.active == 0));
    master.check();
}

/// parallel/test-cluster-http-pipe.js, parallel/test-cluster-listen-pipe-readable-writable.js: a unix socket in both
/// policies, with the mode that was asked for.
#[test]
fn a_unix_socket_has_its_mode_and_lives_as_long_as_the_master() {
    for policy in POLICIES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("socket");
        let master = Setup::lines_on(&[&format!("unix:{}?mode=0660", path.display())]).policy(policy).start();
        let mode = fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660, "{policy}");
        let mut held = Line::connect_unix(&path).expect("the socket is there");
        held.who();
        master.reload_well();
        assert_eq!(Line::connect_unix(&path).expect("the same socket").who().generation, 2, "{policy}");
        assert_eq!(held.who().generation, 1, "{policy}");
        drop(held);
        master.settle(2);
        master.check();
        assert!(!path.exists(), "{policy}");
    }
}

/// parallel/test-cluster-net-listen-relative-path.js: a path that is too long for the kernel as a whole works.
#[test]
fn a_relative_unix_path_is_relative_to_where_the_master_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let deep = folder.path().join("d".repeat(60)).join("e".repeat(60));
    fs::create_dir_all(&deep).expect("the folder is ours");
    let master = Setup::lines_on(&["unix:socket"]).working_directory(&deep).start();
    assert!(deep.join("socket").exists());
    let short = folder.path().join("short");
    std::os::unix::fs::symlink(&deep, &short).expect("the folder is ours");
    assert_eq!(Line::connect_unix(&short.join("socket")).expect("the socket is there").who().generation, 1);
    master.check();
    assert!(!deep.join("socket").exists());
}

#[test]
fn an_abstract_unix_socket_has_no_file() {
    for policy in POLICIES {
        let name = format!("proof-{}-{policy}", std::process::id());
        let master = Setup::lines_on(&[&format!("unix:@{name}")]).policy(policy).start();
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
        for generation in 1..=2 {
            let stream = UnixStream::connect_addr(&address).expect("the socket is there");
            assert_eq!(Line::over(stream).expect("a socket").who().generation, generation, "{policy}");
            master.reload_well();
        }
        master.settle(2);
        master.check();
    }
}

/// parallel/test-listen-fd-cluster.js: a descriptor that the master's parent left to the master.
#[test]
fn a_listener_inherited_by_number_is_served_by_the_workers() {
    for policy in POLICIES {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let master = Setup::cli(&["--listen", "fd:3"], &[WORKER, "fd:3"])
            .policy(policy)
            .stdin(listener.into())
            .shell("exec 3<&0 0</dev/null")
            .start();
        serves_inherited(&master, address);
        master.check();
    }
}

#[test]
fn a_listener_from_systemd_is_served_by_the_workers() {
    for policy in POLICIES {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let master = Setup::cli(&["--listen", "systemd:web"], &[WORKER, "systemd:web"])
            .policy(policy)
            .stdin(listener.into())
            .shell("exec 3<&0 0</dev/null\nexport LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web")
            .start();
        serves_inherited(&master, address);
        // It was for the master alone.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            assert_eq!(Line::connect(address).ask(&format!("env {name}")), "unset");
        }
        master.check();
    }
}

fn serves_inherited(master: &Master, address: SocketAddr) {
    let inodes = process::listening_inodes(address);
    for generation in 1..=2 {
        assert_eq!(Line::connect(address).who().generation, generation);
        master.reload_well();
        assert_eq!(process::listening_inodes(address), inodes);
    }
    master.settle(2);
}

#[test]
fn an_inherited_descriptor_that_is_no_listener_is_named() {
    let run = |address: &str| Setup::cli(&["--listen", address], &[WORKER, address]);
    for address in ["fd:3", "fd:77", "systemd:web"] {
        let ended = run(address).stdin(crate::harness::setup::null()).shell("exec 3<&0").run_to_end();
        assert_eq!(ended.code(), Some(1), "{address}: {}", ended.errors);
        assert!(ended.errors.contains(address), "{address}: {}", ended.errors);
    }
}

/// The same program runs alone: a plain bind.
#[test]
fn without_a_master_a_bind_is_a_plain_bind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = format!("unix:{}", folder.path().join("socket").display());
    let alone = Setup::program(WORKER, &["alone", "127.0.0.1:0", &path]).launch();
    let address = soon("it says where it listens", || alone.output.lines().first()?.parse().ok());
    let mut line = Line::connect(address);
    let who = line.who();
    assert_eq!((who.worker, who.slot, who.generation, who.pid), (0, 0, 0, alone.pid()));
    let mut unix = soon("the socket is there", || Line::connect_unix(&folder.path().join("socket")).ok());
    assert_eq!(unix.who(), who);
}

/// parallel/test-cluster-server-restart-rr.js, parallel/test-cluster-server-restart-none.js: one worker leaves a listener
/// and comes back to it while another holds it.
#[test]
fn a_listener_stays_open_as_long_as_one_worker_uses_it() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let address = free_address();
        let name = address.to_string();
        let (mut one, mut two) = (master.line_to(0), master.line_to(1));
        assert_eq!(one.bind(&name), Ok(name.clone()));
        assert_eq!(two.bind(&name), Ok(name.clone()));
        let inodes = process::listening_inodes(address);
        for _ in 0..3 {
            assert_eq!(two.ask(&format!("close {name}")), "true");
            assert_eq!(Line::connect(address).who().slot, 0, "{policy}");
            assert_eq!(two.bind(&name), Ok(name.clone()));
            assert_eq!(process::listening_inodes(address), inodes, "{policy}");
        }
        assert_eq!(one.ask(&format!("close {name}")), "true");
        assert_eq!(two.ask(&format!("close {name}")), "true");
        soon("the port is closed with its last user", || TcpStream::connect(address).is_err().then_some(()));
        drop((one, two));
        master.check();
    }
}

/// A listener that only the old generation used goes when that has gone, and not before.
#[test]
fn a_listener_that_the_new_generation_does_not_use_is_closed_at_the_end_of_the_old_one() {
    let master = Setup::lines().start();
    let mut line = master.line_to(0);
    let extra: SocketAddr = line.bind("127.0.0.1:0").expect("a free port").parse().expect("an address");
    master.reload_well();
    drop(line);
    master.settle(2);
    soon("the port is closed", || TcpStream::connect(extra).is_err().then_some(()));
    assert_eq!(master.status().addresses().len(), 1);
    master.check();
}

/// parallel/test-cluster-disconnect.js: stop and start on the same port, again and again.
#[test]
fn a_port_is_free_for_the_next_master_at_once() {
    let address = free_address();
    for _ in 0..3 {
        let master = Setup::lines_on(&[&address.to_string()]).start();
        // The server's side closes first, which keeps the address busy in the kernel for a minute.
        let mut line = Line::connect(address);
        line.who();
        line.tell("exit 0");
        assert!(line.ends());
        master.settle(2);
        master.check();
    }
}

/// parallel/test-cluster-worker-disconnect-on-error.js: a worker may leave after an error of `bind`.
#[test]
fn a_worker_may_leave_after_a_bind_that_failed() {
    for policy in POLICIES {
        let master = Setup::lines().policy(policy).start();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut line = master.line_to(0);
        let me = line.who();
        assert!(line.bind(&taken.local_addr().expect("it is bound").to_string()).is_err(), "{policy}");
        assert_eq!(line.ask("signal SIGTERM"), "sent");
        drop(line);
        process::wait_for_end(me.pid);
        master.settle(2);
        master.check();
    }
}

/// parallel/test-cluster-net-reuseport.js: the port may be shared with others, if both sides say so.
#[test]
fn a_port_is_shared_with_strangers_only_when_asked() {
    let beside = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("the kernel is new enough");
        socket.bind(&address.into()).map(|()| socket)
    };
    let master = Setup::lines_on(&["127.0.0.1:0?reuseport"]).start();
    assert!(beside(master.address()).is_ok());
    master.check();
    let master = Setup::lines().start();
    assert!(beside(master.address()).is_err());
    master.check();
}
