//! The channel: one end of the `SOCK_SEQPACKET` socket pair between the master and one worker. One packet is one message
//! with its descriptors, whole or not at all.
//!
//! Invariant: neither side ever blocks on it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use zeroize::Zeroize;

use crate::message::{self, MAX_PACKET, Message};
use crate::sys::scm;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    /// A seqpacket socket; std has no type for it, and sendfd sends on this one.
    socket: UnixStream,
}

/// A message as it came in.
#[derive(Debug)]
pub struct Received<M> {
    /// What the peer said.
    pub message: M,
    /// The descriptors that came with it, close-on-exec, in the order of the sender. The caller owns them.
    pub fds: Vec<OwnedFd>,
    /// How many more the sender sent: this process had no room for them. They are the last ones.
    pub missing: usize,
}

/// Why nothing could be received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// When there is no message now.
    #[error("no message is waiting")]
    Empty,
    /// When the peer has closed its end and everything was read.
    #[error("the channel is closed")]
    Closed,
    /// When a packet is longer than the protocol allows.
    #[error("a packet is longer than {MAX_PACKET} bytes")]
    TooLong,
    /// When a packet is no message of the protocol.
    #[error("a packet of {length} bytes is no message of the protocol: {source}")]
    Garbage {
        /// Its length.
        length: usize,
        /// What the decoder found.
        source: postcard::Error,
    },
    /// When more descriptors came than the message says.
    #[error("a message came with {found} descriptors and says {said}")]
    TooManyFds {
        /// How many came.
        found: usize,
        /// How many the message says.
        said: usize,
    },
    /// When the system refused.
    #[error("receive on the channel: {0}")]
    Io(#[from] io::Error),
}

thread_local! {
    /// The bytes of the packet that is being sent or received on this thread.
    static PACKET: RefCell<Box<[u8; MAX_PACKET]>> = RefCell::new(Box::new([0; MAX_PACKET]));
}

impl Channel {
    /// Makes a pair: the master's end, and the end that the worker inherits.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: ours.into() }, theirs))
    }

    /// Takes over the inherited end.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self { socket: fd.into() }
    }

    /// Sends a message with copies of `fds`, which stay the caller's.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the channel is full: try again when it is writable. `QuotaExceeded` when too many descriptors of
    /// this user are under way in any channel, or the kernel has no memory: try again a little later.
    /// `BrokenPipe` when the peer has gone. `InvalidInput` when the message is too long.
    pub fn send<M: Message>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        PACKET.with_borrow_mut(|buffer| {
            let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
            let packet = message::encode(message, count, &mut buffer[..])
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let length = packet.len();
            let sent = scm::send(&self.socket, packet, fds);
            if message.is_secret() {
                buffer[..length].zeroize();
            }
            sent.map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => io::ErrorKind::QuotaExceeded.into(),
                Some(Errno::CONNRESET) => io::ErrorKind::BrokenPipe.into(),
                _ => error,
            })
        })
    }

    /// Receives the next message.
    ///
    /// # Errors
    ///
    /// After any error but [`ReceiveError::Empty`] the channel is of no use any more.
    pub fn receive<M: Message>(&self) -> Result<Received<M>, ReceiveError> {
        PACKET.with_borrow_mut(|buffer| {
            let packet = match scm::receive(&self.socket, &mut buffer[..]) {
                Ok(packet) => packet,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ReceiveError::Empty);
                }
                Err(error) => return Err(error.into()),
            };
            if packet.truncated {
                return Err(ReceiveError::TooLong);
            }
            if packet.length == 0 {
                return Err(ReceiveError::Closed);
            }
            let decoded = message::decode::<M>(&buffer[..packet.length]);
            if decoded.as_ref().map_or(true, |(message, _)| message.is_secret()) {
                buffer[..packet.length].zeroize();
            }
            let (message, said) = decoded.map_err(|source| ReceiveError::Garbage { length: packet.length, source })?;
            let (said, found) = (usize::from(said), packet.fds.len());
            match said.checked_sub(found) {
                Some(missing) => Ok(Received { message, fds: packet.fds, missing }),
                None => Err(ReceiveError::TooManyFds { found, said }),
            }
        })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::message::{ToMaster, ToWorker};

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::adopt(theirs))
    }

    #[test]
    fn a_message_keeps_its_descriptors() {
        let (master, worker) = pair();
        let (first, second) = (crate::board::bell().unwrap(), crate::board::bell().unwrap());
        master.send(&ToWorker::Activate, &[first.as_fd(), second.as_fd()]).unwrap();
        master.send(&ToWorker::Pause, &[]).unwrap();
        let received = worker.receive::<ToWorker>().unwrap();
        assert_eq!((received.message, received.fds.len(), received.missing), (ToWorker::Activate, 2, 0));
        for fd in &received.fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        let received = worker.receive::<ToWorker>().unwrap();
        assert_eq!((received.message, received.fds.len()), (ToWorker::Pause, 0));
        assert!(matches!(worker.receive::<ToWorker>(), Err(ReceiveError::Empty)));
    }

    #[test]
    fn the_most_descriptors_fit_and_one_more_is_refused() {
        let (master, worker) = pair();
        let fds = vec![master.as_fd(); scm::MAX_FDS];
        master.send(&ToWorker::Activate, &fds).unwrap();
        assert_eq!(worker.receive::<ToWorker>().unwrap().fds.len(), scm::MAX_FDS);
        let fds = vec![master.as_fd(); scm::MAX_FDS + 1];
        assert_eq!(master.send(&ToWorker::Activate, &fds).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_secret_is_left_in_no_buffer_of_this_process() {
        let left = || PACKET.with_borrow(|buffer| buffer.iter().filter(|byte| **byte != 0).count());
        let (master, worker) = pair();
        let message = ToWorker::Tickets { keys: crate::tickets::tests::keys() };
        master.send(&message, &[]).unwrap();
        assert_eq!(left(), 0);
        assert_eq!(worker.receive::<ToWorker>().unwrap().message, message);
        assert_eq!(left(), 0);
        // Cut short, it is no message, and no less secret.
        scm::send(&master.socket, &[&[0, 8, 48], &[7; 40][..]].concat(), &[]).unwrap();
        assert!(matches!(worker.receive::<ToWorker>(), Err(ReceiveError::Garbage { .. })));
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_closed_channel_is_read_to_its_end_first() {
        for left_unread in [false, true] {
            let (master, worker) = pair();
            worker.send(&ToMaster::Ready, &[]).unwrap();
            if left_unread {
                master.send(&ToWorker::Pause, &[]).unwrap();
            }
            drop(worker);
            assert_eq!(master.receive::<ToMaster>().unwrap().message, ToMaster::Ready);
            assert!(matches!(master.receive::<ToMaster>(), Err(ReceiveError::Closed)));
            assert_eq!(master.send(&ToWorker::Pause, &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_full_channel_says_so_and_takes_more_later() {
        let (master, worker) = pair();
        let mut sent = 0;
        let error = loop {
            match master.send(&ToWorker::Pause, &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1_000_000, "the channel is bounded");
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        for _ in 0..sent {
            worker.receive::<ToWorker>().unwrap();
        }
        master.send(&ToWorker::Pause, &[]).unwrap();
    }

    #[test]
    fn what_is_no_message_is_an_error_and_never_a_panic() {
        let (master, worker) = pair();
        let cases: [(&[u8], &[BorrowedFd<'_>]); 3] =
            [(&[0, 200, 1], &[]), (&[0; MAX_PACKET + 1], &[]), (&[0, 2], &[master.as_fd()])];
        let errors = cases.map(|(packet, fds)| {
            scm::send(&worker.socket, packet, fds).unwrap();
            master.receive::<ToMaster>().unwrap_err()
        });
        assert!(matches!(errors[0], ReceiveError::Garbage { .. }), "{errors:?}");
        assert!(matches!(errors[1], ReceiveError::TooLong), "{errors:?}");
        assert!(matches!(errors[2], ReceiveError::TooManyFds { found: 1, said: 0 }), "{errors:?}");
    }

    #[test]
    fn missing_descriptors_are_counted() {
        let (master, worker) = pair();
        // The count of the packet says two, one comes.
        scm::send(&master.socket, &[2, 3], &[master.as_fd()]).unwrap();
        let received = worker.receive::<ToWorker>().unwrap();
        assert_eq!((received.fds.len(), received.missing), (1, 1));
        assert_ne!(received.fds[0].as_raw_fd(), master.as_fd().as_raw_fd());
    }
}
