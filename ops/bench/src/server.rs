//! A server that runs: started in a folder of its own, and ended with all that descends from it when it is dropped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

use crate::client;
use crate::clock;
use crate::cpu;
use crate::error::{Error, Result};
use crate::side::Side;

/// How long a server may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks at what tells nobody when it changes.
const PULSE: Duration = Duration::from_millis(5);

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) side: Side,
    pub(crate) address: SocketAddr,
    pub(crate) workers: usize,
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts a side and waits until all its workers are there and it answers.
    pub(crate) async fn start(side: Side, workers: usize) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::io("make", "a temporary folder"))?;
        let port = free_port().map_err(Error::io("find", "a free port"))?;
        let log = File::create(folder.path().join("log")).map_err(Error::io("make", "a log file"))?;
        let errors = log.try_clone().map_err(Error::io("copy", "a log file"))?;
        let command = bound_to_us(&side.command(port, workers, folder.path())?);
        let child = { command }
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::io("start", side))?;
        let mut server = Self { side, address: (Ipv4Addr::LOCALHOST, port).into(), workers, child, folder };
        server.wait_until_it_serves().await?;
        Ok(server)
    }

    /// The process that was started: the master.
    pub(crate) fn root(&self) -> u32 {
        self.child.id()
    }

    /// All its processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        cpu::tree(self.root())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(self.root(), signal).map_err(Error::io("signal", self.side))
    }

    async fn wait_until_it_serves(&mut self) -> Result<()> {
        let deadline = clock::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().map_err(Error::io("watch", self.side))?;
            if let Some(status) = ended {
                return Err(self.not_serving(format!("it ended with {status}: {}", self.last_words())));
            }
            let is_whole = self.processes().len() >= self.side.processes(self.workers);
            if is_whole && client::ask_once(self).await.is_ok() {
                return Ok(());
            }
            if clock::now() > deadline {
                return Err(self.not_serving(format!("nothing answers after {PATIENCE:?}: {}", self.last_words())));
            }
            clock::pass(PULSE).await;
        }
    }

    fn not_serving(&self, why: String) -> Error {
        Error::NotServing { side: self.side.to_string(), workers: self.workers, why }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }
}

impl Drop for Server {
    /// The master goes first, so that nothing is started again.
    fn drop(&mut self) {
        let tree = self.processes();
        for pid in &tree {
            // It may have gone by itself.
            let _ = signal_process(*pid, Signal::KILL);
        }
        // Both fail for what is not, or no longer, our child.
        let _ = self.child.wait();
        for pid in tree.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

pub(crate) fn signal_process(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    match Pid::from_raw(pid.cast_signed()) {
        Some(pid) => kill_process(pid, signal),
        None => Err(rustix::io::Errno::SRCH),
    }
}

/// Lets a server end when this process is killed: by util-linux's setpriv, for the death signal can be set only in the
/// process itself.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "TERM", "--"]).arg(program(command)).args(command.get_args());
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound
}

/// `/proc/self` would be setpriv.
fn program(command: &Command) -> std::path::PathBuf {
    match command.get_program() {
        itself if itself == "/proc/self/exe" => std::env::current_exe().unwrap_or_else(|_| itself.into()),
        other => other.into(),
    }
}

/// A port that is free now. Somebody could take it before the server does, which then does not start.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
