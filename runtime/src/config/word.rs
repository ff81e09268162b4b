//! Settings whose values are words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When a worker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// `auto`: when it first polls `accept`, or receives on UDP, with every `bind` that it asked for answered.
    #[default]
    Auto,
    /// `manual`: when it says `worker.ready()`.
    Manual,
}

impl FromStr for Readiness {
    type Err = UnknownReadiness;

    fn from_str(text: &str) -> Result<Self, UnknownReadiness> {
        match text {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            _ => Err(UnknownReadiness),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        })
    }
}

/// The text names no readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want auto or manual")]
pub struct UnknownReadiness;

/// How a new generation takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// `all`: every worker of the new generation is ready before the old one drains.
    #[default]
    All,
    /// `rolling`: slot by slot, so that one worker starts at a time.
    Rolling,
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        match text {
            "all" => Ok(Self::All),
            "rolling" => Ok(Self::Rolling),
            _ => Err(UnknownStrategy),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all",
            Self::Rolling => "rolling",
        })
    }
}

/// The text names no strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want all or rolling")]
pub struct UnknownStrategy;

/// How the workers' program gets its listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `everport`: by channel and board; the program uses this library.
    #[default]
    Everport,
    /// `listen-fds`: as systemd passes sockets; the program knows nothing of Everport.
    ListenFds,
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "everport" => Ok(Self::Everport),
            "listen-fds" => Ok(Self::ListenFds),
            _ => Err(UnknownProtocol),
        }
    }
}

/// The text names no protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want everport or listen-fds")]
pub(crate) struct UnknownProtocol;
