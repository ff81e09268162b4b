//! Sockets that were open before this process started: `fd:N`, and `systemd:NAME` by the protocol of `sd_listen_fds`.
//!
//! Invariants: each descriptor is adopted once, so that it has one owner; all that systemd passed is close-on-exec as
//! soon as it is known; a socket that turns out to be of no use stays open, for it may be somebody's port.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock};

use rustix::io::Errno;
use socket2::{Domain, SockRef, Type};

use crate::address::Kind;
use crate::sys::inherit;

/// The first descriptor that systemd passes.
const FIRST: i32 = 3;
/// How many descriptors systemd may pass.
const MAX_PASSED: usize = 1024;
/// The name that systemd means when it gives none.
const UNNAMED: &str = "unknown";

/// The sockets that this process inherited.
///
/// Empty by default: then `fd:N` works, and no `systemd:NAME` is known.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// What systemd calls descriptor 3, 4 and so on.
    names: Vec<String>,
    /// Every descriptor that this process has adopted; `None` once it has been taken.
    adopted: Mutex<BTreeMap<i32, Option<OwnedFd>>>,
}

/// Why an inherited socket cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InheritedError {
    /// When the number leads nowhere.
    #[error("descriptor {0} is not open")]
    NotOpen(i32),
    /// When the number leads to something that this process itself has opened.
    #[error("descriptor {0} was not inherited")]
    NotInherited(i32),
    /// When a second address names the same socket.
    #[error("descriptor {0} is used by another address already")]
    Taken(i32),
    /// When it is another kind of file.
    #[error("descriptor {0} is not a socket")]
    NotASocket(i32),
    /// When it is a socket that is neither a TCP, a unix stream nor a UDP socket.
    #[error("descriptor {0} is neither a TCP, a unix stream nor a UDP socket")]
    Unsupported(i32),
    /// When it is a connection, or a socket that `listen` or `bind` has not been called on.
    #[error("descriptor {0} is a socket that does not listen")]
    NotListening(i32),
    /// When systemd has passed no socket of this name and index.
    #[error("systemd passed no socket {name:?} with index {index}, only: {}", list(.known))]
    UnknownName {
        /// The name in the address.
        name: String,
        /// The index in the address.
        index: u32,
        /// All names that were passed.
        known: Vec<String>,
    },
    /// When a variable is not as systemd writes it.
    #[error("{variable}={value:?}: wanted {wanted}")]
    Variable {
        /// The name of the variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What systemd writes.
        wanted: &'static str,
    },
}

fn list(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

impl InheritedSockets {
    /// What systemd has passed to this process; read, and made close-on-exec, by the first call.
    ///
    /// # Errors
    ///
    /// The variables are meant for this process and make no sense, or name descriptors that are not open: an
    /// [`InheritedError`] inside.
    pub fn from_env() -> io::Result<&'static Self> {
        static ONCE: OnceLock<Result<InheritedSockets, InheritedError>> = OnceLock::new();
        ONCE.get_or_init(|| {
            let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
            let names = passed(std::process::id(), variable)?;
            let adopted = adopt_all((FIRST..).zip(&names).map(|(number, _)| number))?;
            Ok(Self { names, adopted: Mutex::new(adopted) })
        })
        .as_ref()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.clone()))
    }

    /// The addresses of the sockets from systemd that nobody has bound yet: clients who connect to them wait in vain.
    pub fn untaken(&self) -> Vec<String> {
        let adopted = self.adopted();
        (FIRST..)
            .zip(&self.names)
            .enumerate()
            .filter(|(_, (number, _))| adopted.get(number).is_some_and(Option::is_some))
            .map(|(n, (_, name))| match self.names[..n].iter().filter(|earlier| *earlier == name).count() {
                0 => format!("systemd:{name}"),
                index => format!("systemd:{name}:{index}"),
            })
            .collect()
    }

    /// The descriptor of the socket that systemd passed under this name, counted from 0 among those of one name.
    pub(super) fn number_of(&self, name: &str, index: u32) -> Result<i32, InheritedError> {
        (FIRST..)
            .zip(&self.names)
            .filter(|(_, passed)| *passed == name)
            .zip(0..)
            .find_map(|((number, _), n)| (n == index).then_some(number))
            .ok_or_else(|| InheritedError::UnknownName { name: name.to_owned(), index, known: self.names.clone() })
    }

    /// Takes over a listening socket and says what kind it is. The caller owns it.
    pub(super) fn take(&self, number: i32) -> Result<(OwnedFd, Kind), InheritedError> {
        let mut adopted = self.adopted();
        let slot = match adopted.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                // Before it is adopted: what is of no use here may be somebody else's.
                inherit::look(number, |fd| Ok(kind_of(number, fd))).unwrap_or(Err(InheritedError::NotOpen(number)))?;
                entry.insert(Some(adopt(number)?))
            }
        };
        let kind = kind_of(number, slot.as_ref().ok_or(InheritedError::Taken(number))?.as_fd())?;
        slot.take().map(|fd| (fd, kind)).ok_or(InheritedError::Taken(number))
    }

    fn adopted(&self) -> MutexGuard<'_, BTreeMap<i32, Option<OwnedFd>>> {
        // Every change to the map is a single step, so that a panic elsewhere leaves it whole.
        self.adopted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Adopts all or says which one it cannot; the others stay open then, close-on-exec and nobody's.
fn adopt_all(numbers: impl Iterator<Item = i32>) -> Result<BTreeMap<i32, Option<OwnedFd>>, InheritedError> {
    let mut adopted = BTreeMap::new();
    for number in numbers {
        match adopt(number) {
            Ok(fd) => drop(adopted.insert(number, Some(fd))),
            Err(error) => {
                for fd in adopted.into_values().flatten() {
                    let _still_open = fd.into_raw_fd();
                }
                return Err(error);
            }
        }
    }
    Ok(adopted)
}

fn adopt(number: i32) -> Result<OwnedFd, InheritedError> {
    inherit::adopt(number).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => InheritedError::NotInherited(number),
        _ => InheritedError::NotOpen(number),
    })
}

/// What kind of listening socket this is.
fn kind_of(number: i32, fd: BorrowedFd<'_>) -> Result<Kind, InheritedError> {
    let socket = SockRef::from(&fd);
    // The calls fail for two reasons alone: nothing is open here, or it is no socket.
    let not_a_socket = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::BADF) => InheritedError::NotOpen(number),
        _ => InheritedError::NotASocket(number),
    };
    let domain = socket.domain().map_err(not_a_socket)?;
    let inet = domain == Domain::IPV4 || domain == Domain::IPV6;
    let kind = match socket.r#type().map_err(not_a_socket)? {
        Type::STREAM if inet => Kind::Tcp,
        Type::STREAM if domain == Domain::UNIX => Kind::Unix,
        Type::DGRAM if inet => Kind::Udp,
        _ => return Err(InheritedError::Unsupported(number)),
    };
    let listens = match kind {
        Kind::Tcp | Kind::Unix => socket.is_listener().map_err(not_a_socket)?,
        Kind::Udp => {
            let local = socket.local_addr().map_err(not_a_socket)?;
            local.as_socket().is_some_and(|local| local.port() != 0)
        }
    };
    if listens { Ok(kind) } else { Err(InheritedError::NotListening(number)) }
}

/// The names of the descriptors that systemd passed to the process `pid`, from descriptor 3 on.
fn passed(pid: u32, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, InheritedError> {
    let error = |variable, value, wanted| InheritedError::Variable { variable, value, wanted };
    let Some(meant_for) = variable("LISTEN_PID") else {
        return Ok(Vec::new());
    };
    match meant_for.parse::<u32>() {
        Ok(meant_for) if meant_for == pid => {}
        // A child of the process that was meant inherits its environment.
        Ok(_) => return Ok(Vec::new()),
        Err(_) => return Err(error("LISTEN_PID", meant_for, "a process id")),
    }
    let Some(fds) = variable("LISTEN_FDS") else {
        return Ok(Vec::new());
    };
    let count = match fds.parse::<usize>() {
        Ok(count) if count <= MAX_PASSED => count,
        _ => return Err(error("LISTEN_FDS", fds, "a number of 0 to 1024")),
    };
    let names: Vec<String> = match variable("LISTEN_FDNAMES") {
        Some(names) if count > 0 && names.split(':').count() != count => {
            return Err(error("LISTEN_FDNAMES", names, "as many names as LISTEN_FDS says"));
        }
        Some(names) if count > 0 => names.split(':').map(str::to_owned).collect(),
        _ => vec![UNNAMED.to_owned(); count],
    };
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sys::inherit::leave_open;

    fn names(variables: &[(&str, &str)]) -> Result<Vec<String>, InheritedError> {
        passed(7, |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn systemd_s_variables_count_only_for_the_process_that_they_name() {
        let names =
            |pid, fds, given| names(&[("LISTEN_PID", pid), ("LISTEN_FDS", fds), ("LISTEN_FDNAMES", given)]).unwrap();
        assert_eq!(names("7", "2", "web:admin"), ["web", "admin"]);
        assert_eq!(names("7", "0", ""), [""; 0]);
        assert_eq!(names("8", "2", "web:admin"), [""; 0]);
        assert_eq!(names("8", "nonsense", ""), [""; 0]);
    }

    #[test]
    fn systemd_s_variables_may_be_missing() {
        assert_eq!(names(&[]).unwrap(), [""; 0]);
        assert_eq!(names(&[("LISTEN_FDS", "1")]).unwrap(), [""; 0]);
        assert_eq!(names(&[("LISTEN_PID", "7")]).unwrap(), [""; 0]);
        assert_eq!(names(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2")]).unwrap(), ["unknown"; 2]);
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        let error = |fds, given| {
            names(&[("LISTEN_PID", "7"), ("LISTEN_FDS", fds), ("LISTEN_FDNAMES", given)]).unwrap_err().to_string()
        };
        assert_eq!(names(&[("LISTEN_PID", "me")]).unwrap_err().to_string(), r#"LISTEN_PID="me": wanted a process id"#);
        assert_eq!(error("-1", ""), r#"LISTEN_FDS="-1": wanted a number of 0 to 1024"#);
        assert_eq!(error("1025", ""), r#"LISTEN_FDS="1025": wanted a number of 0 to 1024"#);
        assert_eq!(error("2", "web"), r#"LISTEN_FDNAMES="web": wanted as many names as LISTEN_FDS says"#);
    }

    #[test]
    fn sockets_of_one_name_are_told_apart_by_their_index() {
        let sockets =
            InheritedSockets { names: ["web", "admin", "web"].map(str::to_owned).into(), ..Default::default() };
        assert_eq!(sockets.number_of("web", 0), Ok(3));
        assert_eq!(sockets.number_of("web", 1), Ok(5));
        assert_eq!(sockets.number_of("admin", 0), Ok(4));
        assert_eq!(
            sockets.number_of("admin", 1).unwrap_err().to_string(),
            r#"systemd passed no socket "admin" with index 1, only: web, admin, web"#
        );
        assert_eq!(
            InheritedSockets::default().number_of("web", 0).unwrap_err().to_string(),
            r#"systemd passed no socket "web" with index 0, only: none"#
        );
    }

    #[test]
    fn what_systemd_passed_is_untaken_until_it_is_bound() {
        let fd = |listener: TcpListener| Some(OwnedFd::from(listener));
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = InheritedSockets {
            names: ["web", "web", "admin"].map(str::to_owned).into(),
            adopted: Mutex::new([(3, fd(listener())), (4, fd(listener())), (5, None)].into()),
        };
        assert_eq!(sockets.untaken(), ["systemd:web", "systemd:web:1"]);
        sockets.take(3).unwrap();
        assert_eq!(sockets.untaken(), ["systemd:web:1"]);
    }

    #[test]
    fn a_socket_is_taken_once_and_only_if_it_was_inherited() {
        let sockets = InheritedSockets::default();
        let number = leave_open(TcpListener::bind("127.0.0.1:0").unwrap().into());
        let (_listener, kind) = sockets.take(number).unwrap();
        assert_eq!(kind, Kind::Tcp);
        assert_eq!(sockets.take(number).unwrap_err(), InheritedError::Taken(number));
        // Another instance does not know, but the descriptor's own flag does.
        let other = InheritedSockets::default();
        assert_eq!(other.take(number).unwrap_err(), InheritedError::NotInherited(number));
        assert_eq!(sockets.take(i32::MAX).unwrap_err(), InheritedError::NotOpen(i32::MAX));
    }

    #[test]
    fn a_descriptor_that_is_missing_closes_none_of_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let number = leave_open(listener.into());
        assert_eq!(adopt_all([number, i32::MAX].into_iter()).unwrap_err(), InheritedError::NotOpen(i32::MAX));
        TcpStream::connect(address).unwrap();
        assert_eq!(adopt(number).unwrap_err(), InheritedError::NotInherited(number), "it is close-on-exec");
    }

    #[test]
    fn only_a_socket_that_listens_is_taken_and_the_others_stay_open() {
        let sockets = InheritedSockets::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let unbound = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        type Wanted = fn(i32) -> InheritedError;
        let cases: [(OwnedFd, Wanted); 4] = [
            (std::fs::File::open("/dev/null").unwrap().into(), InheritedError::NotASocket),
            (UnixDatagram::unbound().unwrap().into(), InheritedError::Unsupported),
            (stream.into(), InheritedError::NotListening),
            (unbound.into(), InheritedError::NotListening),
        ];
        for (fd, wanted) in cases {
            let number = leave_open(fd);
            for _ in 0..2 {
                assert_eq!(sockets.take(number).unwrap_err(), wanted(number));
            }
            // It was not even adopted.
            assert!(sockets.adopted().is_empty());
            drop(adopt(number).unwrap());
        }
        let udp = leave_open(UdpSocket::bind("127.0.0.1:0").unwrap().into());
        assert_eq!(sockets.take(udp).unwrap().1, Kind::Udp);
    }
}
