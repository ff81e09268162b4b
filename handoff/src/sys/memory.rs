//! A page of memory that two processes share: a sealed memfd, mapped as atomic words.
//!
//! Invariant: the memfd can neither shrink nor grow, so that no access to the page can fault. A hole punched into it
//! reads as zeros. Every word may change at any time by the other side's will.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// How many words the page has.
pub(crate) const WORDS: usize = BYTES / size_of::<AtomicU64>();

/// The size of the page in bytes: the smallest page of the supported architectures.
const BYTES: usize = 4096;

/// The mapping of a shared page. Unmapped on drop.
pub(crate) struct SharedPage {
    address: NonNull<[AtomicU64; WORDS]>,
}

// SAFETY: the page holds nothing but atomics, and the mapping belongs to no thread.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Makes a new page of zeros. The caller owns the descriptor, which is close-on-exec.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let fd = crate::memfd::create("everport-board")?;
        rustix::fs::ftruncate(&fd, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// Maps a page that another process made and closes the descriptor.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd)?;
        let size = rustix::fs::fstat(&fd)?.st_size;
        if size != BYTES as i64 || !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the board is not a sealed page of 4096 bytes"));
        }
        Self::map(&fd)
    }

    fn map(fd: &impl AsFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing. The memfd has BYTES bytes and is
        // sealed against shrinking, so that the whole mapping stays backed.
        let address = unsafe {
            rustix::mm::mmap(ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)?
        };
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { address })
    }
}

impl Deref for SharedPage {
    type Target = [AtomicU64; WORDS];

    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping is page-aligned, BYTES long, readable and writable until drop, and any bits are valid
        // atomics.
        unsafe { self.address.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and nothing can borrow from it any more.
        // It cannot fail for a whole mapping; there would be nothing to do about it but to keep 4 KiB.
        let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), BYTES) };
    }
}

impl fmt::Debug for SharedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPage").finish_non_exhaustive()
    }
}
