//! The file of a unix socket: made, locked, and unlinked by the master alone.
//!
//! A socket file outlives its socket, so a new master finds that of one that was killed, and must not take a live one
//! for it. Who wants to bind `PATH` first locks `PATH.lock`, and keeps it locked as long as it listens. The kernel drops
//! the lock with its holder, however that ends. What is found at `PATH` under the lock belongs to a dead master or to
//! another program: a connection attempt tells which.
//!
//! Invariants: a file is unlinked only under its lock, and only if it is a socket that refuses connections, or the
//! very file that we made. The lock file goes with its holder, who unlinks it while the lock is still held; so whoever
//! gets a lock looks whether the file is still the one at that path, and starts anew if not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use socket2::{SockAddr, Socket};

use super::{BindCause, stream};

/// The longest path in a unix socket's address: `sun_path` without its last zero byte.
const MAX_SUN_PATH: usize = 107;
/// What the name of a hidden file ends with.
const HIDDEN: &str = ".shut";
/// How often a lock is tried when its holders keep going away at the same moment.
const MAX_LOCK_ATTEMPTS: usize = 16;

/// The file of a bound unix socket. Dropping it unlinks the file, unless another one stands in its place by now.
///
/// Drop it before the last copy of the socket: as long as that lives, no other file can have the same inode.
#[derive(Debug)]
pub struct UnixFile {
    lock: Lock,
    name: OsString,
    inode: Inode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl From<Stat> for Inode {
    fn from(stat: Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

/// The lock on a path, in the directory that the path led to. Dropping it removes the lock file.
#[derive(Debug)]
struct Lock {
    directory: OwnedFd,
    name: OsString,
    file: OwnedFd,
}

/// Binds a socket to `path`, which has a file name, and gives the file its mode; it does not listen yet, so that nobody
/// has connected under another mode.
pub(super) fn bind(path: &Path, mode: Option<u32>) -> Result<(Socket, UnixFile), BindCause> {
    let name = path.file_name().unwrap_or_default().to_owned();
    let directory = open_directory(path).map_err(BindCause::step("open its directory"))?;
    let lock = Lock::acquire(directory, path)?;
    let address = address(path, &lock.directory, &name).map_err(BindCause::System)?;
    remove_dead(&lock.directory, &name, &address)?;

    let socket = stream(socket2::Domain::UNIX).map_err(BindCause::System)?;
    socket.bind(&address).map_err(BindCause::System)?;
    let inode = look(&lock.directory, &name).map_err(BindCause::step("look at its file"))?.into();
    let file = UnixFile { lock, name, inode };
    if let Some(mode) = mode {
        file.set_mode(mode).map_err(BindCause::step("set the mode of its file"))?;
    }
    Ok((socket, file))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

/// The address to bind or to connect to; a path that is too long for one leads through the open directory.
fn address(path: &Path, directory: &OwnedFd, name: &OsStr) -> io::Result<SockAddr> {
    if path.as_os_str().len() <= MAX_SUN_PATH {
        return SockAddr::unix(path);
    }
    let directory = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    SockAddr::unix(directory.join(name))
}

fn look(directory: &OwnedFd, name: &OsStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes way for a new socket, if all that stands there is the file of a dead one.
fn remove_dead(directory: &OwnedFd, name: &OsStr, address: &SockAddr) -> Result<(), BindCause> {
    match look(directory, name) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        Ok(_) => return Err(BindCause::NotASocket),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindCause::step("look at its file")(error)),
    }
    let probe = stream(socket2::Domain::UNIX).map_err(BindCause::System)?;
    let Err(error) = probe.connect(address) else {
        return Err(BindCause::Live);
    };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => {}
        Some(Errno::NOENT) => return Ok(()),
        // Its backlog is full, or it is of another type.
        Some(Errno::AGAIN | Errno::PROTOTYPE) => return Err(BindCause::Live),
        _ => return Err(BindCause::step("probe the socket that is there")(error)),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(BindCause::step("unlink the dead socket that is there")(error.into())),
    }
}

/// Unlinks what a name leads to, if it still is that file.
fn unlink_ours(directory: &OwnedFd, name: &OsStr, inode: Inode) {
    if look(directory, name).is_ok_and(|stat| Inode::from(stat) == inode) {
        // It fails only if the directory is not ours to write any more; the next bind then finds a dead socket.
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

impl UnixFile {
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::chmodat(&self.lock.directory, &self.name, mode, AtFlags::empty())?)
    }
}

impl UnixFile {
    /// Gives the file a name by which nobody looks for it. Its lock stays.
    pub(super) fn hide(&mut self) -> io::Result<()> {
        let mut hidden = self.name.clone();
        hidden.push(HIDDEN);
        self.rename(hidden)
    }

    /// Gives the file its own name again.
    pub(super) fn show(&mut self) -> io::Result<()> {
        let name =
            OsStr::from_bytes(self.name.as_bytes().strip_suffix(HIDDEN.as_bytes()).unwrap_or_default()).to_owned();
        self.rename(name)
    }

    fn rename(&mut self, name: OsString) -> io::Result<()> {
        rustix::fs::renameat(&self.lock.directory, &self.name, &self.lock.directory, &name)?;
        self.name = name;
        Ok(())
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        unlink_ours(&self.lock.directory, &self.name, self.inode);
    }
}

impl Lock {
    fn acquire(directory: OwnedFd, path: &Path) -> Result<Self, BindCause> {
        Self::acquire_by(claim, directory, path)
    }

    fn acquire_by(
        mut claim: impl FnMut(&OwnedFd, &OsStr, &OwnedFd) -> io::Result<bool>,
        directory: OwnedFd,
        path: &Path,
    ) -> Result<Self, BindCause> {
        let name = lock_name(path.file_name().unwrap_or_default());
        let failed = BindCause::step("lock its path");
        for _ in 0..MAX_LOCK_ATTEMPTS {
            let file = open_lock(&directory, &name).map_err(&failed)?;
            match claim(&directory, &name, &file) {
                Ok(true) => {
                    return Ok(Self { directory, name, file });
                }
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        let lock = lock_name(path.as_os_str()).into();
        Err(BindCause::Locked { lock })
    }
}

fn lock_name(of: &OsStr) -> OsString {
    let mut name = of.to_owned();
    name.push(".lock");
    name
}

fn open_lock(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::openat(directory, name, flags, mode)?)
}

/// Locks the file; `false` if it is not the one at its path any more, for its holder has unlinked it meanwhile.
fn claim(directory: &OwnedFd, name: &OsStr, file: &OwnedFd) -> io::Result<bool> {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?;
    let ours = Inode::from(rustix::fs::fstat(file)?);
    match look(directory, name) {
        Ok(stat) => Ok(Inode::from(stat) == ours),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Ok(stat) = rustix::fs::fstat(&self.file) {
            unlink_ours(&self.directory, &self.name, stat.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_its_holder_unlinked_is_no_lock() {
        let place = tempfile::TempDir::new().unwrap();
        let path = place.path().join("app.sock");
        let directory = || open_directory(&path).unwrap();
        let name = lock_name(OsStr::new("app.sock"));

        let first = Lock::acquire(directory(), &path).unwrap();
        let late = open_lock(&directory(), &name).unwrap();
        let held = claim(&directory(), &name, &late).unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(!claim(&directory(), &name, &late).unwrap());

        let _second = Lock::acquire(directory(), &path).unwrap();
        assert!(!claim(&directory(), &name, &late).unwrap());
        let refused = Lock::acquire(directory(), &path).unwrap_err();
        assert!(matches!(refused, BindCause::Locked { lock } if lock == place.path().join(name)));
    }

    #[test]
    fn a_lock_file_that_is_unlinked_again_and_again_is_given_up_after_some_attempts() {
        let place = tempfile::TempDir::new().unwrap();
        let path = place.path().join("app.sock");
        let after = |losses: usize| {
            let mut attempts = 0;
            let losing = |_: &OwnedFd, _: &OsStr, _: &OwnedFd| {
                attempts += 1;
                Ok(attempts > losses)
            };
            let locked = Lock::acquire_by(losing, open_directory(&path).unwrap(), &path);
            (locked.is_ok(), attempts)
        };
        assert_eq!(after(MAX_LOCK_ATTEMPTS - 1), (true, MAX_LOCK_ATTEMPTS));
        assert_eq!(after(MAX_LOCK_ATTEMPTS), (false, MAX_LOCK_ATTEMPTS));
    }
}
