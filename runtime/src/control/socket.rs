//! The file of the control socket: bound as every listener is, so never taken from a master that lives, and with mode 0600
//! before anybody can connect.

use std::io;
use std::path::Path;

use everport_handoff::address::ListenAddress;
use everport_handoff::socket::{self, Bound, InheritedSockets};

use crate::error::{Error, Result};

/// Clients beyond this wait in `connect`.
const BACKLOG: u32 = 64;

/// Binds a non-blocking listener to `path`. A socket that nobody listens at any more is replaced.
pub(super) fn bind(path: &Path) -> Result<Bound> {
    let error = || Error::io("bind", &format_args!("the control socket {path:?}"));
    let inherited = InheritedSockets::from_env().map_err(error())?;
    let address = ListenAddress::unix(path).map_err(io::Error::other).map_err(error())?;
    let address = format!("{address}?mode=0600&backlog={BACKLOG}").parse().map_err(io::Error::other).map_err(error())?;
    socket::bind(&address, inherited).map_err(|failure| error()(io::Error::new(failure.kind(), failure.cause)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_taken_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _taken = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        let reason = format!("cannot bind the control socket {path:?}: a live listener holds ");
        assert!(error.to_string().starts_with(&reason), "{error}");
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
        assert!(error.to_string().starts_with(&format!("cannot bind the control socket {path:?}: ")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/control");
        let Error::Io { object, source, .. } = bind(&path).unwrap_err() else { panic!("it is not there") };
        assert_eq!(object, format!("the control socket {path:?}"));
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }
}
