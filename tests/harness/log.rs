//! The output of a master and its workers, line by line as it comes.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::clock::{Deadline, PATIENCE};

/// A stream that a thread reads to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Follows a stream until every process that holds it has gone.
    pub(crate) fn follow(stream: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let writer = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                writer.change(|state| state.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            writer.change(|state| state.ended = true);
        });
        log
    }

    /// Everything so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// Everything so far, in one piece.
    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// How many lines so far have all these words.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        self.state().lines.iter().filter(|line| has(line, words)).count()
    }

    /// Waits for a line that has all these words; also one that was there before counts.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &[&str]) -> String {
        let deadline = Deadline::within(PATIENCE);
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.iter().find(|line| has(line, words)) {
                return line.clone();
            }
            let Some(left) = deadline.left() else {
                drop(state);
                panic!("no line with {words:?} in:\n{}", self.text());
            };
            state = self.wait(state, left);
        }
    }

    /// Waits until the stream has ended: every process that held it has gone.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) {
        let deadline = Deadline::within(PATIENCE);
        let mut state = self.state();
        while !state.ended {
            let Some(left) = deadline.left() else {
                drop(state);
                panic!("somebody still holds the output:\n{}", self.text());
            };
            state = self.wait(state, left);
        }
    }

    /// Waits for the next line, but not longer than this.
    pub(crate) fn wait_for_news(&self, at_most: Duration) {
        drop(self.wait(self.state(), at_most));
    }

    /// Lets this much time pass, whatever is said meanwhile.
    pub(crate) fn pass(&self, time: Duration) {
        let deadline = Deadline::within(time);
        while let Some(left) = deadline.left() {
            self.wait_for_news(left);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let waited = self.0.changed.wait_timeout(state, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.changed.notify_all();
    }
}

fn has(line: &str, words: &[&str]) -> bool {
    words.iter().all(|word| line.contains(word))
}
