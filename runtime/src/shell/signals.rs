//! Signals to the master. A handler only notes the signal; the loop reads it here and makes an [`Order`] of it.
//!
//! | signal | the master does |
//! |---|---|
//! | HUP | reload; a graceful stop when the kernel sent it, or when the terminal of the start has gone; started with `nohup`, only a process's HUP counts, and it is a reload |
//! | TERM, INT | graceful stop; the second one stops at once |
//! | QUIT | stop at once |
//! | TTIN, TTOU | one worker more, one less |
//! | WINCH | pause: the workers take no connections until `everport resume` |
//! | USR1 | opens the log files again |
//! | USR2 | logs that it is not supported yet |
//!
//! CHLD is caught for one reason: if it were ignored, as some parents leave it, no exit status would be kept. PIPE is
//! caught because sending descriptors to a worker that has just gone raises it, and a program may have given it back its
//! default action, which would end the master.
//!
//! TTIN, TTOU and WINCH act only when a process sent them: a terminal sends them too, on a resize or for output from the
//! background. What decides is how the signal was sent and not by whom: `docker kill` shows up as pid 0.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::SigSet;
use rustix::io::Errno;
use signal_hook::consts::{
    SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::exfiltrator::origin::Origin;
use signal_hook::low_level::siginfo::Cause;

use crate::control::protocol::AskedBy;
use crate::machine::Scale;

/// Who sent a signal: pid and uid; none when the kernel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

impl From<Sender> for AskedBy {
    fn from(Sender { pid, uid }: Sender) -> Self {
        // A pid is positive; 0 stands for a sender in another pid namespace.
        Self::Signal { pid: u32::try_from(pid).unwrap_or(0), uid }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A new generation.
    Reload(Sender),
    /// A graceful stop, or at once. The second graceful one is at once.
    Stop { signal: &'static str, at_once: bool },
    /// Another number of workers.
    Scale { by: Sender, to: Scale },
    /// No connections for now.
    Pause { by: Sender },
    /// Opening the log files again.
    Reopen,
    /// Something that this version cannot do.
    Unsupported { signal: &'static str },
}

/// The signals of the master, from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    terminal: Terminal,
}

/// What the terminal of the start has to say about a HUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// There was none.
    None,
    /// There was one: a HUP without it means that it has gone.
    Present,
    /// The master was started to outlive it, as `nohup` does by ignoring HUP.
    Outlived,
}

impl Signals {
    /// Catches every signal of the table, also one that was blocked when the master was started. The threads that are
    /// started after this inherit the mask.
    pub(crate) fn catch() -> io::Result<Self> {
        let all = [SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH];
        // Looked at before it is caught.
        let terminal = match (ignores_hangup()?, File::open("/dev/tty").is_ok()) {
            (true, _) => Terminal::Outlived,
            (false, true) => Terminal::Present,
            (false, false) => Terminal::None,
        };
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), all)?;
        SigSet::empty().thread_set_mask()?;
        Ok(Self { delivery, terminal })
    }

    /// What the signals that came since the last time ask for.
    pub(crate) fn orders(&mut self) -> Vec<Order> {
        let terminal = self.terminal;
        self.delivery.pending().filter_map(|origin| order(&origin, terminal)).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

fn order(origin: &Origin, terminal: Terminal) -> Option<Order> {
    let sent = matches!(origin.cause, Cause::Sent(_));
    let sender = origin.process.as_ref().map(|process| Sender { pid: process.pid, uid: process.uid });
    let unsupported = |signal| Some(Order::Unsupported { signal });
    match origin.signal {
        SIGHUP => match (sender, terminal) {
            (Some(_), Terminal::Present) if sent && has_lost_terminal() => Some(HANGUP),
            (Some(sender), _) if sent => Some(Order::Reload(sender)),
            (_, Terminal::Outlived) => None,
            _ => Some(HANGUP),
        },
        SIGTERM => Some(Order::Stop { signal: "TERM", at_once: false }),
        SIGINT => Some(Order::Stop { signal: "INT", at_once: false }),
        SIGQUIT => Some(Order::Stop { signal: "QUIT", at_once: true }),
        SIGUSR1 => Some(Order::Reopen),
        SIGUSR2 => unsupported("USR2"),
        SIGTTIN if sent => sender.map(|by| Order::Scale { by, to: Scale::Up(1) }),
        SIGTTOU if sent => sender.map(|by| Order::Scale { by, to: Scale::Down(1) }),
        SIGWINCH if sent => sender.map(|by| Order::Pause { by }),
        _ => None,
    }
}

/// The terminal has gone, and the master with it.
const HANGUP: Order = Order::Stop { signal: "HUP", at_once: false };

/// Whether the controlling terminal has gone: then its name leads nowhere. Other errors, such as no descriptor left, say
/// nothing about it.
fn has_lost_terminal() -> bool {
    let error = File::open("/dev/tty").err().and_then(|error| Errno::from_io_error(&error));
    matches!(error, Some(Errno::NXIO | Errno::IO))
}

/// Whether HUP is ignored, from the mask in /proc.
fn ignores_hangup() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    Ok(mask & 1 << (SIGHUP - 1) != 0)
}
