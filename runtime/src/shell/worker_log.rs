//! What workers write to standard output and standard error: read from pipes by a thread of its own, and appended to one
//! file in whole lines, so that neither the lines of many workers nor the two streams of one ever tear.
//!
//! The buffers are the pipes, which the kernel bounds, and one line for each. When the file is slow, a worker that writes
//! much waits, as it would for the file itself; the master's loop never does. When the file cannot be written, as on a full
//! disk, lines are dropped and counted, and nobody waits. When the master is gone, the pipes have no reader; a worker then
//! writes to nowhere.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use super::reopening::Reopening;
use crate::error::{Error, Result};
use crate::log_file::{LogFile, Written};

/// The longest line that is kept whole; a longer one is cut into pieces of this size.
const MAX_LINE: usize = 64 * 1024;

/// How many pipes are read at most: two for each worker, for as long as the worker or a child that it left has them. The
/// oldest is given up for a new one.
const MAX_PIPES: usize = 8192;

/// How long the thread may take to write the last lines when the master ends. Children that workers left may keep pipes
/// open for ever.
const FINISH_DEADLINE: Duration = Duration::from_millis(500);

/// The workers' log and its thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct WorkerLog {
    orders: Option<mpsc::UnboundedSender<Order>>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Order {
    Read(OwnedFd),
    Reopen(Reopening),
}

impl WorkerLog {
    /// Opens the file and starts the thread.
    pub(super) fn start(path: &Path) -> Result<Self> {
        Self::with_pipes(path, MAX_PIPES)
    }

    fn with_pipes(path: &Path, most: usize) -> Result<Self> {
        let file = LogFile::open(path)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::io("make a runtime for", &"the workers' log"))?;
        // Unbounded, but what is in it comes from the loop: two orders for each worker that is started.
        let (orders, inbox) = mpsc::unbounded_channel();
        let (end, ended) = sync_channel(1);
        thread::Builder::new()
            .name("everport-output".to_owned())
            .spawn(move || {
                runtime.block_on(serve(file, inbox, most));
                runtime.shutdown_background();
                say_end(&end);
            })
            .map_err(Error::io("start the thread of", &"the workers' log"))?;
        Ok(Self { orders: Some(orders), ended })
    }

    /// Standard output and standard error for a new worker.
    pub(super) fn streams(&self) -> io::Result<(Stdio, Stdio)> {
        Ok((self.stream()?, self.stream()?))
    }

    fn stream(&self) -> io::Result<Stdio> {
        let (reader, writer) = io::pipe()?;
        self.order(Order::Read(reader.into()));
        Ok(writer.into())
    }

    /// Opens the file again, and goes on with the reopening.
    pub(super) fn reopen(&self, reopening: Reopening) {
        self.order(Order::Reopen(reopening));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders
            && orders.send(order).is_err()
        {
            warn!("the thread of the workers' log has ended");
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(2 * FINISH_DEADLINE) {
            warn!("the last lines of the workers' log are not written yet");
        }
    }
}

fn say_end(end: &SyncSender<()>) {
    // The master waits no longer.
    let _ = end.try_send(());
}

async fn serve(file: LogFile, mut inbox: mpsc::UnboundedReceiver<Order>, most: usize) {
    let file = Arc::new(Mutex::new(file));
    let mut readers = JoinSet::new();
    let mut open: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    let mut last = 0;
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Read(pipe)) => {
                    if open.len() >= most && let Some((_, oldest)) = open.pop_first() {
                        oldest.abort();
                        warn!(pipes = most, "too many pipes of workers, the oldest is given up");
                    }
                    last += 1;
                    open.insert(last, readers.spawn(read(pipe, Arc::clone(&file), last)));
                }
                Some(Order::Reopen(mut reopening)) => {
                    let mut file = lock(&file);
                    let reopened = file.reopen();
                    reopening.note(file.path(), reopened);
                    drop(file);
                    reopening.end();
                }
                None => break,
            },
            Some(ended) = readers.join_next(), if !readers.is_empty() => if let Ok(number) = ended {
                open.remove(&number);
            },
        }
    }
    let finish = async { while readers.join_next().await.is_some() {} };
    // Whoever still has a pipe is a child that a worker left.
    let _ = tokio::time::timeout(FINISH_DEADLINE, finish).await;
}

/// Reads one pipe to its end.
async fn read(pipe: OwnedFd, file: Arc<Mutex<LogFile>>, number: u64) -> u64 {
    let mut pipe = match pipe::Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => {
            warn!(%error, "output of a worker not read");
            return number;
        }
    };
    let mut buffer = Vec::new();
    while pipe.read_buf(&mut buffer).await.is_ok_and(|length| length > 0) {
        append_lines(&mut buffer, &file);
    }
    if !buffer.is_empty() {
        buffer.push(b'\n');
        append_lines(&mut buffer, &file);
    }
    number
}

/// Writes the whole lines at the front of the buffer.
fn append_lines(buffer: &mut Vec<u8>, file: &Mutex<LogFile>) {
    if buffer.len() >= MAX_LINE && !buffer.contains(&b'\n') {
        buffer.push(b'\n');
    }
    let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { return };
    let mut file = lock(file);
    match file.append(&buffer[..=end]) {
        Written::Whole | Written::Dropped => {}
        Written::Again { lost } => info!(path = %file.path().display(), lost, "worker log written again"),
        Written::Failed(error) => {
            warn!(path = %file.path().display(), %error, "worker log not written, lines are dropped")
        }
    }
    buffer.drain(..=end);
}

fn lock(file: &Mutex<LogFile>) -> MutexGuard<'_, LogFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::Command;

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn two_streams_of_many_processes_never_tear() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = WorkerLog::start(&path).unwrap();
        // Each line in two writes, on both streams in turn.
        let script =
            r#"for i in $(seq 200); do printf %s "out-$0-"; printf %s "err-$0-" >&2; echo $i; echo $i >&2; done"#;
        let start = |name: &str| {
            let (output, errors) = log.streams().unwrap();
            Command::new("sh").args(["-c", script, name]).stdout(output).stderr(errors).spawn().unwrap()
        };
        let children: Vec<_> = ["a", "b", "c", "d"].into_iter().map(start).collect();
        for mut child in children {
            child.wait().unwrap();
        }
        drop(log);
        let mut lines: Vec<String> = text(&path).lines().map(str::to_owned).collect();
        let mut expected: Vec<String> = Vec::new();
        for name in ["a", "b", "c", "d"] {
            for number in 1..=200 {
                expected.extend([format!("out-{name}-{number}"), format!("err-{name}-{number}")]);
            }
        }
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_last_line_without_an_end_gets_one_and_an_endless_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = WorkerLog::start(&path).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        log.order(Order::Read(reader.into()));
        writer.write_all(&vec![b'x'; 3 * MAX_LINE]).unwrap();
        drop(writer);
        drop(log);
        let text = text(&path);
        assert!(text.ends_with("x\n"));
        assert_eq!(text.bytes().filter(|byte| *byte == b'x').count(), 3 * MAX_LINE);
        assert!(text.lines().all(|line| line.len() < 2 * MAX_LINE), "a line of any length is kept");
        assert!(text.lines().count() >= 2);
    }

    #[test]
    fn the_oldest_pipe_is_given_up_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = WorkerLog::with_pipes(&path, 2).unwrap();
        let mut writers: Vec<io::PipeWriter> = Vec::new();
        for _ in 0..3 {
            let (reader, writer) = io::pipe().unwrap();
            log.order(Order::Read(reader.into()));
            writers.push(writer);
        }
        for writer in &mut writers[1..] {
            writer.write_all(b"heard\n").unwrap();
        }
        // Ends the thread after it has taken the orders, and so after it gave the oldest up.
        let oldest = writers.remove(0);
        drop(writers);
        drop(log);
        assert_eq!((&oldest).write_all(b"unheard\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(text(&path), "heard\nheard\n");
    }

    #[test]
    fn a_full_disk_holds_no_writer_up() {
        let log = WorkerLog::start(Path::new("/dev/full")).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        log.order(Order::Read(reader.into()));
        // Far more than the pipe holds.
        for _ in 0..10_000 {
            writer.write_all(&[b"lost ".repeat(20), b"\n".to_vec()].concat()).unwrap();
        }
    }
}
