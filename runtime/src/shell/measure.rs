//! What a worker costs, as `/proc` shows it.

use std::fs;

use everport_handoff::id::WorkerId;

use super::Shell;
use super::process::Process;
use crate::machine::Event;

impl Shell {
    /// Looks at a worker's figures and tells the machine.
    pub(super) fn measure(&mut self, worker: WorkerId) {
        let memory = self.process(worker).and_then(resident_memory);
        let taken = self.links.get(&worker).map_or(0, |link| link.figures().taken);
        self.note(Event::Measured { worker, memory, taken });
    }
}

/// The memory of a process that is in use, in bytes: resident pages, shared ones included (RSS). The proportional figure
/// (PSS) would have the kernel walk through all its pages.
pub(super) fn resident_memory(process: &Process) -> Option<u64> {
    // The process has not been reaped, so the number is its own.
    let text = fs::read_to_string(format!("/proc/{}/statm", process.pid())).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX)))
}
