//! The web application that Everport and plain axum both serve: `/` says who answers.

use std::net::TcpListener;

use axum::Router;
use axum::routing::get;

use super::runtime;
use crate::error::{Error, Result};

/// The application.
pub(super) fn app() -> Router {
    let pid = std::process::id().to_string();
    Router::new().route("/", get(async move || pid))
}

/// A worker of plain axum.
pub(super) fn worker(listener: TcpListener) -> Result<()> {
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::io("watch", "the listener"))?;
        axum::serve(listener, app()).await.map_err(Error::io("serve on", "the listener"))
    })
}
