//! How a stream leaves for another worker.

use std::os::fd::OwnedFd;

use super::io::Io;
use super::kind::Kind;
use super::stream::Stream;
use super::unread::Unread;
use crate::handover::{HandoverError, Load, ReturnReason};
use crate::message::MAX_PARCEL;
use crate::parcel;
use crate::worker::handovers::{Given, Outcome};
use crate::worker::link::Link;

impl<K: Kind> Stream<K> {
    /// Gives the connection to another worker, with bytes that were read and not used, or with a state. It ends when
    /// another worker has taken it.
    ///
    /// Bytes that the stream itself still has unread follow those of [`Load::Unread`]. What was written has left this
    /// process; a buffer around the stream must be flushed before.
    ///
    /// Cancelling it before the message is sent drops the stream, which ends the connection. Later it moves on all the
    /// same; if it is returned then, it ends.
    ///
    /// # Errors
    ///
    /// [`HandoverError::Returned`] gives everything back when the connection could not move: go on with it.
    pub async fn handover(self, load: impl Into<Load>) -> Result<(), HandoverError<K>> {
        hand_over(self, load.into()).await
    }
}

async fn hand_over<K: Kind>(stream: Stream<K>, load: Load) -> Result<(), HandoverError<K>> {
    let Some(link) = stream.link().cloned() else {
        return Err(returned(stream, load, ReturnReason::NotManaged));
    };
    if let Some(reason) = refusal(&stream, &load, &link) {
        return Err(returned(stream, load, reason));
    }
    let Ok(room) = link.handover_room().await else {
        return Err(returned(stream, load, ReturnReason::MasterLost));
    };
    // What was true before the wait need not be true now.
    if let Some(reason) = refusal(&stream, &load, &link) {
        return Err(returned(stream, load, reason));
    }
    let rest = stream.unread().get();
    let (parcel, file) = match parcel::pack(&load, &rest) {
        Ok(packed) => packed,
        Err(error) => return Err(returned(stream, load, error.into())),
    };
    let Some((io, peer, tie)) = stream.into_tied() else {
        // It had a link, which is its tie's.
        return Err(HandoverError::Lost);
    };
    // It may be woken no more, and another process must not find it in this one's epoll.
    let socket: OwnedFd = match io.into_std() {
        Ok(socket) => socket.into(),
        Err(error) => {
            tracing::debug!(%error, "take a stream out of its runtime");
            return Err(HandoverError::Lost);
        }
    };
    tie.was_read();
    let given = Given { socket, tie, peer: K::name(&peer), parcel, file };
    match link.hand_over(given, room).await {
        Ok(Outcome::Moved) => Ok(()),
        Ok(Outcome::Returned(back, reason)) => {
            let (socket, tie) = back.into_parts();
            let stream = Stream::new(Io::bare(socket), Some(peer), Some(tie), Unread::new(rest));
            Err(returned(stream, load, reason))
        }
        Ok(Outcome::Lost) | Err(_) => Err(HandoverError::Lost),
    }
}

/// Why this stream cannot move now, if so.
fn refusal<K: Kind>(stream: &Stream<K>, load: &Load, link: &Link) -> Option<ReturnReason> {
    let left = stream.unread().get();
    let length = load.bytes().len() + left.len();
    match load {
        _ if length > MAX_PARCEL => Some(ReturnReason::TooLong { length }),
        Load::State(_) if !left.is_empty() => Some(ReturnReason::UnreadLeft),
        _ => link.handover_refusal(),
    }
}

fn returned<K: Kind>(stream: Stream<K>, load: Load, reason: ReturnReason) -> HandoverError<K> {
    HandoverError::Returned { stream, load, reason }
}
