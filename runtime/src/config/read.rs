//! From text to value, one function for each form that a value has.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use everport_handoff::address::ListenAddress;
use nix::sys::signal::Signal;

use super::{MAX_SOCKET_PATH, MAX_TIMEOUT, MAX_WORKERS, Problem};

/// What the operating system passed, as text.
pub(super) fn utf8(text: &OsStr) -> Result<&str, Problem> {
    text.to_str().ok_or(Problem::NotUtf8)
}

/// One of the words that name a value.
pub(super) fn word<T: FromStr<Err: Into<Problem>>>(text: &OsStr) -> Result<T, Problem> {
    utf8(text)?.parse().map_err(Into::into)
}

pub(super) fn address(text: &OsStr) -> Result<ListenAddress, Problem> {
    utf8(text)?.parse().map_err(|error| Problem::Address(Box::new(error)))
}

/// A whole number within limits.
pub(super) fn number<T: TryFrom<i64>>(least: i64, most: i64) -> impl Fn(&OsStr) -> Result<T, Problem> {
    move |text| {
        let number = utf8(text)?.parse().ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or(Problem::Number { least, most })
    }
}

pub(super) fn workers(text: &OsStr) -> Result<NonZeroU32, Problem> {
    let most = i64::from(MAX_WORKERS);
    NonZeroU32::new(number(1, most)(text)?).ok_or(Problem::Number { least: 1, most })
}

pub(super) fn switch(text: &OsStr) -> Result<bool, Problem> {
    utf8(text)?.parse().map_err(|_| Problem::Switch)
}

pub(super) fn octal(text: &OsStr) -> Result<u32, Problem> {
    u32::from_str_radix(utf8(text)?, 8).ok().filter(|&bits| bits <= 0o777).ok_or(Problem::Umask)
}

/// A duration that may be zero.
pub(super) fn duration(text: &OsStr) -> Result<Duration, Problem> {
    let text = utf8(text)?.trim();
    let bare_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match humantime::parse_duration(text) {
        _ if bare_number && !text.is_empty() => Err(Problem::UnitMissing),
        Ok(duration) if duration > MAX_TIMEOUT => Err(Problem::TooLong),
        Ok(duration) => Ok(duration),
        Err(humantime::DurationError::NumberOverflow) => Err(Problem::OutOfRange),
        Err(_) => Err(Problem::Duration),
    }
}

/// A duration for which zero makes no sense.
pub(super) fn some_time(text: &OsStr) -> Result<Duration, Problem> {
    let duration = duration(text)?;
    if duration.is_zero() { Err(Problem::Zero) } else { Ok(duration) }
}

/// A time that is told to others in whole seconds.
pub(super) fn seconds(text: &OsStr) -> Result<Duration, Problem> {
    let duration = duration(text)?;
    if duration < Duration::from_secs(1) { Err(Problem::TooShort) } else { Ok(duration) }
}

/// An amount of memory, in bytes.
pub(super) fn size(text: &OsStr) -> Result<u64, Problem> {
    let text = utf8(text)?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(Problem::SizeUnitMissing);
    }
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) | Err(_) => Err(Problem::Size),
        Ok(ByteSize(bytes)) => Ok(bytes),
    }
}

pub(super) fn path(text: &OsStr) -> Result<PathBuf, Problem> {
    match text.as_bytes() {
        [] => Err(Problem::EmptyPath),
        bytes if bytes.contains(&0) => Err(Problem::ZeroInPath),
        _ => Ok(PathBuf::from(text)),
    }
}

pub(super) fn socket_path(text: &OsStr) -> Result<PathBuf, Problem> {
    let length = text.len();
    if length > MAX_SOCKET_PATH { Err(Problem::SocketPathTooLong { length }) } else { path(text) }
}

/// The name of a user or a group, or its number.
pub(super) fn name(text: &OsStr) -> Result<String, Problem> {
    let text = utf8(text)?;
    let is_one = |text: &str| !text.is_empty() && !text.contains([':', '\0', '\n', '/']);
    if is_one(text) { Ok(text.to_owned()) } else { Err(Problem::Name) }
}

/// A signal that a program can handle, with or without `SIG`.
pub(super) fn signal(text: &OsStr) -> Result<Signal, Problem> {
    let name = utf8(text)?.trim_start_matches("SIG");
    match Signal::from_str(&format!("SIG{name}")) {
        Ok(Signal::SIGKILL | Signal::SIGSTOP) | Err(_) => Err(Problem::Signal),
        Ok(signal) => Ok(signal),
    }
}

/// What a worker knows of its master by.
const RESERVED: [&str; 5] =
    ["EVERPORT_CHANNEL", "EVERPORT_BOARD", "EVERPORT_WORKER", "EVERPORT_SLOT", "EVERPORT_GENERATION"];

/// A variable and its value.
pub(super) fn pair(text: &OsStr) -> Result<(String, String), Problem> {
    match utf8(text)?.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.as_bytes().contains(&0) => {
            if RESERVED.contains(&name) {
                return Err(Problem::ReservedVariable);
            }
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(Problem::Pair),
    }
}

/// One word of a command line.
pub(super) fn argument(text: &OsStr) -> Result<OsString, Problem> {
    if text.as_bytes().contains(&0) { Err(Problem::ZeroInPath) } else { Ok(text.to_owned()) }
}
