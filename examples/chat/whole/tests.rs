use std::collections::VecDeque;

use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Said;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

/// A peer that has sent these pieces so far; nothing more comes.
#[derive(Debug)]
struct Script(VecDeque<Vec<u8>>);

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else {
            return Poll::Pending;
        };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.0.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client's frame, masked with zeros.
fn frame(is_final: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let first = u8::from(is_final) << 7 | opcode;
    let mut frame = match payload.len() {
        short @ ..126 => vec![first, 0x80 | short as u8],
        long => [vec![first, 0x80 | 126], (long as u16).to_be_bytes().to_vec()].concat(),
    };
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

const TEXT: u8 = 1;
const CONTINUATION: u8 = 0;
const PING: u8 = 9;

/// What one client says: texts in so many fragments, with a ping before some of them.
fn spoken(messages: &[(Vec<String>, bool)]) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut texts) = (Vec::new(), Vec::new());
    for (fragments, pings) in messages {
        for (index, fragment) in fragments.iter().enumerate() {
            if *pings {
                bytes.extend(frame(true, PING, b"?"));
            }
            let opcode = if index == 0 { TEXT } else { CONTINUATION };
            bytes.extend(frame(index + 1 == fragments.len(), opcode, fragment.as_bytes()));
        }
        texts.push(fragments.concat());
    }
    (bytes, texts)
}

/// Hears the texts in these pieces until there is nothing more; what is left of the next one.
fn hear(unread: Bytes, pieces: VecDeque<Vec<u8>>, texts: &mut Vec<String>) -> Bytes {
    let whole = Whole::new(Script(pieces), unread);
    let raw = WebSocketStream::from_raw_socket(whole, Role::Server, None).now_or_never();
    let mut socket = raw.expect("there is nothing to wait for");
    while let Some(said) = socket.next().now_or_never() {
        if let Said::Text(text) = said.expect("it goes on").expect("it is well formed") {
            texts.push(text.to_string());
        }
    }
    assert!(socket.get_ref().can_part(), "the library has asked for more");
    socket.into_inner().into_parts().1
}

fn pieces(bytes: &[u8], length: usize) -> VecDeque<Vec<u8>> {
    bytes.chunks(length).map(<[u8]>::to_vec).collect()
}

fn messages() -> impl Strategy<Value = Vec<(Vec<String>, bool)>> {
    let fragments = prop::collection::vec("[a-z]{0,300}", 1..4);
    prop::collection::vec((fragments, any::<bool>()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_conversation_goes_on_after_a_cut_at_any_byte(messages in messages(), length in 1..700_usize) {
        let (bytes, expected) = spoken(&messages);
        for cut in 0..=bytes.len() {
            let mut texts = Vec::new();
            let unread = hear(Bytes::new(), pieces(&bytes[..cut], length), &mut texts);
            let rest = hear(unread, pieces(&bytes[cut..], length), &mut texts);
            prop_assert_eq!(&texts, &expected, "cut at {}", cut);
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn no_bytes_are_more_than_they_are(bytes: Vec<u8>) {
        if let Message::Whole(length) = first_message(&bytes) {
            prop_assert!(0 < length && length <= bytes.len());
        }
    }
}

#[test]
fn the_longest_message_is_whole_and_a_longer_one_goes_straight_through() {
    let header = frame(true, TEXT, &[b'a'; 1000]).len() - 1000;
    let longest = frame(true, TEXT, &vec![b'a'; MAX_MESSAGE - header]);
    assert_eq!(first_message(&longest), Message::Whole(MAX_MESSAGE));
    assert_eq!(first_message(&longest[..MAX_MESSAGE - 1]), Message::Partial);
    let longer = frame(true, TEXT, &vec![b'a'; MAX_MESSAGE - header + 1]);
    // As soon as its header says so.
    assert_eq!(first_message(&longer[..header]), Message::TooLong);
    let mut whole = Whole::new(Script(pieces(&longer, 1000)), Vec::new());
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut read, mut buffer) = (0, [0; 512]);
    loop {
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut whole).poll_read(&mut context, &mut buffer) {
            Poll::Ready(outcome) => outcome.expect("no error"),
            Poll::Pending => break,
        }
        read += buffer.filled().len();
    }
    assert_eq!(read, longer.len());
    assert!(!whole.can_part(), "the reader has been given a part of a message");
}

#[test]
fn a_peer_that_finishes_in_the_middle_is_heard_to_its_last_byte() {
    let (mut client, server) = tokio::io::duplex(64);
    let mut whole = Whole::new(server, Vec::new());
    let said = &frame(true, TEXT, b"hello")[..7];
    let heard = async {
        tokio::io::AsyncWriteExt::write_all(&mut client, said).await.expect("room");
        drop(client);
        let mut heard = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut whole, &mut heard).await.expect("an end");
        heard
    };
    assert_eq!(heard.now_or_never().expect("it has finished"), said);
    assert!(!whole.can_part());
}
