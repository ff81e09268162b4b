//! What a server that accepts for ever does about errors.

use std::io;
use std::time::Duration;

/// How long to wait when the system refuses a connection for want of descriptors or memory: what axum waits.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Whether one client has given up, which is no reason to let the next one wait.
pub(crate) fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}
