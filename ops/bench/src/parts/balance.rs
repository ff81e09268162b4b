//! 5. Balance: what the busiest and the idlest of 8 workers have, of connections that come and go, and of those that stay.

use std::collections::HashMap;

use super::start;
use crate::client::{failed, hold, load, settle};
use crate::error::Result;
use crate::figures::{Findings, Limit};
use crate::server::Server;
use crate::side::Side;

const WORKERS: usize = 8;
const STAYING: &str = "long-lived";
const BUSIEST: &str = "busiest of 8 workers, of the mean";
const IDLEST: &str = "idlest of 8 workers, of the mean";

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let (rounds, short, long) = if quick { (1, 400, 80) } else { (5, 8000, 800) };
    let mut findings = Findings::new("balance", "Balance over 8 workers", quick);
    for side in Side::spreading() {
        let Some(server) = start(side, WORKERS, &mut findings).await? else { continue };
        for _ in 0..rounds {
            for clients in [4, 16] {
                let served = load(&server, short, clients).await?;
                note(&mut findings, side, &format!("short, {clients} clients"), &served);
            }
            note(&mut findings, side, STAYING, &stay(&server, long).await?);
        }
    }
    if let Some(busiest) = findings.median(BUSIEST, Side::Everport("least"), STAYING) {
        findings.bound(BUSIEST, "%", Side::Everport("least"), busiest, Limit::AtMost(105.0));
    }
    Ok(findings)
}

/// Who serves the connections that are there after many have come, every second one has gone, and others have come.
async fn stay(server: &Server, connections: usize) -> Result<Vec<u32>> {
    let mut held = Vec::new();
    for turn in 0..4 {
        while held.len() < connections {
            held.push(hold(server.address).await.map_err(failed(server))?);
        }
        if turn < 3 {
            let mut number = 0;
            held.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            settle().await;
        }
    }
    Ok(held.iter().map(|(_, pid)| *pid).collect())
}

fn note(findings: &mut Findings, side: Side, case: &str, served: &[u32]) {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for pid in served {
        *counts.entry(*pid).or_default() += 1;
    }
    let mean = served.len() as f64 / WORKERS as f64;
    let busiest = counts.values().max().map_or(0.0, |count| *count as f64);
    // A worker that has none is in no answer.
    let idlest = if counts.len() < WORKERS { 0.0 } else { counts.values().min().map_or(0.0, |count| *count as f64) };
    findings.note(BUSIEST, "%", side, case, 100.0 * busiest / mean);
    findings.note(IDLEST, "%", side, case, 100.0 * idlest / mean);
}
