//! The file of the control socket: bound with mode 0600 from birth, and never taken from a master that lives.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::warn;

use crate::error::{Error, Result};
use crate::pid_file::PidFile;

/// The bound file. Removed when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, to remove no other file.
    identity: (u64, u64),
    /// `PATH.lock`, held as long as the socket: of two masters that find the same stale socket, one must not remove the
    /// fresh socket of the other.
    _lock: PidFile,
}

/// Binds a non-blocking listener to `path`. A socket that nobody listens at any more is replaced.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let error = |operation| Error::io(operation, &format_args!("the control socket {path:?}"));
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = PidFile::create(Path::new(&lock_path)).map_err(|failure| match failure {
        Error::PidFileTaken { pid, .. } => Error::ControlTaken { path: path.to_owned(), pid },
        Error::Io { source, .. } => error("create the lock of")(source),
        other => other,
    })?;
    let address = SocketAddrUnix::new(path).map_err(|errno| error("bind")(errno.into()))?;
    let listener = match try_bind(&address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &address)?;
            try_bind(&address)
        }
        other => other,
    };
    let listener = listener.map_err(|errno| error("bind")(errno.into()))?;
    let file = fs::symlink_metadata(path).map_err(error("inspect"))?;
    Ok((listener.into(), SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()), _lock: lock }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "control socket not removed");
        }
    }
}

/// Clients beyond this wait in `connect`.
const BACKLOG: i32 = 64;

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn try_bind(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = socket()?;
    // Linux gives the file the mode of the socket's own inode, less the umask: so it never has any other.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that refuses connections, and nothing else.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let error = |operation| Error::io(operation, &format_args!("the control socket {path:?}"));
    let file = fs::symlink_metadata(path).map_err(error("inspect"))?;
    if !file.file_type().is_socket() {
        return Err(error("bind")(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")));
    }
    let probe = socket().map_err(|errno| error("probe")(errno.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(error("remove the stale")),
        // Accepted, or its backlog is full: somebody is there.
        Ok(()) | Err(Errno::AGAIN) => Err(Error::ControlTaken { path: path.to_owned(), pid: None }),
        Err(errno) => Err(error("probe")(errno.into())),
    }
}
