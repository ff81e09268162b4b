//! One user at his WebSocket, from worker to worker.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use everport::handover::{HandoverError, State};
use everport::net::TcpStream;
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::Chat;
use crate::log::Line;
use crate::whole::{MAX_MESSAGE, Whole};

/// The form in which a user moves. Change it with [`Moving`].
pub(crate) const VERSION: u32 = 1;

/// How long a user may take to receive what is sent to him.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a user may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is known of a user.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) room: String,
    pub(crate) nick: String,
    /// Up to where in the log he was told.
    pub(crate) place: u64,
}

/// What moves with the connection.
#[derive(Serialize, Deserialize)]
struct Moving {
    user: User,
    /// What has come of his next message.
    unread: Vec<u8>,
}

/// A user and his connection.
#[derive(Debug)]
pub(crate) struct Session {
    user: User,
    socket: WebSocketStream<Whole<TcpStream>>,
}

impl Session {
    /// With what was read behind the handshake, or behind the last message.
    pub(crate) async fn new(stream: TcpStream, unread: impl Into<Vec<u8>>, user: User) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(MAX_MESSAGE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let whole = Whole::new(stream, unread);
        Self { user, socket: WebSocketStream::from_raw_socket(whole, Role::Server, Some(config)).await }
    }

    /// Goes on with a user who comes from another worker. Nothing if his state is none of ours.
    pub(crate) async fn resume(stream: TcpStream, state: &State) -> Option<Self> {
        let Moving { user, unread } = postcard::from_bytes(&state.bytes).ok()?;
        Some(Self::new(stream, unread, user).await)
    }

    /// Tells a new user that he hears everything from now on, and goes on.
    pub(crate) async fn welcome(mut self, chat: Arc<Chat>) {
        let welcome = format!("welcome to {}, {}", self.user.room, self.user.nick);
        if self.socket.send(Message::text(welcome)).await.is_ok() {
            self.run(chat).await;
        }
    }

    /// Speaks with the user until he leaves or moves. What fails has ended his connection.
    pub(crate) async fn run(self, chat: Arc<Chat>) {
        drop(self.talk(&chat).await);
    }

    async fn talk(mut self, chat: &Chat) -> tungstenite::Result<()> {
        let mut news = chat.log.news();
        let (mut draining, mut time_to_go) = (pin!(chat.worker.drain_begins()), pin!(chat.worker.soft_deadline()));
        let mut stays = false;
        loop {
            timeout(PATIENCE, self.tell(chat)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            tokio::select! {
                // In this order: who is asked last knows that the user has said nothing whole.
                biased;
                said = self.socket.next() => match said.transpose()? {
                    Some(Message::Text(text)) => self.say(chat, &text)?,
                    Some(_) => {}
                    None => return Ok(()),
                },
                _ = news.changed() => {}
                () = &mut draining, if !stays => match self.hand_over().await? {
                    None => return Ok(()),
                    Some(session) => (self, stays) = (session, true),
                },
                () = &mut time_to_go, if stays && !chat.worker.has_successor() => return self.say_goodbye().await,
            }
        }
    }

    /// Appends what the user says to the log. From there it goes to everybody, himself included.
    fn say(&self, chat: &Chat, text: &str) -> io::Result<()> {
        let User { room, nick, .. } = &self.user;
        chat.log.append(&Line { room: room.clone(), nick: nick.clone(), text: text.to_owned() })
    }

    /// Sends what was said in the room, to the last byte.
    async fn tell(&mut self, chat: &Chat) -> tungstenite::Result<()> {
        loop {
            let lines = chat.log.read(&mut self.user.place)?;
            if lines.is_empty() {
                return self.socket.flush().await;
            }
            for Line { nick, text, .. } in lines.iter().filter(|line| line.room == self.user.room) {
                self.socket.feed(Message::text(format!("{nick}: {text}"))).await?;
            }
        }
    }

    /// The end of a conversation that nobody goes on with.
    async fn say_goodbye(mut self) -> tungstenite::Result<()> {
        let reason = "the server stops".into();
        self.socket.close(Some(CloseFrame { code: CloseCode::Away, reason })).await?;
        // Until he has said so too, or seems to have gone.
        let last_words = async { while self.socket.next().await.is_some_and(|said| said.is_ok()) {} };
        drop(timeout(FAREWELL, last_words).await);
        Ok(())
    }

    /// Gives the user to another worker. If nobody takes him he is still here.
    ///
    /// Invariant: everything was sent, and the library has asked for more than there is.
    async fn hand_over(self) -> io::Result<Option<Self>> {
        if !self.socket.get_ref().can_part() {
            return Ok(Some(self));
        }
        let (stream, unread) = self.socket.into_inner().into_parts();
        let moving = Moving { user: self.user, unread: unread.into() };
        let state = State::new(VERSION, postcard::to_stdvec(&moving).map_err(io::Error::other)?);
        match stream.handover(state).await {
            Ok(()) => Ok(None),
            Err(HandoverError::Returned { stream, .. }) => {
                Ok(Some(Self::new(stream, moving.unread, moving.user).await))
            }
            Err(lost) => Err(io::Error::other(lost)),
        }
    }
}
