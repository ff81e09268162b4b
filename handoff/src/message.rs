//! What master and worker say to each other. Pure data and its encoding.
//!
//! | message | from | descriptors | answer |
//! |---|---|---|---|
//! | `Hello` | worker, first | - | `Welcome`, or the worker is killed when no version is common |
//! | `Listen` | worker | - | `Listening` |
//! | `Ready` | worker, once | - | `Activate`, once its generation is active |
//! | `CloseListener` | worker | - | - |
//! | `Leave` | worker | - | `Drain`, once a replacement is ready |
//! | `Drained` | worker, once | - | - |
//! | `Handover` | worker | the socket, and a memfd if the parcel is in one | `HandedOver` |
//! | `WantTickets` | worker, once | - | `Tickets`, at once and after each rotation |
//! | `Welcome` | master, first | the bell | - |
//! | `Limit` | master, behind `Welcome`, if there is one | - | - |
//! | `Listening` | master | the listener, if it is shared | - |
//! | `Offer` | master | for each offer the socket, and a memfd if its parcel is in one | on the board |
//! | `Activate` `Pause` | master | - | - |
//! | `Drain` | master | - | `Drained` |
//! | `Beat` | master | - | on the board |
//! | `HandedOver` | master | the socket, if it is returned | - |
//! | `Tickets` | master | - | - |
//! | `Share` | master | another socket of a listener | - |
//! | `Unshare` | master | - | - |
//!
//! A packet is one byte that counts its descriptors and a message in postcard's encoding. New messages go to the end of
//! the enum and are sent only when the agreed version has them; the fields of a message never change.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::board::OfferId;
use crate::id::ListenerId;
use crate::name::SocketName;
use crate::tickets::TicketKeys;

/// The newest version of the protocol that this crate speaks.
pub const NEWEST: u16 = 1;

/// The oldest version of the protocol that this crate speaks.
pub const OLDEST: u16 = 1;

/// The longest packet in bytes. What is longer travels in a sealed memfd, for a socket holds only few such packets.
pub const MAX_PACKET: usize = 16 * 1024;

/// The longest parcel in bytes that travels in the message itself; a longer one is in a sealed memfd.
pub const MAX_INLINE: usize = 8 * 1024;

/// The longest parcel in bytes: what hyper reads ahead at most, and more than a session should have to say.
pub const MAX_PARCEL: usize = 1024 * 1024;

/// How many handovers of one worker may be under way at once: enough that the way through the master costs no time, and
/// little enough that new connections are not held up by those that move.
pub const MAX_HANDOVERS: usize = 64;

/// How many offers one message carries at most: with the longest peer names they still fit into a packet.
pub const MAX_OFFERS: usize = 64;

/// From worker to master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMaster {
    /// What versions of the protocol the worker speaks. Its form is the same in every version.
    Hello {
        /// The oldest version that it speaks.
        oldest: u16,
        /// The newest version that it speaks.
        newest: u16,
    },
    /// Asks for a listener, as `bind` does.
    Listen {
        /// The worker's number for this question.
        request: u32,
        /// The address with its options, as `ListenAddress` prints it; no host names.
        address: String,
        /// For port 0: the lowest index free in this worker, so that the n-th `bind(":0")` of every worker is one port.
        index: u32,
    },
    /// The worker can serve.
    Ready,
    /// The worker's application has dropped this listener.
    CloseListener {
        /// Which.
        listener: ListenerId,
    },
    /// The worker wants to be replaced and drained.
    Leave,
    /// No connection and no guard is left after `Drain`.
    Drained,
    /// Gives a live connection to another worker. The worker has closed its own copy; it still counts the connection until
    /// `HandedOver`.
    Handover {
        /// The worker's number for this handover.
        id: HandoverId,
        /// The listener that it came in by.
        listener: ListenerId,
        /// The client's address.
        peer: SocketName,
        /// The offer by which this worker had it, if the master still had its copy then.
        offer: Option<OfferId>,
        /// What goes with it.
        parcel: Parcel,
    },
    /// The worker seals session tickets, and wants the keys for them: now, and whenever they change.
    WantTickets,
}

/// A worker's number for one of its handovers; it is not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandoverId(pub u64);

/// What goes with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parcel {
    /// Nothing: it was never read from.
    Nothing,
    /// Bytes that were read and not used. Whoever takes the connection serves it as a new one, these bytes first.
    Unread(Data),
    /// The state of an application. Only a worker that knows this version takes the connection.
    State {
        /// What the application calls the form of these bytes.
        version: u32,
        /// The state.
        data: Data,
    },
}

/// Bytes of a parcel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// At most [`MAX_INLINE`].
    Inline(Vec<u8>),
    /// In a sealed memfd, which follows the socket; at most [`MAX_PARCEL`].
    Memfd {
        /// How many.
        length: u32,
    },
}

impl Parcel {
    /// How many descriptors a connection with this parcel has.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Unread(Data::Memfd { .. }) | Self::State { data: Data::Memfd { .. }, .. } => 2,
            _ => 1,
        }
    }
}

/// From master to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The agreed version and what the worker must know.
    Welcome {
        /// The version of the protocol that both speak from now on.
        version: u16,
        /// Whether only the application itself says that it is ready.
        manual_ready: bool,
        /// How long streams that were never read may hold back `draining()`.
        first_byte_grace: Duration,
        /// How long the worker may finish what it has when the master is lost.
        drain_timeout: Duration,
    },
    /// The answer to `Listen`.
    Listening {
        /// The worker's number of the question.
        request: u32,
        /// The listener, or why there is none.
        answer: Result<Listening, ListenFailure>,
    },
    /// Connections put before the worker: new, returned and handed over ones alike.
    Offer {
        /// One for each descriptor, in the same order.
        offers: Vec<Offer>,
    },
    /// The worker may accept.
    Activate,
    /// The worker stops accepting and stays warm.
    Pause,
    /// The worker takes nothing more, hands over and finishes what it has, and is killed when its time is over.
    Drain {
        /// Whether others may take its connections over.
        successor: bool,
        /// After this, the soft deadline, connections on which nothing is under way are closed gently.
        grace: Duration,
    },
    /// The master wants to see the heartbeat move.
    Beat,
    /// What became of a handover.
    HandedOver {
        /// Which.
        id: HandoverId,
        /// How it ended.
        outcome: HandoverOutcome,
    },
    /// The keys of session tickets, from now on.
    Tickets {
        /// All of them: those of before count no more.
        keys: TicketKeys,
    },
    /// The worker accepts from one more socket of a listener that it has: nobody else does, for now.
    Share {
        /// Which listener.
        listener: ListenerId,
        /// Which of its sockets.
        socket: u32,
    },
    /// The worker closes its copy of such a socket: somebody else accepts from it.
    Unshare {
        /// Which listener.
        listener: ListenerId,
        /// Which of its sockets.
        socket: u32,
    },
    /// How many connections the worker may have.
    Limit {
        /// At least one.
        connections: u64,
    },
}

/// What a channel carries.
pub trait Message: Serialize + DeserializeOwned {
    /// Whether its bytes are zeroed in every buffer through which they went.
    fn is_secret(&self) -> bool;
}

impl Message for ToMaster {
    fn is_secret(&self) -> bool {
        false
    }
}

impl Message for ToWorker {
    fn is_secret(&self) -> bool {
        matches!(self, Self::Tickets { .. })
    }
}

/// How a handover ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandoverOutcome {
    /// Another worker has taken the connection.
    Moved,
    /// Nobody could take it: the socket comes back with this message, and the worker is its owner again.
    Returned,
}

/// A listener as a worker knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// The master's id for it.
    pub listener: ListenerId,
    /// The address that it is bound to, with the real port.
    pub local: SocketName,
    /// How the worker waits there, if the listener itself comes with this message: policies `none` and `split`, and UDP.
    pub shared: Option<Sharing>,
}

/// How workers wait at a socket that they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Whatever comes wakes all that wait: the cheapest for a few workers.
    Together,
    /// A connection wakes one, the one that has waited longest: the cheapest for many.
    InLine,
}

/// Why a listener could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenFailure {
    /// The system's error number, when it is the system that refused.
    pub errno: Option<i32>,
    /// What was attempted on what, and why it failed.
    pub reason: String,
}

/// One connection in an `Offer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its word on the board.
    pub id: OfferId,
    /// The listener that it came in by.
    pub listener: ListenerId,
    /// The client's address.
    pub peer: SocketName,
    /// What another worker gave with it.
    pub parcel: Parcel,
}

/// Encodes a message that comes with `fds` descriptors into `buffer`.
///
/// # Errors
///
/// It is longer than [`MAX_PACKET`].
pub(crate) fn encode<'a, M: Serialize>(message: &M, fds: u8, buffer: &'a mut [u8]) -> postcard::Result<&'a [u8]> {
    let (count, body) = buffer.split_first_mut().ok_or(postcard::Error::SerializeBufferFull)?;
    *count = fds;
    let length = postcard::to_slice(message, body)?.len();
    Ok(&buffer[..=length])
}

/// Decodes a packet: the message and how many descriptors the sender sent with it.
///
/// # Errors
///
/// It is no message of this protocol, or something follows it.
pub(crate) fn decode<M: DeserializeOwned>(packet: &[u8]) -> postcard::Result<(M, u8)> {
    let (count, body) = packet.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok((message, *count)),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn bytes<M: Serialize>(message: &M, fds: u8) -> Vec<u8> {
        encode(message, fds, &mut [0; MAX_PACKET]).unwrap().to_vec()
    }

    #[test]
    fn the_first_messages_keep_their_bytes_in_every_version() {
        assert_eq!(bytes(&ToMaster::Hello { oldest: 1, newest: 2 }, 0), [0, 0, 1, 2]);
        assert_eq!(bytes(&ToMaster::Ready, 0), [0, 2]);
        assert_eq!(bytes(&ToMaster::Drained, 0), [0, 5]);
        assert_eq!(bytes(&ToWorker::Activate, 0), [0, 3]);
        assert_eq!(bytes(&ToWorker::Beat, 0), [0, 6]);
        let offer = Offer {
            id: OfferId { index: 3, sequence: 300 },
            listener: ListenerId(1),
            peer: SocketName::Inet(([127, 0, 0, 1], 80).into()),
            parcel: Parcel::Nothing,
        };
        assert_eq!(
            bytes(&ToWorker::Offer { offers: vec![offer] }, 1),
            [1, 2, 1, 3, 0xac, 2, 1, 0, 0, 127, 0, 0, 1, 80, 0]
        );
    }

    #[test]
    fn the_messages_of_a_handover_keep_their_bytes() {
        let handover = ToMaster::Handover {
            id: HandoverId(300),
            listener: ListenerId(1),
            peer: SocketName::Inet(([127, 0, 0, 1], 80).into()),
            offer: Some(OfferId { index: 3, sequence: 2 }),
            parcel: Parcel::Unread(Data::Inline(b"GET".to_vec())),
        };
        let start = [1, 6, 0xac, 2, 1, 0, 0, 127, 0, 0, 1, 80, 1, 3, 2, 1, 0, 3];
        assert_eq!(bytes(&handover, 1), [&start[..], b"GET"].concat());
        let state = Parcel::State { version: 9, data: Data::Memfd { length: 20 } };
        assert_eq!(bytes(&state, 2), [2, 2, 9, 1, 20]);
        assert_eq!(state.descriptors(), 2);
        assert_eq!(bytes(&Parcel::Nothing, 1), [1, 0]);
        let ended = |outcome| ToWorker::HandedOver { id: HandoverId(1), outcome };
        assert_eq!(bytes(&ended(HandoverOutcome::Moved), 0), [0, 7, 1, 0]);
        assert_eq!(bytes(&ended(HandoverOutcome::Returned), 1), [1, 7, 1, 1]);
        let drain = ToWorker::Drain { successor: true, grace: Duration::from_secs(10) };
        assert_eq!(bytes(&drain, 0), [0, 5, 1, 10, 0]);
    }

    #[test]
    fn the_messages_of_tickets_keep_their_bytes() {
        assert_eq!(bytes(&ToMaster::WantTickets, 0), [0, 7]);
        let message = ToWorker::Tickets { keys: crate::tickets::tests::keys() };
        let mut expected = vec![0, 8];
        for byte in [1, 2, 3] {
            expected.push(48);
            expected.extend([byte; 48]);
        }
        // Sixty seconds and no nanosecond.
        expected.extend([60, 0]);
        assert_eq!(bytes(&message, 0), expected);
    }

    #[test]
    fn the_messages_of_a_socket_that_is_lent_keep_their_bytes() {
        let (listener, socket) = (ListenerId(1), 300);
        assert_eq!(bytes(&ToWorker::Share { listener, socket }, 1), [1, 9, 1, 0xac, 2]);
        assert_eq!(bytes(&ToWorker::Unshare { listener, socket }, 0), [0, 10, 1, 0xac, 2]);
    }

    #[test]
    fn the_message_of_a_limit_keeps_its_bytes() {
        assert_eq!(bytes(&ToWorker::Limit { connections: 300 }, 0), [0, 11, 0xac, 2]);
    }

    #[test]
    fn the_largest_offer_message_fits_into_a_packet() {
        let offer = Offer {
            id: OfferId { index: u16::MAX, sequence: u64::MAX },
            listener: ListenerId(u32::MAX),
            peer: SocketName::Path(PathBuf::from("x".repeat(108))),
            parcel: Parcel::Nothing,
        };
        let message = ToWorker::Offer { offers: vec![offer; MAX_OFFERS] };
        assert!(bytes(&message, MAX_OFFERS as u8).len() < MAX_PACKET);
    }

    #[test]
    fn the_longest_inline_parcel_fits_into_a_packet() {
        let message = ToMaster::Handover {
            id: HandoverId(u64::MAX),
            listener: ListenerId(u32::MAX),
            peer: SocketName::Path(PathBuf::from("x".repeat(108))),
            offer: Some(OfferId { index: u16::MAX, sequence: u64::MAX }),
            parcel: Parcel::State { version: u32::MAX, data: Data::Inline(vec![0xff; MAX_INLINE]) },
        };
        assert!(bytes(&message, 1).len() < MAX_PACKET);
    }

    #[test]
    fn a_message_with_something_behind_it_is_refused() {
        assert!(decode::<ToMaster>(&[0, 2, 0]).is_err());
        assert!(decode::<ToMaster>(&[0]).is_err());
        assert!(decode::<ToMaster>(&[]).is_err());
        assert!(decode::<ToMaster>(&[0, 99]).is_err());
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_decoder_panic(packet: Vec<u8>) {
            let _ = decode::<ToMaster>(&packet);
            let _ = decode::<ToWorker>(&packet);
        }
    }
}
