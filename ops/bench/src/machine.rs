//! The machine that was measured on.

use std::fmt;
use std::fs;

use serde::Serialize;

/// What figures depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    memory_gib: u64,
    kernel: String,
    system: String,
    descriptors: u64,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = field(&read("/proc/meminfo"), "MemTotal", ':').split(' ').next().and_then(|kb| kb.parse().ok());
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name", ':'),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_gib: memory.map_or(0, |kib: u64| kib / (1024 * 1024)),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_owned(),
            descriptors: limit.unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, memory_gib, kernel, system, descriptors } = self;
        write!(
            formatter,
            "Measured on {processors} processors ({processor}), {memory_gib} GiB of memory, Linux {kernel}, {system}, at \
             most {descriptors} descriptors for a process. Clients and servers share the machine, over loopback."
        )
    }
}

fn field(text: &str, name: &str, separator: char) -> String {
    let mut fields = text.lines().filter_map(|line| line.split_once(separator));
    fields.find(|(key, _)| key.trim() == name).map_or_else(String::new, |(_, value)| value.trim().to_owned())
}
