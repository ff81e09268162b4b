//! WebSockets that stay open: users of the `chat` example over reloads.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Master, PATIENCE, Setup};
use crate::unnoticed::is_long;

const CHAT: &str = env!("CARGO_BIN_EXE_chat");

/// How many users are in one room.
const ROOM: usize = 20;

/// How often every user says something.
const ROUNDS: usize = 10;

type Socket = WebSocketStream<tokio::net::TcpStream>;

/// A user who never comes back: one disconnect is the end of the test.
struct User {
    nick: String,
    socket: Socket,
    heard: Vec<String>,
}

impl User {
    async fn join(address: SocketAddr, room: &str, nick: &str) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.expect("the port is open");
        let url = format!("ws://{address}/chat?room={room}&nick={nick}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a handshake");
        let mut user = Self { nick: nick.to_owned(), socket, heard: Vec::new() };
        assert_eq!(user.hear().await, format!("welcome to {room}, {nick}"));
        user
    }

    async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap_or_else(|error| panic!("{}: {error}", self.nick));
    }

    async fn hear(&mut self) -> String {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("{}: {other:?}", self.nick),
        }
    }

    /// Says a number whenever there is a new one, and listens until everybody must have been heard.
    async fn chat(mut self, mut round: watch::Receiver<usize>) -> Vec<String> {
        let mut said = 0;
        while self.heard.len() < ROOM * ROUNDS {
            tokio::select! {
                text = self.hear() => self.heard.push(text),
                changed = round.changed(), if said < ROUNDS => {
                    changed.expect("the test goes on");
                    let newest = *round.borrow();
                    while said < newest {
                        said += 1;
                        self.say(&said.to_string()).await;
                    }
                }
            }
        }
        self.heard
    }
}

/// Users of rooms; returns what each has heard, by room, when everybody has heard enough.
fn users(address: SocketAddr, rooms: usize, round: &watch::Receiver<usize>, joined: &watch::Sender<bool>) -> Heard {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut users = Vec::new();
        for number in 0..rooms * ROOM {
            let room = format!("room-{}", number / ROOM);
            users.push((room.clone(), User::join(address, &room, &format!("user-{number}")).await));
        }
        joined.send_replace(true);
        let mut chats = JoinSet::new();
        for (room, user) in users {
            let round = round.clone();
            chats.spawn(async move { (room, user.chat(round).await) });
        }
        let mut heard = Heard::new();
        let all = async {
            while let Some(one) = chats.join_next().await {
                let (room, texts) = one.expect("nobody falls out");
                heard.entry(room).or_default().push(texts);
            }
        };
        tokio::time::timeout(PATIENCE * 5, all).await.expect("everybody hears everything");
        heard
    })
}

type Heard = BTreeMap<String, Vec<Vec<String>>>;

fn chat_through_reloads(policy: &str, rooms: usize) {
    let master = Setup::program(CHAT, &["--listen", "127.0.0.1:0"]).policy(policy).start();
    let address = master.address();
    let (next, round) = watch::channel(0);
    let (joined, all_joined) = watch::channel(false);
    let heard = std::thread::scope(|scope| {
        let users = scope.spawn(move || users(address, rooms, &round, &joined));
        master
            .wait_until("everybody has joined, or something is wrong", |_| *all_joined.borrow() || users.is_finished());
        for round in 1..=ROUNDS {
            // What they say now is under way while everybody moves.
            next.send_replace(round);
            master.reload_well();
        }
        // Whoever still speaks has moved: the old generations are gone.
        master.log.wait_for(&["generation drained", &format!("generation={ROUNDS} "), "cut=0"]);
        users.join().expect("nobody falls out")
    });
    for (room, heard) in heard {
        assert_eq!(heard.len(), ROOM);
        assert!(heard.iter().all(|texts| *texts == heard[0]), "{policy}: in {room} not all heard the same");
        let mut texts = heard[0].clone();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), ROOM * ROUNDS, "{policy}: something was said twice in {room}");
    }
    master.settle(2);
    let log = std::env::temp_dir().join(format!("everport-chat-{}", master.pid()));
    assert!(log.exists());
    master.check();
    assert!(!log.exists(), "it is removed");
}

#[test]
fn users_chat_through_ten_reloads_and_miss_nothing() {
    for policy in ["rr", "none"] {
        chat_through_reloads(policy, if is_long() { 1000 / ROOM } else { 100 / ROOM });
    }
}

/// Reads a short frame of a server.
fn hear(stream: &mut TcpStream) -> String {
    let mut header = [0; 2];
    stream.read_exact(&mut header).expect("an open connection");
    assert_eq!(header[0], 0x81, "a text in one frame");
    let mut text = vec![0; header[1].into()];
    stream.read_exact(&mut text).expect("an open connection");
    String::from_utf8(text).expect("a text")
}

fn join(master: &Master) -> TcpStream {
    let mut stream = TcpStream::connect(master.address()).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let handshake = "GET /chat?room=hall&nick=ann HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).expect("an open connection");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head").to_lowercase();
    // The example of RFC 6455, section 1.3.
    assert!(head.contains("101 switching") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert_eq!(hear(&mut stream), "welcome to hall, ann");
    stream
}

#[test]
fn a_frame_that_is_cut_anywhere_is_one_message_to_the_next_generation() {
    let master = Setup::program(CHAT, &["--listen", "127.0.0.1:0"]).start();
    let mut stream = join(&master);
    // Two fragments, with a ping between, all masked with zeros.
    let frames = b"\x01\x83\0\0\0\0hel\x89\x80\0\0\0\0\x80\x82\0\0\0\0lo";
    for cut in [1, 4, 8, 10, 12, 16, frames.len() - 1] {
        stream.write_all(&frames[..cut]).expect("an open connection");
        master.reload_well();
        master.settle(2);
        stream.write_all(&frames[cut..]).expect("an open connection");
        let mut pong = [0; 2];
        stream.read_exact(&mut pong).expect("an open connection");
        assert_eq!(pong, [0x8a, 0]);
        assert_eq!(hear(&mut stream), "ann: hello");
    }
    drop(stream);
    master.check();
}

#[test]
fn a_stop_says_goodbye() {
    let master = Setup::program(CHAT, &["--listen", "127.0.0.1:0"]).set("EVERPORT_DRAIN_GRACE", "300ms").start();
    let mut stream = join(&master);
    master.term();
    let mut goodbye = [0; 20];
    stream.read_exact(&mut goodbye).expect("an open connection");
    // A close frame with status 1001, going away.
    assert_eq!(goodbye[..4], [0x88, 18, 3, 0xe9]);
    assert_eq!(&goodbye[4..], b"the server stops");
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]).expect("an open connection");
    assert_eq!(stream.read(&mut goodbye).expect("an end, and no reset"), 0);
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn who_is_no_websocket_is_told() {
    use crate::harness::http;
    let master = Setup::program(CHAT, &["--listen", "127.0.0.1:0"]).start();
    let status = |path: &str| http::get(master.address(), path).expect("an answer").status;
    assert_eq!(status("/"), 200);
    assert_eq!(status("/chat?room=hall&nick=ann"), 426);
    assert_eq!(status("/chat?room=hall&nick="), 400);
    assert_eq!(status(&format!("/chat?room=hall&nick={}", "x".repeat(33))), 400);
    assert_eq!(status(&format!("/chat?room=hall&nick={}", "x".repeat(32))), 426);
    master.settle(2);
    master.check();
}
