//! 2. HTTP/1.1 keep-alive: requests per second and CPU per request.

use tokio::task::JoinSet;

use super::start_all;
use crate::client::{Failure, settle};
use crate::clock;
use crate::cpu;
use crate::error::{Error, Result};
use crate::figures::{Findings, Limit};
use crate::http::Connection;
use crate::serve::Kind;
use crate::server::Server;
use crate::side::Side;

const SIDES: [Side; 6] = [
    Side::Baseline(Kind::Axum),
    Side::Web("rr"),
    Side::Web("none"),
    Side::Nginx,
    Side::NodeWeb("rr"),
    Side::NodeWeb("none"),
];

const RATE: &str = "requests per second";
const COST: &str = "CPU per request";

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let (rounds, requests): (usize, usize) = if quick { (2, 1000) } else { (11, 20_000) };
    let mut findings = Findings::new("http", "HTTP/1.1 keep-alive", quick);
    let servers = start_all(&SIDES, 2, &mut findings).await?;
    for clients in [4, 16] {
        let case = format!("2 workers, {clients} clients");
        for round in 0..=rounds {
            for server in &servers {
                let (rate, cost) = ask(server, requests, clients).await?;
                // The first one warms up.
                if round > 0 {
                    findings.note(COST, "µs", server.side, &case, cost);
                    findings.note(RATE, "1/s", server.side, &case, rate);
                }
            }
        }
    }
    let axum = Side::Baseline(Kind::Axum);
    // Within noise.
    for policy in ["rr", "none"] {
        findings.compare(COST, Side::Web(policy), axum, Some(Limit::AtMost(1.05)));
        findings.compare(RATE, Side::Web(policy), axum, None);
    }
    Ok(findings)
}

/// Requests per second, and microseconds of the server for each.
async fn ask(server: &Server, requests: usize, clients: usize) -> Result<(f64, f64)> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Connection::open(server.address).await.map_err(|failure| failed(server, failure))?);
    }
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
    if let Some(failure) = outcomes.into_iter().find_map(std::result::Result::err) {
        return Err(failed(server, failure));
    }
    let asked = (requests / clients * clients) as f64;
    Ok((asked / took.as_secs_f64(), (cpu::time(&processes) - before) as f64 / asked / 1000.0))
}

fn failed(server: &Server, failure: Failure) -> Error {
    Error::Clients { side: server.side.to_string(), failed: 1, total: 1, first: failure.to_string() }
}
