//! The keys of TLS session tickets, from the master's side: where they lie, and how a worker gets them.
//!
//! They are in this process's memory alone, never in a file, a log or the status, and zeroed when they are rotated out. They
//! do not outlive the master.

use std::io;

use everport_handoff::id::WorkerId;
use everport_handoff::message::ToWorker;
use everport_handoff::tickets::TicketKeys;
use rustix::rand::{GetRandomFlags, getrandom};
use tracing::{error, info};

use super::Shell;

impl Shell {
    /// Makes the keys, or rotates them. Without random bytes everything stays as it is until the next rotation.
    pub(super) fn rotate_ticket_keys(&mut self) {
        let rotated = match &mut self.ticket_keys {
            Some(keys) => keys.rotate(random),
            None => {
                let rotation = self.plans.active().config.ticket_rotation;
                TicketKeys::make(rotation, random).map(|keys| self.ticket_keys = Some(keys))
            }
        };
        match rotated {
            Ok(()) => info!("ticket keys rotated"),
            Err(error) => error!(%error, "ticket keys not rotated"),
        }
    }

    pub(super) fn send_ticket_keys(&mut self, worker: WorkerId) {
        if let Some(keys) = self.ticket_keys.clone() {
            self.order(worker, ToWorker::Tickets { keys }.into());
        }
    }
}

/// Fills the buffer from the kernel's generator, which does not block: it has been seeded, or fails.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    match getrandom(&mut *bytes, GetRandomFlags::NONBLOCK)? {
        // The kernel gives up to 256 bytes whole.
        read if read == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
