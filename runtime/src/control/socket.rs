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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;
    use std::process;

    use super::*;

    #[test]
    fn a_taken_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _taken = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        let holder = process::id();
        assert_eq!(error.to_string(), format!("the control socket {path:?} is taken by process {holder}"));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_of_another_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(Error::ControlTaken { pid: None, .. })));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let _bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        fs::write(&path, "dear diary").unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot bind the control socket {path:?}: there is a file that is no socket")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn a_file_put_in_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let bound = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "dear diary").unwrap();
        drop(bound);
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/control");
        let error = bind(&path).unwrap_err();
        let Error::Io { object, source, .. } = error else { panic!("{error}") };
        assert_eq!(object, format!("the control socket {path:?}"));
        assert_eq!(source.kind(), ErrorKind::NotFound);
    }
}
