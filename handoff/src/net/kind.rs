//! What differs between TCP and unix sockets, so that everything else is written once.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::SocketAddr as UnixSocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{tcp, unix};

use crate::address;
use crate::name::SocketName;

/// TCP or unix: [`Tcp`] and [`Unix`]. Nothing else can be a kind.
pub trait Kind: Sealed + Debug + Send + Sync + Unpin + 'static {
    /// Tokio's stream.
    type Stream: AsyncRead + AsyncWrite + AsFd + Debug + Send + Sync + Unpin + 'static;
    /// The standard library's stream.
    type StdStream: Into<OwnedFd>;
    /// The address of one end.
    type Addr: Clone + Debug + Send + Sync + Unpin + 'static;
    /// Tokio's reading half, borrowed from a stream.
    type ReadRef<'a>: AsyncRead + Debug + Send + Sync + Unpin;
    /// Tokio's writing half, borrowed from a stream.
    type WriteRef<'a>: AsyncWrite + Debug + Send + Sync + Unpin;
    /// Tokio's reading half.
    type ReadHalf: AsyncRead + AsRef<Self::Stream> + Debug + Send + Sync + Unpin + 'static;
    /// Tokio's writing half.
    type WriteHalf: AsyncWrite + AsRef<Self::Stream> + Debug + Send + Sync + Unpin + 'static;
}

/// What is done differently. Not for use outside.
pub trait Sealed: Sized {
    /// What a listener of this kind is called in an address.
    const LISTENER: address::Kind;

    fn register(socket: OwnedFd) -> io::Result<<Self as Kind>::Stream>
    where
        Self: Kind;
    fn std(socket: OwnedFd) -> <Self as Kind>::StdStream
    where
        Self: Kind;
    fn into_std(stream: <Self as Kind>::Stream) -> io::Result<<Self as Kind>::StdStream>
    where
        Self: Kind;
    /// `None` for the name of another kind.
    fn addr(name: &SocketName) -> Option<<Self as Kind>::Addr>
    where
        Self: Kind;
    fn name(addr: &<Self as Kind>::Addr) -> SocketName
    where
        Self: Kind;
    fn local_addr(stream: &<Self as Kind>::Stream) -> io::Result<<Self as Kind>::Addr>
    where
        Self: Kind;
    fn peer_addr(stream: &<Self as Kind>::Stream) -> io::Result<<Self as Kind>::Addr>
    where
        Self: Kind;
    fn readable(stream: &<Self as Kind>::Stream) -> impl Future<Output = io::Result<()>> + Send
    where
        Self: Kind;
    fn writable(stream: &<Self as Kind>::Stream) -> impl Future<Output = io::Result<()>> + Send
    where
        Self: Kind;
    fn split(stream: &mut <Self as Kind>::Stream) -> (<Self as Kind>::ReadRef<'_>, <Self as Kind>::WriteRef<'_>)
    where
        Self: Kind;
    fn into_split(stream: <Self as Kind>::Stream) -> (<Self as Kind>::ReadHalf, <Self as Kind>::WriteHalf)
    where
        Self: Kind;
    /// `None` when the halves are not of one stream; then both are gone. The caller asks only for halves of one stream.
    fn reunite(read: <Self as Kind>::ReadHalf, write: <Self as Kind>::WriteHalf) -> Option<<Self as Kind>::Stream>
    where
        Self: Kind;
    /// Drops the half without ending what the other end reads.
    fn forget(write: <Self as Kind>::WriteHalf)
    where
        Self: Kind;
}

/// The kind of TCP sockets.
#[derive(Clone, Copy, Debug)]
pub enum Tcp {}

/// The kind of unix stream sockets.
#[derive(Clone, Copy, Debug)]
pub enum Unix {}

macro_rules! kind {
    ($kind:ident, $stream:ty, $std:ty, $addr:ty, $halves:ident, |$name:ident| $to_addr:expr, |$addr_of:ident| $to_name:expr) => {
        impl Kind for $kind {
            type Stream = $stream;
            type StdStream = $std;
            type Addr = $addr;
            type ReadRef<'a> = $halves::ReadHalf<'a>;
            type WriteRef<'a> = $halves::WriteHalf<'a>;
            type ReadHalf = $halves::OwnedReadHalf;
            type WriteHalf = $halves::OwnedWriteHalf;
        }

        impl Sealed for $kind {
            const LISTENER: address::Kind = address::Kind::$kind;

            fn register(socket: OwnedFd) -> io::Result<$stream> {
                <$stream>::from_std(Self::std(socket))
            }

            fn std(socket: OwnedFd) -> $std {
                <$std>::from(socket)
            }

            fn into_std(stream: $stream) -> io::Result<$std> {
                stream.into_std()
            }

            fn addr($name: &SocketName) -> Option<$addr> {
                $to_addr
            }

            fn name($addr_of: &$addr) -> SocketName {
                $to_name
            }

            fn local_addr(stream: &$stream) -> io::Result<$addr> {
                stream.local_addr()
            }

            fn peer_addr(stream: &$stream) -> io::Result<$addr> {
                stream.peer_addr()
            }

            fn readable(stream: &$stream) -> impl Future<Output = io::Result<()>> + Send {
                stream.readable()
            }

            fn writable(stream: &$stream) -> impl Future<Output = io::Result<()>> + Send {
                stream.writable()
            }

            fn split(stream: &mut $stream) -> ($halves::ReadHalf<'_>, $halves::WriteHalf<'_>) {
                stream.split()
            }

            fn into_split(stream: $stream) -> ($halves::OwnedReadHalf, $halves::OwnedWriteHalf) {
                stream.into_split()
            }

            fn reunite(read: $halves::OwnedReadHalf, write: $halves::OwnedWriteHalf) -> Option<$stream> {
                read.reunite(write).ok()
            }

            fn forget(write: $halves::OwnedWriteHalf) {
                write.forget();
            }
        }
    };
}

kind!(Tcp, tokio::net::TcpStream, std::net::TcpStream, SocketAddr, tcp, |name| name.inet(), |addr| (*addr).into());
kind!(
    Unix,
    tokio::net::UnixStream,
    std::os::unix::net::UnixStream,
    unix::SocketAddr,
    unix,
    |name| name.unix().map(unix::SocketAddr::from),
    |addr| (&UnixSocketAddr::from(addr.clone())).into()
);
