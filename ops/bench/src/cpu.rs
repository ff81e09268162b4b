//! What processes cost, as `/proc` shows it.

use std::collections::HashMap;
use std::fs;

/// A process and all that descend from it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        tree.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    tree
}

/// The CPU time of all threads of these processes, in nanoseconds: the first field of `schedstat`, which counts what the
/// scheduler gave, not ticks.
pub(crate) fn time(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| threads(*pid)).sum()
}

/// The CPU time of a process and all that descend from it, with its children that have ended and were reaped, in
/// nanoseconds. Of those the kernel tells whole ticks alone, so that a difference is wrong by up to two of them.
pub(crate) fn spent(root: u32) -> u64 {
    let ticks = stat(root).map_or(0, |stat| stat.reaped);
    time(&tree(root)) + ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()
}

fn threads(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    threads
        .flatten()
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

/// A field of `/proc/PID/smaps_rollup`, such as `Rss` or `Pss`, in bytes.
pub(crate) fn memory(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Whether a process is there and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Whether a process is there, if only for its parent to reap it.
pub(crate) fn exists(pid: u32) -> bool {
    stat(pid).is_some()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: u32,
    /// The CPU time of the children that were reaped, in ticks.
    reaped: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold spaces and parentheses. The fields count from 3, the state.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        reaped: ticks(16)? + ticks(17)?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_time_of_a_process_that_has_ended_is_not_lost() {
        let before = spent(std::process::id());
        let mut child = Command::new("sh");
        child.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"]);
        assert!(child.status().expect("a shell").success());
        // That of the loop is many ticks; that of this test, which waits, is next to nothing.
        assert!(spent(std::process::id()) - before > 20_000_000);
    }
}
