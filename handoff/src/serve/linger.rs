//! The gentle end of a connection: to close a socket with unread bytes resets it, and the reset destroys what the client
//! has not read yet. So this end says that it is done, and reads until the client has ended its side as well.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long the client's end is awaited.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(5);

/// How many bytes are read and thrown away at most.
pub(super) const LINGER_BYTES: usize = 1024 * 1024;

/// Ends this side, if it is not ended yet, and waits for the client to end the other.
pub(super) async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let gentle = async {
        io.shutdown().await?;
        let (mut left, mut waste) = (LINGER_BYTES, vec![0; 8 * 1024]);
        while left > 0 {
            let length = io.read(&mut waste).await?;
            if length == 0 {
                break;
            }
            left = left.saturating_sub(length);
        }
        std::io::Result::Ok(())
    };
    // A client that is gone needs no gentleness, and one that does not end has had its time.
    let _ = tokio::time::timeout(LINGER_TIME, gentle).await;
}
