//! What a reload costs: the CPU time of the master and of both generations, by workers and by the idle connections that they
//! have, which shall all move. A connection that a reload closes is counted.

use std::time::Duration;

use rustix::process::Signal;

use super::super::start;
use super::{WORKERS, idle_case};
use crate::client::{Failure, failed, settle};
use crate::clock;
use crate::cpu;
use crate::error::{Error, Result};
use crate::figures::Findings;
use crate::http::Connection;
use crate::server::Server;
use crate::side::Side;

const COST: &str = "CPU per reload";
const TIME: &str = "time until a reload has ended";
const CLOSED: &str = "idle connections closed by a reload";
/// A round has as many reloads as cost this much, or as many as this: of what has ended only ticks of 10 ms are known.
const ENOUGH: Duration = Duration::from_millis(250);
const MANY: u32 = 20;
/// How long a reload may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn by_workers(workers: &[usize], quick: bool, findings: &mut Findings) -> Result<()> {
    let sides = [Side::Web("rr"), Side::Web("least"), Side::Web("none"), Side::Web("split"), Side::Nginx];
    for workers in workers {
        for side in sides {
            let Some(server) = start(side, *workers, findings).await? else { continue };
            rounds(&server, &mut Vec::new(), &format!("{workers} workers"), quick, findings).await?;
        }
    }
    Ok(())
}

pub(super) async fn by_idle(counts: &[usize], quick: bool, findings: &mut Findings) -> Result<()> {
    for side in [Side::Web("rr"), Side::Web("none"), Side::Nginx] {
        let Some(server) = start(side, WORKERS, findings).await? else { continue };
        let mut idle = Vec::new();
        for count in counts {
            while idle.len() < *count {
                idle.push(open(&server).await?);
            }
            rounds(&server, &mut idle, &idle_case(*count), quick, findings).await?;
        }
    }
    Ok(())
}

async fn rounds(
    server: &Server,
    idle: &mut [Connection],
    case: &str,
    quick: bool,
    findings: &mut Findings,
) -> Result<()> {
    let (rounds, enough) = if quick { (1, Duration::ZERO) } else { (5, ENOUGH) };
    for _ in 0..rounds {
        round(server, idle, case, enough, findings).await?;
    }
    Ok(())
}

/// Reloads until that has cost enough, and notes what each has cost.
async fn round(
    server: &Server,
    idle: &mut [Connection],
    case: &str,
    enough: Duration,
    findings: &mut Findings,
) -> Result<()> {
    let before = cpu::spent(server.root());
    let (mut reloads, mut time, mut closed, mut asking) = (0, Duration::ZERO, 0, 0);
    let spent = loop {
        time += reload(server).await?;
        reloads += 1;
        settle().await;
        // No process ends while connections are looked at, so that what this costs is known without ticks.
        let asked = cpu::time(&server.processes());
        closed += look_at_all(server, idle).await?;
        settle().await;
        // A thread that ends takes its time along: then there is less.
        asking += cpu::time(&server.processes()).saturating_sub(asked);
        let spent = Duration::from_nanos(cpu::spent(server.root()).saturating_sub(before).saturating_sub(asking));
        if spent >= enough || reloads == MANY {
            break spent;
        }
    };
    findings.note(COST, "ms", server.side, case, milliseconds(spent / reloads));
    findings.note(TIME, "ms", server.side, case, milliseconds(time / reloads));
    if !idle.is_empty() {
        findings.note(CLOSED, "connections", server.side, case, f64::from(closed) / f64::from(reloads));
    }
    Ok(())
}

/// Reloads, until every worker is another one and the old ones are reaped.
async fn reload(server: &Server) -> Result<Duration> {
    let old = server.processes();
    let begin = clock::now();
    server.signal(Signal::HUP)?;
    while old.iter().any(|pid| *pid != server.root() && cpu::exists(*pid)) {
        if begin.elapsed() > PATIENCE {
            let why = format!("a reload has not ended after {PATIENCE:?}");
            return Err(Error::NotServing { side: server.side.to_string(), workers: server.workers, why });
        }
        clock::pass(Duration::from_millis(1)).await;
    }
    Ok(begin.elapsed())
}

/// Asks on every connection, for only an answer shows that it still has an owner. Those that were closed are counted, and
/// replaced by others.
async fn look_at_all(server: &Server, idle: &mut [Connection]) -> Result<u32> {
    let mut closed = 0;
    for connection in idle {
        match connection.get().await {
            Ok(answer) if !answer.closes => {}
            Ok(_) | Err(Failure::Closed) => {
                closed += 1;
                *connection = open(server).await?;
            }
            Err(failure) => return Err(failed(server)(failure)),
        }
    }
    Ok(closed)
}

/// A connection that has had its first request, as kept ones have.
async fn open(server: &Server) -> Result<Connection> {
    let mut connection = Connection::open(server.address).await.map_err(failed(server))?;
    connection.get().await.map_err(failed(server))?;
    Ok(connection)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
