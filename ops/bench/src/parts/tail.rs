//! 4. Tail latency of new connections while one of four workers is blocked, or slow.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::start;
use crate::client::{Failure, ask};
use crate::clock;
use crate::error::Result as Outcome;
use crate::figures::{Findings, Limit};
use crate::protocol;
use crate::server::Server;
use crate::side::Side;
use crate::statistics::quantile;

const WORKERS: usize = 4;
const LATE: &str = "99.9th percentile";
/// The default of Everport's setting, in milliseconds.
const STEAL_AFTER: f64 = 50.0;
/// The pause between two connections: at 200 per second the machine has time, and what is late waits for a worker.
const PACE: Duration = Duration::from_millis(5);

/// What one of the workers does meanwhile.
#[derive(Clone, Copy)]
struct Trouble {
    case: &'static str,
    /// It blocks for so long, again and again without a pause.
    block: Option<Duration>,
}

const TROUBLES: [Trouble; 3] = [
    Trouble { case: "calm", block: None },
    Trouble { case: "one slow, 20 ms", block: Some(Duration::from_millis(20)) },
    Trouble { case: "one blocked, 1 s", block: Some(Duration::from_secs(1)) },
];

pub(super) async fn measure(quick: bool) -> Outcome<Findings> {
    let (rounds, time) = if quick { (1, Duration::from_millis(300)) } else { (3, Duration::from_secs(10)) };
    let mut findings = Findings::new("tail", "Latency of new connections with one of four workers in trouble", quick);
    for side in Side::spreading() {
        let Some(server) = start(side, WORKERS, &mut findings).await? else { continue };
        for _ in 0..rounds {
            for trouble in TROUBLES {
                note(&mut findings, side, trouble.case, latencies(&server, trouble, time).await);
            }
        }
    }
    for policy in ["rr", "least", "p2c"] {
        let worst = |case: &str| findings.median(LATE, Side::Everport(policy), case);
        if let (Some(calm), Some(blocked)) = (worst(TROUBLES[0].case), worst(TROUBLES[2].case)) {
            let name = "99.9th percentile with one blocked, beyond the calm";
            findings.bound(name, "ms", Side::Everport(policy), blocked - calm, Limit::AtMost(STEAL_AFTER + 20.0));
        }
    }
    Ok(findings)
}

/// Milliseconds of each connection, begun at a steady pace whatever becomes of those before, so that no wait hides others.
async fn latencies(server: &Server, trouble: Trouble, time: Duration) -> Vec<Result<f64, Failure>> {
    let (address, begin) = (server.address, clock::now());
    let blocker = trouble.block.map(|block| {
        tokio::task::spawn_local(async move {
            // Whichever worker gets it.
            while begin.elapsed() < time && ask(address, &protocol::block(block)).await.is_ok() {}
        })
    });
    let mut pace = tokio::time::interval(PACE);
    let mut clients = JoinSet::new();
    while begin.elapsed() < time {
        let due: Instant = pace.tick().await.into_std();
        clients.spawn_local(async move {
            ask(address, &protocol::SHORT).await.map(|_| due.elapsed().as_secs_f64() * 1000.0)
        });
    }
    let latencies = clients.join_all().await;
    if let Some(blocker) = blocker {
        // It ends with the block that it waits for.
        let _ = blocker.await;
    }
    latencies
}

fn note(findings: &mut Findings, side: Side, case: &str, outcomes: Vec<Result<f64, Failure>>) {
    let mut sorted: Vec<f64> = outcomes.iter().flatten().copied().collect();
    sorted.sort_by(f64::total_cmp);
    for (name, part) in [("median", 0.5), ("99th percentile", 0.99), (LATE, 0.999), ("worst", 1.0)] {
        findings.note(name, "ms", side, case, quantile(&sorted, part));
    }
    findings.note("failed", "connections", side, case, (outcomes.len() - sorted.len()) as f64);
}
