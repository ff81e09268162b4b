//! Connections that left HTTP: WebSockets and tunnels.

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::connection::join;
use super::wire::Wire;
use crate::net::{Kind, Stream};

/// Takes the stream out of an upgraded connection, with the bytes that were read from it and belong to what follows the
/// upgrade. For an application that goes on with the stream itself, or hands it over with a state of its own.
///
/// # Errors
///
/// The connection is not one of [`serve`](super::serve()) on a listener of this kind; it comes back.
pub fn downcast<K: Kind>(upgraded: Upgraded) -> Result<(Stream<K>, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<Wire<Stream<K>>>>()?;
    let (stream, rest) = parts.io.into_inner().into_parts();
    Ok((stream, join(parts.read_buf, rest)))
}
