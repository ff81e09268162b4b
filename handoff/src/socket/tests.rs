//! Real sockets on the loopback and in temporary directories.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use socket2::SockRef;
use tempfile::TempDir;

use super::*;
use crate::sys::inherit::leave_open;

fn try_bind(address: &str) -> Result<Bound, BindError> {
    bind(&address.parse().unwrap(), &InheritedSockets::default())
}

fn bound(address: &str) -> Bound {
    try_bind(address).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(address: &str) -> BindError {
    match try_bind(address) {
        Ok(bound) => panic!("{address} is bound to {}", bound.local()),
        Err(error) => error,
    }
}

fn inet(bound: &Bound) -> SocketAddr {
    bound.local().inet().unwrap()
}

/// A directory, and the address of a socket in it.
fn place() -> (TempDir, PathBuf, String) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.sock");
    let address = format!("unix:{}", path.display());
    (directory, path, address)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn port_0_becomes_a_real_port_that_clients_reach() {
    let bound = bound("127.0.0.1:0");
    assert_ne!(inet(&bound).port(), 0);
    assert_eq!((bound.kind(), bound.backlog()), (Kind::Tcp, Some(DEFAULT_BACKLOG)));
    TcpStream::connect(inet(&bound)).unwrap();
}

#[test]
fn a_socket_is_close_on_exec_and_non_blocking_and_has_no_timeout() {
    let (_directory, _path, unix) = place();
    for address in ["127.0.0.1:0", "[::1]:0", "udp:127.0.0.1:0", unix.as_str()] {
        let bound = bound(address);
        assert!(rustix::io::fcntl_getfd(&bound).unwrap().contains(FdFlags::CLOEXEC), "{address}");
        assert!(rustix::fs::fcntl_getfl(&bound).unwrap().contains(OFlags::NONBLOCK), "{address}");
        assert_eq!(SockRef::from(&bound).read_timeout().unwrap(), None, "{address}");
    }
}

#[test]
fn a_port_in_use_is_the_error_of_a_plain_bind() {
    let first = bound("127.0.0.1:0");
    let address = inet(&first).to_string();
    let error = refused(&address);
    assert_eq!(error.raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()));
    assert_eq!(error.to_string(), format!("bind {address}: Address already in use (os error 98)"));
    let error = io::Error::from(error);
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(error.raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()));

    drop(first);
    bound(&address);
}

#[test]
fn a_port_is_bound_again_at_once_although_a_connection_of_it_lingers() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = first.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    // The side that closes first keeps the port in TIME_WAIT.
    drop(first.accept().unwrap());
    drop((client, first));
    bound(&address.to_string());
}

#[test]
fn every_address_of_ipv6_takes_ipv4_too_unless_v6only() {
    let dual = bound("[::]:0");
    TcpStream::connect((Ipv4Addr::LOCALHOST, inet(&dual).port())).unwrap();

    let v6only = bound("[::]:0?v6only");
    let port = inet(&v6only).port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
    bound(&format!("0.0.0.0:{port}"));
    let udp = bound("udp:[::]:0?v6only");
    bound(&format!("udp:0.0.0.0:{}", inet(&udp).port()));
}

#[test]
fn reuseport_shares_a_port_only_among_those_who_ask_for_it() {
    for prefix in ["", "udp:"] {
        let first = bound(&format!("{prefix}127.0.0.1:0?reuseport"));
        let address = format!("{prefix}{}", inet(&first));
        assert_eq!(refused(&address).kind(), io::ErrorKind::AddrInUse);
        bound(&format!("{address}?reuseport"));
    }
}

#[test]
fn a_udp_socket_receives() {
    let bound = bound("udp:127.0.0.1:0");
    assert_eq!((bound.kind(), bound.backlog()), (Kind::Udp, None));
    let local = inet(&bound);
    let (fd, file) = bound.into_parts();
    assert!(file.is_none());
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", local).unwrap();
    let mut buffer = [0; 16];
    // On the loopback the datagram is there when `send_to` returns.
    let received = UdpSocket::from(fd).recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..received], b"hello");
}

#[test]
fn a_host_name_is_resolved_and_one_of_its_addresses_bound() {
    let resolved = resolve(&"localhost:0?name=web".parse().unwrap()).unwrap();
    assert!(resolved.iter().all(|address| address.socket_addr().unwrap().ip().is_loopback()));
    assert!(resolved.iter().all(|address| address.name() == Some("web")));
    let bound = bound("localhost:0?name=web");
    assert!(inet(&bound).ip().is_loopback());
    assert!(resolved.contains(bound.address()));

    // A label longer than DNS allows fails without a question to anybody.
    let unknown = format!("{}:0", "x".repeat(64));
    let error = refused(&unknown).to_string();
    assert!(error.starts_with(&format!("bind {unknown}: cannot resolve its host name: ")), "{error}");
}

#[test]
fn a_relative_path_is_made_absolute_and_keeps_its_options() {
    let resolved = resolve(&"unix:app.sock?mode=0600".parse().unwrap()).unwrap();
    let wanted = std::env::current_dir().unwrap().join("app.sock");
    assert_eq!(resolved[0].path(), Some(wanted.as_path()));
    assert_eq!(resolved[0].mode(), Some(0o600));

    let (_directory, path, _) = place();
    let up = "../".repeat(std::env::current_dir().unwrap().components().count());
    let bound = bound(&format!("unix:{up}.{}", path.display()));
    assert!(bound.address().path().unwrap().is_absolute());
    assert_eq!(bound.local().path(), bound.address().path());
    UnixStream::connect(path).unwrap();
}

#[test]
fn a_unix_file_exists_exactly_as_long_as_its_listener() {
    let (directory, path, address) = place();
    let bound = bound(&address);
    assert_eq!(bound.local(), &SocketName::Path(path.clone()));
    assert_eq!(names(directory.path()), ["app.sock", "app.sock.lock"]);
    UnixStream::connect(&path).unwrap();
    drop(bound);
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_unix_file_has_the_mode_of_its_address() {
    let (_directory, path, address) = place();
    // More than any usual umask leaves, and less than any.
    for mode in [0o777, 0o600] {
        let _bound = bound(&format!("{address}?mode={mode:o}"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
}

#[test]
fn a_backlog_is_as_long_as_its_address_says() {
    let (_directory, path, address) = place();
    let _bound = bound(&format!("{address}?backlog=1"));
    let client = || {
        let socket = stream(Domain::UNIX).unwrap();
        socket.connect(&SockAddr::unix(&path).unwrap()).map(|()| socket)
    };
    // Linux lets in one more than the backlog.
    let _waiting = [client().unwrap(), client().unwrap()];
    assert_eq!(client().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_dead_socket_s_file_is_replaced() {
    let (_directory, path, address) = place();
    drop(UnixListener::bind(&path).unwrap());
    // A killed master leaves its lock file behind as well.
    fs::write(path.with_extension("sock.lock"), "").unwrap();
    let _bound = bound(&address);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_is_refused_and_left_alone() {
    let (directory, path, address) = place();
    let in_use = |error: BindError| {
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        assert_eq!(error.raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()), "{error}");
        error.to_string()
    };
    {
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(in_use(refused(&address)), format!("bind {address}: a live socket is there"));
        fs::remove_file(&path).unwrap();
    }
    {
        let listener = UnixListener::bind(&path).unwrap();
        in_use(refused(&address));
        // Its backlog is full: it answers, if only by asking to wait.
        SockRef::from(&listener).listen(0).unwrap();
        in_use(refused(&address));
        assert_eq!(names(directory.path()), ["app.sock"]);
        fs::remove_file(&path).unwrap();
    }
    let _ours = bound(&address);
    let error = in_use(refused(&address));
    assert_eq!(error, format!("bind {address}: a live listener holds {}.lock", path.display()));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn the_lock_refuses_even_when_the_socket_s_file_is_gone() {
    let (directory, path, address) = place();
    let first = bound(&address);
    fs::remove_file(&path).unwrap();
    refused(&address);
    assert_eq!(names(directory.path()), ["app.sock.lock"]);
    drop(first);
    bound(&address);
}

#[test]
fn a_file_that_is_not_a_socket_is_never_unlinked() {
    let (directory, path, address) = place();
    let other = directory.path().join("other.sock");
    drop(UnixListener::bind(&other).unwrap());
    let refuse = || {
        let error = refused(&address);
        assert_eq!(error.to_string(), format!("bind {address}: a file that is not a socket is there"));
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    };
    fs::write(&path, "precious").unwrap();
    refuse();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    refuse();
    assert!(fs::metadata(&other).unwrap().file_type().is_socket());
    assert_eq!(names(directory.path()), ["app.sock", "other.sock"]);
}

#[test]
fn a_file_that_took_the_place_of_ours_is_left_alone() {
    let (_directory, path, address) = place();
    let bound = bound(&address);
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    drop(bound);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    UnixStream::connect(other.local_addr().unwrap().as_pathname().unwrap()).unwrap();
}

#[test]
fn a_failed_bind_leaves_no_file() {
    let (directory, _path, _address) = place();
    let missing = directory.path().join("missing/app.sock");
    let error = refused(&format!("unix:{}", missing.display()));
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("cannot open its directory"), "{error}");
    let long = directory.path().join("x".repeat(120));
    refused(&format!("unix:{}", long.display()));
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn a_path_longer_than_a_unix_address_works() {
    let directory = TempDir::new().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("app.sock");
    let bound = bound(&format!("unix:{}?mode=0600", path.display()));
    assert_eq!(bound.local(), &SocketName::Path(path.clone()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A client gets there by another way.
    let short = directory.path().join("short");
    std::os::unix::fs::symlink(&deep, &short).unwrap();
    UnixStream::connect(short.join("app.sock")).unwrap();
    refused(&format!("unix:{}", path.display()));
    drop(bound);
    assert_eq!(names(&deep), [""; 0]);
}

#[test]
fn an_abstract_name_is_bound_without_a_file() {
    // Unique on this machine, and gone with the process.
    let name = format!("everport-test-{}", std::process::id());
    let address = format!("unix:@{name}");
    let bound = bound(&address);
    assert_eq!(bound.local(), &SocketName::Abstract(name.clone().into_bytes()));
    assert_eq!(bound.kind(), Kind::Unix);
    UnixStream::connect_addr(&UnixSocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    assert_eq!(refused(&address).kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn an_inherited_listener_is_adopted_once_and_set_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    SockRef::from(&listener).set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let number = leave_open(listener.into());
    let address: ListenAddress = format!("fd:{number}").parse().unwrap();
    let inherited = InheritedSockets::default();

    let adopted = bind(&address, &inherited).unwrap();
    assert_eq!((inet(&adopted), adopted.kind(), adopted.backlog()), (local, Kind::Tcp, None));
    assert!(rustix::io::fcntl_getfd(&adopted).unwrap().contains(FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(&adopted).unwrap().contains(OFlags::NONBLOCK));
    assert_eq!(SockRef::from(&adopted).read_timeout().unwrap(), None);
    TcpStream::connect(local).unwrap();

    let error = bind(&address, &inherited).unwrap_err();
    let text = format!("bind fd:{number}: descriptor {number} is used by another address already");
    assert_eq!(error.to_string(), text);
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn an_inherited_unix_listener_s_file_stays() {
    let (_directory, path, _address) = place();
    let number = leave_open(UnixListener::bind(&path).unwrap().into());
    let adopted = bound(&format!("fd:{number}"));
    assert_eq!(adopted.local(), &SocketName::Path(path.clone()));
    drop(adopted);
    assert!(path.exists());
}

#[test]
fn a_descriptor_that_is_not_open_or_a_name_that_was_not_passed_is_named() {
    let error = refused("fd:2147483647");
    assert_eq!(error.to_string(), "bind fd:2147483647: descriptor 2147483647 is not open");
    assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    assert_eq!(
        refused("systemd:web:1").to_string(),
        r#"bind systemd:web:1: systemd passed no socket "web" with index 1, only: none"#
    );
}

/// Runs itself a second time as systemd would, for the process id is known only after the fork.
#[test]
fn a_socket_that_systemd_passes_is_bound_by_its_name() {
    const LOCAL: &str = "EVERPORT_TEST_LOCAL";
    let test = "socket::tests::a_socket_that_systemd_passes_is_bound_by_its_name";
    let Ok(local) = std::env::var(LOCAL) else {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let start = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ exec "$@""#;
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", start, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(LOCAL, listener.local_addr().unwrap().to_string())
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "web")
            .stdin(OwnedFd::from(listener))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    };
    let inherited = InheritedSockets::from_env().unwrap();
    assert_eq!(inherited.untaken(), ["systemd:web"]);
    let bound = bind(&"systemd:web".parse().unwrap(), inherited).unwrap();
    assert_eq!(inet(&bound).to_string(), local);
    assert!(rustix::io::fcntl_getfd(&bound).unwrap().contains(FdFlags::CLOEXEC));
    TcpStream::connect(inet(&bound)).unwrap();
    assert!(InheritedSockets::from_env().unwrap().untaken().is_empty());
}

#[test]
fn a_kept_listener_takes_up_another_backlog_and_another_mode() {
    let (_directory, path, plain) = place();
    let address = |options: &str| -> ListenAddress { format!("{plain}{options}").parse().unwrap() };
    let mut bound = bound(&format!("{plain}?backlog=1&mode=0600"));
    let connect = || {
        let client = stream(Domain::UNIX).unwrap();
        client.connect(&SockAddr::unix(&path).unwrap()).map(|()| client)
    };
    // Linux lets in one more than the backlog.
    let _waiting = [connect().unwrap(), connect().unwrap()];
    assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!bound.retune(&address("?backlog=1")).unwrap());
    assert!(bound.retune(&address("?backlog=2&mode=0640")).unwrap());
    let _one_more = connect().unwrap();
    assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(bound.retune(&address("")).unwrap());
    assert_eq!((bound.backlog(), bound.retune(&address("")).unwrap()), (Some(DEFAULT_BACKLOG), false));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn some_options_need_a_new_socket() {
    let bound = bound("[::1]:0");
    let other = |options: &str| bound.fixed_options(&format!("[::1]:0{options}").parse().unwrap());
    assert_eq!(other("?backlog=7"), [""; 0]);
    assert_eq!(other("?reuseport=true"), ["reuseport"]);
}
