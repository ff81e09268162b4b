//! What the master decides: pure state machines, fed with [`Event`]s, which answer with [`Action`]s.
//!
//! - `master`: where each event goes, and what can be seen from outside;
//! - `scheduler`: which worker is offered which connection, when an offer is revoked, when the master accepts;
//! - `generation`: what the master as a whole is about, the first generation, stop;
//! - `reload`: the reload transaction, all at once or slot by slot, with probation;
//! - `budget`: when a reload may begin beside the generations that still drain;
//! - `lifecycle`: what follows from what a worker says, or from what becomes of it;
//! - `clearing`: how a listener ends that a reload has removed;
//! - `kill`: why a worker is killed;
//! - `supervision`: the workers, the state and the deadline of each;
//! - `slots`: who fills which slot, when a crashed worker is started again, and which slot rests;
//! - `watchdog`: which worker hangs;
//! - `recycling`: which worker has served enough, and when its turn comes to be replaced;
//! - `rotation`: when the keys of session tickets change, and who gets them;
//! - `evidence`: when a program that knows nothing of Everport is ready;
//! - `orders`: scaling, and the pause;
//! - `split`: who accepts from which socket of a listener that has one for every slot;
//! - `listeners`: which slot of which generation uses which listener, and when nobody does any more.
//!
//! Architecture Invariant: nothing here knows a descriptor, a pid, a clock, a path or tokio. Time comes in as `now`.

mod budget;
mod clearing;
mod evidence;
mod generation;
mod kill;
mod lifecycle;
mod listeners;
mod master;
mod orders;
mod random;
mod recycling;
mod reload;
mod rotation;
mod scheduler;
mod slots;
mod split;
mod supervision;
#[cfg(test)]
mod tests;
mod watchdog;

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};
use everport_handoff::message::Sharing;

pub(crate) use self::budget::Delay;
pub(crate) use self::evidence::{Evidence, Proof, Rule, View};
pub(crate) use self::generation::GenerationState;
pub(crate) use self::kill::KillReason;
pub(crate) use self::master::Machine;
pub(crate) use self::orders::{MAX_WEIGHT, Scale};
pub(crate) use self::recycling::{Limits, Worn};
pub(crate) use self::slots::RestingView;
pub(crate) use self::supervision::WorkerState;

/// One connection that the master accepted. Grows with the age of the connection, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Who asked for a reload or a rollback: the shell's name for a signal or a control client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// A worker's name for one of its `Listen` messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u32);

/// A worker's name for one of its handovers; it is not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HandoverId(pub(crate) u64);

/// How a listener's connections reach the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// The master accepts and offers: policy `rr`.
    Offered,
    /// The workers hold the socket themselves: policy `none`, and UDP in every policy.
    Shared,
    /// Each worker holds a socket of its slot: policy `split`.
    Split,
}

/// How the master spreads the connections that it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OfferedPolicy {
    /// In turn.
    RoundRobin,
    /// To the worker with the fewest connections.
    Least,
    /// To the better of two workers at random.
    TwoChoices,
    /// To the slot that stands for the client.
    Hash,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// How the worker settled an offer, as the master read it from the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The worker owns the connection.
    Taken,
    /// The worker declined; it has closed its copy or never received one.
    Refused,
    /// The master's revocation won: nobody has read from the connection, but the worker may hold a copy until `Released`.
    Revoked,
    /// The worker has closed its copy of a revoked connection and freed the word.
    Released,
}

/// Facts from the outside world, in the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// When the configured listeners are bound and the first generation may start.
    Started,
    /// When `next_deadline` has come. The shell reads every board with unsettled offers (`Settled`, `Beat`) just before.
    Deadline,
    /// When somebody asked for a reload.
    ReloadAsked { ticket: Ticket },
    /// When somebody asked that the reload under way be rolled back.
    RollbackAsked { ticket: Ticket },
    /// When it is known how much memory the workers of `Action::MeasureDraining` hold.
    DrainingMeasured { bytes: u64 },
    /// When the next generation may start, as `Action::Prepare` asked: its settings, and all the listeners that these name.
    Prepared { settings: Box<Settings>, configured: Vec<ListenerId> },
    /// When the next generation cannot have what it needs. Listeners that were bound for it are closed.
    PrepareFailed { reason: String },
    /// When somebody asked for a stop: graceful, or at once.
    StopAsked { at_once: bool },
    /// When a signal asked for a graceful stop. The second one stops at once.
    StopSignalled,
    /// When somebody asked for another number of workers.
    ScaleAsked { to: Scale },
    /// When somebody asked that the workers take no connections for now.
    PauseAsked,
    /// When somebody asked that the workers take connections again.
    ResumeAsked,
    /// When the connections of an offered listener are to be spread otherwise.
    PolicyAsked { listener: ListenerId, policy: OfferedPolicy },
    /// When somebody asked that a slot get more or less than the others.
    WeightAsked { slot: Slot, weight: u32 },
    /// When somebody asked for the end of one worker. It is replaced as after a crash.
    KillAsked { worker: WorkerId },

    /// When the process of `Action::Spawn` could not be started. No `WorkerExited` follows.
    SpawnFailed { worker: WorkerId, reason: String },
    /// When a worker and this master have no protocol version in common. `WorkerExited` follows after `Action::Kill`.
    WorkerIncompatible { worker: WorkerId, reason: String },
    /// When a worker said that it can serve.
    WorkerReady { worker: WorkerId },
    /// When a worker asked to be replaced and drained.
    WorkerLeaving { worker: WorkerId },
    /// When a draining worker has no connection and no guard left.
    WorkerDrained { worker: WorkerId },
    /// When a worker closed its channel. If it is exiting, `WorkerExited` follows in a moment.
    ChannelClosed { worker: WorkerId },
    /// When a worker broke the protocol. It is not trusted with anything more.
    WorkerBroke { worker: WorkerId, reason: String },
    /// When a worker asked for the keys of session tickets.
    TicketKeysWanted { worker: WorkerId },
    /// When a worker has gone, and its channel has been read to the end. Comes exactly once per spawned worker.
    /// Its board can still be revoked and read until `Action::Forget`.
    WorkerExited { worker: WorkerId, exit: Exit },

    /// When the master has bound or adopted a listener. A configured one belongs to the generation that is being prepared,
    /// or to the first.
    ListenerBound { listener: ListenerId, spread: Spread, configured: bool },
    /// When a worker asked for a listener that the master holds (bound just now or before).
    ListenAsked { worker: WorkerId, request: RequestId, listener: ListenerId },
    /// When it is known whether somebody waits at a listener, as `Action::Look` asked.
    Looked { listener: ListenerId, awaited: bool },
    /// When a listener that is split has so many sockets: those of the slots below this. `AnswerListen` adds what is missing.
    SocketsAdded { listener: ListenerId, sockets: u32 },
    /// When a worker closed its side of a listener; or could not get it.
    ListenerClosed { worker: WorkerId, listener: ListenerId },

    /// When it is known how many connections each worker has, as `Machine::wants_loads` asked.
    LoadsRead { active: Vec<(WorkerId, u64)> },
    /// When it is known how many connections a worker has, as `Action::WatchLoad` orders, or because it refused one. What it
    /// settled before was fed.
    LoadRead { worker: WorkerId, active: u64 },
    /// When the master accepted a connection. `key` is the same for all that a client makes; nothing if it has no address.
    Accepted { listener: ListenerId, connection: ConnectionId, key: Option<u64> },
    /// When a worker gave a live connection away. It is a new one to the machine, or that very one which this worker took and
    /// of which the master still has its copy.
    HandedOver {
        worker: WorkerId,
        handover: HandoverId,
        listener: ListenerId,
        connection: ConnectionId,
        key: Option<u64>,
    },
    /// When accepting failed for want of descriptors or memory, or the last descriptors are reached.
    AcceptExhausted,
    /// When an offer changed hands.
    Settled { worker: WorkerId, connection: ConnectionId, how: Settled },
    /// When an offer could not be sent: the channel is full. The worker never saw it and its word is free again.
    OfferFailed { worker: WorkerId, connection: ConnectionId },
    /// When the channel of `OfferFailed` has room again.
    ChannelWritable { worker: WorkerId },
    /// When a worker's heartbeat moved since it was last looked at.
    Beat { worker: WorkerId },
    /// When the figures of `Action::Measure` are known: the resident memory in bytes, and the connections taken in all.
    Measured { worker: WorkerId, memory: Option<u64>, taken: u64 },
}

/// Orders to the shell, carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the keys of session tickets, or rotate those that there are.
    RotateTicketKeys,
    /// Send a worker the keys of session tickets.
    SendTicketKeys { worker: WorkerId },
    /// Start a process. Answered by `SpawnFailed` or, in the end, by `WorkerExited`.
    Spawn { worker: WorkerId, slot: Slot, generation: Generation },
    /// Kill a worker's process group at once.
    Kill { worker: WorkerId, why: KillReason },
    /// Tell a hung worker to abort. It is killed a little later if it still lives.
    Abort { worker: WorkerId },
    /// Tell a worker that it may accept.
    Activate { worker: WorkerId },
    /// Tell a worker to accept nothing more and to keep what it has, until it is activated again or drains.
    Pause { worker: WorkerId },
    /// Tell a worker to drain, and whether others may take its connections over. It is killed at the deadline if it still
    /// lives.
    Drain { worker: WorkerId, deadline: Instant, successor: bool },
    /// A dead worker has nothing unsettled left: drop its board and channel. Comes once for each `WorkerExited`, never
    /// after `SpawnFailed`.
    Forget { worker: WorkerId },

    /// Answer a worker's `Listen`: the listener is its to use; or, if it is split, the socket of its slot. Answered by
    /// `ListenerClosed` if it cannot be had.
    AnswerListen { worker: WorkerId, request: RequestId, listener: ListenerId, sharing: Sharing },
    /// Answer a worker's `Listen` with `EADDRINUSE`: it has this listener already.
    RefuseListen { worker: WorkerId, request: RequestId, listener: ListenerId },
    /// Give a worker the socket of this slot too, to accept from it.
    Lend { worker: WorkerId, listener: ListenerId, slot: Slot },
    /// Tell a worker to close its copy of such a socket.
    TakeBack { worker: WorkerId, listener: ListenerId, slot: Slot },
    /// Spread new connections over the sockets of so many slots from the first one on.
    Steer { listener: ListenerId, over: u32 },
    /// Let nobody new in at a listener. Whoever waits there is accepted yet.
    ShutOut { listener: ListenerId },
    /// Let everybody in again.
    LetIn { listener: ListenerId },
    /// Look whether somebody waits at a listener. Always answered, by `Looked`.
    Look { listener: ListenerId },
    /// Close a listener: nobody uses it any more.
    CloseListener { listener: ListenerId },

    /// Accept from a listener as long as `Machine::room` says so.
    StartAccepting { listener: ListenerId },
    /// Leave further connections in the kernel's backlog.
    StopAccepting { listener: ListenerId },
    /// Offer a connection. Fails with `OfferFailed`, else it is settled on the board.
    Offer { worker: WorkerId, connection: ConnectionId },
    /// Revoke an offer. Answered at once by `Settled`: `Revoked`, or how the worker settled it first.
    /// If the answer is on its way already, as `Settled` or as `OfferFailed`, there is no other. For a dead worker too: its
    /// forked child may share the board.
    Revoke { worker: WorkerId, connection: ConnectionId },
    /// Ask a worker to beat. Answered by `Beat`, if it is not hung.
    AskBeat { worker: WorkerId },
    /// Look at a worker's figures. Answered by `Measured`.
    Measure { worker: WorkerId },
    /// From now on, or no longer, the worker rings at every change on its board. The shell reads the board once after
    /// switching on.
    Ring { worker: WorkerId, on: bool },
    /// From now on, or no longer, the worker rings when one of its connections ends. The shell reads its load
    /// (`LoadRead`) once after switching on, and whenever it reads the board.
    WatchLoad { worker: WorkerId, on: bool },
    /// Free the word of an offer that the worker refused; or took, after `Close` of that connection; or gave away since.
    /// Words of a dead worker are not freed: `Forget` drops its board.
    FreeWord { worker: WorkerId, connection: ConnectionId },
    /// Close the master's copy of a connection.
    Close { connection: ConnectionId },
    /// Tell a worker that a connection which it handed over has another owner.
    TellMoved { worker: WorkerId, handover: HandoverId },
    /// Give a connection that nobody could take back to the worker that handed it over, and close the master's copy.
    Return { worker: WorkerId, handover: HandoverId, connection: ConnectionId },
    /// Shut a connection down and close the master's copy: its owner has died, the client must see the end.
    Shutdown { connection: ConnectionId },

    /// Close a connection that nobody has ever read from: no worker may have it.
    Shed { connection: ConnectionId },

    /// A slot rests: its workers failed too often. From now on it is filled at this pace.
    SlotRests { generation: Generation, slot: Slot, pace: Duration },
    /// A worker of a resting slot has been steady: the slot is trusted again.
    SlotRecovered { generation: Generation, slot: Slot },
    /// A worker is being replaced, for it reached a limit.
    Recycling { worker: WorkerId, why: Worn },
    /// A stop has begun: graceful, or at once.
    StopBegan { at_once: bool },
    /// A generation was activated of which no worker took this configured listener: its clients wait for nobody.
    WarnUnclaimed { listener: ListenerId },
    /// A reload that was asked for does not begin yet. Comes once, however long it waits.
    ReloadDelayed { why: Delay },
    /// Find out how much memory these workers hold. Always answered by `DrainingMeasured`.
    MeasureDraining { workers: Vec<WorkerId> },
    /// Find out what the next generation needs, and bind the listeners that it has beside those of now. Always answered, by
    /// `Prepared` or `PrepareFailed`.
    Prepare { generation: Generation },
    /// A reload has begun.
    ReloadStarted { generation: Generation, tickets: Vec<Ticket> },
    /// The new generation serves, and may be rolled back until then.
    ProbationStarted { generation: Generation, until: Instant, phases: Phases },
    /// A reload has ended, for all who wait for it. One that never began ends without a `ReloadStarted`, with the number
    /// that it would have had. `retired` drains because of it: the old generation, or a new one that had served already.
    ReloadEnded {
        generation: Generation,
        tickets: Vec<Ticket>,
        outcome: Outcome,
        phases: Phases,
        retired: Option<Generation>,
    },
    /// There was no reload to roll back.
    NothingToRollBack { ticket: Ticket },
    /// A generation that drained has ended: its last worker has gone.
    GenerationDrained { generation: Generation, after: Duration },
    /// The master is done: every worker has gone.
    Finish { failure: Option<Failure> },
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The new generation serves, the old one drains.
    Committed,
    /// The old generation serves as if nothing had happened.
    RolledBack(Failure),
}

/// Why a generation could not start, or not stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The generation could not be given what it needs: its settings are wrong, or a listener could not be bound.
    NotPrepared { reason: String },
    /// A worker's process could not be started.
    SpawnFailed { slot: Slot, reason: String },
    /// A worker ended before it was ready.
    Exited { slot: Slot, worker: WorkerId, exit: Exit },
    /// A worker ended after it was activated, while its generation could still be rolled back.
    Crashed { slot: Slot, worker: WorkerId, exit: Exit },
    /// A worker was not ready in time.
    NotReady { slot: Slot, worker: WorkerId, after: Duration },
    /// A worker speaks no version of the protocol that this master speaks.
    Incompatible { slot: Slot, worker: WorkerId, reason: String },
    /// A worker broke the protocol.
    Broke { slot: Slot, worker: WorkerId, reason: String },
    /// A worker asked to leave before it was ready.
    Left { slot: Slot, worker: WorkerId },
    /// A worker showed no life for too long.
    Hung { slot: Slot, worker: WorkerId },
    /// Somebody asked for a rollback.
    Asked { ticket: Ticket },
    /// The master was told to stop.
    Stopped,
}

/// How long the phases of a reload took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    /// From the first spawn until the new generation served, or until the failure.
    pub(crate) starting: Duration,
    /// From then until the outcome.
    pub(crate) probation: Duration,
}

/// In which order a reload replaces the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// All new workers start at once, and serve when all are ready.
    #[default]
    All,
    /// Slot by slot: each new worker serves when it is ready, before the next one is started.
    Rolling,
}

/// What the machines must know of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How many slots a generation has.
    pub(crate) workers: u32,
    /// How long a worker may take from its start until it is ready.
    pub(crate) ready_timeout: Duration,
    /// How long a worker may drain before it is killed.
    pub(crate) drain_timeout: Duration,
    /// In which order a reload replaces the workers.
    pub(crate) strategy: Strategy,
    /// How long a new generation serves before the old one drains.
    pub(crate) probation: Duration,
    /// How many generations may drain at a time before a reload waits. Zero counts as one.
    pub(crate) drain_generations: u32,
    /// A reload waits while a generation has drained for that long.
    pub(crate) drain_age: Option<Duration>,
    /// A reload waits while those that drain hold so many bytes.
    pub(crate) drain_memory: Option<u64>,
    /// How long a worker may leave an offer untaken.
    pub(crate) steal_after: Duration,
    /// How many untaken or revoked offers a worker may have.
    pub(crate) credit: usize,
    /// How many offer words a board has. Words that the worker took stay in use while another worker holds a revoked copy,
    /// so there must be more of them than credit.
    pub(crate) words: usize,
    /// How many accepted connections of one listener may wait for a worker with credit.
    pub(crate) queue: usize,
    /// How many connections a worker may have.
    pub(crate) max_connections: Option<u64>,
    /// Whether connections that no worker may have are closed, instead of left to wait in the kernel.
    pub(crate) shed: bool,
    /// How workers are looked after.
    pub(crate) care: Care,
    /// How long one key seals session tickets. Those of the master's start count to its end.
    pub(crate) ticket_rotation: Duration,
}

/// How workers are looked after: what a slot may cost, when a worker hangs, when it has served enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Care {
    /// Where the jitter of this master begins.
    pub(crate) seed: u64,
    /// How many slots there may be.
    pub(crate) most_workers: u32,
    /// How often a slot, and a generation, may be filled again within `restart_period` before a slot rests.
    pub(crate) restart_limit: u32,
    pub(crate) restart_period: Duration,
    /// How long a worker may show no life.
    pub(crate) hang_timeout: Option<Duration>,
    /// How much a worker may serve.
    pub(crate) recycle: Limits,
    /// How many workers may be replaced for that at a time.
    pub(crate) recycle_at_once: u32,
}

/// What became of the offers to one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// How many offers were sent.
    pub(crate) offered: u64,
    /// How many of them the worker took.
    pub(crate) taken: u64,
    /// How many of them the worker refused.
    pub(crate) refused: u64,
    /// How many of them the master revoked.
    pub(crate) revoked: u64,
    /// How many connections of this worker moved to others.
    pub(crate) given: u64,
    /// How many of those that it took were moved to it.
    pub(crate) received: u64,
}

/// One worker, for `everport status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerView {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) state: WorkerState,
    /// When its process was started.
    pub(crate) started: Instant,
    /// How many workers of this slot, in this generation, were followed by another.
    pub(crate) restarts: u32,
    /// How much its slot shall get, against the others.
    pub(crate) weight: u32,
    pub(crate) counters: Counters,
}

/// Whether a reload is under way, for `everport status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadView {
    /// When nobody asked for one.
    None,
    /// When one has not begun: the first generation is not active yet, or the budget of those that drain is full.
    Pending { why: Option<Delay> },
    /// When one is under way, and whether another waits behind it.
    Running { generation: Generation, step: StepView, pending: bool },
}

/// How far a reload is, for `everport status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepView {
    /// When the new workers start, all at once.
    Starting,
    /// When the new worker of this slot starts.
    Rolling { slot: Slot },
    /// When the new generation serves, and the old one can be resumed until then.
    Probation { until: Instant },
}
