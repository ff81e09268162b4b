//! Checks of a connection that comes from a process which is not trusted. Called in the master.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Type};

use super::Kind;
use crate::name::SocketName;

/// Why a descriptor is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotLive {
    /// When it is another kind of socket, or it listens.
    #[error("it is no stream socket of this kind of listener")]
    OtherKind,
    /// When the system says that it is no socket at all, or refuses to tell.
    #[error("look at it: {0}")]
    Io(#[from] io::Error),
}

/// Makes sure that `socket` is one end of a stream connection, of this kind if there is one to compare it with, and that it
/// is non-blocking. Returns the client's address; none when the client has gone, or never was.
///
/// # Errors
///
/// [`NotLive`] says what else it is.
pub fn check_live(socket: impl AsFd, kind: Option<Kind>) -> Result<Option<SocketName>, NotLive> {
    let socket = SockRef::from(&socket);
    let is_stream = socket.r#type()? == Type::STREAM && !socket.is_listener()?;
    let found = match (socket.domain()?, socket.protocol()?) {
        (Domain::IPV4 | Domain::IPV6, Some(Protocol::TCP)) => Kind::Tcp,
        (Domain::UNIX, _) => Kind::Unix,
        _ => return Err(NotLive::OtherKind),
    };
    if !is_stream || kind.is_some_and(|kind| kind != found) {
        return Err(NotLive::OtherKind);
    }
    socket.set_nonblocking(true)?;
    match socket.peer_addr() {
        Ok(peer) => Ok(Some(SocketName::from(&peer))),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOTCONN | Errno::INVAL) => Ok(None),
            _ => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn connections_are_live_and_made_non_blocking() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, peer) = listener.accept().unwrap();
        assert_eq!(check_live(&served, Some(Kind::Tcp)).unwrap(), Some(SocketName::Inet(peer)));
        let flags = rustix::fs::fcntl_getfl(&served).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert!(matches!(check_live(&served, Some(Kind::Unix)), Err(NotLive::OtherKind)));
        // The client goes, with a reset.
        SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(check_live(&served, None).unwrap(), None);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(check_live(&ours, Some(Kind::Unix)).unwrap(), Some(SocketName::Unnamed));
    }

    #[test]
    fn anything_else_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = UnixDatagram::pair().unwrap();
        let (packets, _) = crate::channel::Channel::pair().unwrap();
        assert!(matches!(check_live(&listener, None), Err(NotLive::OtherKind)));
        assert!(matches!(check_live(&datagrams, None), Err(NotLive::OtherKind)));
        assert!(matches!(check_live(&unix, None), Err(NotLive::OtherKind)));
        assert!(matches!(check_live(&packets, None), Err(NotLive::OtherKind)));
        assert!(matches!(check_live(File::open("/dev/null").unwrap(), None), Err(NotLive::Io(_))));
    }
}
