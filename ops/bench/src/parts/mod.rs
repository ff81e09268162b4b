//! The parts of the benchmarks: each starts its servers, measures, and says what it found.

mod balance;
mod connections;
mod growth;
mod http;
mod reload;
mod tail;

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
    /// 2. Requests per second and CPU per request over kept connections
    #[value(alias = "2")]
    Http,
    /// 3. What clients see of a reload
    #[value(alias = "3")]
    Reload,
    /// 4. Latency with one worker in trouble
    #[value(alias = "4")]
    Tail,
    /// 5. The busiest and the idlest worker
    #[value(alias = "5")]
    Balance,
    /// 6. More workers, more connections, and memory
    #[value(alias = "6")]
    Growth,
}

impl Part {
    pub(crate) async fn measure(self, quick: bool) -> Result<Findings> {
        match self {
            Self::Connections => connections::measure(quick).await,
            Self::Http => http::measure(quick).await,
            Self::Reload => reload::measure(quick).await,
            Self::Tail => tail::measure(quick).await,
            Self::Balance => balance::measure(quick).await,
            Self::Growth => growth::measure(quick).await,
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
