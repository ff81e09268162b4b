//! Who is measured: each side by name, and the command that starts it.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::serve::Kind;
use crate::tools::Tool;

/// A side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A baseline of this program.
    Baseline(Kind),
    /// Everport, with a policy by name: this program may be older or newer than a policy.
    Everport(&'static str),
    /// The web application on Everport, with a policy.
    Web(&'static str),
    /// Node's cluster with the 16 bytes, and its policy.
    Node(&'static str),
    /// Node's cluster with HTTP.
    NodeWeb(&'static str),
    Nginx,
    Haproxy,
    Gunicorn,
}

/// The policies that spread connections over workers.
const POLICIES: [&str; 6] = ["rr", "none", "least", "p2c", "hash", "split"];

const SERVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers");

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&match self {
            Self::Baseline(Kind::Bare) => "bare accept loop".to_owned(),
            Self::Baseline(Kind::PassingBare) => "bare passing, bare workers".to_owned(),
            Self::Baseline(Kind::PassingTokio) => "bare passing, tokio workers".to_owned(),
            Self::Baseline(Kind::TokioShared) => "tokio, shared listener".to_owned(),
            Self::Baseline(Kind::TokioOwn) => "tokio, own sockets".to_owned(),
            Self::Baseline(Kind::Axum) => "axum, shared listener".to_owned(),
            Self::Baseline(kind @ (Kind::Everport | Kind::Web)) => format!("{kind:?}"),
            Self::Everport(policy) | Self::Web(policy) => format!("Everport {policy}"),
            Self::Node(policy) | Self::NodeWeb(policy) => format!("Node {policy}"),
            Self::Nginx => "nginx".to_owned(),
            Self::Haproxy => "HAProxy".to_owned(),
            Self::Gunicorn => "gunicorn".to_owned(),
        })
    }
}

impl Side {
    /// Those that spread connections over workers.
    pub(crate) fn spreading() -> Vec<Self> {
        let mut sides: Vec<Self> = POLICIES.map(Self::Everport).to_vec();
        sides.extend([Kind::TokioShared, Kind::TokioOwn].map(Self::Baseline));
        sides.extend(["rr", "none"].map(Self::Node));
        sides
    }

    /// The program that it needs, if it is not this one.
    pub(crate) fn tool(self) -> Option<Tool> {
        match self {
            Self::Baseline(_) | Self::Everport(_) | Self::Web(_) => None,
            Self::Node(_) | Self::NodeWeb(_) => Some(Tool::Node),
            Self::Nginx => Some(Tool::Nginx),
            Self::Haproxy => Some(Tool::Haproxy),
            Self::Gunicorn => Some(Tool::Gunicorn),
        }
    }

    /// How many processes it has when all workers are there.
    pub(crate) fn processes(self, workers: usize) -> usize {
        match self {
            Self::Baseline(Kind::Bare) => 1,
            // One worker, with as many threads.
            Self::Haproxy => 2,
            _ => workers + 1,
        }
    }

    /// Whether clients speak HTTP/1.1 to it, and not the 16 bytes.
    pub(crate) fn speaks_http(self) -> bool {
        matches!(self, Self::Baseline(Kind::Axum) | Self::Web(_) | Self::NodeWeb(_) | Self::Haproxy | Self::Gunicorn)
    }

    /// The command that starts it, to listen on this port of loopback. Its files are in `folder`.
    pub(crate) fn command(self, port: u16, workers: usize, folder: &Path) -> Result<Command> {
        match self {
            Self::Baseline(kind) => Ok(ours(kind, port, workers)),
            Self::Everport(policy) => Ok(with_policy(ours(Kind::Everport, port, workers), policy, folder)),
            Self::Web(policy) => Ok(with_policy(ours(Kind::Web, port, workers), policy, folder)),
            Self::Node(policy) | Self::NodeWeb(policy) => {
                let mut command = self.foreign()?;
                let kind = if self.speaks_http() { "web" } else { "echo" };
                command.arg(format!("{SERVERS}/node.js"));
                command.args([kind, &port.to_string(), &workers.to_string(), policy]);
                Ok(command)
            }
            Self::Nginx => {
                let configuration = configure("nginx.conf", port, workers, folder)?;
                let mut command = self.foreign()?;
                command.arg("-p").arg(folder).arg("-e").arg(folder.join("log")).arg("-c").arg(configuration);
                Ok(command)
            }
            Self::Haproxy => {
                let configuration = configure("haproxy.cfg", port, workers, folder)?;
                let mut command = self.foreign()?;
                command.arg("-W").arg("-f").arg(configuration);
                Ok(command)
            }
            Self::Gunicorn => {
                let mut command = self.foreign()?;
                let application = ["--chdir", SERVERS, "app:application"].map(OsString::from);
                command.args(["--bind", &format!("127.0.0.1:{port}"), "--workers", &workers.to_string()]);
                command.args(["--worker-class", "gthread", "--threads", "32", "--keep-alive", "3600"]);
                command.args(["--log-level", "warning"]).args(application);
                Ok(command)
            }
        }
    }

    fn foreign(self) -> Result<Command> {
        let path = self.tool().and_then(Tool::path).unwrap_or_else(|| PathBuf::from("/nowhere"));
        Ok(Command::new(path))
    }
}

fn ours(kind: Kind, port: u16, workers: usize) -> Command {
    let kind = kind.to_possible_value().expect("no kind is hidden");
    let mut command = Command::new("/proc/self/exe");
    command.args(["serve", kind.get_name()]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--workers", &workers.to_string()]);
    command
}

fn with_policy(mut command: Command, policy: &str, folder: &Path) -> Command {
    command.env("EVERPORT_SCHED_POLICY", policy).env("EVERPORT_CONTROL", folder.join("control"));
    command
}

/// Writes a configuration with its blanks filled in.
fn configure(name: &str, port: u16, workers: usize, folder: &Path) -> Result<PathBuf> {
    let template = PathBuf::from(SERVERS).join(name);
    let text = fs::read_to_string(&template).map_err(Error::io("read", template.display()))?;
    let folder_text = folder.display().to_string();
    let text = text
        .replace("WORKERS", &workers.to_string())
        .replace("FOLDER", &folder_text)
        .replace("PORT", &port.to_string());
    let path = folder.join(name);
    fs::write(&path, text).map_err(Error::io("write", path.display()))?;
    Ok(path)
}
