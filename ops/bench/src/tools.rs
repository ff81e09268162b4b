//! The other servers, as `ops/bench/run` found or fetched them.

use std::env;
use std::path::PathBuf;

/// A program that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Nginx,
    Haproxy,
    Node,
    Gunicorn,
}

impl Tool {
    /// Where it is, if it could be had.
    pub(crate) fn path(self) -> Option<PathBuf> {
        env::var_os(self.variable()).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The variable by which the script tells.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Nginx => "BENCH_NGINX",
            Self::Haproxy => "BENCH_HAPROXY",
            Self::Node => "BENCH_NODE",
            Self::Gunicorn => "BENCH_GUNICORN",
        }
    }
}
