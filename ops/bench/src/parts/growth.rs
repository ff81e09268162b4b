//! 6. Growth: what more workers and more idle connections cost, per connection and per reload, and the memory of it all.

mod memory;
mod reloads;

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::connections::cost;
use super::start;
use crate::client::{failed, hold, load};
use crate::cpu;
use crate::error::Result;
use crate::figures::{Findings, Limit};
use crate::serve::Kind;
use crate::side::Side;

const COST: &str = "CPU per connection";
/// Of it, what the first process pays: whoever accepts and passes on.
const MASTER: &str = "CPU of the master per connection";
const SIDES: [Side; 7] = [
    Side::Everport("rr"),
    Side::Everport("least"),
    Side::Everport("none"),
    Side::Everport("split"),
    Side::Baseline(Kind::TokioShared),
    Side::Baseline(Kind::TokioOwn),
    Side::Baseline(Kind::PassingTokio),
];
/// Those whose master has a part in every connection.
const PASSING: [Side; 3] = [Side::Everport("rr"), Side::Everport("least"), Side::Baseline(Kind::PassingTokio)];
/// Descriptors and ports that the client, or the one process that serves, needs for other things.
const RESERVE: usize = 500;
/// The workers of those that have idle connections.
const WORKERS: usize = 8;

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let mut findings = Findings::new("growth", "Growth with workers and connections", quick);
    let workers: &[usize] = if quick { &[2, 8] } else { &[2, 8, 32, 128] };
    let idle = if quick { vec![100] } else { vec![100, 10_000.min(most()), most()] };
    by_workers(workers, quick, &mut findings).await?;
    by_idle(&idle, quick, &mut findings).await?;
    reloads::by_workers(workers, quick, &mut findings).await?;
    reloads::by_idle(&idle, quick, &mut findings).await?;
    memory::measure(workers, &mut findings).await?;
    let rr = Side::Everport("rr").to_string();
    // Within noise.
    findings.compare_cases(COST, &rr, "128 workers", "8 workers", Some(Limit::AtMost(1.05)));
    findings.compare_cases(MASTER, &rr, "128 workers", "8 workers", Some(Limit::AtMost(1.05)));
    for side in [Side::Baseline(Kind::PassingTokio), Side::Baseline(Kind::TokioOwn)] {
        findings.compare_cases(COST, &side.to_string(), "128 workers", "8 workers", None);
    }
    memory::bounds(&mut findings);
    Ok(findings)
}

/// How many connections one client can hold: each has a descriptor and a port.
fn most() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u64>().ok());
    let ports = ends.next().zip(ends.next()).map_or(u64::MAX, |(first, last)| last - first + 1);
    usize::try_from(descriptors.min(ports)).unwrap_or(usize::MAX).saturating_sub(RESERVE)
}

async fn by_workers(workers: &[usize], quick: bool, findings: &mut Findings) -> Result<()> {
    let (rounds, connections) = if quick { (1, 300) } else { (7, 4000) };
    for workers in workers {
        for side in SIDES {
            let Some(server) = start(side, *workers, findings).await? else { continue };
            load(&server, connections, 16).await?;
            for _ in 0..rounds {
                let (case, before) = (format!("{workers} workers"), cpu::time(&[server.root()]));
                let (served, _) = cost(&server, connections, 16).await?;
                findings.note(COST, "µs", side, &case, served);
                if PASSING.contains(&side) {
                    let master = (cpu::time(&[server.root()]) - before) as f64 / connections as f64 / 1000.0;
                    findings.note(MASTER, "µs", side, &case, master);
                }
            }
        }
    }
    Ok(())
}

/// What connections cost while others are idle.
async fn by_idle(counts: &[usize], quick: bool, findings: &mut Findings) -> Result<()> {
    let (rounds, connections) = if quick { (1, 300) } else { (7, 4000) };
    for side in [Side::Everport("rr"), Side::Everport("none"), Side::Baseline(Kind::TokioShared)] {
        let Some(server) = start(side, WORKERS, findings).await? else { continue };
        let mut idle = Vec::new();
        for count in counts {
            while idle.len() < *count {
                idle.push(hold(server.address).await.map_err(failed(&server))?);
            }
            for _ in 0..rounds {
                let (served, _) = cost(&server, connections, 16).await?;
                findings.note(COST, "µs", side, &idle_case(*count), served);
            }
        }
    }
    Ok(())
}

fn idle_case(connections: usize) -> String {
    format!("{WORKERS} workers, {connections} idle")
}
