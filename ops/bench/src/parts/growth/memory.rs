//! Memory: of the master, by workers and by connections in its queue, and what a worker has beyond the same program alone.

use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::super::start;
use crate::client::{ask, failed, load, settle};
use crate::clock;
use crate::cpu;
use crate::error::Result;
use crate::figures::{Findings, Limit};
use crate::protocol;
use crate::serve::Kind;
use crate::server::{Server, signal_process};
use crate::side::Side;

const MEMORY: &str = "memory";
const QUEUED: &str = "a queued connection, in the master";
const FURTHER: &str = "a further worker, in the master";

/// Memory in KiB: of the master, per further worker, per connection in its queue; and what a worker has beyond the same
/// program alone.
pub(super) async fn measure(workers: &[usize], findings: &mut Findings) -> Result<()> {
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
    let mut waiting = JoinSet::new();
    for _ in 0..MANY {
        let address = server.address;
        waiting.spawn_local(async move { ask(address, &protocol::SHORT).await });
    }
    clock::pass(Duration::from_millis(300)).await;
    let after = kib(server.root(), "Rss");
    signal_all(&workers, Signal::CONT);
    let outcomes = waiting.join_all().await;
    outcomes.into_iter().collect::<std::result::Result<Vec<u32>, _>>().map_err(failed(server))?;
    Ok((after - before) / MANY as f64)
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

/// What must hold of it.
pub(super) fn bounds(findings: &mut Findings) {
    let further =
        findings.of(MEMORY).filter(|figure| figure.side == FURTHER).map(|figure| figure.summary.median).last();
    let eight = |side: &str| findings.median(MEMORY, side, "8 workers");
    // The pages of the program's file are there once, whoever has touched them.
    let share = |side: &str| findings.median(MEMORY, side, "8 workers, Pss");
    let worker = share("a worker").zip(share("the same program alone")).map(|(worker, alone)| worker - alone);
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
