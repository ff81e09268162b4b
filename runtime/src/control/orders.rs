//! The requests that change how many workers there are and what they do, beside reload and stop.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use everport_handoff::id::{Slot, WorkerId};
use serde::Deserialize;

use super::request::Request;
use super::server::{Caller, refuse, respond, soon};
use crate::config::{MAX_WORKERS, Policy};
use crate::machine::{MAX_WEIGHT, Scale};
use crate::shell::PolicyError;

#[derive(Deserialize)]
pub(super) struct ScaleQuery {
    to: Option<u32>,
    up: Option<u32>,
    down: Option<u32>,
}

pub(super) async fn scale(State(caller): State<Caller>, query: Result<Query<ScaleQuery>, QueryRejection>) -> Response {
    let to = match query {
        Ok(Query(ScaleQuery { to: Some(to @ 1..=MAX_WORKERS), up: None, down: None })) => Scale::To(to),
        Ok(Query(ScaleQuery { to: None, up: Some(up @ 1..=MAX_WORKERS), down: None })) => Scale::Up(up),
        Ok(Query(ScaleQuery { to: None, up: None, down: Some(down @ 1..=MAX_WORKERS) })) => Scale::Down(down),
        _ => {
            let reason = format!("want /scale?to=N, /scale?up=N or /scale?down=N, with N from 1 to {MAX_WORKERS}");
            return refuse(StatusCode::BAD_REQUEST, reason);
        }
    };
    let asked = caller.asker.ask(|answer| Request::Scale { client: caller.client, to, answer });
    respond(soon(asked, caller.limits.answer).await, |_| StatusCode::OK)
}

pub(super) async fn pause(State(caller): State<Caller>) -> Response {
    set_paused(caller, true).await
}

pub(super) async fn resume(State(caller): State<Caller>) -> Response {
    set_paused(caller, false).await
}

async fn set_paused(caller: Caller, paused: bool) -> Response {
    let asked = caller.asker.ask(|answer| Request::Pause { client: caller.client, paused, answer });
    respond(soon(asked, caller.limits.answer).await, |_| StatusCode::OK)
}

#[derive(Deserialize)]
pub(super) struct PolicyQuery {
    listener: String,
    policy: Policy,
}

pub(super) async fn policy(
    State(caller): State<Caller>,
    query: Result<Query<PolicyQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(PolicyQuery { listener, policy })) = query else {
        let reason = format!("want /policy?listener=NAME&policy=P, with P one of {}", policies());
        return refuse(StatusCode::BAD_REQUEST, reason);
    };
    let asked = caller.asker.ask(|answer| Request::Policy { client: caller.client, listener, policy, answer });
    match soon(asked, caller.limits.answer).await {
        Ok(Err(error @ PolicyError::Unknown(_))) => refuse(StatusCode::NOT_FOUND, error),
        Ok(Err(error @ PolicyError::NewSocket { .. })) => refuse(StatusCode::CONFLICT, error),
        Ok(Ok(respread)) => respond(Ok(respread), |_| StatusCode::OK),
        Err(unanswered) => respond(Err::<(), _>(unanswered), |()| StatusCode::OK),
    }
}

fn policies() -> String {
    Policy::ALL.map(|policy| policy.to_string()).join(", ")
}

#[derive(Deserialize)]
pub(super) struct WeightQuery {
    slot: u32,
    weight: u32,
}

pub(super) async fn weight(
    State(caller): State<Caller>,
    query: Result<Query<WeightQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(WeightQuery { slot, weight: weight @ 0..=MAX_WEIGHT })) = query else {
        let reason = format!("want /weight?slot=N&weight=W, with W from 0 to {MAX_WEIGHT}");
        return refuse(StatusCode::BAD_REQUEST, reason);
    };
    let slot = Slot(slot);
    let asked = caller.asker.ask(|answer| Request::Weight { client: caller.client, slot, weight, answer });
    match soon(asked, caller.limits.answer).await {
        Ok(None) => refuse(StatusCode::NOT_FOUND, format!("there is no slot {slot}")),
        answered => respond(answered, |_| StatusCode::OK),
    }
}

#[derive(Deserialize)]
pub(super) struct KillQuery {
    worker: u64,
}

pub(super) async fn kill(State(caller): State<Caller>, query: Result<Query<KillQuery>, QueryRejection>) -> Response {
    let Ok(Query(KillQuery { worker })) = query else {
        return refuse(StatusCode::BAD_REQUEST, "want /kill?worker=ID, with the number of a worker");
    };
    let worker = WorkerId(worker);
    let asked = caller.asker.ask(|answer| Request::Kill { client: caller.client, worker, answer });
    match soon(asked, caller.limits.answer).await {
        Ok(None) => refuse(StatusCode::NOT_FOUND, format!("there is no worker {worker}")),
        answered => respond(answered, |_| StatusCode::OK),
    }
}
