//! What kinds of clients there are: how they rest, what they ask for, and what the right answer is.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One connection for all requests, with hardly a rest between them.
    Busy,
    /// One connection for all requests, which mostly does nothing, also before its first request.
    Idle,
    /// A connection for each request.
    Fresh,
    /// A connection for each request, which takes two seconds.
    Slow,
    /// A connection for each request, whose body comes in pieces.
    Upload,
    /// One connection for all requests, each sent byte by byte.
    Dribble,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The `web` example: its pages are known, and they say which process made them.
    Web,
    /// Any server: what its pages say is not judged.
    Any,
}

/// One request and how it is sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) pieces: Vec<Vec<u8>>,
    /// The pause between two pieces.
    pub(super) pause: Duration,
    /// How long it takes if nobody loses time.
    pub(super) takes: Duration,
}

/// The rest of a client that is not idle, so that many clients leave room for the servers on a small machine.
const REST: Duration = Duration::from_millis(5);

/// The rest of an idle client, in milliseconds.
const IDLE_REST: RangeInclusive<u64> = 200..=1500;

/// How long a slow request takes.
const SLOW: Duration = Duration::from_secs(2);

/// The pause between two bytes of a request that comes byte by byte.
const BYTE_PAUSE: Duration = Duration::from_millis(10);

/// An upload: so many pieces of so many bytes, with this pause.
const PIECES: usize = 16;
const PIECE: usize = 4096;
const PIECE_PAUSE: Duration = Duration::from_millis(60);

impl Kind {
    /// Whether it uses one connection for as long as it lasts.
    pub(super) fn keeps(self) -> bool {
        matches!(self, Self::Busy | Self::Idle | Self::Dribble)
    }

    pub(super) fn rest(self, dice: &mut Dice) -> Duration {
        if self == Self::Idle { Duration::from_millis(dice.throw(IDLE_REST)) } else { REST }
    }

    pub(super) fn request(self) -> Request {
        let whole = |path: &str| vec![get(path).into_bytes()];
        match self {
            Self::Busy | Self::Idle | Self::Fresh => Request::at_once(whole("/"), Duration::ZERO),
            Self::Slow => Request::at_once(whole(&format!("/slow?ms={}", SLOW.as_millis())), SLOW),
            Self::Upload => {
                let length = PIECES * PIECE;
                let head = format!("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
                let body = std::iter::repeat_n(vec![7; PIECE], PIECES);
                Request::in_pieces(std::iter::once(head.into_bytes()).chain(body).collect(), PIECE_PAUSE)
            }
            Self::Dribble => Request::in_pieces(get("/").bytes().map(|byte| vec![byte]).collect(), BYTE_PAUSE),
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nuser-agent: one who never retries\r\n\r\n")
}

impl Request {
    fn at_once(pieces: Vec<Vec<u8>>, takes: Duration) -> Self {
        Self { pieces, pause: Duration::ZERO, takes }
    }

    fn in_pieces(pieces: Vec<Vec<u8>>, pause: Duration) -> Self {
        let pauses = u32::try_from(pieces.len()).expect("few pieces");
        Self { pieces, pause, takes: pause * pauses }
    }
}

impl Server {
    /// Whether this is the page that a client of this kind asked for.
    pub(super) fn is_right(self, kind: Kind, text: &str) -> bool {
        match (self, kind) {
            (Self::Any, _) => true,
            (Self::Web, Kind::Slow) => text == "slow, but done\n",
            (Self::Web, Kind::Upload) => text == format!("{} bytes\n", PIECES * PIECE),
            (Self::Web, _) => text.starts_with("hello from worker "),
        }
    }
}

/// Numbers that look random and are the same in each run (xorshift).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// The seed is not zero.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn throw(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        range.start() + self.0 % (range.end() - range.start() + 1)
    }
}
