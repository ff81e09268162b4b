//! What clients of the connection benchmarks say, and what every server answers: 16 bytes each way.
//!
//! A request is a line of HTTP/0.9, so that nginx, which has no echo, can take part: it answers with the body alone and
//! closes. The answer is the pid of the process that gave it, in decimal digits, so that the client sees who served it.

use std::time::Duration;

/// The length of requests and answers.
pub(crate) const LENGTH: usize = 16;

/// Answer, then close.
pub(crate) const SHORT: [u8; LENGTH] = *b"GET /0123456789\n";
/// Answer, then keep the connection until the client closes it.
pub(crate) const HOLD: [u8; LENGTH] = *b"GET /hold345678\n";

/// Block the worker for so long, at most 9999 ms, then answer and close.
pub(crate) fn block(time: Duration) -> [u8; LENGTH] {
    let mut request = *b"GET /block00000\n";
    request[11..15].copy_from_slice(format!("{:04}", time.as_millis().min(9999)).as_bytes());
    request
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// See [`SHORT`].
    Short,
    /// See [`HOLD`].
    Hold,
    /// See [`block`].
    Block(Duration),
}

impl Wish {
    pub(crate) fn of(request: &[u8; LENGTH]) -> Self {
        match &request[5..7] {
            b"ho" => Self::Hold,
            b"bl" => {
                let digits = std::str::from_utf8(&request[11..15]).unwrap_or_default();
                Self::Block(Duration::from_millis(digits.parse().unwrap_or_default()))
            }
            _ => Self::Short,
        }
    }
}

/// The answer of this process. Made once, so that it costs nothing per connection.
pub(crate) fn answer() -> [u8; LENGTH] {
    let mut answer = [b' '; LENGTH];
    let digits = std::process::id().to_string();
    answer[..digits.len()].copy_from_slice(digits.as_bytes());
    answer
}

/// Who gave an answer.
pub(crate) fn pid_of(answer: &[u8]) -> Option<u32> {
    std::str::from_utf8(answer).ok()?.trim().parse().ok()
}
