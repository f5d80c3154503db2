//! Judges rounds on a thread of its own while the clients go on, and adds up what came out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use scripted::history::{History, Outcome, Verdict, Window, judge_within};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::failure::{Exit, Failure};

/// Steps of the judge for a round; some hundred are usual for each hundred operations.
const STEPS: u64 = 300_000;
/// After so many rounds that weren't decided, no more are judged.
const UNDECIDED_MAX: u64 = 3;
/// Rounds that wait to be judged; then the clients wait, too.
const WAITING_MAX: usize = 16;

/// What came out of the rounds so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    pub(super) operations: u64,
    /// Nobody knows whether they took effect.
    pub(super) unknown: u64,
    /// They surely didn't.
    pub(super) not_executed: u64,
    /// Rounds for which no order was found, nor that there is none.
    pub(super) undecided: u64,
    pub(super) steps: u64,
    pub(super) took: Duration,
    /// The first round that can't be ordered.
    pub(super) violation: Option<Window>,
}

impl Tally {
    /// Judges a round.
    pub(super) fn add(&mut self, history: &History) {
        self.add_within(history, STEPS);
    }

    fn add_within(&mut self, history: &History, steps: u64) {
        let count = |outcome: &Outcome| {
            let found = history.operations.iter().filter(|operation| operation.outcome == *outcome);
            found.count() as u64
        };
        self.rounds += 1;
        self.operations += history.operations.len() as u64;
        self.unknown += count(&Outcome::Unknown);
        self.not_executed += count(&Outcome::NotExecuted);
        if self.violation.is_some() {
            return;
        }
        if self.undecided >= UNDECIDED_MAX {
            self.undecided += 1;
            return;
        }
        let began = Instant::now();
        let verdict = judge_within(history, steps);
        self.took += began.elapsed();
        match verdict {
            Verdict::Ordered(figures) => self.steps += figures.steps,
            Verdict::Undecided(figures) => {
                self.steps += figures.steps;
                self.undecided += 1;
            }
            Verdict::Violation(window) => {
                self.violation.get_or_insert(window);
            }
        }
    }
}

/// The thread that judges.
pub(super) struct Judge {
    sender: mpsc::Sender<History>,
    thread: JoinHandle<Tally>,
    found: Arc<Notify>,
}

impl Judge {
    pub(super) fn start() -> Judge {
        let (sender, mut receiver) = mpsc::channel::<History>(WAITING_MAX);
        let found = Arc::new(Notify::new());
        let tell = found.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let mut tally = Tally::default();
            while let Some(history) = receiver.blocking_recv() {
                tally.add(&history);
                if tally.violation.is_some() {
                    tell.notify_one();
                }
            }
            tally
        });
        Judge { sender, thread, found }
    }

    /// Where rounds are handed in.
    pub(super) fn sender(&self) -> mpsc::Sender<History> {
        self.sender.clone()
    }

    /// Told when a violation is found.
    pub(super) fn found(&self) -> Arc<Notify> {
        self.found.clone()
    }

    /// When all senders are gone and all rounds are judged.
    pub(super) async fn finish(self) -> Result<Tally, Failure> {
        drop(self.sender);
        self.thread.await.map_err(|e| Failure::new(Exit::Failed, "FAILED", e.to_string()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use scripted::history::Operation;

    use super::*;

    /// A write that was answered, and a later read of what was there before it.
    pub(in crate::check) fn stale_read() -> History {
        use client::{TxnOp, TxnResult};
        let put = |at, value: &str| {
            let op = TxnOp::Put { key: b"k".to_vec(), value: value.into() };
            Operation::single(1, at, at + 5, op, TxnResult::Written { length: value.len() as u64 })
        };
        let read = Operation::get(2, 30, 35, b"k", Some(b"old".to_vec()));
        History { operations: vec![put(10, "old"), put(20, "newer"), read], ..History::default() }
    }

    #[tokio::test]
    async fn a_violation_is_told_at_once_and_kept() {
        let judge = Judge::start();
        let (sender, found) = (judge.sender(), judge.found());
        sender.send(History::default()).await.unwrap();
        sender.send(stale_read()).await.unwrap();
        found.notified().await;
        sender.send(History::default()).await.unwrap();
        drop(sender);
        let tally = judge.finish().await.unwrap();
        assert_eq!((tally.rounds, tally.operations, tally.undecided), (3, 3, 0));
        assert!(tally.violation.unwrap().to_string().contains("get k -> \"old\""));
    }

    #[test]
    fn outcomes_are_counted_and_what_takes_too_long_is_not_decided() {
        let mut history = stale_read();
        history.operations[1].outcome = Outcome::Unknown;
        history.operations[2].outcome = Outcome::NotExecuted;
        let mut tally = Tally::default();
        tally.add(&history);
        assert_eq!((tally.unknown, tally.not_executed, tally.undecided), (1, 1, 0));
        assert!(tally.violation.is_none());
        tally.add_within(&history, 0);
        assert_eq!(tally.undecided, 1);
    }
}
