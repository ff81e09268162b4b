//! Why a worker is killed, and the one way to kill it.

use std::time::Instant;

use everport_handoff::id::WorkerId;

use super::{Action, Failure, Machine, WorkerState};

/// Why a worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillReason {
    /// When it was told to drain, and its hard deadline has come.
    DrainTimeout,
    /// When it was not ready in time.
    NotReady,
    /// When it asked to leave before it was ready.
    Left,
    /// When it and this master have no protocol version in common.
    Incompatible,
    /// When it broke the protocol.
    Broke,
    /// When it closed its channel and lived on.
    Silent,
    /// When it hung, and did not die of its abort.
    Hung,
    /// When its generation could not start, or was rolled back before it served.
    RolledBack,
    /// When it was not ready yet and nobody needs it any more: a commit, a scaling down or a graceful stop came first.
    NotNeeded,
    /// When the master was told to stop at once, or has failed.
    StoppedAtOnce,
    /// When somebody asked for it.
    Asked,
}

impl KillReason {
    /// The reason that lies in the failure of a worker that cannot be used.
    pub(super) fn of(failure: &Failure) -> Self {
        match failure {
            Failure::NotReady { .. } => Self::NotReady,
            Failure::Left { .. } => Self::Left,
            Failure::Incompatible { .. } => Self::Incompatible,
            Failure::Hung { .. } => Self::Hung,
            Failure::Broke { .. } => Self::Broke,
            Failure::NotPrepared { .. }
            | Failure::SpawnFailed { .. }
            | Failure::Exited { .. }
            | Failure::Crashed { .. }
            | Failure::Asked { .. }
            | Failure::Stopped => Self::RolledBack,
        }
    }
}

impl Machine {
    pub(super) fn kill(&mut self, id: WorkerId, why: KillReason, now: Instant, actions: &mut Vec<Action>) {
        let state = self.supervision.get(id).map(|worker| worker.state);
        if !matches!(state, None | Some(WorkerState::Killed { .. })) {
            self.scheduler.forsake(id);
            self.scheduler.stop(id, actions);
            self.supervision.kill(id, why, now, actions);
        }
    }

    pub(super) fn kill_where(
        &mut self,
        doomed: impl Fn(WorkerState) -> bool,
        why: KillReason,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let workers: Vec<_> =
            self.supervision.workers().filter(|(_, worker)| doomed(worker.state)).map(|(id, _)| id).collect();
        for worker in workers {
            self.kill(worker, why, now, actions);
        }
    }
}
