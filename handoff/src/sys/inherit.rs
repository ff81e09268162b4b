//! Adopting descriptors that came with exec, each once.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::FdFlags;

/// The numbers that this process has adopted, so that none gets two owners.
static ADOPTED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Becomes the owner of descriptor `number`, which the parent left open, and makes it close-on-exec.
///
/// # Errors
///
/// `EBADF` when it is not open; `AlreadyExists` when it was adopted before; `InvalidInput` for standard input, output
/// and error, which stay with the process.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors 0 to 2 belong to the process itself",
        ));
    }
    let mut adopted = ADOPTED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the borrow ends before this call does; `fcntl` on a number that is not open answers EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    if !adopted.insert(number) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the descriptor has been adopted before",
        ));
    }
    // SAFETY: the number is open, and the set above makes this its only owner: it came with exec, so that nothing in
    // this process has opened it.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place where descriptors are adopted"
    )]
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
