//! 1. CPU time per connection: 16 bytes in, 16 out, close.

use super::start_all;
use crate::client::{load, settle};
use crate::cpu;
use crate::error::Result;
use crate::figures::{Findings, Limit};
use crate::serve::Kind;
use crate::server::Server;
use crate::side::Side;

const SIDES: [Side; 12] = [
    Side::Baseline(Kind::Bare),
    Side::Baseline(Kind::PassingBare),
    Side::Baseline(Kind::PassingTokio),
    Side::Baseline(Kind::TokioShared),
    Side::Baseline(Kind::TokioOwn),
    Side::Everport("rr"),
    Side::Everport("none"),
    Side::Everport("least"),
    Side::Everport("split"),
    Side::Nginx,
    Side::Node("rr"),
    Side::Node("none"),
];

/// Those that are measured at many workers too, as the number of workers is what counts for them.
const MANY: [Side; 3] = [Side::Baseline(Kind::TokioShared), Side::Baseline(Kind::TokioOwn), Side::Everport("none")];

const COST: &str = "CPU per connection";
const CLIENT: &str = "CPU of the client per connection";
const UNIT: &str = "µs";

struct Plan {
    workers: &'static [usize],
    many: &'static [usize],
    clients: &'static [usize],
    rounds: usize,
    connections: usize,
}

const FULL: Plan = Plan { workers: &[2, 8], many: &[32], clients: &[4, 16], rounds: 11, connections: 4000 };
const QUICK: Plan = Plan { workers: &[2], many: &[], clients: &[4], rounds: 3, connections: 300 };

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let plan = if quick { QUICK } else { FULL };
    let mut findings = Findings::new("connections", "CPU time per connection", quick);
    for workers in plan.workers {
        measure_at(&plan, &SIDES, *workers, &mut findings).await?;
    }
    for workers in plan.many {
        measure_at(&plan, &MANY, *workers, &mut findings).await?;
    }
    compare(&mut findings);
    Ok(findings)
}

/// All sides side by side: in every round each of them has its turn.
async fn measure_at(plan: &Plan, sides: &[Side], workers: usize, findings: &mut Findings) -> Result<()> {
    let servers = start_all(sides, workers, findings).await?;
    for clients in plan.clients {
        let case = case(workers, *clients);
        // Memory is allocated, and the last worker has begun to serve.
        for server in &servers {
            load(server, plan.connections / 4, *clients).await?;
        }
        for _ in 0..plan.rounds {
            for server in &servers {
                let (served, client) = cost(server, plan.connections, *clients).await?;
                findings.note(COST, UNIT, server.side, &case, served);
                findings.note(CLIENT, UNIT, server.side, &case, client);
            }
        }
    }
    Ok(())
}

fn case(workers: usize, clients: usize) -> String {
    format!("{workers} workers, {clients} clients")
}

/// What a connection costs the server and the client, in microseconds.
pub(super) async fn cost(server: &Server, connections: usize, clients: usize) -> Result<(f64, f64)> {
    let (processes, ourselves) = (server.processes(), [std::process::id()]);
    let before = (cpu::time(&processes), cpu::time(&ourselves));
    load(server, connections, clients).await?;
    let client = cpu::time(&ourselves) - before.1;
    settle().await;
    let served = cpu::time(&processes) - before.0;
    let each = |nanoseconds: u64| nanoseconds as f64 / connections as f64 / 1000.0;
    Ok((each(served), each(client)))
}

fn compare(findings: &mut Findings) {
    let (rr, none, split) = (Side::Everport("rr"), Side::Everport("none"), Side::Everport("split"));
    let shared = Side::Baseline(Kind::TokioShared);
    findings.compare(COST, rr, Side::Baseline(Kind::PassingTokio), Some(Limit::AtMost(1.15)));
    for case in findings.cases(COST).into_iter().map(str::to_owned).collect::<Vec<_>>() {
        let limit = match case.split(' ').next() {
            Some("2") => Some(Limit::AtMost(1.10)),
            Some("32") => Some(Limit::AtMost(1.0)),
            _ => None,
        };
        findings.compare_in(COST, &none.to_string(), &shared.to_string(), &case, limit);
    }
    findings.compare(COST, split, Side::Baseline(Kind::TokioOwn), Some(Limit::AtMost(1.10)));
    findings.compare(COST, Side::Node("rr"), rr, Some(Limit::AtLeast(4.0)));
    for side in [Side::Baseline(Kind::PassingBare), Side::Baseline(Kind::PassingTokio), shared, rr, none] {
        findings.compare(COST, side, Side::Baseline(Kind::Bare), None);
    }
}
