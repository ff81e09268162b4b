//! Adopting descriptors that came with exec, each once.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::FdFlags;

/// Held from the look at a descriptor's flags to their change, so that no two threads adopt the same one.
static ADOPTING: Mutex<()> = Mutex::new(());

/// Becomes the owner of descriptor `number`, which the parent left open, and makes it close-on-exec.
///
/// With that flag it would not have come through exec, and what Rust's libraries open has it from birth. So the flag tells
/// what is free to be adopted. It cannot tell what a C library has opened without it: whoever names such a number in an
/// address, or in the variables of the exec contract, takes it away.
///
/// # Errors
///
/// `EBADF` when it is not open; `AlreadyExists` when it is this process's own: opened here, or adopted before;
/// `InvalidInput` for standard input, output and error, which stay with the process.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors 0 to 2 belong to the process itself"));
    }
    let _adopting = ADOPTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the borrow ends before this call does; `fcntl` on a number that is not open answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the descriptor was not inherited, or has been adopted before",
        ));
    }
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    #[expect(clippy::disallowed_methods, reason = "this is the place where descriptors are adopted")]
    // SAFETY: the number is open, and it was not close-on-exec: it came with exec, and nobody in this process owns it.
    // From now on it is, under the lock above, so that this is its only owner.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(owned)
}

/// As [`adopt`], if the descriptor was inherited and `is_it` says so; `None` if not, and then it is left as it is.
pub(crate) fn adopt_if(
    number: RawFd,
    is_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<bool>,
) -> io::Result<Option<OwnedFd>> {
    match look(number, is_it) {
        Ok(true) => match adopt(number) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            adopted => adopted.map(Some),
        },
        _ => Ok(None),
    }
}

/// Looks at a descriptor without owning it.
///
/// # Errors
///
/// Those of `look`: EBADF from every system call, if it is not open.
pub(crate) fn look<T>(number: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the borrow ends with this call. Nobody may own the number, and it may not be open: `look` passes it to system
    // calls that change nothing, and these answer EBADF.
    look(unsafe { BorrowedFd::borrow_raw(number) })
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
        assert_eq!(adopt(number).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_this_process_opened_or_what_is_not_open_is_not_adopted() {
        use std::os::fd::AsRawFd;
        let own = open();
        assert_eq!(adopt(own.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(adopt(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(adopt(RawFd::MAX).unwrap_err().raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
    }

    #[test]
    fn another_file_under_the_number_is_left_alone() {
        let number = leave_open(open());
        let inode = rustix::fs::stat("/dev/null").unwrap().st_ino;
        let adopt_if = |number, inode| adopt_if(number, |fd| Ok(rustix::fs::fstat(fd)?.st_ino == inode)).unwrap();
        assert!(adopt_if(-1, inode).is_none());
        assert!(adopt_if(number, inode + 1).is_none());
        let _adopted = adopt_if(number, inode).unwrap();
        assert!(adopt_if(number, inode).is_none(), "it is this process's own now");
    }
}
