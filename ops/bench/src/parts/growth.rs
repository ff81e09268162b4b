//! 6. Growth: what more workers and more idle connections cost, per connection and per reload, and the memory of it all.

use std::time::Duration;

use rustix::process::Signal;

use super::connections::cost;
use super::start;
use crate::client::{Failure, hold, load, settle};
use crate::clock;
use crate::cpu;
use crate::error::{Error, Result};
use crate::figures::{Findings, Limit};
use crate::protocol;
use crate::serve::Kind;
use crate::server::{Server, signal_process};
use crate::side::Side;

const COST: &str = "CPU per connection";
const RELOAD: &str = "time until a reload has ended";
const MEMORY: &str = "memory";
const QUEUED: &str = "a queued connection, in the master";
const FURTHER: &str = "a further worker, in the master";
const SIDES: [Side; 5] = [
    Side::Everport("rr"),
    Side::Everport("least"),
    Side::Everport("none"),
    Side::Everport("split"),
    Side::Baseline(Kind::TokioShared),
];
/// Descriptors that the client, or the one process that serves, needs for other things.
const RESERVE: u64 = 500;

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let mut findings = Findings::new("growth", "Growth with workers and connections", quick);
    let workers: &[usize] = if quick { &[2, 8] } else { &[2, 8, 32, 128] };
    by_workers(workers, quick, &mut findings).await?;
    by_idle(quick, &mut findings).await?;
    memory(workers, &mut findings).await?;
    let rr = Side::Everport("rr").to_string();
    // Within noise.
    findings.compare_cases(COST, &rr, "128 workers", "8 workers", Some(Limit::AtMost(1.05)));
    bounds(&mut findings);
    Ok(findings)
}

fn bounds(findings: &mut Findings) {
    let further =
        findings.of(MEMORY).filter(|figure| figure.side == FURTHER).map(|figure| figure.summary.median).last();
    let eight = |side: &str| findings.median(MEMORY, side, "8 workers");
    let resident = |side: &str| findings.median(MEMORY, side, "8 workers, Rss");
    let worker = resident("a worker").zip(resident("the same program alone")).map(|(worker, alone)| worker - alone);
    let bounds = [
        ("master", eight("master"), 12_000_000.0 / 1024.0),
        (FURTHER, further, 200_000.0 / 1024.0),
        (QUEUED, eight(QUEUED), 1000.0 / 1024.0),
        ("a worker, beyond the same program alone", worker, 2_000_000.0 / 1024.0),
    ];
    for (side, value, most) in bounds {
        if let Some(value) = value {
            findings.bound(MEMORY, "KiB", side, value, Limit::AtMost(most));
        }
    }
}

async fn by_workers(workers: &[usize], quick: bool, findings: &mut Findings) -> Result<()> {
    let (rounds, connections) = if quick { (1, 300) } else { (7, 4000) };
    for workers in workers {
        let case = format!("{workers} workers");
        for side in SIDES {
            let Some(server) = start(side, *workers, findings).await? else { continue };
            load(&server, connections, 16).await?;
            for _ in 0..rounds {
                findings.note(COST, "µs", side, &case, cost(&server, connections, 16).await?.0);
            }
            if matches!(side, Side::Everport(_)) {
                findings.note(RELOAD, "ms", side, &case, reload(&server).await?);
            }
        }
    }
    Ok(())
}

/// Milliseconds until every worker is another one.
async fn reload(server: &Server) -> Result<f64> {
    let old = server.processes();
    let begin = clock::now();
    server.signal(Signal::HUP)?;
    while old.iter().any(|pid| *pid != server.root() && cpu::lives(*pid)) {
        if begin.elapsed() > Duration::from_secs(60) {
            let why = "a reload has not ended after a minute".to_owned();
            return Err(Error::NotServing { side: server.side.to_string(), workers: server.workers, why });
        }
        clock::pass(Duration::from_millis(1)).await;
    }
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

/// What connections cost while others are idle.
async fn by_idle(quick: bool, findings: &mut Findings) -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(20_000);
    let most = usize::try_from(limit.saturating_sub(RESERVE)).unwrap_or(usize::MAX).min(100_000);
    let counts = if quick { vec![100] } else { vec![100, 10_000.min(most), most] };
    let (rounds, connections) = if quick { (1, 300) } else { (7, 4000) };
    for side in [Side::Everport("rr"), Side::Everport("none"), Side::Baseline(Kind::TokioShared)] {
        let Some(server) = start(side, 8, findings).await? else { continue };
        let mut idle = Vec::new();
        for count in &counts {
            while idle.len() < *count {
                idle.push(hold(server.address).await.map_err(|failure| lost(&server, failure))?);
            }
            let case = format!("8 workers, {count} idle");
            for _ in 0..rounds {
                findings.note(COST, "µs", side, &case, cost(&server, connections, 16).await?.0);
            }
        }
    }
    Ok(())
}

fn lost(server: &Server, failure: Failure) -> Error {
    Error::Clients { side: server.side.to_string(), failed: 1, total: 1, first: failure.to_string() }
}

/// Memory in KiB: of the master, per further worker, per connection in its queue; and what a worker has beyond the same
/// program alone.
async fn memory(workers: &[usize], findings: &mut Findings) -> Result<()> {
    let side = Side::Everport("rr");
    let mut masters = Vec::new();
    for workers in workers {
        let Some(server) = start(side, *workers, findings).await? else { return Ok(()) };
        load(&server, 200, 4).await?;
        settle().await;
        let resident = kib(server.root(), "Rss");
        masters.push((*workers as f64, resident));
        findings.note(MEMORY, "KiB", "master", &format!("{workers} workers"), resident);
        if *workers == 8 {
            findings.note(MEMORY, "KiB", QUEUED, "8 workers", queued(&server).await?);
            of_a_worker(&server, findings).await?;
        }
    }
    if let (Some(few), Some(many)) = (masters.first(), masters.last())
        && many.0 > few.0
    {
        let each = (many.1 - few.1) / (many.0 - few.0);
        findings.note(MEMORY, "KiB", FURTHER, &format!("{} workers", many.0), each);
    }
    Ok(())
}

/// How much the master grows with each connection that no worker takes.
async fn queued(server: &Server) -> Result<f64> {
    // What credit and queue hold: 8 times 16, and 64.
    const MANY: usize = 192;
    let workers: Vec<u32> = server.processes().into_iter().filter(|pid| *pid != server.root()).collect();
    let before = kib(server.root(), "Rss");
    signal_all(&workers, Signal::STOP);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        let address = server.address;
        waiting.spawn_local(async move { crate::client::ask(address, &protocol::SHORT).await });
    }
    clock::pass(Duration::from_millis(300)).await;
    let after = kib(server.root(), "Rss");
    signal_all(&workers, Signal::CONT);
    let outcomes = waiting.join_all().await;
    match outcomes.into_iter().find_map(std::result::Result::err) {
        Some(failure) => Err(lost(server, failure)),
        None => Ok((after - before) / MANY as f64),
    }
}

async fn of_a_worker(server: &Server, findings: &mut Findings) -> Result<()> {
    let worker_of = |server: &Server| server.processes().into_iter().find(|pid| *pid != server.root());
    let Some(alone) = start(Side::Baseline(Kind::TokioShared), 8, findings).await? else { return Ok(()) };
    load(&alone, 200, 4).await?;
    let (Some(worker), Some(plain)) = (worker_of(server), worker_of(&alone)) else { return Ok(()) };
    for field in ["Rss", "Pss", "Private_Dirty"] {
        let case = format!("8 workers, {field}");
        findings.note(MEMORY, "KiB", "a worker", &case, kib(worker, field));
        findings.note(MEMORY, "KiB", "the same program alone", &case, kib(plain, field));
    }
    Ok(())
}

fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids {
        // One that has gone needs no signal.
        let _ = signal_process(*pid, signal);
    }
}

fn kib(pid: u32, field: &str) -> f64 {
    cpu::memory(pid, field).map_or(f64::NAN, |bytes| bytes as f64 / 1024.0)
}
