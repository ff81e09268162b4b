//! Which slot of which generation uses which listener, and when nobody does any more.
//!
//! A worker *uses* a listener from its `Listen` until it closes it or dies. Its slot *claims* the listener for longer: a
//! crash is no close, so the claim stays until the slot's next worker is ready without it. The master holds a listener that
//! the settings of a generation name, or that a slot of it claims, as long as that generation is starting or active.
//!
//! Invariant: only generations that are starting or active name or claim listeners.

use std::collections::{BTreeMap, BTreeSet};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

#[derive(Debug, Default)]
pub(super) struct Listeners {
    held: BTreeMap<ListenerId, Listener>,
}

#[derive(Debug)]
struct Listener {
    /// The generations whose settings name it.
    named_by: BTreeSet<Generation>,
    users: BTreeSet<WorkerId>,
    claims: BTreeSet<(Generation, Slot)>,
}

impl Listener {
    fn is_wanted(&self) -> bool {
        !self.named_by.is_empty() || !self.claims.is_empty()
    }
}

/// What a worker's `Listen` meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// When this worker uses the listener already.
    InUse,
    /// When the master does not hold such a listener.
    Unknown,
}

impl Listeners {
    pub(super) fn bound(&mut self, listener: ListenerId) {
        let bound = Listener { named_by: BTreeSet::new(), users: BTreeSet::new(), claims: BTreeSet::new() };
        self.held.entry(listener).or_insert(bound);
    }

    /// The settings of the generation name the listener.
    pub(super) fn name(&mut self, listener: ListenerId, generation: Generation) {
        if let Some(named) = self.held.get_mut(&listener) {
            named.named_by.insert(generation);
        }
    }

    pub(super) fn holds(&self, listener: ListenerId) -> bool {
        self.held.contains_key(&listener)
    }

    /// The worker asks to use a listener; `claimant` is its slot, unless its generation is on its way out.
    pub(super) fn asked(
        &mut self,
        worker: WorkerId,
        listener: ListenerId,
        claimant: Option<(Generation, Slot)>,
    ) -> Admission {
        let Some(asked) = self.held.get_mut(&listener) else {
            return Admission::Unknown;
        };
        asked.claims.extend(claimant);
        if asked.users.insert(worker) { Admission::Granted } else { Admission::InUse }
    }

    /// The worker closed the listener; `others` are the workers that share its slot.
    pub(super) fn closed(
        &mut self,
        worker: WorkerId,
        listener: ListenerId,
        claimant: (Generation, Slot),
        others: &[WorkerId],
    ) {
        if let Some(closed) = self.held.get_mut(&listener)
            && closed.users.remove(&worker)
            && !others.iter().any(|other| closed.users.contains(other))
        {
            closed.claims.remove(&claimant);
        }
    }

    pub(super) fn worker_gone(&mut self, worker: WorkerId) {
        for listener in self.held.values_mut() {
            listener.users.remove(&worker);
        }
    }

    /// The slot is served by workers that have asked for all they want: it claims what they use and nothing else.
    pub(super) fn limit_claims(&mut self, claimant: (Generation, Slot), workers: &[WorkerId]) {
        for listener in self.held.values_mut() {
            if !workers.iter().any(|worker| listener.users.contains(worker)) {
                listener.claims.remove(&claimant);
            }
        }
    }

    /// The generation is on its way out: it names and claims nothing more.
    pub(super) fn drop_claims(&mut self, generation: Generation) {
        for listener in self.held.values_mut() {
            listener.named_by.remove(&generation);
            listener.claims.retain(|(claimant, _)| *claimant != generation);
        }
    }

    /// The listeners that a worker uses, but nobody names or claims any more.
    pub(super) fn unclaimed_in_use(&self) -> Vec<ListenerId> {
        let of_interest = |listener: &Listener| !listener.is_wanted() && !listener.users.is_empty();
        self.held.iter().filter(|(_, listener)| of_interest(listener)).map(|(id, _)| *id).collect()
    }

    /// The workers that use this listener, by age.
    pub(super) fn users(&self, listener: ListenerId) -> impl Iterator<Item = WorkerId> {
        self.held.get(&listener).into_iter().flat_map(|held| held.users.iter().copied())
    }

    pub(super) fn is_user(&self, worker: WorkerId, listener: ListenerId) -> bool {
        self.held.get(&listener).is_some_and(|held| held.users.contains(&worker))
    }

    /// The listeners that this worker uses.
    pub(super) fn used_by(&self, worker: WorkerId) -> Vec<ListenerId> {
        self.held.iter().filter(|(_, listener)| listener.users.contains(&worker)).map(|(id, _)| *id).collect()
    }

    /// The listeners that the settings of this generation name and no slot of it claims.
    pub(super) fn unclaimed_by(&self, generation: Generation) -> impl Iterator<Item = ListenerId> {
        let claims = move |listener: &Listener| listener.claims.iter().any(|(claimant, _)| *claimant == generation);
        let is_idle = move |held: &Listener| held.named_by.contains(&generation) && !claims(held);
        self.held.iter().filter(move |(_, held)| is_idle(held)).map(|(id, _)| *id)
    }

    /// Drops, and returns, the listeners that nobody names or claims any more, but for these.
    pub(super) fn take_unclaimed(&mut self, spared: &[ListenerId]) -> Vec<ListenerId> {
        let mut unclaimed = Vec::new();
        self.held.retain(|id, listener| {
            let keep = listener.is_wanted() || spared.contains(id);
            if !keep {
                unclaimed.push(*id);
            }
            keep
        });
        unclaimed
    }

    /// Drops, and returns, all listeners: the master stops.
    pub(super) fn take_all(&mut self) -> Vec<ListenerId> {
        std::mem::take(&mut self.held).into_keys().collect()
    }
}
