//! Adopting descriptors that came with exec, each once.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::FdFlags;

/// Held from the look at a descriptor's flags to their change, so that no two threads adopt the same one.
static ADOPTING: Mutex<()> = Mutex::new(());

/// Becomes the owner of descriptor `number`, which the parent left open, and makes it close-on-exec.
///
/// An inherited descriptor is the only kind that is not close-on-exec: with that flag it would not have come through
/// exec, and everything that this process opens has it from birth. So the flag tells what is free to be adopted.
///
/// # Errors
///
/// `EBADF` when it is not open; `AlreadyExists` when it is this process's own: opened here, or adopted before;
/// `InvalidInput` for standard input, output and error, which stay with the process.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors 0 to 2 belong to the process itself",
        ));
    }
    let _adopting = ADOPTING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the borrow ends before this call does; `fcntl` on a number that is not open answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the descriptor was not inherited, or has been adopted before",
        ));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where descriptors are adopted"
    )]
    // SAFETY: the number is open, and it was not close-on-exec: it came with exec, and nobody in this process owns it.
    // From now on it is, under the lock above, so that this is its only owner.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(owned)
}

/// As [`adopt`], if the descriptor is open and its file has this inode; `None` if not, and then it is left as it is.
pub(crate) fn adopt_if(number: RawFd, inode: u64) -> io::Result<Option<OwnedFd>> {
    // SAFETY: the borrow ends with this statement; `fstat` on a number that is not open answers EBADF.
    let found = unsafe { rustix::fs::fstat(BorrowedFd::borrow_raw(number)) };
    match found {
        Ok(stat) if stat.st_ino == inode => adopt(number).map(Some),
        _ => Ok(None),
    }
}

/// Opens a descriptor as a parent would have left it through exec: owned by nobody, and not close-on-exec.
#[cfg(test)]
pub(crate) fn leave_open(fd: OwnedFd) -> RawFd {
    use std::os::fd::IntoRawFd;
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    fd.into_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_was_inherited_is_adopted_once_and_is_close_on_exec_then() {
        let number = leave_open(open());
        let owned = adopt(number).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&owned).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(
            adopt(number).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn what_this_process_opened_or_what_is_not_open_is_not_adopted() {
        use std::os::fd::AsRawFd;
        let own = open();
        assert_eq!(
            adopt(own.as_raw_fd()).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(adopt(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(
            adopt(RawFd::MAX).unwrap_err().raw_os_error(),
            Some(rustix::io::Errno::BADF.raw_os_error())
        );
    }

    #[test]
    fn another_file_under_the_number_is_left_alone() {
        let number = leave_open(open());
        let inode = rustix::fs::stat("/dev/null").unwrap().st_ino;
        assert!(adopt_if(number, inode + 1).unwrap().is_none());
        assert!(adopt_if(number, inode).unwrap().is_some());
    }
}
