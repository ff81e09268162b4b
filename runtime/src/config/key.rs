//! Every setting there is: one row of [`KEYS`] each, and its name in every place where it can be set.
//!
//! Invariant: the table is in the order of [`Setting`], so that a setting finds its row by its number.

use super::raw::Source;
use crate::daemon::STAGE;

/// One thing that can be set, by whichever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Setting {
    Program,
    Listen,
    Workers,
    Policy,
    MaxConnections,
    Shed,
    Protocol,
    Ready,
    ReadyTimeout,
    ReadyAfter,
    DrainTimeout,
    DrainGrace,
    DrainSignal,
    DrainGenerations,
    DrainAge,
    DrainMemory,
    Strategy,
    Probation,
    HangTimeout,
    RestartLimit,
    RestartPeriod,
    RecycleMemory,
    RecycleAge,
    RecycleConnections,
    RecycleAtOnce,
    TicketRotation,
    Env,
    User,
    Group,
    NoNewPrivs,
    Umask,
    Nice,
    OomScoreAdj,
    Nofile,
    Directory,
    SandboxRead,
    SandboxWrite,
    PidFile,
    Control,
    Daemon,
    LogFile,
    WorkerLogFile,
    AuditFile,
}

/// What a value is made of, so that a file can say it with TOML's own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole number.
    Number,
    /// True or false; as a flag it needs no value.
    Switch,
    /// A text of one form or another.
    Text,
    /// Texts, given one by one or in a list.
    List,
    /// Pairs of name and value: a table.
    Pairs,
    /// Tables with `name` and `address`.
    Listeners,
}

/// What holds when nothing is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Default {
    /// This value, read as if somebody had given it.
    Value(&'static str),
    /// What these words say: there is no value, or it depends on something else.
    Words(&'static str),
}

/// From when on a changed value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// From the next generation on.
    Generation,
    /// From the next start of the master on.
    Master,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) setting: Setting,
    /// As the configuration file names it. A dot leads into a table.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The form of one value, in the help.
    pub(crate) form: &'static str,
    pub(crate) default: Default,
    pub(crate) help: &'static str,
    pub(crate) reach: Reach,
}

impl Key {
    /// Whether it has a list of values.
    pub(crate) fn holds_many(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Pairs | Kind::Listeners)
    }
}

impl Setting {
    /// This setting's row.
    pub(crate) const fn key(self) -> &'static Key {
        &KEYS[self as usize]
    }

    /// The setting that a file or a flag, without its dashes, calls so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_it = |key: &&Key| key.name == name || key.setting.flag().strip_prefix("--") == Some(name);
        KEYS.iter().find(is_it).map(|key| key.setting)
    }

    /// This setting's name in that place, as its user knows it.
    pub(super) fn name_in(self, source: &Source) -> String {
        match source {
            Source::Flag => self.flag(),
            Source::Builder => format!("Builder::{}", self.word()),
            Source::Environment => self.variable(),
            Source::File { .. } | Source::Default => self.key().name.to_owned(),
        }
    }

    /// The flag that sets this.
    pub(crate) fn flag(self) -> String {
        match self {
            Self::Program => "PROGRAM".to_owned(),
            _ => format!("--{}", self.word().replace('_', "-")),
        }
    }

    /// The variable of the environment that sets this.
    pub(crate) fn variable(self) -> String {
        match self {
            Self::Policy => "EVERPORT_SCHED_POLICY".to_owned(),
            _ => format!("EVERPORT_{}", self.word().to_uppercase()),
        }
    }

    /// The name as one word.
    fn word(self) -> String {
        match self {
            // The file has a table for each listener, all other places have addresses.
            Self::Listen => "listen".to_owned(),
            _ => self.key().name.replace('.', "_"),
        }
    }
}

/// Variables of the master's environment that its workers do not get: a master inside a worker must not fight for the same
/// files, and systemd's sockets and notifications are the master's alone. `EVERPORT_LOG_FORMAT` and `RUST_LOG` do pass on.
pub(crate) fn master_environment() -> impl Iterator<Item = String> {
    let others = [
        "EVERPORT_CONFIG",
        STAGE,
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    ];
    KEYS.iter().map(|key| key.setting.variable()).chain(others.map(str::to_owned))
}

const fn key(
    setting: Setting,
    name: &'static str,
    (kind, form): (Kind, &'static str),
    default: Default,
    help: &'static str,
) -> Key {
    Key { setting, name, kind, form, default, help, reach: Reach::Generation }
}

/// The same key, which counts from the next start on.
const fn of_master(key: Key) -> Key {
    Key { reach: Reach::Master, ..key }
}

const NUMBER: (Kind, &str) = (Kind::Number, "N");
const SWITCH: (Kind, &str) = (Kind::Switch, "true|false");
const DURATION: (Kind, &str) = (Kind::Text, "D");
const SIZE: (Kind, &str) = (Kind::Text, "SIZE");
const FILE: (Kind, &str) = (Kind::Text, "F");
const NAME: (Kind, &str) = (Kind::Text, "NAME");
const PATHS: (Kind, &str) = (Kind::List, "PATH");

const NONE: Default = Default::Words("none");
const NEVER: Default = Default::Words("never");
const UNLIMITED: Default = Default::Words("unlimited");

/// Every key, in the order of [`Setting`].
pub(crate) const KEYS: [Key; 43] = {
    use self::Default::{Value, Words};
    use self::Setting as S;
    [
        key(S::Program, "program", (Kind::List, "PROGRAM"), NONE, "The program that the workers run"),
        key(
            S::Listen,
            "listener",
            (Kind::Listeners, "ADDR"),
            Words("none, workers ask"),
            "Bind a listener at start: 127.0.0.1:8000, unix:/run/app.sock, udp:0.0.0.0:53 …",
        ),
        key(S::Workers, "workers", NUMBER, Words("one per usable processor"), "How many workers"),
        key(
            S::Policy,
            "policy",
            (Kind::Text, "P"),
            Value("rr"),
            "How connections are spread over the workers: rr, none, least, p2c, hash or split",
        ),
        key(
            S::MaxConnections,
            "max_connections",
            NUMBER,
            UNLIMITED,
            "How many connections a worker may have; those beyond go to others, or wait",
        ),
        key(
            S::Shed,
            "shed",
            SWITCH,
            Value("false"),
            "Close connections that no worker may have for max-connections, instead of letting them wait",
        ),
        of_master(key(
            S::Protocol,
            "protocol",
            (Kind::Text, "everport|listen-fds"),
            Value("everport"),
            "How the program gets its listeners: everport, or listen-fds for one that knows nothing of Everport",
        )),
        key(
            S::Ready,
            "ready",
            (Kind::Text, "auto|manual"),
            Value("auto"),
            "When a worker is ready: auto, when it first accepts, or manual, when it says so",
        ),
        key(S::ReadyTimeout, "ready_timeout", DURATION, Value("30s"), "How long a worker may take until it is ready"),
        key(
            S::ReadyAfter,
            "ready_after",
            DURATION,
            NEVER,
            "Believe a program under listen-fds to be ready after this time, if nothing shows it",
        ),
        key(
            S::DrainTimeout,
            "drain_timeout",
            DURATION,
            Value("30s"),
            "How long a worker may drain before what is left is cut",
        ),
        key(
            S::DrainGrace,
            "drain_grace",
            DURATION,
            Value("10s"),
            "How long a connection that cannot move may wait for its next response while its worker drains",
        ),
        key(
            S::DrainSignal,
            "drain_signal",
            (Kind::Text, "SIGNAL"),
            Value("TERM"),
            "The signal that makes a program under listen-fds drain",
        ),
        key(
            S::DrainGenerations,
            "drain_generations",
            NUMBER,
            Value("4"),
            "How many generations may drain at once; a reload waits for its turn",
        ),
        key(
            S::DrainAge,
            "drain_age",
            DURATION,
            UNLIMITED,
            "Reload no more while a generation drains for longer than this",
        ),
        key(
            S::DrainMemory,
            "drain_memory",
            SIZE,
            UNLIMITED,
            "Reload no more while draining generations have more memory than this",
        ),
        key(
            S::Strategy,
            "strategy",
            (Kind::Text, "all|rolling"),
            Value("all"),
            "Replace all workers at once, or rolling: slot by slot",
        ),
        key(
            S::Probation,
            "probation",
            DURATION,
            Value("0s"),
            "How long the old generation stays warm for the case that the new one crashes",
        ),
        key(S::HangTimeout, "hang_timeout", DURATION, NEVER, "Replace a worker that shows no life for this long"),
        key(
            S::RestartLimit,
            "restart_limit",
            NUMBER,
            Value("60"),
            "How many crashes within restart-period a slot is replaced after at full pace",
        ),
        key(S::RestartPeriod, "restart_period", DURATION, Value("60s"), "The time in which restart-limit counts"),
        key(
            S::RecycleMemory,
            "recycle_memory",
            SIZE,
            UNLIMITED,
            "Replace a worker that has more memory than this, such as 512MiB",
        ),
        key(S::RecycleAge, "recycle_age", DURATION, UNLIMITED, "Replace a worker that is older than this"),
        key(
            S::RecycleConnections,
            "recycle_connections",
            NUMBER,
            UNLIMITED,
            "Replace a worker that has taken this many connections",
        ),
        key(
            S::RecycleAtOnce,
            "recycle_at_once",
            NUMBER,
            Value("1"),
            "How many workers may be under replacement by recycling at once",
        ),
        of_master(key(
            S::TicketRotation,
            "ticket_rotation",
            DURATION,
            Value("12h"),
            "How long one key seals TLS session tickets, which are good for one to two times as long",
        )),
        key(S::Env, "env", (Kind::Pairs, "NAME=VALUE"), NONE, "Set a variable in the workers' environment"),
        key(S::User, "user", NAME, Words("that of the master"), "The user that workers run as: a name or a number"),
        key(S::Group, "group", NAME, Words("that of the user"), "The group that workers run as: a name or a number"),
        key(
            S::NoNewPrivs,
            "no_new_privs",
            SWITCH,
            Words("true with user or a sandbox, else false"),
            "Workers can gain no privileges by exec",
        ),
        key(S::Umask, "umask", (Kind::Text, "OCTAL"), Words("that of the master"), "The workers' umask, such as 027"),
        key(S::Nice, "nice", NUMBER, Words("that of the master"), "The workers' nice value, -20 to 19"),
        key(
            S::OomScoreAdj,
            "oom_score_adj",
            NUMBER,
            Words("that of the master"),
            "How readily the kernel kills workers for want of memory, -1000 to 1000",
        ),
        key(
            S::Nofile,
            "nofile",
            NUMBER,
            Words("the soft limit that the master was started with"),
            "How many descriptors a worker may have: the soft limit NOFILE",
        ),
        key(
            S::Directory,
            "directory",
            (Kind::Text, "PATH"),
            Words("that of the master"),
            "The workers' working directory",
        ),
        key(
            S::SandboxRead,
            "sandbox.read",
            PATHS,
            UNLIMITED,
            "Workers may read below this path, and nowhere but where a sandbox flag says",
        ),
        key(
            S::SandboxWrite,
            "sandbox.write",
            PATHS,
            UNLIMITED,
            "Workers may read and write below this path, and nowhere but where a sandbox flag says",
        ),
        of_master(key(S::PidFile, "pid_file", FILE, NONE, "Write the master's pid to this file")),
        of_master(key(S::Control, "control", (Kind::Text, "SOCKET"), NONE, "Listen for commands at this path")),
        of_master(key(S::Daemon, "daemon", SWITCH, Value("false"), "Go to the background once the workers serve")),
        of_master(key(S::LogFile, "log_file", FILE, Words("standard error"), "Append the master's log to this file")),
        of_master(key(
            S::WorkerLogFile,
            "worker_log_file",
            FILE,
            Words("the master's own streams"),
            "Append what workers write to standard output and error to this file",
        )),
        of_master(key(
            S::AuditFile,
            "audit_file",
            FILE,
            NONE,
            "Append a line of JSON for every reload and order to this file",
        )),
    ]
};
