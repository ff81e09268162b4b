//! 2. HTTP/1.1 keep-alive: requests per second and CPU per request.

use std::collections::HashMap;

use tokio::task::JoinSet;

use super::start_all;
use crate::client::{Failure, failed, settle};
use crate::clock;
use crate::cpu;
use crate::error::Result;
use crate::figures::{Findings, Limit};
use crate::http::Connection;
use crate::serve::Kind;
use crate::server::Server;
use crate::side::Side;

const AXUM: Side = Side::Baseline(Kind::Axum);
const SIDES: [Side; 6] =
    [AXUM, Side::Web("rr"), Side::Web("none"), Side::Nginx, Side::NodeWeb("rr"), Side::NodeWeb("none")];

const RATE: &str = "requests per second";
const COST: &str = "CPU per request";
/// Plain axum in a second process: the two differ by noise alone.
const AGAIN: &str = "the same axum again";
/// After so many, connections are taken as they come.
const ATTEMPTS: usize = 1000;
/// What `web` may cost of plain axum, where the goal is no more: so far apart are two processes of the same server.
const NOISE: f64 = 1.05;

struct Plan {
    workers: &'static [usize],
    clients: &'static [usize],
    rounds: usize,
    requests: usize,
}

const FULL: Plan = Plan { workers: &[1, 2], clients: &[4, 16], rounds: 21, requests: 20_000 };
const QUICK: Plan = Plan { workers: &[2], clients: &[4], rounds: 2, requests: 1000 };

/// Every round has processes of its own, for one and the same program costs up to a twentieth more or less for as long as its
/// process lives, by where its memory happens to lie.
pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let plan = if quick { QUICK } else { FULL };
    let mut findings = Findings::new("http", "HTTP/1.1 keep-alive", quick);
    for workers in plan.workers {
        // Those that can be had now must be there in every round, for rounds are compared one by one.
        let can_be_had = start_all(&SIDES, *workers, &mut findings).await?;
        let sides: Vec<_> = can_be_had.iter().map(|server| (server.side, server.side.to_string())).collect();
        drop(can_be_had);
        for round in 0..plan.rounds {
            let mut turns = Vec::new();
            for (side, name) in sides.iter().cloned().chain([(AXUM, AGAIN.to_owned())]) {
                turns.push((Server::start(side, *workers).await?, name));
            }
            // Whoever comes first pays more, and another one does in each round.
            let first = round % turns.len();
            turns.rotate_left(first);
            for clients in plan.clients {
                for (server, name) in &turns {
                    measure_one(&plan, server, name, *clients, &mut findings).await?;
                }
            }
        }
    }
    for policy in ["rr", "none"] {
        findings.compare(COST, Side::Web(policy), AXUM, Some(Limit::AtMost(NOISE)));
        findings.compare(RATE, Side::Web(policy), AXUM, None);
    }
    findings.compare(COST, AGAIN, AXUM, None);
    Ok(findings)
}

async fn measure_one(plan: &Plan, server: &Server, name: &str, clients: usize, findings: &mut Findings) -> Result<()> {
    ask(server, plan.requests / 4, clients).await?;
    let (rate, cost) = ask(server, plan.requests, clients).await?;
    let case = format!("{} workers, {clients} clients", server.workers);
    findings.note(COST, "µs", name, &case, cost);
    findings.note(RATE, "1/s", name, &case, rate);
    Ok(())
}

/// Requests per second, and microseconds of the server for each.
async fn ask(server: &Server, requests: usize, clients: usize) -> Result<(f64, f64)> {
    let connections = open(server, clients).await.map_err(failed(server))?;
    let processes = server.processes();
    let (begin, before) = (clock::now(), cpu::time(&processes));
    let mut asking = JoinSet::new();
    for mut connection in connections {
        asking.spawn_local(async move {
            for _ in 0..requests / clients {
                connection.get().await?;
            }
            Ok(())
        });
    }
    let outcomes: Vec<std::result::Result<(), Failure>> = asking.join_all().await;
    let took = begin.elapsed();
    settle().await;
    outcomes.into_iter().collect::<std::result::Result<(), _>>().map_err(failed(server))?;
    let asked = (requests / clients * clients) as f64;
    Ok((asked / took.as_secs_f64(), (cpu::time(&processes) - before) as f64 / asked / 1000.0))
}

/// Kept connections, as many to each worker where the server lets them be: a worker that has more of them is woken less
/// often, and pays less for each request.
async fn open(server: &Server, clients: usize) -> std::result::Result<Vec<Connection>, Failure> {
    let mut of_worker: HashMap<u32, usize> = HashMap::new();
    let mut connections = Vec::new();
    let mut attempts = 0;
    while connections.len() < clients {
        attempts += 1;
        let mut connection = Connection::open(server.address).await?;
        let count = of_worker.entry(connection.get().await?.pid).or_default();
        if *count < clients.div_ceil(server.workers) || attempts > ATTEMPTS {
            *count += 1;
            connections.push(connection);
        }
    }
    Ok(connections)
}
