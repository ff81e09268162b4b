//! The least that a server can do: one loop over a blocking epoll, no runtime, no task, no allocation per connection but
//! its place in a table.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::passing;
use crate::clock;
use crate::error::{Error, Result};
use crate::protocol::{self, LENGTH, Wish};

/// Accepts and serves.
pub(super) fn accepting(listener: TcpListener) -> Result<()> {
    Loop::new(listener.as_fd())?.run(|| match accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(connection) => Ok(Some(connection)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(Error::io("accept on", "the listener")(error)),
    })
}

/// Receives and serves, until the master has gone.
pub(super) fn receiving(channel: OwnedFd) -> Result<()> {
    Loop::new(channel.as_fd())?.run(|| passing::receive(channel.as_fd()))
}

struct Loop {
    epoll: OwnedFd,
    connections: HashMap<u64, OwnedFd>,
    answer: [u8; LENGTH],
}

/// The source of connections; descriptors are never so large.
const SOURCE: u64 = u64::MAX;

impl Loop {
    fn new(source: BorrowedFd<'_>) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(Error::io("make", "an epoll"))?;
        epoll::add(&epoll, source, EventData::new_u64(SOURCE), EventFlags::IN)
            .map_err(Error::io("watch", "the source of connections"))?;
        Ok(Self { epoll, connections: HashMap::new(), answer: protocol::answer() })
    }

    fn run(mut self, mut next: impl FnMut() -> Result<Option<OwnedFd>>) -> Result<()> {
        let mut events = [const { MaybeUninit::uninit() }; 256];
        loop {
            let ready = match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Error::io("wait on", "the epoll")(error)),
            };
            for event in ready.iter() {
                match event.data.u64() {
                    SOURCE => {
                        while let Some(connection) = next()? {
                            self.add(connection)?;
                        }
                    }
                    number => self.serve(number),
                }
            }
        }
    }

    fn add(&mut self, connection: OwnedFd) -> Result<()> {
        let number = connection.as_raw_fd().unsigned_abs().into();
        epoll::add(&self.epoll, &connection, EventData::new_u64(number), EventFlags::IN)
            .map_err(Error::io("watch", "a connection"))?;
        self.connections.insert(number, connection);
        Ok(())
    }

    /// Serves a connection that is readable, and drops it unless the client wants it kept.
    fn serve(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        let mut request = [0; LENGTH];
        let wish = match rustix::io::read(connection, &mut request) {
            Ok(LENGTH) => Wish::of(&request),
            Ok(_) | Err(_) => {
                self.connections.remove(&number);
                return;
            }
        };
        if let Wish::Block(time) = wish {
            clock::block(time);
        }
        let written = rustix::io::write(connection, &self.answer);
        if wish != Wish::Hold || written.is_err() {
            self.connections.remove(&number);
        }
    }
}
