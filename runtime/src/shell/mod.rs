//! The shell: turns the outside world into [`Event`]s for the machine and carries out its [`Action`]s.
//!
//! One thread, one loop, one epoll. In one turn it looks what became of the offers, takes what epoll reports, feeds the
//! machine, sends the offers that came of it in as few messages as possible, and sleeps until something happens or the
//! machine's next deadline.
//!
//! Architecture Invariant: the shell owns every descriptor and process and decides nothing; nothing in the loop blocks.

mod announce;
mod audit;
mod clock;
mod connections;
mod effects;
mod foreign;
mod handover;
mod link;
mod listeners;
mod manager;
mod measure;
mod operator;
mod orphans;
mod pin;
mod plan;
mod poller;
mod privileges;
mod process;
mod records;
mod reopening;
mod signals;
mod sources;
mod spread;
mod status;
mod surroundings;
mod tickets;
mod worker_log;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;
use everport_handoff::socket::InheritedSockets;
use everport_handoff::tickets::TicketKeys;
use tracing::info;

use self::audit::Audit;
use self::connections::Connections;
use self::foreign::Foreigners;
use self::link::Link;
use self::listeners::Listeners;
use self::manager::Manager;
use self::plan::{Plan, Plans};
use self::poller::{Poller, Source};
pub use self::privileges::PrivilegeError;
use self::process::Launcher;
use self::records::Records;
use self::signals::Signals;
pub(crate) use self::spread::PolicyError;
use self::surroundings::Output;
use crate::config::{Config, Origin};
use crate::control::protocol::MasterState;
use crate::control::request::Requests;
use crate::control::server::Server;
use crate::daemon::Notice;
use crate::error::{Error, Result};
use crate::machine::{Action, Event, Failure, Machine};
use crate::pid_file::PidFile;

/// How long to wait before sending again what found no room for descriptors under way: the workers take theirs in less.
const STARVED_RETRY: Duration = Duration::from_millis(100);

/// Runs the master until it is told to stop, and gives notice when it serves. Called in the master, on its main thread.
pub(crate) fn run(config: Config, origin: Origin, notice: Option<Notice>) -> Result<()> {
    let mut shell = Shell::start(config, origin, notice)?;
    let ended = shell.run();
    info!("master stopped");
    ended
}

/// Everything that the master owns.
struct Shell {
    origin: Origin,
    plans: Plans,
    machine: Machine,
    output: Output,
    manager: Manager,
    /// To be given once, when the first generation serves.
    notice: Option<Notice>,
    /// The state of which the outside was told last.
    announced: MasterState,
    /// Whether something has happened that the outside may want to know.
    has_news: bool,
    adopts_orphans: bool,
    poller: Poller,
    listeners: Listeners,
    connections: Connections,
    links: BTreeMap<WorkerId, Link>,
    /// Nothing until a worker asks for them.
    ticket_keys: Option<TicketKeys>,
    /// The workers that have no link.
    foreigners: Foreigners,
    /// Links with offers that are on the board and not yet in the channel.
    staged: Vec<WorkerId>,
    /// Links with offers that were not settled at the last look, each once.
    unsettled: Vec<WorkerId>,
    /// Links that found no room for descriptors under way; tried again after a moment.
    starved: BTreeSet<WorkerId>,
    signals: Signals,
    control: Option<(Server, Requests)>,
    records: Records,
    events: VecDeque<Event>,
    /// The room for those of one event, kept from one to the next.
    actions: Vec<Action>,
    end: Option<Option<Failure>>,
    // Removed when the master ends.
    _pid_file: Option<PidFile>,
}

impl Shell {
    /// Acquires everything; any failure is named and leaves nothing behind.
    fn start(config: Config, mut origin: Origin, notice: Option<Notice>) -> Result<Self> {
        let signals = Signals::catch().map_err(Error::io("catch", &"signals"))?;
        let poller = Poller::new().map_err(|errno| Error::io("make", &"an epoll")(errno.into()))?;
        let soft = privileges::raise_nofile().map_err(Error::io("raise", &"the limit of descriptors"))?;
        let launcher = Launcher::new(&config, soft)?;
        origin.anchor(launcher.directory());
        let output = Output::start(&config)?;
        let manager = Manager::from_env().map_err(Error::io("reach", &"the service manager of NOTIFY_SOCKET"))?;
        let pid_file = config.pid_file.as_deref().map(PidFile::create).transpose()?;
        let inherited = InheritedSockets::from_env().map_err(Error::io("adopt", &"the sockets of LISTEN_FDS"))?;
        let control = config.control.as_deref().map(Server::start).transpose()?;
        let foreigners = Foreigners::new(&config).map_err(Error::io("make", &"the socket for READY=1"))?;
        let mut shell = Self {
            machine: Machine::new(plan::settings(&config)),
            origin,
            output,
            manager,
            notice,
            announced: MasterState::Starting,
            has_news: true,
            adopts_orphans: orphans::come_to_us(),
            listeners: Listeners::new(inherited),
            connections: Connections::default(),
            links: BTreeMap::new(),
            ticket_keys: None,
            foreigners,
            staged: Vec::new(),
            unsettled: Vec::new(),
            starved: BTreeSet::new(),
            records: Records::new(Audit::new(config.audit_file.clone())),
            events: VecDeque::new(),
            actions: Vec::new(),
            end: None,
            _pid_file: pid_file,
            plans: Plans::new(Plan { config, launcher, configured: Vec::new() }),
            poller,
            signals,
            control,
        };
        shell.watch_own_sources().map_err(|errno| Error::io("watch", &"signals and control")(errno.into()))?;
        let config = &shell.plans.active().config;
        let (listen, policy) = (config.listen.clone(), config.policy);
        shell.plans.active_mut().configured = shell.bind_configured(&listen, policy)?;
        Ok(shell)
    }

    fn watch_own_sources(&self) -> nix::Result<()> {
        self.poller.add(&self.signals, Source::Signals)?;
        if let Some(notices) = self.foreigners.notices() {
            self.poller.add(notices, Source::Notices)?;
        }
        match &self.control {
            Some((_, requests)) => self.poller.add(requests, Source::Control),
            None => Ok(()),
        }
    }

    fn run(&mut self) -> Result<()> {
        let (workers, policy) = (self.plans.active().config.workers.get(), self.plans.active().config.policy);
        info!(pid = std::process::id(), workers, %policy, "master started");
        self.note(Event::Started);
        self.pump();
        while self.end.is_none() {
            self.turn()?;
        }
        match self.end.take().flatten() {
            None => Ok(()),
            Some(failure) => Err(Error::FirstGeneration { reason: self.records.describe(&failure) }),
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Result<()> {
        let retry = (!self.starved.is_empty()).then(|| clock::now() + STARVED_RETRY);
        let look = self.foreigners.next_look();
        let deadlines = [self.machine.next_deadline(), retry, look, self.manager.next_deadline()];
        let wait = self.poller.wait(deadlines.into_iter().flatten().min());
        wait.map_err(|errno| Error::io("wait for", &"events")(errno.into()))?;
        // What was taken meanwhile is done with: the sooner, the fewer workers must shut down what they only have to close.
        self.settle_offers();
        while let Some(ready) = self.poller.next() {
            self.take(ready);
            self.pump();
        }
        let due = |deadline: Instant| deadline <= clock::now();
        if look.is_some_and(due) {
            self.look_at_foreigners();
            self.pump();
        }
        if retry.is_some_and(due) {
            for worker in std::mem::take(&mut self.starved) {
                self.use_room(worker);
            }
            self.pump();
        }
        if self.machine.next_deadline().is_some_and(due) {
            self.read_boards();
            self.note(Event::Deadline);
            self.pump();
        }
        self.send_offers();
        self.announce_state();
        Ok(())
    }

    /// Keeps an event for the next [`pump`](Self::pump).
    fn note(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Feeds the machine with what was noted and does what it says, and so on with the events that come of that.
    fn pump(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(event) = self.events.pop_front() {
            self.machine.handle(event, clock::now(), &mut actions);
            for action in actions.drain(..) {
                self.note_news(&action);
                self.carry_out(action);
            }
        }
        self.actions = actions;
    }
}
