//! The commands that tell a running master how many workers there shall be and what they shall do.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use clap::Subcommand;
use serde::de::DeserializeOwned;

use super::arguments::{ControlArguments, EXIT_CODES};
use super::ask::PATIENCE;
use super::{Failure, control_socket, print, workers};
use crate::config::{MAX_WORKERS, Policy};
use crate::control::client::Connection;
use crate::control::protocol::{Killing, Pausing, Respread, Scaled, Status, Weighed};
use crate::machine::MAX_WEIGHT;

#[derive(Debug, Subcommand)]
pub(super) enum Order {
    /// Show every worker: what it does, what it costs, and what it still waits for.
    #[command(after_help = EXIT_CODES)]
    Workers {
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Set the number of workers: to N, or by +N more, or by -N less. It lasts over reloads, until the master ends.
    #[command(after_help = EXIT_CODES)]
    Scale {
        #[arg(value_name = "N|+N|-N", allow_hyphen_values = true)]
        to: Amount,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Let the workers take no connections: the port stays open, clients wait, what is under way goes on.
    #[command(after_help = EXIT_CODES)]
    Pause {
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Let the workers take connections again.
    #[command(after_help = EXIT_CODES)]
    Resume {
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Spread a listener's new connections by another policy: rr, least, p2c or hash. It lasts until the master ends, or a
    /// reload finds another policy in the settings than before.
    #[command(after_help = EXIT_CODES)]
    Policy {
        /// The listener's name or address, as `everport status` shows it.
        #[arg(value_name = "LISTENER")]
        listener: String,
        #[arg(value_name = "POLICY")]
        policy: Policy,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Give a slot more or less new connections than the others have, who have weight 1; 0 gets none. Not for listeners with
    /// policy none or split. It lasts over reloads, until the master ends.
    #[command(after_help = EXIT_CODES)]
    Weight {
        #[arg(value_name = "SLOT")]
        slot: u32,
        #[arg(value_name = "W", value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_WEIGHT)))]
        weight: u32,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Kill one worker: it is replaced at once, as after a crash, and has a few seconds to hand over its connections and to
    /// finish. Given twice, or to a worker that drains already, it kills at once.
    #[command(after_help = EXIT_CODES)]
    Kill {
        /// The worker's number, as `everport workers` shows it.
        #[arg(long, value_name = "ID")]
        worker: u64,
        #[command(flatten)]
        control: ControlArguments,
    },
}

/// How many workers: a number, or so many more or less than now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    To(u32),
    Up(u32),
    Down(u32),
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, digits): (fn(u32) -> Self, _) = match text.split_at_checked(1) {
            Some(("+", digits)) => (Self::Up, digits),
            Some(("-", digits)) => (Self::Down, digits),
            _ => (Self::To, text),
        };
        let number = digits
            .parse()
            .ok()
            .filter(|number| digits.bytes().all(|byte| byte.is_ascii_digit()) && (1..=MAX_WORKERS).contains(number));
        number.map(kind).ok_or_else(|| format!("want N, +N or -N, with N from 1 to {MAX_WORKERS}"))
    }
}

/// Gives the order and says what came of it.
pub(super) fn give(order: Order) -> Result<(), Failure> {
    match order {
        Order::Workers { json, control } => show_workers(&control_socket(control)?, json),
        Order::Scale { to, control } => scale(&control_socket(control)?, to),
        Order::Pause { control } => set_paused(&control_socket(control)?, true),
        Order::Resume { control } => set_paused(&control_socket(control)?, false),
        Order::Policy { listener, policy, control } => set_policy(&control_socket(control)?, &listener, policy),
        Order::Weight { slot, weight, control } => set_weight(&control_socket(control)?, slot, weight),
        Order::Kill { worker, control } => kill(&control_socket(control)?, worker),
    }
}

fn show_workers(control: &Path, json: bool) -> Result<(), Failure> {
    let status: Status = ask(control, Method::GET, "/status")?;
    print(if json { workers::json(&status) } else { workers::table(&status) }.as_bytes())
}

fn scale(control: &Path, to: Amount) -> Result<(), Failure> {
    let uri = match to {
        Amount::To(number) => format!("/scale?to={number}"),
        Amount::Up(number) => format!("/scale?up={number}"),
        Amount::Down(number) => format!("/scale?down={number}"),
    };
    let Scaled { before, workers } = ask(control, Method::POST, &uri)?;
    let count = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    let text = if before == workers { format!("{count}, as before\n") } else { format!("{count}, {before} before\n") };
    print(text.as_bytes())
}

fn set_paused(control: &Path, paused: bool) -> Result<(), Failure> {
    let uri = if paused { "/pause" } else { "/resume" };
    let Pausing { paused, changed } = ask(control, Method::POST, uri)?;
    let text: &[u8] = match (paused, changed) {
        (true, true) => b"paused: clients wait until `everport resume`\n",
        (true, false) => b"paused already\n",
        (false, true) => b"resumed\n",
        (false, false) => b"not paused\n",
    };
    print(text)
}

fn set_policy(control: &Path, listener: &str, policy: Policy) -> Result<(), Failure> {
    let policy = policy.to_string();
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("listener", listener)
        .append_pair("policy", &policy)
        .finish();
    let Respread { listener, before, policy } = ask(control, Method::POST, &format!("/policy?{query}"))?;
    let text = match policy == before {
        true => format!("{listener}: policy {policy}, as before\n"),
        false => format!("{listener}: policy {policy}, {before} before\n"),
    };
    print(text.as_bytes())
}

fn set_weight(control: &Path, slot: u32, weight: u32) -> Result<(), Failure> {
    let uri = format!("/weight?slot={slot}&weight={weight}");
    let Weighed { slot, before, weight } = ask(control, Method::POST, &uri)?;
    let text = match weight == before {
        true => format!("slot {slot}: weight {weight}, as before\n"),
        false => format!("slot {slot}: weight {weight}, {before} before\n"),
    };
    print(text.as_bytes())
}

fn kill(control: &Path, worker: u64) -> Result<(), Failure> {
    let Killing { worker, slot, generation, grace_ms } = ask(control, Method::POST, &format!("/kill?worker={worker}"))?;
    let who = format!("worker {worker} of slot {slot}, generation {generation}");
    let text = match grace_ms.map(Duration::from_millis) {
        Some(grace) => format!("replaced: {who}; it ends within {}\n", humantime::format_duration(grace)),
        None => format!("killed: {who}\n"),
    };
    print(text.as_bytes())
}

fn ask<T: DeserializeOwned>(control: &Path, method: Method, uri: &str) -> Result<T, Failure> {
    Ok(Connection::open(control)?.ask(method, uri, Some(PATIENCE))?.read(&[StatusCode::OK])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_number_or_a_difference() {
        let table = [
            ("4", Some(Amount::To(4))),
            ("+1", Some(Amount::Up(1))),
            ("-1024", Some(Amount::Down(1024))),
            ("0", None),
            ("+0", None),
            ("1025", None),
            ("", None),
            ("+", None),
            ("--1", None),
            ("+-1", None),
            ("four", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
