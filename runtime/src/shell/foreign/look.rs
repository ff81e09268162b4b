//! Whether a program accepts from its listeners, as `/proc` shows it: in the process that the master started, and in all
//! that came of it.
//!
//! A process accepts from a listener that it holds in an epoll instance, or on which one of its threads waits in `accept`,
//! `poll`, `select` or, of a UDP socket, in a call that receives. A probe through the port would prove nothing: another
//! worker may answer it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc;

/// How many processes of one worker are looked at, at most.
const MAX_PROCESSES: usize = 256;

/// How many threads of one process are looked at, at most. Programs with so many have an epoll, which is looked at first.
const MAX_THREADS: usize = 256;

/// How many descriptors a waiting thread may have in one call. More than these are not looked at.
const MAX_POLLED: usize = 4096;

/// A socket by the numbers that `/proc` knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Socket {
    inode: u64,
    /// In the kernel's own form.
    device: u64,
}

impl Socket {
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(Self { inode: stat.st_ino, device: u64::from(major) << 20 | u64::from(minor) })
    }
}

/// What one look at a worker's processes shows.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The sockets from which somebody accepts.
    pub(crate) accepting: BTreeSet<Socket>,
    /// Whether something was hidden: by the system, or in an io_uring.
    pub(crate) hidden: bool,
}

impl Look {
    /// Looks at a process and all its descendants for these sockets.
    pub(crate) fn at(pid: i32, wanted: &BTreeSet<Socket>) -> Self {
        let mut look = Self::default();
        let mut found = vec![PathBuf::from(format!("/proc/{pid}"))];
        let mut next = 0;
        while next < found.len().min(MAX_PROCESSES) {
            let process = found[next].clone();
            next += 1;
            let threads = entries(&process.join("task"));
            for thread in threads.iter().flatten() {
                let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().map(|child| Path::new("/proc").join(child)));
            }
            match look.at_one(&process, &threads.unwrap_or_default(), wanted) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => look.hidden = true,
                // A process that ends meanwhile shows nothing any more.
                _ => {}
            }
        }
        look
    }

    fn at_one(&mut self, process: &Path, threads: &[PathBuf], wanted: &BTreeSet<Socket>) -> io::Result<()> {
        let mut held = BTreeMap::new();
        for entry in entries(&process.join("fd"))? {
            let Some(number) = number_of(&entry) else { continue };
            // One that has been closed meanwhile.
            let Ok(target) = fs::read_link(&entry) else { continue };
            match target.to_str() {
                Some("anon_inode:[eventpoll]") => {
                    let info = fs::read_to_string(process.join(format!("fdinfo/{number}"))).unwrap_or_default();
                    self.accepting.extend(info.lines().filter_map(watched).filter(|socket| wanted.contains(socket)));
                }
                Some("anon_inode:[io_uring]") => self.hidden = true,
                Some(target) => {
                    let inode = inode_of(target);
                    held.extend(wanted.iter().filter(|socket| Some(socket.inode) == inode).map(|&it| (number, it)));
                }
                None => {}
            }
        }
        held.retain(|_, socket| !self.accepting.contains(socket));
        if !held.is_empty() {
            for thread in threads.iter().take(MAX_THREADS) {
                let call = fs::read_to_string(thread.join("syscall"))?;
                let waited_for = Call::parse(&call).map(|call| call.waits_for(&process.join("mem")));
                self.accepting.extend(waited_for.into_iter().flatten().filter_map(|number| held.get(&number)));
            }
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect())
}

fn number_of(entry: &Path) -> Option<u64> {
    entry.file_name()?.to_str()?.parse().ok()
}

/// The inode in `socket:[4711]`.
fn inode_of(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The socket of one line of an epoll's fdinfo, if it is watched for readability:
/// `tfd:        5 events:       19 data:                5  pos:0 ino:3c41 sdev:8`.
fn watched(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let after = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)).and_then(hex);
    let events = words.iter().position(|word| *word == "events:").and_then(|at| hex(words.get(at + 1)?))?;
    let is_readable = events & libc::EPOLLIN as u64 != 0;
    is_readable.then_some(Socket { inode: after("ino:")?, device: after("sdev:")? })
}

/// The call in which a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// For this descriptor.
    One(u64),
    /// For so many descriptors, in an array of `pollfd` at this address.
    Poll(u64, usize),
    /// For the descriptors below a number, in an `fd_set` at this address.
    Select(u64, usize),
}

/// The size of `struct pollfd`: the descriptor, then the events wanted and those that came.
const POLLFD: usize = 8;

impl Call {
    /// Reads `/proc/PID/task/TID/syscall`: the number of the call and its six arguments; other words if it waits in none.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let number: libc::c_long = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (first, second) = (argument()?, argument()?);
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX).min(MAX_POLLED);
        match number {
            libc::SYS_accept | libc::SYS_accept4 | libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => {
                Some(Self::One(first))
            }
            libc::SYS_ppoll => Some(Self::Poll(first, count(second))),
            libc::SYS_pselect6 => Some(Self::Select(second, count(first))),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => Some(Self::Poll(first, count(second))),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => Some(Self::Select(second, count(first))),
            _ => None,
        }
    }

    /// The descriptors that the thread waits for, as far as the memory of its process can be read.
    fn waits_for(self, memory: &Path) -> Vec<u64> {
        let (address, length) = match self {
            Self::One(descriptor) => return vec![descriptor],
            Self::Poll(address, count) => (address, count * POLLFD),
            Self::Select(address, count) => (address, count.div_ceil(64) * 8),
        };
        let mut bytes = vec![0; length];
        match File::open(memory).and_then(|memory| memory.read_exact_at(&mut bytes, address)) {
            Ok(()) => self.descriptors(&bytes),
            // The call has ended meanwhile; it would be a new one that the next look sees.
            Err(_) => Vec::new(),
        }
    }

    /// The descriptors in what the call points to.
    fn descriptors(self, bytes: &[u8]) -> Vec<u64> {
        match self {
            Self::One(descriptor) => vec![descriptor],
            Self::Poll(..) => bytes.chunks_exact(POLLFD).filter_map(polled).collect(),
            Self::Select(..) => {
                let words = bytes.chunks_exact(8).zip((0..).step_by(64));
                words.flat_map(|(word, first)| selected(word, first)).collect()
            }
        }
    }
}

/// The descriptor of one `pollfd`, if it is waited for until it is readable.
fn polled(pollfd: &[u8]) -> Option<u64> {
    let descriptor = i32::from_ne_bytes(pollfd[..4].try_into().ok()?);
    let events = i16::from_ne_bytes(pollfd[4..6].try_into().ok()?);
    // A negative one is left out by `poll` too.
    if events & libc::POLLIN != 0 { u64::try_from(descriptor).ok() } else { None }
}

/// The descriptors from `first` on whose bits are set in one word of an `fd_set`.
fn selected(word: &[u8], first: u64) -> impl Iterator<Item = u64> {
    let bits = word.try_into().map_or(0, u64::from_ne_bytes);
    (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first + bit)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::time::Duration;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn listener() -> (TcpListener, BTreeSet<Socket>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = BTreeSet::from([Socket::of(&listener).unwrap()]);
        (listener, wanted)
    }

    fn is_seen(wanted: &BTreeSet<Socket>) -> bool {
        Look::at(own_pid(), wanted).accepting == *wanted
    }

    /// Lets a thread wait, looks until it is seen, and ends the wait by `wake`.
    fn sees(wanted: &BTreeSet<Socket>, wait: impl FnOnce() + Send, wake: impl FnOnce()) {
        assert!(!is_seen(wanted));
        std::thread::scope(|scope| {
            scope.spawn(wait);
            let looks = std::iter::from_fn(|| {
                std::thread::yield_now();
                Some(is_seen(wanted))
            });
            let seen = looks.take(100_000).any(|seen| seen);
            wake();
            assert!(seen);
        });
        assert!(!is_seen(wanted));
    }

    #[test]
    fn a_listener_that_nobody_waits_for_is_not_accepted_from() {
        let (_listener, wanted) = listener();
        assert_eq!(Look::at(own_pid(), &wanted).accepting, BTreeSet::new());
    }

    #[test]
    fn an_epoll_that_holds_the_listener_shows() {
        let (listener, wanted) = listener();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLOUT, 0)).unwrap();
        assert!(!is_seen(&wanted), "it does not wait for clients");
        epoll.modify(&listener, &mut EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
        assert!(is_seen(&wanted));
    }

    #[test]
    fn a_thread_in_accept_shows() {
        let (listener, wanted) = listener();
        let address = listener.local_addr().unwrap();
        let wake = || drop(std::net::TcpStream::connect(address).unwrap());
        sees(&wanted, || drop(listener.accept().unwrap()), wake);
    }

    #[test]
    fn a_thread_in_poll_shows() {
        let (listener, wanted) = listener();
        let address = listener.local_addr().unwrap();
        let wait = || {
            let mut fds = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
        };
        sees(&wanted, wait, || drop(std::net::TcpStream::connect(address).unwrap()));
    }

    #[test]
    fn a_thread_in_select_shows() {
        let (listener, wanted) = listener();
        let address = listener.local_addr().unwrap();
        let wait = || {
            let mut fds = nix::sys::select::FdSet::new();
            fds.insert(listener.as_fd());
            nix::sys::select::select(None, &mut fds, None, None, None).unwrap();
        };
        sees(&wanted, wait, || drop(std::net::TcpStream::connect(address).unwrap()));
    }

    #[test]
    fn a_thread_that_waits_for_a_datagram_shows() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let wanted = BTreeSet::from([Socket::of(&socket).unwrap()]);
        let wake = || assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap(), 1);
        sees(&wanted, || assert_eq!(socket.recv(&mut [0]).unwrap(), 1), wake);
    }

    #[test]
    fn a_line_of_epoll_is_read_as_the_kernel_writes_it() {
        let line = "tfd:        5 events:       19 data:                5  pos:0 ino:3c41 sdev:8";
        assert_eq!(watched(line), Some(Socket { inode: 0x3c41, device: 8 }));
        assert_eq!(watched("tfd:        5 events:        4 data:  5  pos:0 ino:3c41 sdev:8"), None);
        assert_eq!(watched("pos:\t0"), None);
    }

    #[test]
    fn a_thread_that_runs_waits_for_nothing() {
        assert_eq!(Call::parse("running\n"), None);
        assert_eq!(Call::parse("-1 0x7ffe 0x7f00"), None);
    }

    #[test]
    fn what_is_polled_for_writing_or_left_out_does_not_count() {
        let pollfd =
            |descriptor: i32, events: i16| [&descriptor.to_ne_bytes()[..], &events.to_ne_bytes(), &[0, 0]].concat();
        let array = [pollfd(3, libc::POLLIN), pollfd(-4, libc::POLLIN), pollfd(5, libc::POLLOUT)].concat();
        assert_eq!(Call::Poll(0, 3).descriptors(&array), [3]);
        let mut set = [0_u8; 16];
        set[0] = 1 << 3;
        set[8] = 1;
        assert_eq!(Call::Select(0, 128).descriptors(&set), [3, 64]);
    }
}
