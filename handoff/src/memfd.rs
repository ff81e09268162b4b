//! Memory files that travel between processes: made, written and sealed by one, checked and read by another.
//!
//! Invariant: what is read was sealed against every change before, and is read by `pread`, never mapped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

/// What makes a file unchangeable for good.
const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Makes an empty file that can be sealed, close-on-exec.
pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, sealable | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, sealable)?),
        other => Ok(other?),
    }
}

/// Makes a file of these bytes that nobody can change.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = std::fs::File::from(create(name)?);
    io::Write::write_all(&mut &file, bytes)?;
    rustix::fs::fcntl_add_seals(&file, SEALED)?;
    Ok(file.into())
}

/// Reads a file that somebody else has made by [`sealed`].
///
/// # Errors
///
/// `InvalidData` when it can still be changed, or has another length.
pub(crate) fn read(file: impl AsFd, length: usize) -> io::Result<Vec<u8>> {
    let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if !rustix::fs::fcntl_get_seals(&file)?.contains(SEALED) {
        return invalid("the memory file is not sealed");
    }
    if rustix::fs::fstat(&file)?.st_size != length as i64 {
        return invalid("the memory file has another length than the message says");
    }
    let mut bytes = vec![0; length];
    let mut read = 0;
    while read < length {
        match rustix::io::pread(&file, &mut bytes[read..], read as u64) {
            Ok(0) => return invalid("the memory file ends early"),
            Ok(count) => read += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}
