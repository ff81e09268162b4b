//! 3. Reload: what clients that never retry see of it, and how long each step takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::start;
use crate::client::Failure;
use crate::clock;
use crate::cpu;
use crate::error::Result;
use crate::figures::Findings;
use crate::http::Connection;
use crate::server::Server;
use crate::side::Side;
use crate::statistics::quantile;

const SIDES: [Side; 7] = [
    Side::Web("rr"),
    Side::Web("none"),
    Side::Nginx,
    Side::Haproxy,
    Side::NodeWeb("rr"),
    Side::NodeWeb("none"),
    Side::Gunicorn,
];

const CASE: &str = "8 kept, 8 fresh";
/// Clients of each kind.
const CLIENTS: usize = 8;
/// The pause between two requests of one client.
const PACE: Duration = Duration::from_millis(5);
/// How long before the reload, which is the calm that it is compared with, and after it.
const CALM: Duration = Duration::from_secs(2);
/// The time in which the reload may show in the latency.
const SHADOW: Duration = Duration::from_millis(500);
/// How long the old workers may take to go.
const PATIENCE: Duration = Duration::from_secs(40);

/// One request, or one end of a kept connection.
#[derive(Clone, Copy, Debug)]
struct Seen {
    begun: Instant,
    ended: Instant,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A whole answer on a new connection, by this process.
    Fresh(u32),
    /// A whole answer on a kept connection.
    Kept(u32),
    /// A connection was closed, or said to be closing, between two requests.
    ClosedIdle,
    /// A kept connection was opened again.
    Reconnected,
    /// A request on a kept connection met a close that was under way: nothing of an answer came.
    MetClose,
    /// A request got no whole answer for another reason.
    Failed(Failure),
}

#[derive(Debug, Default)]
struct Record {
    seen: RefCell<Vec<Seen>>,
    is_over: Cell<bool>,
}

pub(super) async fn measure(quick: bool) -> Result<Findings> {
    let (rounds, calm) = if quick { (1, Duration::from_millis(300)) } else { (7, CALM) };
    let mut findings = Findings::new("reload", "Reload under clients that never retry", quick);
    for side in SIDES {
        let Some(server) = start(side, 2, &mut findings).await? else { continue };
        for _ in 0..rounds {
            one_reload(&server, calm, &mut findings).await?;
        }
    }
    Ok(findings)
}

async fn one_reload(server: &Server, calm: Duration, findings: &mut Findings) -> Result<()> {
    let record = Rc::new(Record::default());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn_local(fresh(server.address, Rc::clone(&record)));
        clients.spawn_local(kept(server.address, Rc::clone(&record)));
    }
    clock::pass(calm).await;
    let old: BTreeSet<u32> = record.seen.borrow().iter().filter_map(|seen| seen.who()).collect();
    let begin = clock::now();
    server.signal(if server.side == Side::Haproxy { Signal::USR2 } else { Signal::HUP })?;
    let gone = loop {
        clock::pass(Duration::from_millis(1)).await;
        if old.iter().all(|pid| !cpu::lives(*pid)) {
            break Some(begin.elapsed());
        }
        if begin.elapsed() > PATIENCE {
            break None;
        }
    };
    // The clients go on after it, for as long as before.
    clock::pass(calm).await;
    record.is_over.set(true);
    clients.join_all().await;
    let seen = record.seen.take();
    let name = server.side;
    match gone {
        Some(time) => findings.note("old generation gone", "ms", name, CASE, milliseconds(time)),
        None => findings.skip(name, format_args!("old workers were still there after {PATIENCE:?}")),
    }
    note(findings, name, &seen, &old, begin);
    Ok(())
}

/// A new connection for each request.
async fn fresh(address: std::net::SocketAddr, record: Rc<Record>) {
    while !record.is_over.get() {
        let begun = clock::now();
        let answer = match Connection::open(address).await {
            Ok(mut connection) => connection.get().await,
            Err(failure) => Err(failure),
        };
        record.see(begun, answer.map_or_else(What::Failed, |answer| What::Fresh(answer.pid)));
        clock::pass(PACE).await;
    }
}

/// One connection for as many requests as it lasts.
async fn kept(address: std::net::SocketAddr, record: Rc<Record>) {
    let mut is_first = true;
    while !record.is_over.get() {
        let begun = clock::now();
        match Connection::open(address).await {
            Ok(connection) => {
                if !std::mem::take(&mut is_first) {
                    record.see(begun, What::Reconnected);
                }
                use_up(connection, &record).await;
            }
            Err(failure) => record.see(begun, What::Failed(failure)),
        }
    }
}

async fn use_up(mut connection: Connection, record: &Record) {
    let mut is_used = false;
    while !record.is_over.get() {
        let begun = clock::now();
        match connection.get().await {
            Ok(answer) => {
                is_used = true;
                record.see(begun, What::Kept(answer.pid));
                if answer.closes {
                    return record.see(begun, What::ClosedIdle);
                }
            }
            Err(Failure::Closed) if is_used => return record.see(begun, What::MetClose),
            Err(failure) => return record.see(begun, What::Failed(failure)),
        }
        tokio::select! {
            () = connection.closed() => return record.see(clock::now(), What::ClosedIdle),
            () = clock::pass(PACE) => {}
        }
    }
}

impl Record {
    fn see(&self, begun: Instant, what: What) {
        self.seen.borrow_mut().push(Seen { begun, ended: clock::now(), what });
    }
}

impl Seen {
    /// Who answered.
    fn who(&self) -> Option<u32> {
        match self.what {
            What::Fresh(pid) | What::Kept(pid) => Some(pid),
            _ => None,
        }
    }

    fn latency(&self) -> f64 {
        milliseconds(self.ended - self.begun)
    }
}

fn note(findings: &mut Findings, side: Side, seen: &[Seen], old: &BTreeSet<u32>, begin: Instant) {
    let count = |is: fn(&What) -> bool| seen.iter().filter(|seen| is(&seen.what)).count() as f64;
    findings.note("failed requests", "per reload", side, CASE, count(|what| matches!(what, What::Failed(_))));
    findings.note("requests lost to an idle close", "per reload", side, CASE, count(|what| *what == What::MetClose));
    findings.note(
        "kept connections closed between requests",
        "per reload",
        side,
        CASE,
        count(|what| *what == What::ClosedIdle),
    );
    findings.note("reconnects", "per reload", side, CASE, count(|what| *what == What::Reconnected));
    let first_new = seen
        .iter()
        .filter(|seen| seen.begun >= begin && seen.who().is_some_and(|pid| !old.contains(&pid)))
        .map(|seen| seen.ended - begin)
        .min();
    if let Some(first) = first_new {
        findings.note("new generation answers", "ms", side, CASE, milliseconds(first));
    }
    let last_old = seen
        .iter()
        .filter(|seen| matches!(seen.what, What::Fresh(pid) if old.contains(&pid)))
        .filter_map(|seen| seen.begun.checked_duration_since(begin))
        .max();
    let last_old = last_old.map_or(0.0, milliseconds);
    findings.note("old generation's last connection", "ms", side, CASE, last_old);
    let worst = |when: &dyn Fn(&Seen) -> bool, part: f64| {
        let mut latencies: Vec<f64> =
            seen.iter().filter(|seen| seen.who().is_some() && when(seen)).map(Seen::latency).collect();
        latencies.sort_by(f64::total_cmp);
        quantile(&latencies, part)
    };
    let is_calm = |seen: &Seen| seen.ended < begin;
    let is_shadowed = |seen: &Seen| seen.ended >= begin && seen.begun < begin + SHADOW;
    findings.note("99th percentile in the calm", "ms", side, CASE, worst(&is_calm, 0.99));
    findings.note("worst in the calm", "ms", side, CASE, worst(&is_calm, 1.0));
    findings.note("99th percentile within 500 ms of the reload", "ms", side, CASE, worst(&is_shadowed, 0.99));
    findings.note("worst within 500 ms of the reload", "ms", side, CASE, worst(&is_shadowed, 1.0));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
