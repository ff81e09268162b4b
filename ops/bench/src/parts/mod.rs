//! The parts of the benchmarks: each starts its servers, measures, and says what it found.

mod connections;

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::figures::Findings;
use crate::server::Server;
use crate::side::Side;

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// 1. CPU time per connection
    #[value(alias = "1")]
    Connections,
}

impl Part {
    pub(crate) async fn measure(self, quick: bool) -> Result<Findings> {
        match self {
            Self::Connections => connections::measure(quick).await,
        }
    }
}

/// Starts those sides that can be had; says of the others why not.
async fn start_all(sides: &[Side], workers: usize, findings: &mut Findings) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for side in sides {
        servers.extend(start(*side, workers, findings).await?);
    }
    Ok(servers)
}

/// Starts a side, if it can be had. A baseline that does not start is an error.
async fn start(side: Side, workers: usize, findings: &mut Findings) -> Result<Option<Server>> {
    if let Some(tool) = side.tool()
        && tool.path().is_none()
    {
        findings.skip(side, format_args!("no such program here ({} is not set)", tool.variable()));
        return Ok(None);
    }
    match Server::start(side, workers).await {
        Ok(server) => Ok(Some(server)),
        Err(error @ Error::NotServing { .. }) if !matches!(side, Side::Baseline(_)) => {
            findings.skip(side, error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
