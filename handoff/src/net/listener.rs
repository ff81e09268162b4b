//! A listener in the application's hands: `accept` takes offers in every policy, and accepts from the socket itself when
//! the master shares it.

use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::SocketType;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::task::coop;

use super::bind::{self, Source};
use super::io::Io;
use super::kind::Kind;
use super::resumed::Resumed;
use super::stream::Stream;
use super::unread::Unread;
use crate::address::ListenAddress;
use crate::message::Sharing;
use crate::name::SocketName;
use crate::socket::{UnixFile, accept};
use crate::sys::readiness;
use crate::worker::copy::{AtDrain, Registered, Shared, SharedCopy, Sockets};
use crate::worker::line::Place;
use crate::worker::link::Link;
use crate::worker::port::{Incoming, Port, decline};
use crate::worker::tie::Tie;

/// A listener, as [`TcpListener`](super::TcpListener) or [`UnixListener`](super::UnixListener).
///
/// Dropping it tells the master that this worker does not use it any more; the port stays open.
pub struct Listener<K: Kind> {
    origin: Origin,
    local: K::Addr,
}

/// Where the connections come from.
enum Origin {
    /// From a socket of this process.
    Plain {
        // Dropped before the socket, which keeps the file's inode from being used again.
        _file: Option<UnixFile>,
        socket: AsyncFd<OwnedFd>,
    },
    /// From the master, and from the socket that it shares, if it does.
    Handed { port: Port, copy: Arc<SharedCopy<Socket>> },
}

/// A listening socket of this process, by how it waits there.
enum Socket {
    /// With all others that share it.
    Watched(AsyncFd<OwnedFd>),
    /// In line.
    InLine(Arc<Place>),
}

type Accepted<K> = io::Result<(Stream<K>, <K as Kind>::Addr)>;

impl<K: Kind> Listener<K> {
    pub(super) async fn bind_address(address: &ListenAddress) -> io::Result<Self> {
        let copy = Arc::new(SharedCopy::new(AtDrain::Close));
        let source = bind::bind(address, K::LISTENER, copy.clone()).await?;
        Self::from_source(source, copy, address)
    }

    /// As `bind`, by this link.
    #[cfg(test)]
    pub(crate) async fn bind_by(link: &Arc<Link>, address: &ListenAddress) -> io::Result<Self> {
        let copy = Arc::new(SharedCopy::new(AtDrain::Close));
        let source = bind::bind_as(Some(link), address, K::LISTENER, copy.clone()).await?;
        Self::from_source(source, copy, address)
    }

    fn from_source(source: Source, copy: Arc<SharedCopy<Socket>>, address: &ListenAddress) -> io::Result<Self> {
        let other_kind = || bind::other_kind(address, K::LISTENER);
        match source {
            Source::Plain { socket, file, local } => Ok(Self {
                local: K::addr(&local).ok_or_else(other_kind)?,
                origin: Origin::Plain { _file: file, socket: readiness::watch(socket, Interest::READABLE)? },
            }),
            Source::Handed(port) => {
                let line = match port.sharing() {
                    Some(Sharing::InLine) => Some(port.link().line()?),
                    Some(Sharing::Together) | None => None,
                };
                copy.register(|socket| match (rustix::net::sockopt::socket_type(&socket)?, &line) {
                    (SocketType::STREAM, Some(line)) => Ok(Socket::InLine(Place::new(line, &port, socket))),
                    (SocketType::STREAM, None) => watch(socket),
                    _ => Err(other_kind()),
                })?;
                Ok(Self { local: K::addr(port.local()).ok_or_else(other_kind)?, origin: Origin::Handed { port, copy } })
            }
        }
    }

    /// Takes the next connection. It waits while the worker is not active, and for ever once it drains.
    ///
    /// Cancelling it loses no connection. Any number of tasks may wait.
    ///
    /// # Errors
    ///
    /// As tokio's, and when this process has no room for another socket. An offered connection goes to another worker
    /// then. That the runtime cannot watch a stream is an error of its first read or write that has to wait.
    pub async fn accept(&self) -> io::Result<(Stream<K>, K::Addr)> {
        match &self.origin {
            Origin::Plain { socket, .. } => {
                let (io, name) = socket.async_io(Interest::READABLE, |socket| accept(socket)).await?;
                stream(io, &name, None)
            }
            Origin::Handed { port, copy } => loop {
                // Offers alone never make the task wait: give the others their turn.
                coop::consume_budget().await;
                begin(port)?;
                let woken = port.waiters().woken();
                if let Some(accepted) = take_fresh(port) {
                    return accepted;
                }
                let sockets = open(port, copy)?;
                match sockets.as_ref().map(|sockets| (sockets, place(sockets))) {
                    Some((_, Some(place))) => match accept_in_line(port, place) {
                        Some(accepted) => return accepted,
                        None => woken.await,
                    },
                    Some((sockets, None)) => tokio::select! {
                        biased;
                        () = woken => {}
                        ready = readable(sockets) => if let Some(accepted) = accept_shared(port, ready?) {
                            return accepted;
                        },
                    },
                    None => woken.await,
                }
            },
        }
    }

    /// As [`accept`](Self::accept). As with tokio, only the task of the last call is woken.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream<K>, K::Addr)>> {
        match &self.origin {
            Origin::Plain { socket, .. } => loop {
                let mut ready = ready!(socket.poll_read_ready(cx))?;
                if let Ok(accepted) = ready.try_io(|socket| accept(socket.get_ref())) {
                    let (io, name) = accepted?;
                    return Poll::Ready(stream(io, &name, None));
                }
            },
            Origin::Handed { port, copy } => {
                let turn = ready!(coop::poll_proceed(cx));
                begin(port)?;
                port.waiters().register(cx);
                if let Some(accepted) = take_fresh(port) {
                    turn.made_progress();
                    return Poll::Ready(accepted);
                }
                while let Some(sockets) = open(port, copy)? {
                    let accepted = match place(&sockets) {
                        Some(place) => Some(ready!(accept_in_line(port, place).map_or(Poll::Pending, Poll::Ready))),
                        None => accept_shared(port, ready!(poll_readable(&sockets, cx))?),
                    };
                    if let Some(accepted) = accepted {
                        turn.made_progress();
                        return Poll::Ready(accepted);
                    }
                }
                Poll::Pending
            }
        }
    }

    /// Declares which states of connections this program can resume, and gives the handle by which they come. To be
    /// called right after `bind`: what comes with a state is refused while there is no handle.
    ///
    /// It is a handle of its own because frameworks take the listener away.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` while the listener has such a handle.
    pub fn resumed(&self, versions: RangeInclusive<u32>) -> io::Result<Resumed<K>> {
        match &self.origin {
            Origin::Plain { .. } => Ok(Resumed::never()),
            Origin::Handed { port, .. } if port.inbox().resume(versions) => {
                Ok(Resumed::new(Arc::clone(port.link()), Arc::clone(port.inbox())))
            }
            Origin::Handed { port, .. } => {
                let taken = format!("resume connections of {}: somebody does already", port.local());
                Err(io::Error::new(io::ErrorKind::AlreadyExists, taken))
            }
        }
    }

    /// The worker that it is a listener of.
    #[cfg(feature = "http")]
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        match &self.origin {
            Origin::Plain { .. } => None,
            Origin::Handed { port, .. } => Some(port.link()),
        }
    }

    pub(crate) fn local(&self) -> io::Result<K::Addr> {
        Ok(self.local.clone())
    }
}

/// Makes sure that somebody reads the channel, and that the master learns that connections are wanted.
fn begin(port: &Port) -> io::Result<()> {
    port.link().drive()?;
    port.link().accepts();
    Ok(())
}

/// The shared sockets, while the worker may accept from them, and has room. Not to be called while its state is held.
fn open(port: &Port, copy: &SharedCopy<Socket>) -> io::Result<Option<Sockets<Socket>>> {
    if port.link().is_full() {
        // Not in line either: the others shall be called.
        copy.pause();
        return Ok(None);
    }
    let open = port.link().state().uses_shared();
    if open { copy.all(watch) } else { Ok(None) }
}

/// The place in line, where this worker waits in one: such a listener is one socket.
fn place(sockets: &Sockets<Socket>) -> Option<&Place> {
    match sockets {
        Sockets::One(socket) => match &**socket {
            Socket::InLine(place) => Some(place),
            Socket::Watched(_) => None,
        },
        Sockets::Several(_) => None,
    }
}

/// Waits until somebody waits at one of the sockets.
async fn readable(sockets: &Sockets<Socket>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match sockets {
        Sockets::One(socket) => socket.readable().await,
        Sockets::Several(sockets) => {
            let mut waits: Vec<_> = sockets.iter().map(|socket| Box::pin(socket.readable())).collect();
            poll_fn(|cx| first_ready(waits.iter_mut().map(|wait| wait.as_mut().poll(cx)))).await
        }
    }
}

/// As [`readable`]. As with tokio, only the task of the last call is woken.
fn poll_readable<'a>(
    sockets: &'a Sockets<Socket>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<AsyncFdReadyGuard<'a, OwnedFd>>> {
    match sockets {
        Sockets::One(socket) => socket.poll_read_ready(cx),
        Sockets::Several(sockets) => first_ready(sockets.iter().map(|socket| socket.poll_read_ready(cx))),
    }
}

fn first_ready<T>(mut polls: impl Iterator<Item = Poll<T>>) -> Poll<T> {
    polls.find(Poll::is_ready).unwrap_or(Poll::Pending)
}

/// A connection of an offer that this worker has taken.
pub(super) struct Taken<K: Kind, L> {
    pub(super) io: Io<K>,
    pub(super) peer: K::Addr,
    pub(super) tie: Tie,
    /// What came with it.
    pub(super) load: L,
}

/// Takes what has come back, or the oldest offer, for `accept`.
fn take_fresh<K: Kind>(port: &Port) -> Option<Accepted<K>> {
    if port.sharing() == Some(Sharing::InLine)
        && let Some(accepted) = take_returned(port)
    {
        return Some(accepted);
    }
    let taken = take_offer::<K, _>(port.link(), || port.inbox().pop())?;
    Some(
        taken.map(|Taken { io, peer, tie, load }| {
            (Stream::new(io, Some(peer.clone()), Some(tie), Unread::new(load)), peer)
        }),
    )
}

/// Takes the oldest offer that is still good, or refuses all if the worker is full. Nothing waits in here, so that a cancelled
/// `accept` loses none.
pub(super) fn take_offer<K: Kind, L>(
    link: &Arc<Link>,
    pop: impl Fn() -> Option<(Incoming, L)>,
) -> Option<io::Result<Taken<K, L>>> {
    let taken = look_for_offer(link, pop);
    if !matches!(taken, Some(Ok(_))) && link.state().is_lost() {
        // What a drain waited for may have been no connection after all.
        link.settle();
    }
    taken
}

fn look_for_offer<K: Kind, L>(
    link: &Arc<Link>,
    pop: impl Fn() -> Option<(Incoming, L)>,
) -> Option<io::Result<Taken<K, L>>> {
    // Held until the connection is counted: no drain can be announced between.
    let state = link.state();
    if !state.takes_offers() {
        return None;
    }
    // A lost master's offers have nobody else.
    let room = link.room();
    let refuses = room.is_none() && !state.is_lost();
    loop {
        let (incoming, load) = pop()?;
        if refuses {
            link.give_back(vec![incoming]);
            continue;
        }
        let Incoming { id, listener, socket, peer } = incoming;
        // First, for what is none of this listener's must not be taken.
        let peer = match client::<K>(&peer) {
            Ok(peer) => peer,
            Err(error) => {
                decline(link.board(), id);
                link.picked();
                return Some(Err(error));
            }
        };
        if let Some(tie) = Tie::take(link, listener, id) {
            link.picked();
            return Some(Ok(Taken { io: Io::bare(socket), peer, tie, load }));
        }
        // Revoked: the copy is closed, plainly, before that is said.
        drop(socket);
        link.board().release(id);
        link.picked();
    }
}

/// Accepts from the shared socket. `None`: there is no connection, or the worker may not accept any more.
fn accept_shared<K: Kind>(port: &Port, mut ready: AsyncFdReadyGuard<'_, OwnedFd>) -> Option<Accepted<K>> {
    let link = port.link();
    // Held as in `take_offer`.
    let state = link.state();
    if !state.uses_shared() {
        return None;
    }
    let _room = link.room()?;
    let (io, name) = match ready.try_io(|socket| accept(socket.get_ref())).ok()? {
        Ok(accepted) => accepted,
        Err(error) => return Some(Err(error)),
    };
    link.board().count_taken();
    Some(stream(io, &name, Some(port)))
}

/// As [`accept_shared`], in line. `None` also means that those who wait are woken when it is their turn.
fn accept_in_line<K: Kind>(port: &Port, place: &Place) -> Option<Accepted<K>> {
    let link = port.link();
    // Held as in `take_offer`.
    let state = link.state();
    if !state.uses_shared() {
        return None;
    }
    let _room = link.room()?;
    let (io, name) = match place.accept()? {
        Ok(accepted) => accepted,
        Err(error) => return Some(Err(error)),
    };
    link.board().count_taken();
    Some(stream(io, &name, Some(port)))
}

/// A connection that this process has accepted for another worker, and that came back. It is counted already.
fn take_returned<K: Kind>(port: &Port) -> Option<Accepted<K>> {
    let link = port.link();
    // Held as in `take_offer`.
    let state = link.state();
    if !state.takes_offers() {
        return None;
    }
    let (returned, name) = link.pop_returned(port.inbox(), state.is_lost())?;
    link.board().count_taken();
    let (socket, tie) = returned.into_parts();
    let peer = client::<K>(&name);
    Some(peer.map(|peer| (Stream::new(Io::bare(socket), Some(peer.clone()), Some(tie), Unread::default()), peer)))
}

fn watch(socket: OwnedFd) -> io::Result<Socket> {
    readiness::watch(socket, Interest::READABLE).map(Socket::Watched)
}

impl Socket {
    async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        match self {
            Self::Watched(socket) => socket.readable().await,
            Self::InLine(_) => pending().await,
        }
    }

    fn poll_read_ready<'a>(&'a self, cx: &mut Context<'_>) -> Poll<io::Result<AsyncFdReadyGuard<'a, OwnedFd>>> {
        match self {
            Self::Watched(socket) => socket.poll_read_ready(cx),
            Self::InLine(_) => Poll::Pending,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Watched(socket) => socket.as_fd(),
            Self::InLine(place) => place.as_fd(),
        }
    }
}

impl Registered for Socket {
    fn pause(&self) {
        if let Self::InLine(place) = self {
            place.leave();
        }
    }

    fn look_again(&self) {
        if let Self::InLine(place) = self {
            place.look_again();
        }
    }

    fn abandon(&self) {
        if let Self::InLine(place) = self {
            place.abandon();
        }
    }
}

/// A connection that this process itself has accepted.
fn stream<K: Kind>(io: OwnedFd, name: &SocketName, port: Option<&Port>) -> Accepted<K> {
    let peer = client::<K>(name)?;
    let tie = port.map(|port| Tie::new(port.link(), port.id(), None));
    Ok((Stream::new(Io::bare(io), Some(peer.clone()), tie, Unread::default()), peer))
}

fn client<K: Kind>(name: &SocketName) -> io::Result<K::Addr> {
    K::addr(name).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "a client's address is of another kind than its listener")
    })
}

impl<K: Kind> fmt::Debug for Listener<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shared, handed) = match &self.origin {
            Origin::Plain { .. } => (true, false),
            Origin::Handed { copy, .. } => (copy.get().is_some(), true),
        };
        f.debug_struct("Listener")
            .field("local", &self.local)
            .field("handed", &handed)
            .field("shared", &shared)
            .finish()
    }
}
