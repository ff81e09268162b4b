//! TLS by rustls: session tickets that every worker of every generation understands.
//!
//! - `ticket`: what a ticket is made of;
//! - this file: the ticketer, which seals and opens tickets with the keys of the master.

mod ticket;

use std::sync::Arc;

use rustls::server::ProducesTickets;

use crate::worker::Worker;
use crate::worker::link::Link;

/// What goes into `ServerConfig::ticketer`, so that a client resumes its session in whichever worker it comes to, also after
/// a reload. The stock ticketer of rustls has keys of its own in each process.
///
/// Call it before `bind`: then the keys are there before the first connection. Until they are, clients get no ticket, and
/// make full handshakes; nobody waits. Without a master this is the stock ticketer.
///
/// The master replaces the key that seals once per `ticket_rotation` (12 hours), and a ticket can be used for at least that
/// long and at most for twice that long. A key seals at most 2^32 tickets safely, in all workers together; with the default
/// that is 99,000 in each second.
///
/// **A ticket stands for the client certificate that was checked when it was made**, and rustls does not check again. All
/// configurations that use this ticketer, in all workers of this master, accept each other's tickets: give it only to those
/// that verify clients in the same way, and after a change of that way replace the master, not only the workers. Leave
/// `max_early_data_size` at 0: a ticket can be used twice.
///
/// ```no_run
/// # async fn serve(mut config: rustls::ServerConfig) -> Result<(), Box<dyn std::error::Error>> {
/// use everport_handoff::{net::TcpListener, tls, worker::Worker};
///
/// config.ticketer = tls::ticketer(&Worker::current()?)?;
/// let listener = TcpListener::bind("0.0.0.0:443").await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// There is no master, and the system has no random bytes.
pub fn ticketer(worker: &Worker) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    match worker.link() {
        Some(link) => Ok(shared(link)),
        None => rustls::crypto::ring::Ticketer::new(),
    }
}

/// The ticketer of a worker that has a master.
pub(crate) fn shared(link: &Arc<Link>) -> Arc<dyn ProducesTickets> {
    link.want_tickets();
    Arc::new(Shared { link: Arc::clone(link) })
}

/// Seals and opens with the keys that the master said last.
#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
}

impl ProducesTickets for Shared {
    fn enabled(&self) -> bool {
        true
    }

    /// A hint for clients. What ends the life of a ticket is the end of its key.
    fn lifetime(&self) -> u32 {
        let seconds = self.link.ticket_keys().map_or(0, |keys| keys.rotation.as_secs());
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        ticket::seal(&self.link.ticket_keys()?.current, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        ticket::open(&*self.link.ticket_keys()?, ticket)
    }
}
