//! A client of HTTP/1.1 that never retries and says precisely what went wrong.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::clock;

/// How long a client waits before it calls it a hang.
const HANG: Duration = Duration::from_secs(20);

/// What can become of a request that gets no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The connection was refused.
    Refused,
    /// The connection could not be made for another reason.
    NotConnected,
    /// The first request of a connection found it closed or reset, with not one byte of an answer.
    ClosedAtFirst,
    /// A later request of a connection found it closed or reset, with not one byte of an answer: it was closed between
    /// two requests.
    ClosedBetween,
    /// The answer broke off.
    Truncated,
    /// Nothing came for a very long time.
    Hung,
    /// What came was no HTTP.
    Nonsense,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether the server says that it will close the connection.
    pub(crate) fn says_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, which may carry many requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    answered: usize,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, HANG).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::TimedOut => Failure::Hung,
            _ => Failure::NotConnected,
        })?;
        stream.set_nodelay(true).map_err(|_| Failure::NotConnected)?;
        stream.set_read_timeout(Some(HANG)).map_err(|_| Failure::NotConnected)?;
        Ok(Self { stream: BufReader::new(stream), answered: 0 })
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.request("GET", path, &[])
    }

    /// One request and its whole answer.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
        let closed = if self.answered == 0 { Failure::ClosedAtFirst } else { Failure::ClosedBetween };
        // A write that fails may follow an answer that came early: reading tells more.
        let _ = self.stream.get_mut().write_all(&[head.as_bytes(), body].concat());
        let answer = read_answer(&mut self.stream).map_err(|failure| match failure {
            Failure::ClosedAtFirst => closed,
            other => other,
        })?;
        self.answered += 1;
        Ok(answer)
    }
}

/// One request on a connection of its own, which ends with it.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    Connection::open(address)?.get(path)
}

/// What comes of it, and how long it took.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = clock::now();
    let result = what();
    (result, clock::now() - start)
}

/// Reads one whole answer; an end before the first byte is `ClosedAtFirst`.
pub(crate) fn read_answer(stream: &mut impl BufRead) -> Result<Answer, Failure> {
    match stream.fill_buf() {
        Ok([]) => return Err(Failure::ClosedAtFirst),
        Ok(_) => {}
        Err(error) if is_timeout(&error) => return Err(Failure::Hung),
        Err(_) => return Err(Failure::ClosedAtFirst),
    }
    let status_line = read_line(stream)?;
    let status =
        status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or(Failure::Nonsense)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(Failure::Nonsense)?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = read_chunks(stream)?;
    } else {
        let length = answer.header("content-length").map_or(Ok(0), str::parse);
        answer.body = read_exactly(stream, length.map_err(|_| Failure::Nonsense)?)?;
    }
    Ok(answer)
}

fn read_chunks(stream: &mut impl BufRead) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        let length = usize::from_str_radix(&read_line(stream)?, 16).map_err(|_| Failure::Nonsense)?;
        body.extend(read_exactly(stream, length)?);
        if !read_line(stream)?.is_empty() {
            return Err(Failure::Nonsense);
        }
        if length == 0 {
            return Ok(body);
        }
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(|error| broken(&error))?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(Failure::Truncated),
    }
}

fn read_exactly(stream: &mut impl Read, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(|error| broken(&error))?;
    Ok(bytes)
}

fn broken(error: &io::Error) -> Failure {
    if is_timeout(error) { Failure::Hung } else { Failure::Truncated }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
