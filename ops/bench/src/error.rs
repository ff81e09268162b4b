//! Why a measurement, or a server of this program, ended.

use std::fmt::Display;
use std::io;

/// Why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// When the system refused.
    #[error("{what}: {source}")]
    Io {
        /// Operation and object.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// When a server ended, or did not answer in time.
    #[error("{side} with {workers} workers does not serve: {why}")]
    NotServing {
        /// Which.
        side: String,
        /// How many it was to have.
        workers: usize,
        /// The last words of its log, or what was waited for.
        why: String,
    },
    /// When a client saw what no server may do in a measurement of cost.
    #[error("{failed} of {total} connections to {side} failed, the first one: {first}")]
    Clients {
        /// Whose client.
        side: String,
        /// How many.
        failed: usize,
        /// Of how many.
        total: usize,
        /// What was seen.
        first: String,
    },
    /// When somebody interrupts.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// When a plot cannot be drawn.
    #[error("draw {plot}: {why}")]
    Plot {
        /// Which.
        plot: String,
        /// Why.
        why: String,
    },
    /// When Everport says so.
    #[error(transparent)]
    Everport(#[from] everport::Error),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: what was done to what.
    pub(crate) fn io<E: Into<io::Error>>(operation: &str, object: impl Display) -> impl FnOnce(E) -> Self {
        let what = format!("{operation} {object}");
        move |source| Self::Io { what, source: source.into() }
    }
}
