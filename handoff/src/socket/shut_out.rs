//! The end of a listener without a victim: first nobody new gets in, then whoever waits is accepted, then it is closed.
//!
//! To close a listener resets every connection in its queue. So the way in is closed first. On TCP a filter drops the first
//! packet of a handshake and lets all others through: one that has begun can end, and a client that comes now tries again
//! in a second, when the port is closed or somebody else's. The file of a unix socket gets another name. An abstract name,
//! and a file that is not ours, stay open to the end.

use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockFilter, SockRef};

use super::{Bound, Kind};

/// Where the flags are in a TCP header, and two of them.
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

const PASS: u32 = u32::MAX;
const DROP: u32 = 0;

/// One instruction of a classic BPF program, without a jump.
const fn step(code: u32, k: u32) -> SockFilter {
    jump(code, k, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "the codes of classic BPF fit into 16 bits")]
const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

/// Drops what begins a handshake. A socket's filter sees a packet from its TCP header on.
const NO_FIRST_PACKET: [SockFilter; 5] = [
    step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, TCP_FLAGS),
    step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
    jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, SYN, 0, 1),
    step(libc::BPF_RET | libc::BPF_K, DROP),
    step(libc::BPF_RET | libc::BPF_K, PASS),
];

/// Drops everything.
const NOTHING: [SockFilter; 1] = [step(libc::BPF_RET | libc::BPF_K, DROP)];

impl Bound {
    /// Lets nobody new in, through no copy of the socket. Whoever waits already can still be accepted. Called in the master.
    ///
    /// # Errors
    ///
    /// The kernel refuses the filter or the new name; then the socket, or the rest of a group, is as open as before.
    pub fn shut_out(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.hide()?,
            None => self.sockets().try_for_each(|socket| shut(self.kind, socket))?,
        }
        self.shut = true;
        Ok(())
    }

    /// Undoes [`shut_out`](Self::shut_out).
    ///
    /// # Errors
    ///
    /// As there; the socket is as shut as before.
    pub fn let_in(&mut self) -> io::Result<()> {
        match (self.kind, &mut self.file) {
            (_, Some(file)) => file.show()?,
            (Kind::Tcp | Kind::Udp, None) => {
                self.sockets().try_for_each(|socket| SockRef::from(&socket).detach_filter())?;
            }
            (Kind::Unix, None) => {}
        }
        self.shut = false;
        Ok(())
    }

    /// Whether somebody waits to be accepted, or a datagram to be read.
    ///
    /// # Errors
    ///
    /// Those of poll(2).
    pub fn is_awaited(&self) -> io::Result<bool> {
        let mut polled: Vec<_> = self.sockets().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)).collect();
        Ok(poll(&mut polled, Some(&Timespec::default()))? > 0)
    }
}

/// Lets nobody new in at one socket that has no file.
pub(super) fn shut(kind: Kind, socket: BorrowedFd<'_>) -> io::Result<()> {
    match kind {
        Kind::Tcp => SockRef::from(&socket).attach_filter(&NO_FIRST_PACKET),
        Kind::Udp => SockRef::from(&socket).attach_filter(&NOTHING),
        Kind::Unix => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::{InheritedSockets, accept, bind};
    use super::*;

    fn listen_on(address: &str) -> Bound {
        bind(&address.parse().unwrap(), &InheritedSockets::default()).unwrap()
    }

    fn inet(bound: &Bound) -> SocketAddr {
        bound.local().inet().unwrap()
    }

    /// Connects without waiting: `Ok(true)` when the handshake is done, `Ok(false)` when it is not within a moment.
    fn connects(address: SocketAddr) -> io::Result<bool> {
        match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error),
        }
    }

    #[test]
    fn a_tcp_listener_that_is_shut_lets_nobody_in_and_keeps_who_waits() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let mut bound = listen_on(text);
            let address = inet(&bound);
            let mut client = TcpStream::connect(address).unwrap();
            bound.shut_out().unwrap();
            assert!(!connects(address).unwrap(), "{text}");
            assert!(bound.is_awaited().unwrap());
            let (server, _) = accept(&bound).unwrap();
            assert!(!bound.is_awaited().unwrap());
            // The connection is none of the filter's business: data and the end go through.
            let mut server = TcpStream::from(server);
            server.set_nonblocking(false).unwrap();
            client.write_all(b"ping").unwrap();
            drop(client);
            let mut said = String::new();
            server.read_to_string(&mut said).unwrap();
            assert_eq!(said, "ping");
            bound.let_in().unwrap();
            assert!(connects(address).unwrap(), "{text}");
        }
    }

    #[test]
    fn a_udp_socket_that_is_shut_gets_nothing_more() {
        let mut bound = listen_on("udp:127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        bound.shut_out().unwrap();
        client.send_to(b"lost", inet(&bound)).unwrap();
        assert!(!bound.is_awaited().unwrap());
        bound.let_in().unwrap();
        client.send_to(b"seen", inet(&bound)).unwrap();
        assert!(bound.is_awaited().unwrap());
    }

    #[test]
    fn a_unix_listener_that_is_shut_cannot_be_found_and_keeps_who_waits() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app.sock");
        let mut bound = listen_on(&format!("unix:{}", path.display()));
        let _waiting = UnixStream::connect(&path).unwrap();
        bound.shut_out().unwrap();
        let error = UnixStream::connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(bound.is_awaited().unwrap());
        accept(&bound).unwrap();
        bound.let_in().unwrap();
        UnixStream::connect(&path).unwrap();
        bound.shut_out().unwrap();
        drop(bound);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
