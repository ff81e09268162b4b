//! A TCP listener of several sockets at one address (`SO_REUSEPORT`): each has a queue of its own, and the kernel puts every
//! new connection into one of them. Called in the master.
//!
//! Invariants: the first socket is bound without `SO_REUSEPORT`, so that nobody else has the port. Sockets are only added,
//! and none is closed before all are: the kernel's order of a group is that of its age, and changes when one goes, whose
//! queue is reset with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket};

use super::{BindCause, BindError, Bound, DEFAULT_BACKLOG, Kind, inet, shut_out, stream};
use crate::address::{ListenAddress, Target};

/// Binds the first socket of a group. Further ones come by [`Bound::grow`].
///
/// # Errors
///
/// Those of [`bind`](super::bind), and when the address cannot have more than one socket.
pub fn bind_group(address: &ListenAddress) -> Result<Bound, BindError> {
    let bound = match address.target() {
        Target::Tcp(_) if address.reuseport() => Err(BindCause::NoGroup("its port is shared with others (reuseport)")),
        Target::Tcp(endpoint) => inet(endpoint, Kind::Tcp, address, Sole::Group),
        Target::Udp(_) => Err(BindCause::NoGroup("it is a UDP socket")),
        Target::Path(_) | Target::Abstract(_) => Err(BindCause::NoGroup("it is a unix socket")),
        Target::Descriptor(_) | Target::Systemd { .. } => Err(BindCause::NoGroup("it is an inherited socket")),
    };
    bound.map_err(|cause| BindError::new(address, cause))
}

/// Whether others follow at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sole {
    Socket,
    Group,
}

impl Bound {
    /// All sockets: one, or those of a group in the kernel's order.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.socket.as_fd()).chain(self.others.iter().map(AsFd::as_fd))
    }

    /// Adds sockets to the group until there are so many.
    ///
    /// # Errors
    ///
    /// Those of a plain bind. Those that were added before stay.
    pub fn grow(&mut self, sockets: usize) -> io::Result<()> {
        let Some(local) = self.local.inet() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no TCP socket"));
        };
        while self.others.len() + 1 < sockets {
            let socket = stream(Domain::for_address(local))?;
            if local.is_ipv6() {
                socket.set_only_v6(self.address.v6only())?;
            }
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SockAddr::from(local))?;
            if self.shut {
                shut_out::shut(Kind::Tcp, socket.as_fd())?;
            }
            self.listen_one(&socket)?;
            self.others.push(socket.into());
        }
        Ok(())
    }

    /// From now on the kernel puts new connections into the first so many sockets, into each by the same chance. It is told
    /// once for the whole group.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program; then nothing changes.
    pub fn steer(&self, over: u32) -> io::Result<()> {
        let mut program = random_below(over.max(1));
        let program = libc::sock_fprog { len: 3, filter: program.as_mut_ptr() };
        Ok(setsockopt(&self.socket, sockopt::AttachReusePortCbpf, &program)?)
    }

    fn listen_one(&self, socket: &Socket) -> io::Result<()> {
        let backlog = self.backlog.unwrap_or(DEFAULT_BACKLOG);
        socket.listen(i32::try_from(backlog.get()).unwrap_or(i32::MAX))
    }
}

/// Classic BPF: a random number below `n`, the index of a socket.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the codes of classic BPF fit into 16 bits; the kernel's own data are at negative offsets"
)]
fn random_below(n: u32) -> [libc::sock_filter; 3] {
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, n),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use super::super::{accept, bind};
    use super::*;
    use crate::socket::InheritedSockets;

    fn group(sockets: usize) -> (Bound, SocketAddr) {
        let mut bound = bind_group(&"127.0.0.1:0".parse().unwrap()).unwrap();
        bound.grow(sockets).unwrap();
        let address = bound.local().inet().unwrap();
        (bound, address)
    }

    /// How many wait at each socket; they wait no more.
    fn waiting(bound: &Bound) -> Vec<usize> {
        bound.sockets().map(|socket| std::iter::from_fn(|| accept(socket).ok()).count()).collect()
    }

    fn connect(address: SocketAddr, clients: usize) -> Vec<TcpStream> {
        (0..clients).map(|_| TcpStream::connect(address).unwrap()).collect()
    }

    #[test]
    fn connections_go_to_the_sockets_that_are_steered_to_in_equal_shares() {
        let (mut bound, address) = group(4);
        for (over, clients) in [(4, 400), (2, 200), (3, 300), (1, 100)] {
            bound.steer(over).unwrap();
            let _clients = connect(address, clients);
            let shares = waiting(&bound);
            let (used, spare) = shares.split_at(over as usize);
            assert!(used.iter().all(|share| (60..=140).contains(share)), "{shares:?}");
            assert!(spare.iter().all(|share| *share == 0), "{shares:?}");
        }
        // A new socket is the last one, and gets nothing before it is steered to.
        bound.steer(4).unwrap();
        bound.grow(5).unwrap();
        let _clients = connect(address, 400);
        let shares = waiting(&bound);
        assert!(shares[4] == 0 && shares[..4].iter().all(|share| *share > 0), "{shares:?}");
    }

    #[test]
    fn who_waits_at_a_spare_socket_is_not_reset() {
        let (bound, address) = group(2);
        bound.steer(2).unwrap();
        let clients = connect(address, 100);
        bound.steer(1).unwrap();
        let shares = waiting(&bound);
        assert!(shares.iter().sum::<usize>() == clients.len() && shares[1] > 0, "{shares:?}");
    }

    #[test]
    fn a_port_that_somebody_has_is_refused_even_if_it_can_be_shared() {
        let inherited = InheritedSockets::default();
        for options in ["", "?reuseport=true"] {
            let other = bind(&format!("127.0.0.1:0{options}").parse().unwrap(), &inherited).unwrap();
            let error = bind_group(&format!("{}", other.local()).parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{options}");
        }
        let (first, _) = group(2);
        let error = bind_group(&first.local().to_string().parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "another group");
    }

    #[test]
    fn what_can_have_one_socket_only_is_refused_by_name() {
        for (address, reason) in [
            ("unix:@everport-group", "it is a unix socket"),
            ("udp:127.0.0.1:0", "it is a UDP socket"),
            ("fd:3", "it is an inherited socket"),
            ("127.0.0.1:0?reuseport=true", "reuseport"),
        ] {
            let error = bind_group(&address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("policy split") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_group_is_shut_and_opened_as_one_and_looked_at_as_one() {
        let (mut bound, address) = group(2);
        bound.steer(2).unwrap();
        bound.shut_out().unwrap();
        bound.grow(3).unwrap();
        bound.steer(3).unwrap();
        for _ in 0..6 {
            let refused = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(20)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        }
        assert!(!bound.is_awaited().unwrap());
        bound.let_in().unwrap();
        let _clients = connect(address, 30);
        assert!(bound.is_awaited().unwrap());
        assert!(waiting(&bound).iter().sum::<usize>() >= 30);
        assert!(!bound.is_awaited().unwrap());
    }
}
