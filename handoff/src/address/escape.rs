//! Any bytes as a part of an address: `%XX` for what could not stand there as it is.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The bytes that a text stands for; `None` if a `%` comes without its two hexadecimal digits.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = after else {
            return None;
        };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        // Two digits of four bits each.
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = after;
    }
    Some(bytes)
}

/// Prints any bytes so that they can stand in an address.
pub(crate) struct Escaped<'a> {
    bytes: &'a [u8],
    /// A path that starts with `@` must not read as an abstract name.
    is_path: bool,
}

impl<'a> Escaped<'a> {
    pub(crate) fn path(path: &'a Path) -> Self {
        Self { bytes: path.as_os_str().as_bytes(), is_path: true }
    }

    pub(crate) fn bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, is_path: false }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut first = self.is_path;
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if matches!(character, '%' | '?' | '&') || character.is_control() || (first && character == '@') {
                    let mut buffer = [0; 4];
                    character.encode_utf8(&mut buffer).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                } else {
                    f.write_char(character)?;
                }
                first = false;
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            first = false;
        }
        Ok(())
    }
}
