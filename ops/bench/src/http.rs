//! As much of an HTTP/1.1 client as the measurements need: `GET /` on a kept connection, answers with a length.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Failure, HANG};
use crate::protocol;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";

/// A connection for as many requests as the server allows.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Who gave it, as the body says.
    pub(crate) pid: u32,
    /// Whether the server says that it will close the connection.
    pub(crate) closes: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        match tokio::time::timeout(HANG, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(Self { stream, buffer: Vec::with_capacity(1024) }),
            Ok(Err(_)) => Err(Failure::NotConnected),
            Err(_) => Err(Failure::Hung),
        }
    }

    /// Asks and waits for the whole answer.
    pub(crate) async fn get(&mut self) -> Result<Answer, Failure> {
        tokio::time::timeout(HANG, self.exchange()).await.unwrap_or(Err(Failure::Hung))
    }

    /// Waits until the server closes the connection.
    pub(crate) async fn closed(&mut self) {
        // A byte that nobody asked for breaks the connection as well.
        let _ = self.stream.read_u8().await;
    }

    async fn exchange(&mut self) -> Result<Answer, Failure> {
        self.buffer.clear();
        self.stream.write_all(REQUEST).await.map_err(|_| Failure::Closed)?;
        loop {
            let broken = if self.buffer.is_empty() { Failure::Closed } else { Failure::Broken };
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(broken),
                Ok(_) => {}
            }
            if let Some(answer) = whole(&self.buffer)? {
                return Ok(answer);
            }
        }
    }
}

/// The answer, once all of it has come.
fn whole(bytes: &[u8]) -> Result<Option<Answer>, Failure> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Failure::Broken)?;
    let body = &bytes[end + 4..];
    let length: usize = field(head, "content-length").and_then(|text| text.parse().ok()).ok_or(Failure::Broken)?;
    if body.len() < length {
        return Ok(None);
    }
    let is_ok = head.as_bytes().get(8..12) == Some(b" 200");
    let pid = protocol::pid_of(&body[..length]).filter(|_| is_ok && body.len() == length).ok_or(Failure::Broken)?;
    let closes = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Answer { pid, closes }))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n1234";
        assert!(whole(&text[..text.len() - 1]).unwrap().is_none());
        let answer = whole(text).unwrap().unwrap();
        assert_eq!((answer.pid, answer.closes), (1234, true));
    }

    #[test]
    fn what_is_no_good_answer_is_broken() {
        for text in [&b"HTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\n1"[..], b"HTTP/1.1 200 OK\r\n\r\n1"] {
            assert!(matches!(whole(text), Err(Failure::Broken)));
        }
    }
}
