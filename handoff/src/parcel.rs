//! A load as it travels: in the message while it is short, else in a sealed memory file.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;

use crate::handover::{Load, State};
use crate::memfd;
use crate::message::{Data, MAX_INLINE, MAX_PARCEL, Parcel};

/// Packs a load of at most [`MAX_PARCEL`], and `rest`, which follows it: the parcel, and its memory file if it has one.
pub(crate) fn pack(load: &Load, rest: &[u8]) -> io::Result<(Parcel, Option<OwnedFd>)> {
    let bytes = load.bytes();
    let length = bytes.len() + rest.len();
    if length == 0 && matches!(load, Load::Unread(_)) {
        return Ok((Parcel::Nothing, None));
    }
    let whole = [bytes, rest].concat();
    let (data, file) = if length <= MAX_INLINE {
        (Data::Inline(whole), None)
    } else {
        // The caller keeps to MAX_PARCEL.
        (Data::Memfd { length: length as u32 }, Some(memfd::sealed("everport-parcel", &whole)?))
    };
    let parcel = match load {
        Load::Unread(_) => Parcel::Unread(data),
        Load::State(State { version, .. }) => Parcel::State { version: *version, data },
    };
    Ok((parcel, file))
}

/// Unpacks what another worker has packed, who is not trusted.
///
/// # Errors
///
/// It is longer than [`MAX_PARCEL`], or its memory file is missing or not as it must be.
pub(crate) fn unpack(parcel: Parcel, file: Option<OwnedFd>) -> io::Result<Load> {
    Ok(match parcel {
        Parcel::Nothing => Load::default(),
        Parcel::Unread(data) => Load::Unread(read(data, file)?),
        Parcel::State { version, data } => Load::State(State { version, bytes: read(data, file)? }),
    })
}

fn read(data: Data, file: Option<OwnedFd>) -> io::Result<Bytes> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    match data {
        Data::Inline(bytes) => Ok(bytes.into()),
        Data::Memfd { length } if length as usize > MAX_PARCEL => Err(invalid("the parcel is too long")),
        Data::Memfd { length } => {
            let file = file.ok_or_else(|| invalid("the parcel's memory file is missing"))?;
            Ok(memfd::read(file, length as usize)?.into())
        }
    }
}
