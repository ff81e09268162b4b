//! The socket of sd_notify(3) at which programs that know nothing of Everport may say `READY=1`.
//!
//! Invariant: who said something is the kernel's word and not the sender's.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The longest notice that is read to its end.
const MAX_NOTICE: usize = 4096;

/// How many notices one turn reads.
const MAX_NOTICES: usize = 64;

/// The socket, bound to an abstract name of the kernel's choice, which workers of every user can reach.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: OwnedFd,
    name: String,
}

/// What somebody said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) pid: i32,
    pub(crate) is_ready: bool,
}

impl NotifySocket {
    pub(crate) fn bind() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
        let bound = SocketAddrUnix::try_from(rustix::net::getsockname(&socket)?)?;
        // The kernel makes it of hexadecimal digits.
        let name = String::from_utf8_lossy(bound.abstract_name().unwrap_or_default());
        Ok(Self { name: format!("@{name}"), socket })
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What has been said since the last time, or the beginning of it: then there is more to read.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        std::iter::from_fn(|| self.next().transpose()).take(MAX_NOTICES).filter_map(Result::ok).collect()
    }

    /// The next notice; none when there is no more; an error for one of which the sender is not known.
    fn next(&self) -> nix::Result<Option<Notice>> {
        let mut text = [0; MAX_NOTICE];
        // No room for descriptors: the kernel closes those that come with a notice.
        let mut control = nix::cmsg_space!(nix::libc::ucred);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        // Whatever the error is, a level-triggered epoll brings us back.
        let Ok(received) = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags) else {
            return Ok(None);
        };
        let sender = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
            _ => None,
        });
        let length = received.bytes;
        Ok(sender.map(|pid| Notice { pid, is_ready: says_ready(&text[..length]) }))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn says_ready(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn what_is_said_comes_with_the_pid_of_who_said_it() {
        let socket = NotifySocket::bind().unwrap();
        let address = SocketAddr::from_abstract_name(socket.name().strip_prefix('@').unwrap()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        let texts = ["READY=1", "STATUS=warm\nREADY=1\n", "STATUS=READY=1", "READY=10", ""];
        for text in texts {
            sender.send_to_addr(text.as_bytes(), &address).unwrap();
        }
        let pid = i32::try_from(std::process::id()).unwrap();
        let expected = [true, true, false, false, false].map(|is_ready| Notice { pid, is_ready });
        assert_eq!(socket.notices(), expected);
        assert_eq!(socket.notices(), []);
    }
}
