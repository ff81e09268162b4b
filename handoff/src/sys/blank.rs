//! Taking a file away from under a descriptor number that other threads use.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::DupFlags;

/// A file that is never readable: an eventfd that nobody writes. Made early, for [`blank`] must not fail for want of a
/// descriptor.
pub(crate) fn silent() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Closes the file behind `fd` at once, while others may be using the number: `silent` takes its place. The number stays
/// its owner's to close.
pub(crate) fn blank(fd: BorrowedFd<'_>, silent: BorrowedFd<'_>) -> io::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "dup3 wants an owned descriptor to write over; this one is never dropped"
    )]
    // SAFETY: the number is open for as long as `fd` is borrowed, and `ManuallyDrop` leaves closing it to its owner.
    let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    rustix::io::dup3(silent, &mut number, DupFlags::CLOEXEC)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_file_is_closed_and_the_number_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        blank(listener.as_fd(), silent().unwrap().as_fd()).unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(listener.accept().is_err());
        let flags = rustix::io::fcntl_getfd(&listener).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        TcpListener::bind(address).unwrap();
    }
}
