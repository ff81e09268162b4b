//! Bare passing of descriptors: the master accepts, sends the descriptor to the next worker and closes its own copy. No
//! board, no second copy, no accounting: what a worker has not read when it dies is lost.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, accept_with, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::{Settings, answer, listen, runtime, spawn};
use crate::error::{Error, Result};
use crate::protocol;

/// Accepts and passes on, in turn, until it is killed.
pub(super) fn master(settings: &Settings) -> Result<()> {
    let mut channels: Vec<OwnedFd> = Vec::new();
    for _ in 0..settings.workers {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Error::io("make", "a channel"))?;
        spawn(settings, theirs.into())?;
        channels.push(ours);
    }
    let listener = listen(settings.listen, false)?;
    let mut next = 0;
    loop {
        match accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(connection) => {
                send(&channels[next], connection.as_fd())?;
                next = (next + 1) % channels.len();
            }
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)
                    .map_err(Error::io("wait on", "the listener"))?;
            }
            Err(error) => return Err(Error::io("accept on", "the listener")(error)),
        }
    }
}

/// Receives and serves on tokio, until the master has gone.
pub(super) fn worker(channel: OwnedFd) -> Result<()> {
    let text = protocol::answer();
    runtime()?.block_on(async {
        rustix::io::ioctl_fionbio(&channel, true).map_err(Error::io("set up", "the channel"))?;
        let channel = UnixStream::from_std(channel.into()).map_err(Error::io("watch", "the channel"))?;
        loop {
            channel.readable().await.map_err(Error::io("wait on", "the channel"))?;
            // Until it is empty.
            while let Ok(received) = channel.try_io(Interest::READABLE, || next(&channel)) {
                let stream = TcpStream::from_std(received?.into()).map_err(Error::io("watch", "a connection"))?;
                tokio::spawn(answer(stream, text));
            }
        }
    })
}

/// As `try_io` wants it: that nothing is there is the only error outside.
fn next(channel: &UnixStream) -> io::Result<Result<OwnedFd>> {
    match receive(channel.as_fd()) {
        Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(Some(connection)) => Ok(Ok(connection)),
        Err(error) => Ok(Err(error)),
    }
}

fn send(channel: &OwnedFd, connection: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let connections = [connection];
    control.push(SendAncillaryMessage::ScmRights(&connections));
    sendmsg(channel, &[IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL)
        .map_err(Error::io("send on", "a channel"))?;
    Ok(())
}

/// The next descriptor, or nothing for now. The end of the master is an error, as nothing is left to do.
pub(super) fn receive(channel: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    match recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
        Ok(message) if message.bytes == 0 => Err(Error::io("read", "the channel")(io::ErrorKind::UnexpectedEof)),
        Ok(_) => {
            let mut rights = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            Ok(rights.next().and_then(|mut rights| rights.next()))
        }
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(Error::io("receive on", "the channel")(error)),
    }
}
