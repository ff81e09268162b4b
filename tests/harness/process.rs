//! Processes as `/proc` shows them, and the end of those that a test has started.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::clock::{PATIENCE, soon};

/// The variable by which everything is found that a test has started, however it was started.
pub(crate) const MARK: &str = "PROOF_MARK";

/// Sends a signal. That the process has gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    // As above.
    let _ = kill(native(pid), signal);
}

/// Every living process that has this mark in its environment.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK}={mark}");
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    all().filter(is_marked).collect()
}

/// The children of a process, the dead ones that it has not reaped included.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    all().filter(|pid| stat(*pid).is_some_and(|stat| stat.1 == parent)).collect()
}

/// Whether a process is there and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The inodes of the TCP sockets that listen at this port.
pub(crate) fn listening_inodes(address: SocketAddr) -> Vec<u64> {
    listening(address).into_iter().map(|socket| socket.inode).collect()
}

/// How many connections wait in the backlog of the listeners of this port.
pub(crate) fn backlog(address: SocketAddr) -> usize {
    listening(address).into_iter().map(|socket| socket.waiting).sum()
}

struct Listening {
    inode: u64,
    waiting: usize,
}

fn listening(address: SocketAddr) -> Vec<Listening> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let port = format!(":{:04X}", address.port());
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let waiting = fields.get(4)?.split_once(':')?.1;
        // State 0A is LISTEN.
        (fields[1].ends_with(&port) && fields[3] == "0A").then_some(())?;
        Some(Listening { inode: fields.get(9)?.parse().ok()?, waiting: usize::from_str_radix(waiting, 16).ok()? })
    };
    let text = fs::read_to_string(table).expect("the kernel's table of sockets");
    text.lines().skip(1).filter_map(read).collect()
}

/// How nice a process is.
pub(crate) fn nice(pid: u32) -> i64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    // Field 19, counted from the one behind the name, which is field 3.
    let fields = text.rsplit_once(')').expect("a name").1;
    fields.split_whitespace().nth(16).and_then(|nice| nice.parse().ok()).expect("a number")
}

/// Waits until a process has gone or is a zombie.
#[track_caller]
pub(crate) fn wait_for_end(pid: u32) {
    if let Some(handle) = open(pid) {
        let readable = wait_readable(&handle);
        assert!(readable, "process {pid} does not end");
    }
}

/// Makes this process the parent of those that lose theirs, so that their exit codes can be read.
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("the kernel is new enough");
}

/// Waits for the end of an orphan and returns its exit code, or none if a signal ended it.
#[track_caller]
pub(crate) fn reap(pid: u32) -> Option<i32> {
    let handle = open(pid).unwrap_or_else(|| panic!("process {pid} is not there"));
    assert!(wait_readable(&handle), "process {pid} does not end");
    // Its parent may still be about to die.
    let status = soon("an orphan becomes our child", || {
        waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok().flatten()
    });
    status.exit_status()
}

/// Kills everything with this mark and waits until it has gone.
pub(crate) fn sweep(mark: &str) {
    soon("marked processes end", || {
        let left = marked(mark);
        for pid in &left {
            signal(*pid, Signal::SIGKILL);
        }
        left.is_empty().then_some(())
    });
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(rustix::process::Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

fn wait_readable(handle: &OwnedFd) -> bool {
    let time = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0)
}

fn native(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("a proc file system");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The state and the parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
