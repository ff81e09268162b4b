//! A client of the line fixture.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::clock::PATIENCE;

/// A stream socket of either family.
pub(crate) trait Stream: Read + Write + std::fmt::Debug + Send {
    fn patience(&self, time: Duration) -> io::Result<()>;
    fn finish(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn patience(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// One connection to the line fixture.
#[derive(Debug)]
pub(crate) struct Line {
    stream: BufReader<Box<dyn Stream>>,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    pub(crate) worker: u64,
    pub(crate) slot: u64,
    pub(crate) generation: u64,
    pub(crate) pid: u32,
}

impl Line {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    pub(crate) fn connect_unix(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path)?)
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> io::Result<Self> {
        stream.patience(PATIENCE)?;
        Ok(Self { stream: BufReader::new(Box::new(stream)) })
    }

    /// Sends a command and does not wait for its answer.
    #[track_caller]
    pub(crate) fn tell(&mut self, command: &str) {
        self.try_tell(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    pub(crate) fn try_tell(&mut self, command: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())
    }

    /// Sends a part of a command.
    #[track_caller]
    pub(crate) fn tell_half(&mut self, part: &str) {
        self.stream.get_mut().write_all(part.as_bytes()).unwrap_or_else(|error| panic!("{part}: {error}"));
    }

    /// The next answer.
    pub(crate) fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    pub(crate) fn try_ask(&mut self, command: &str) -> io::Result<String> {
        self.try_tell(command)?;
        self.hear()
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) fn try_who(&mut self) -> io::Result<Who> {
        self.try_tell("who")?;
        self.try_hear_who()
    }

    /// The answer to a `who` that was told.
    pub(crate) fn try_hear_who(&mut self) -> io::Result<Who> {
        self.hear().and_then(|answer| parse_who(&answer))
    }

    #[track_caller]
    pub(crate) fn who(&mut self) -> Who {
        self.try_who().unwrap_or_else(|error| panic!("who: {error}"))
    }

    /// Asks the worker for a listener: where it is, or the kind and the number of the error.
    #[track_caller]
    pub(crate) fn bind(&mut self, address: &str) -> Result<String, String> {
        let answer = self.ask(&format!("bind {address}"));
        match answer.split_once(' ') {
            Some(("ok", local)) => Ok(local.to_owned()),
            Some(("err", error)) => Err(error.to_owned()),
            _ => panic!("bind {address}: {answer}"),
        }
    }

    /// Says that nothing more comes.
    #[track_caller]
    pub(crate) fn finish(&self) {
        self.stream.get_ref().finish().expect("an open connection");
    }

    /// Waits for the end of the connection; whether it came within the patience of a test, whichever way.
    pub(crate) fn ends(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }
}

/// Reads the answer to `who`.
pub(crate) fn parse_who(answer: &str) -> io::Result<Who> {
    let wrong = || io::Error::other(format!("not an answer to who: {answer:?}"));
    let fields: Vec<u64> = answer.split(' ').map_while(|field| field.parse().ok()).collect();
    match fields[..] {
        [worker, slot, generation, pid] => {
            Ok(Who { worker, slot, generation, pid: pid.try_into().map_err(|_| wrong())? })
        }
        _ => Err(wrong()),
    }
}
