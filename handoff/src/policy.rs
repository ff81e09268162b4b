//! How the connections of a listener are spread over the workers: the words that name a policy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How connections are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Policy {
    /// `rr`: the master accepts and offers connections to the workers in turn.
    #[default]
    #[serde(rename = "rr")]
    RoundRobin,
    /// `none`: every worker holds the listener, and the kernel picks. `shared` is another name for it.
    #[serde(rename = "none")]
    None,
    /// `least`: as `rr`, to the worker with the fewest connections.
    #[serde(rename = "least")]
    Least,
    /// `p2c`: as `rr`, to the one of two workers chosen at random that has fewer connections.
    #[serde(rename = "p2c")]
    TwoChoices,
    /// `hash`: as `rr`, to the worker that the client's address stands for.
    #[serde(rename = "hash")]
    Hash,
    /// `split`: every slot has a socket with a queue of its own, and the kernel picks at random.
    #[serde(rename = "split")]
    Split,
}

impl Policy {
    /// Every policy, in the order in which they are listed to the user.
    pub const ALL: [Self; 6] = [Self::RoundRobin, Self::None, Self::Least, Self::TwoChoices, Self::Hash, Self::Split];

    /// Whether the master accepts the connections and offers them, so that one such policy can follow another on the same
    /// socket.
    pub const fn is_offered(self) -> bool {
        !matches!(self, Self::None | Self::Split)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::None => "none",
            Self::Least => "least",
            Self::TwoChoices => "p2c",
            Self::Hash => "hash",
            Self::Split => "split",
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let word = if text == "shared" { "none" } else { text };
        Self::ALL.into_iter().find(|policy| policy.word() == word).ok_or(UnknownPolicy)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The policies, as errors list them.
pub(crate) const KNOWN: &str = "rr, none (also called shared), least, p2c, hash and split";

/// The text names no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy, the known ones are {KNOWN}")]
pub struct UnknownPolicy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_its_word_and_is_listed() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
            assert!(UnknownPolicy.to_string().contains(&policy.to_string()), "{policy} is listed");
        }
        assert_eq!("shared".parse(), Ok(Policy::None));
        for unknown in ["", "RR", "splits", "least "] {
            assert_eq!(unknown.parse::<Policy>(), Err(UnknownPolicy));
        }
    }
}
