//! One message with its descriptors over one `SOCK_SEQPACKET` socket.
//!
//! Sending goes through sendfd. Receiving does not: sendfd 0.4 sets no close-on-exec and hides truncation.
//!
//! Invariant: a received descriptor is owned, and close-on-exec, from the moment it exists.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use sendfd::SendWithFd;

/// The most descriptors that the kernel puts into one message (`SCM_MAX_FD`).
pub(crate) const MAX_FDS: usize = 253;

/// Sends `bytes` (at least one) and `fds` as one packet.
///
/// The socket must be non-blocking. The caller keeps its descriptors; the receiver gets copies.
pub(crate) fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    debug_assert!(!bytes.is_empty(), "an empty packet looks like the end of the channel");
    loop {
        let sent = if fds.is_empty() {
            rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).map_err(io::Error::from)
        } else {
            let mut raw = [-1; MAX_FDS];
            let raw = raw.get_mut(..fds.len()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "more than 253 descriptors in one message")
            })?;
            for (raw, fd) in raw.iter_mut().zip(fds) {
                *raw = fd.as_raw_fd();
            }
            socket.send_with_fd(bytes, raw)
        };
        match sent {
            // A packet goes whole or not at all.
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One packet as it came in.
pub(crate) struct Packet {
    /// How many bytes came; 0 means that the peer has closed its end.
    pub(crate) length: usize,
    /// The descriptors that came with it, in the order of the sender.
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether the packet was longer than the buffer.
    pub(crate) truncated: bool,
}

/// Receives one packet into `buffer`.
///
/// Fewer descriptors than were sent may arrive, when this process has no room for them: compare with the count in the
/// message.
pub(crate) fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
            Ok(message) => break message,
            // The peer has gone and left something unread: said once, before what lies in our own queue.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok(Packet { length: message.bytes, fds, truncated: message.flags.contains(ReturnFlags::TRUNC) })
}
