//! The worker side against a master of real sockets that these tests play themselves.

mod binding;
mod draining;
mod handover;
mod limit;
mod line;
mod lost;
mod offers;
mod parcels;
mod resumed;
#[cfg(feature = "http")]
mod serving;
mod shared;
#[cfg(feature = "rustls")]
mod tickets;
mod unread;

use std::future::Future;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link::Link;
use crate::address::ListenAddress;
use crate::board::{self, MasterBoard, OfferId, WorkerBoard};
use crate::bootstrap::Identity;
use crate::channel::{Channel, ReceiveError, Received};
use crate::id::{Generation, ListenerId, Slot, WorkerId};
use crate::message::{
    HandoverId, HandoverOutcome, ListenFailure, Listening, NEWEST, Offer, Parcel, Sharing, ToMaster, ToWorker,
};
use crate::name::SocketName;
use crate::net::TcpListener;
use crate::offer::Reading;
use crate::sys::readiness;
use crate::worker::{Managed, Worker};

/// A listener that no worker has.
const NOBODYS: ListenerId = ListenerId(u32::MAX);

/// The master's ends.
struct Master {
    channel: Channel,
    board: MasterBoard,
    bell: AsyncFd<OwnedFd>,
    readable: AsyncFd<OwnedFd>,
}

/// A client's socket and the master's copy of the same connection.
struct Connection {
    client: StdStream,
    server: StdStream,
}

impl Master {
    /// A master and its worker, before any greeting but `Hello`.
    fn new() -> (Self, Arc<Link>) {
        let (channel, theirs) = Channel::pair().unwrap();
        let (board, page) = MasterBoard::create().unwrap();
        let link = Link::new(Channel::adopt(theirs), WorkerBoard::adopt(page).unwrap()).unwrap();
        let readable = readiness::watch(channel.as_fd().try_clone_to_owned().unwrap(), Interest::READABLE).unwrap();
        let bell = readiness::watch(board::bell().unwrap(), Interest::READABLE).unwrap();
        board.ask_ring(true);
        let master = Self { channel, board, bell, readable };
        (master, link)
    }

    /// A master that has heard `Hello` and said `Welcome`.
    async fn welcomed() -> (Self, Arc<Link>) {
        let (master, link) = Self::new();
        assert!(matches!(master.hear().await, ToMaster::Hello { .. }));
        master.welcome(false);
        (master, link)
    }

    /// A master whose worker is active and has one listener, 1, by offers.
    async fn active() -> (Self, Arc<Link>, TcpListener) {
        let (mut master, link) = Self::welcomed().await;
        let listener = master.listen(&link, 1, None).await;
        master.say(&ToWorker::Activate, &[]);
        master.sync().await;
        (master, link, listener)
    }

    fn welcome(&self, manual_ready: bool) {
        let welcome = ToWorker::Welcome {
            version: NEWEST,
            manual_ready,
            first_byte_grace: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(60),
        };
        self.say(&welcome, &[self.bell.get_ref().as_fd()]);
    }

    fn say(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        self.board.count_message();
        self.channel.send(message, fds).unwrap();
    }

    /// The worker's next message.
    async fn hear(&self) -> ToMaster {
        self.receive().await.message
    }

    /// The worker's next message, with its descriptors.
    async fn receive(&self) -> Received<ToMaster> {
        loop {
            if let Some(received) = self.received() {
                return received;
            }
            self.readable.readable().await.unwrap().clear_ready();
        }
    }

    fn heard(&self) -> Option<ToMaster> {
        self.received().map(|received| received.message)
    }

    fn received(&self) -> Option<Received<ToMaster>> {
        match self.channel.receive() {
            Ok(received) => Some(received),
            Err(ReceiveError::Empty) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Hears a `Listen` and answers it.
    async fn answer(&self, listener: u32, shared: Option<BorrowedFd<'_>>) -> (String, u32) {
        self.answer_as(listener, shared.map(|socket| (Sharing::Together, socket))).await
    }

    async fn answer_as(&self, listener: u32, shared: Option<(Sharing, BorrowedFd<'_>)>) -> (String, u32) {
        let (sharing, socket) = shared.unzip();
        let ToMaster::Listen { request, address, index } = self.hear().await else { panic!("not a Listen") };
        let answer = Listening {
            listener: ListenerId(listener),
            local: SocketName::Inet(([127, 0, 0, 1], 8000).into()),
            shared: sharing,
        };
        self.say(&ToWorker::Listening { request, answer: Ok(answer) }, socket.as_slice());
        (address, index)
    }

    /// Hears a `Listen` and refuses it.
    async fn refuse(&self, errno: Option<i32>) {
        let ToMaster::Listen { request, .. } = self.hear().await else { panic!("not a Listen") };
        let answer = Err(ListenFailure { errno, reason: "bind it: no".to_owned() });
        self.say(&ToWorker::Listening { request, answer }, &[]);
    }

    /// Lets the worker bind one listener.
    async fn listen(&self, link: &Arc<Link>, listener: u32, shared: Option<BorrowedFd<'_>>) -> TcpListener {
        let (bound, _) = tokio::join!(bind(link, "127.0.0.1:0"), self.answer(listener, shared));
        bound
    }

    /// Offers a connection.
    fn offer(&mut self, listener: u32, connection: &Connection) -> OfferId {
        let id = self.board.offer().unwrap().unwrap();
        self.say(
            &ToWorker::Offer { offers: vec![connection.as_offer(id, ListenerId(listener))] },
            &[connection.server.as_fd()],
        );
        id
    }

    /// Offers a connection that another worker has handed over, with its descriptors.
    fn offer_moved(&mut self, peer: SocketName, parcel: Parcel, fds: &[OwnedFd]) -> OfferId {
        let id = self.board.offer().unwrap().unwrap();
        let offer = Offer { id, listener: ListenerId(1), peer, parcel };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.say(&ToWorker::Offer { offers: vec![offer] }, &fds);
        id
    }

    /// The next handover; whether the worker is ready is of no interest before it.
    async fn hear_handover(&self) -> Handover {
        loop {
            let Received { message, fds, .. } = self.receive().await;
            match message {
                ToMaster::Handover { id, listener, peer, offer, parcel } => {
                    assert_eq!((listener, fds.len()), (ListenerId(1), parcel.descriptors()));
                    return Handover { id, peer, offer, parcel, fds };
                }
                message => assert_eq!(message, ToMaster::Ready),
            }
        }
    }

    /// Says how a handover ended.
    fn end(&self, id: HandoverId, outcome: HandoverOutcome, fds: &[OwnedFd]) {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().take(1).map(AsFd::as_fd).collect();
        self.say(&ToWorker::HandedOver { id, outcome }, &fds);
    }

    /// What the worker makes of an offer that reads `from` now.
    async fn moved(&self, id: OfferId, from: Reading) -> Reading {
        loop {
            let reading = self.board.read(id);
            if reading != from {
                return reading;
            }
            let mut rung = self.bell.readable().await.unwrap();
            board::silence(self.bell.get_ref().as_fd());
            rung.clear_ready();
        }
    }

    /// Returns when the worker has obeyed everything that was said: it refuses an offer that comes after it.
    async fn sync(&mut self) {
        let id = self.board.offer().unwrap().unwrap();
        let offer = Offer { id, listener: NOBODYS, peer: SocketName::Unnamed, parcel: Parcel::Nothing };
        self.say(&ToWorker::Offer { offers: vec![offer] }, &[]);
        assert_eq!(self.moved(id, Reading::Offered).await, Reading::Refused);
        self.board.free(id);
    }

    /// Drains the worker.
    async fn drain(&mut self) {
        self.say(&ToWorker::Drain { successor: false, grace: Duration::from_secs(10) }, &[]);
        self.sync().await;
    }
}

/// A handover as the master hears it.
struct Handover {
    id: HandoverId,
    peer: SocketName,
    offer: Option<OfferId>,
    parcel: Parcel,
    fds: Vec<OwnedFd>,
}

impl Connection {
    fn new() -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        Self { client, server }
    }

    fn as_offer(&self, id: OfferId, listener: ListenerId) -> Offer {
        Offer { id, listener, peer: self.client.local_addr().unwrap().into(), parcel: Parcel::Nothing }
    }

    /// Whether the client sees the end of the connection, now.
    fn is_ended(&self) -> bool {
        self.client.set_nonblocking(true).unwrap();
        matches!(self.client.peek(&mut [0]), Ok(0))
    }
}

async fn bind(link: &Arc<Link>, address: &str) -> TcpListener {
    TcpListener::bind_by(link, &address.parse().unwrap()).await.unwrap()
}

fn address(text: &str) -> ListenAddress {
    text.parse().unwrap()
}

/// The worker that has this link.
fn worker(link: &Arc<Link>) -> Worker {
    let identity = Identity { worker: WorkerId(1), slot: Slot(0), generation: Generation(1) };
    Worker { managed: Some(Managed { link: Arc::clone(link), identity }) }
}

/// Whether a future that was just made has nothing to give.
fn pends<F: Future>(future: F) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Whether a future has nothing to give now.
fn still_pends<F: Future + Unpin>(future: &mut F) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}
