//! The keys of session tickets as the worker has them: those that the master said last, if it was asked.

use std::sync::{Arc, PoisonError, RwLock};

use super::link::Link;
#[cfg(feature = "rustls")]
use crate::message::ToMaster;
use crate::tickets::TicketKeys;

/// Nothing until the master has answered.
#[derive(Debug, Default)]
pub(super) struct Tickets(RwLock<Option<Arc<TicketKeys>>>);

impl Link {
    /// Puts the keys in place of those of before, which are zeroed when their last user is done with them.
    pub(super) fn tickets_came(&self, keys: TicketKeys) {
        *self.tickets.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
    }
}

#[cfg(feature = "rustls")]
impl Link {
    /// Asks the master for the keys, now and whenever they change. Asked again, the master says nothing new.
    pub(crate) fn want_tickets(self: &Arc<Self>) {
        if self.ticket_keys().is_none() {
            self.send(&mut self.desk(), ToMaster::WantTickets);
            self.drive_if_possible();
        }
    }

    /// The keys as they are now.
    pub(crate) fn ticket_keys(&self) -> Option<Arc<TicketKeys>> {
        self.tickets.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
