//! Everport with the handlers of the baselines. The policy comes by `EVERPORT_SCHED_POLICY`.

use std::io;

use everport::Builder;
use everport::net::TcpListener;

use super::{Settings, answer, web};
use crate::error::Result;
use crate::protocol;

fn builder(settings: &Settings) -> Builder {
    let workers = u32::try_from(settings.workers).unwrap_or(u32::MAX);
    Builder::new().workers(workers).listen(settings.listen.to_string())
}

/// The 16 bytes.
pub(super) fn echo(settings: &Settings) -> Result<()> {
    let text = protocol::answer();
    builder(settings).run(async |worker| {
        let listener = TcpListener::bind(settings.listen).await?;
        let draining = worker.draining();
        tokio::pin!(draining);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    tokio::spawn(answer(accepted?.0, text));
                }
                () = &mut draining => return io::Result::Ok(()),
            }
        }
    })?;
    Ok(())
}

/// The web application.
pub(super) fn web(settings: &Settings) -> Result<()> {
    builder(settings).run(async |_| {
        let listener = TcpListener::bind(settings.listen).await?;
        everport::serve(listener, web::app()).await
    })?;
    Ok(())
}
