//! UDP sockets. They are shared in every policy: each worker has the socket, and the kernel picks who gets a datagram.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use rustix::net::SocketType;
use tokio::io::{Interest, ReadBuf};
use tokio::net::ToSocketAddrs;
use tokio::task::coop;

use super::bind::{self, Source};
use crate::address::{Kind, ListenAddress, ToListenAddress};
use crate::worker::copy::{AtDrain, SharedCopy};
#[cfg(test)]
use crate::worker::link::Link;
use crate::worker::port::Port;

/// A UDP socket, as [`tokio::net::UdpSocket`].
///
/// Receiving waits while the worker is not active, and for ever once it drains; sending works as long as the worker lives:
/// take a [`Guard`](crate::worker::Guard) for each reply that is under way. When the master is lost, the socket is closed
/// at once, so that a new master can bind, and sending fails.
///
/// All workers share it: options that are set here are set for all, and it must not be connected.
#[derive(Debug)]
pub struct UdpSocket {
    io: Arc<tokio::net::UdpSocket>,
    local: SocketAddr,
    /// Nothing in a process without a master.
    port: Option<Port>,
}

type Shared = SharedCopy<tokio::net::UdpSocket>;

impl UdpSocket {
    /// Binds an address: what tokio takes, and every [`ListenAddress`] as text, with or without `udp:`.
    ///
    /// In a worker the master binds, and all workers that ask for one address share the socket.
    ///
    /// # Errors
    ///
    /// Those of a plain bind, as the master met them; `InvalidInput` for what is no address of a UDP socket.
    pub async fn bind(address: impl ToListenAddress) -> io::Result<Self> {
        let address = address.to_listen_address()?.into_udp()?;
        let copy = Arc::new(SharedCopy::new(AtDrain::Keep));
        let source = bind::bind(&address, Kind::Udp, copy.clone()).await?;
        Self::from_source(source, &copy, &address).await
    }

    /// As `bind`, by this link.
    #[cfg(test)]
    pub(crate) async fn bind_by(link: &Arc<Link>, address: &ListenAddress) -> io::Result<Self> {
        let copy = Arc::new(SharedCopy::new(AtDrain::Keep));
        let source = bind::bind_as(Some(link), address, Kind::Udp, copy.clone()).await?;
        Self::from_source(source, &copy, address).await
    }

    async fn from_source(source: Source, copy: &Shared, address: &ListenAddress) -> io::Result<Self> {
        let other_kind = || bind::other_kind(address, Kind::Udp);
        let (io, local, port) = match source {
            Source::Plain { socket, local, .. } => (Arc::new(register(socket)?), local, None),
            Source::Handed(port) => {
                copy.register(|socket| match rustix::net::sockopt::socket_type(&socket)? {
                    SocketType::DGRAM => register(socket),
                    _ => Err(other_kind()),
                })?;
                let Some(io) = copy.get() else {
                    if port.link().state().is_lost() {
                        // It was given up on its way to here, and the process is about to end.
                        return pending().await;
                    }
                    return Err(other_kind());
                };
                (io, port.local().clone(), Some(port))
            }
        };
        let local = local.inet().ok_or_else(other_kind)?;
        Ok(Self { io, local, port })
    }

    /// The address that it is bound to, with the real port.
    ///
    /// # Errors
    ///
    /// None; the result is tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    // Receiving.

    /// As tokio's, while the worker is active.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(|io| io.try_recv_from(buf)).await
    }

    /// As tokio's, while the worker is active.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(|io| io.try_recv(buf)).await
    }

    /// As tokio's, while the worker is active.
    pub async fn recv_buf_from<B: BufMut>(&self, buf: &mut B) -> io::Result<(usize, SocketAddr)> {
        self.receive(|io| io.try_recv_buf_from(buf)).await
    }

    /// As tokio's, while the worker is active.
    pub async fn recv_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
        self.receive(|io| io.try_recv_buf(buf)).await
    }

    /// As tokio's, while the worker is active. Another worker may take the datagram all the same.
    pub async fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.receive(|io| io.try_peek_from(buf)).await
    }

    /// As tokio's, while the worker is active: the datagram may be another worker's already.
    pub async fn readable(&self) -> io::Result<()> {
        let Some(port) = &self.port else {
            return self.io.readable().await;
        };
        loop {
            port.link().drive()?;
            port.link().accepts();
            let woken = port.waiters().woken();
            if self.is_open() {
                tokio::select! {
                    biased;
                    () = woken => {}
                    ready = self.io.readable() => if ready.is_ok() || !self.is_given_up() {
                        return ready;
                    },
                }
            } else {
                woken.await;
            }
        }
    }

    /// As tokio's, while the worker is active.
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_receive(cx, |cx| self.io.poll_recv_ready(cx))
    }

    /// As tokio's, while the worker is active.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_receive(cx, |cx| self.io.poll_recv(cx, buf))
    }

    /// As tokio's, while the worker is active.
    pub fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<SocketAddr>> {
        self.poll_receive(cx, |cx| self.io.poll_recv_from(cx, buf))
    }

    /// As tokio's; `WouldBlock` also while the worker is not active.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.if_open(|io| io.try_recv(buf))
    }

    /// As tokio's; `WouldBlock` also while the worker is not active.
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.if_open(|io| io.try_recv_from(buf))
    }

    /// As tokio's; `WouldBlock` also while the worker is not active.
    pub fn try_peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.if_open(|io| io.try_peek_from(buf))
    }

    /// As tokio's. What would receive is `WouldBlock` also while the worker is not active.
    pub fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match interest.is_readable() {
            true => self.if_open(|socket| socket.try_io(interest, io)),
            false => self.io.try_io(interest, io),
        }
    }

    async fn receive<T>(&self, mut attempt: impl FnMut(&tokio::net::UdpSocket) -> io::Result<T>) -> io::Result<T> {
        loop {
            // Datagrams that never end never make the task wait: give the others their turn.
            coop::consume_budget().await;
            self.readable().await?;
            match self.if_open(&mut attempt) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn if_open<T>(&self, attempt: impl FnOnce(&tokio::net::UdpSocket) -> io::Result<T>) -> io::Result<T> {
        let outcome = if self.is_open() { attempt(&self.io) } else { Err(io::ErrorKind::WouldBlock.into()) };
        match outcome {
            Err(_) if self.is_given_up() => Err(io::ErrorKind::WouldBlock.into()),
            outcome => outcome,
        }
    }

    fn is_open(&self) -> bool {
        self.port.as_ref().is_none_or(|port| port.link().state().uses_shared())
    }

    /// Whether the master is lost. The socket may be gone from under a call that had begun before.
    fn is_given_up(&self) -> bool {
        self.port.as_ref().is_some_and(|port| port.link().state().is_lost())
    }

    /// Polls while the worker is active; the task is woken when that changes.
    fn poll_receive<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(port) = &self.port {
            port.link().drive()?;
            port.link().accepts();
            port.waiters().register(cx);
        }
        if !self.is_open() {
            return Poll::Pending;
        }
        match poll(cx) {
            Poll::Ready(Err(_)) if self.is_given_up() => Poll::Pending,
            polled => polled,
        }
    }

    // Sending.

    /// As tokio's.
    pub async fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], target: A) -> io::Result<usize> {
        self.io.send_to(buf, target).await
    }

    /// As tokio's.
    pub fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        self.io.poll_send_to(cx, buf, target)
    }

    /// As tokio's.
    pub fn try_send_to(&self, buf: &[u8], target: SocketAddr) -> io::Result<usize> {
        self.io.try_send_to(buf, target)
    }

    /// As tokio's.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// As tokio's.
    pub fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    // Options, for all who share the socket.

    /// As tokio's.
    pub fn broadcast(&self) -> io::Result<bool> {
        self.io.broadcast()
    }

    /// As tokio's.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.io.set_broadcast(on)
    }

    /// As tokio's.
    pub fn ttl(&self) -> io::Result<u32> {
        self.io.ttl()
    }

    /// As tokio's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.io.set_ttl(ttl)
    }

    /// As tokio's.
    pub fn join_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.io.join_multicast_v4(group, interface)
    }

    /// As tokio's.
    pub fn leave_multicast_v4(&self, group: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.io.leave_multicast_v4(group, interface)
    }

    /// As tokio's.
    pub fn join_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.io.join_multicast_v6(group, interface)
    }

    /// As tokio's.
    pub fn leave_multicast_v6(&self, group: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.io.leave_multicast_v6(group, interface)
    }

    /// As tokio's.
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        self.io.multicast_loop_v4()
    }

    /// As tokio's.
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.io.set_multicast_loop_v4(on)
    }

    /// As tokio's.
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        self.io.multicast_loop_v6()
    }

    /// As tokio's.
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.io.set_multicast_loop_v6(on)
    }

    /// As tokio's.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        self.io.multicast_ttl_v4()
    }

    /// As tokio's.
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        self.io.set_multicast_ttl_v4(ttl)
    }

    /// As tokio's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.io.take_error()
    }
}

fn register(socket: OwnedFd) -> io::Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(socket.into())
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}
