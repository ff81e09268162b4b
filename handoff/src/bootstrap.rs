//! The contract of exec, both ends: what the master puts into a worker's environment and descriptors, and how the worker
//! finds it.
//!
//! | variable | value |
//! |---|---|
//! | `EVERPORT_CHANNEL` | `FD:INODE` of the channel |
//! | `EVERPORT_BOARD` | `FD:INODE` of the board |
//! | `EVERPORT_WORKER` | the worker's id |
//! | `EVERPORT_SLOT` | its slot |
//! | `EVERPORT_GENERATION` | its generation |
//!
//! The variables stay in the environment, for removing one is unsound once threads run. The inode decides: a grandchild
//! has the variables but not the descriptors, which are close-on-exec again as soon as the worker has adopted them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;

use crate::board::{MasterBoard, WorkerBoard};
use crate::channel::Channel;
use crate::id::{Generation, Slot, WorkerId};
use crate::sys::{inherit, spawn};

const CHANNEL: &str = "EVERPORT_CHANNEL";
const BOARD: &str = "EVERPORT_BOARD";
const WORKER: &str = "EVERPORT_WORKER";
const SLOT: &str = "EVERPORT_SLOT";
const GENERATION: &str = "EVERPORT_GENERATION";

/// Who a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id, never used again.
    pub worker: WorkerId,
    /// The slot that it fills.
    pub slot: Slot,
    /// The generation that it belongs to.
    pub generation: Generation,
}

impl Identity {
    /// Tells the process of `command` who it is, by the environment alone. Called in the master.
    pub fn pass_to(&self, command: &mut Command) {
        command
            .env(WORKER, self.worker.to_string())
            .env(SLOT, self.slot.to_string())
            .env(GENERATION, self.generation.to_string());
    }
}

/// What the master keeps of the link to a new worker.
#[derive(Debug)]
pub struct MasterEnds {
    /// The master's end of the channel.
    pub channel: Channel,
    /// The master's end of the board.
    pub board: MasterBoard,
    /// The worker's ends. Drop them once the worker is spawned, else the master never sees the channel close.
    pub inherited: Inherited,
}

/// The ends that a worker inherits.
#[derive(Debug)]
pub struct Inherited {
    channel: OwnedFd,
    board: OwnedFd,
}

/// Makes a channel and a board for one new worker. Called in the master.
pub fn prepare() -> io::Result<MasterEnds> {
    let (channel, theirs) = Channel::pair()?;
    let (board, page) = MasterBoard::create()?;
    Ok(MasterEnds { channel, board, inherited: Inherited { channel: theirs, board: page } })
}

impl Inherited {
    /// Makes `command` start a worker that can [`adopt`] these ends. Called in the master; keep `self` until the spawn.
    ///
    /// The child starts with the default action for every signal but the real-time ones, and none blocked.
    pub fn pass_to(&self, command: &mut Command, identity: Identity) -> io::Result<()> {
        command.env(CHANNEL, describe(&self.channel)?).env(BOARD, describe(&self.board)?);
        identity.pass_to(command);
        spawn::inherit(command, [self.channel.as_fd(), self.board.as_fd()]);
        Ok(())
    }
}

/// What a worker finds.
#[derive(Debug)]
pub struct Adopted {
    /// The worker's end of the channel.
    pub channel: Channel,
    /// The worker's end of the board.
    pub board: WorkerBoard,
    /// Who the worker is.
    pub identity: Identity,
}

/// Takes over what the master left for this process, or says that no master did. Called in the worker, once.
///
/// # Errors
///
/// The variables name descriptors that are ours but make no sense: this program and the master do not fit together.
pub fn adopt() -> io::Result<Option<Adopted>> {
    let Some(channel) = take_over(CHANNEL, is_channel)? else {
        return Ok(None);
    };
    let board = take_over(BOARD, |_| Ok(true))?.ok_or_else(|| invalid(BOARD))?;
    let identity = Identity {
        worker: WorkerId(number(WORKER)?),
        slot: Slot(number(SLOT)?),
        generation: Generation(number(GENERATION)?),
    };
    Ok(Some(Adopted { channel: Channel::adopt(channel), board: WorkerBoard::adopt(board)?, identity }))
}

/// `FD:INODE`, the name of an inherited descriptor.
fn describe(fd: &OwnedFd) -> io::Result<String> {
    Ok(format!("{}:{}", fd.as_raw_fd(), rustix::fs::fstat(fd)?.st_ino))
}

/// Adopts the descriptor that a variable names, if it still is the one that the master meant.
fn take_over(variable: &str, is_kind: impl FnOnce(BorrowedFd<'_>) -> io::Result<bool>) -> io::Result<Option<OwnedFd>> {
    let Ok(value) = std::env::var(variable) else {
        return Ok(None);
    };
    let (fd, inode) = value.split_once(':').ok_or_else(|| invalid(variable))?;
    let (Ok(fd), Ok(inode)) = (fd.parse(), inode.parse::<u64>()) else {
        return Err(invalid(variable));
    };
    inherit::adopt_if(fd, |fd| Ok(rustix::fs::fstat(fd)?.st_ino == inode && is_kind(fd)?))
}

/// Inodes are numbered by each file system, so that a file of another kind may have the number of a channel's.
fn is_channel(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    Ok(sockopt::socket_type(fd)? == SocketType::SEQPACKET && sockopt::socket_domain(fd)? == AddressFamily::UNIX)
}

fn number<N: std::str::FromStr>(variable: &str) -> io::Result<N> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).ok_or_else(|| invalid(variable))
}

fn invalid(variable: &str) -> io::Error {
    let value = std::env::var(variable).unwrap_or_default();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{variable}={value}: not what an everport master writes; unset it to run without a master"),
    )
}
