//! One client at work: an operation after the other on the keys of the round, each written down with its call, its answer
//! and what is known of its outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Client, Consistency, Error, ErrorKind, Transaction, Txn, TxnError, TxnOp, TxnReply, TxnResult};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::index::sample;
use scripted::history::{History, Operation, Outcome, alone};
use tokio::sync::mpsc;

use super::rounds::{Closed, KEYS, Keys, Rounds, Sort, TEAM};

/// A client whose operation failed waits this long, so that a cluster that is down isn't asked in a tight loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Of so many operations, one isn't waited for.
const ABANDONED_OF: u32 = 40;
/// Such a one is given up after at most this time.
const ABANDONED_WITHIN_US: u64 = 4_000;
/// How often the last look at a round's keys is tried.
const LOOKS: u32 = 3;

/// What all clients share.
pub(super) struct Shared {
    /// Of each team.
    pub(super) rounds: Vec<Rounds>,
    pub(super) consistency: Consistency,
    /// The one clock of all calls and answers.
    pub(super) began: Instant,
    pub(super) stop: AtomicBool,
    /// Rounds whose keys couldn't be looked at once more.
    pub(super) unread: AtomicU64,
}

impl Shared {
    /// The rounds of a client's team.
    fn rounds(&self, who: u64) -> &Rounds {
        let team = usize::try_from(who / TEAM).unwrap_or(0);
        &self.rounds[team]
    }

    /// In µs since the run began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// One client, with a session of its own.
pub(super) struct Caller {
    pub(super) who: u64,
    pub(super) client: Client,
    pub(super) random: SmallRng,
    pub(super) shared: Arc<Shared>,
    pub(super) judge: mpsc::Sender<History>,
    memory: Memory,
}

/// What a client last saw in the keys of a round, for compares that may hold.
#[derive(Debug, Default)]
struct Memory {
    round: u64,
    seen: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Values written so far: no two are the same.
    written: u64,
}

impl Caller {
    pub(super) fn new(
        who: u64,
        client: Client,
        random: SmallRng,
        shared: Arc<Shared>,
        judge: mpsc::Sender<History>,
    ) -> Caller {
        Caller { who, client, random, shared, judge, memory: Memory::default() }
    }

    /// Until it is told to stop.
    pub(super) async fn work(mut self) -> Caller {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let keys = self.shared.rounds(self.who).call();
            if keys.round != self.memory.round {
                self.memory = Memory { round: keys.round, seen: HashMap::new(), ..self.memory };
            }
            let txn = self.draw(&keys);
            let (operation, failed) = self.once(txn).await;
            if let Some(closed) = self.shared.rounds(self.who).note(&keys, operation)
                && let Some(unread) = self.look_again(closed).await
            {
                self.shared.rounds(self.who).hold(unread);
            }
            if failed {
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
        self
    }

    /// Asks once. What is to be written down, and whether it is better to wait a little now.
    async fn once(&mut self, txn: Txn) -> (Option<Operation>, bool) {
        let patience = match self.random.random_range(0..ABANDONED_OF) {
            0 => Duration::from_micros(self.random.random_range(0..ABANDONED_WITHIN_US)),
            _ => Duration::MAX,
        };
        let invoked = self.shared.now();
        // Giving up drops the call: its answer is lost, whatever becomes of the request.
        let asked = ask(&self.client, &txn, self.shared.consistency);
        let answer = tokio::time::timeout(patience, asked).await.ok();
        let returned = self.shared.now();
        if let Some(Ok(reply)) = &answer {
            self.memory.learn(&txn, reply);
        }
        let failed = matches!(&answer, Some(Err(error)) if outcome_of(error).is_none());
        let outcome = match answer {
            Some(Ok(reply)) => Outcome::Replied(reply),
            Some(Err(error)) => outcome_of(&error).unwrap_or(match error.outcome {
                client::Outcome::NotExecuted => Outcome::NotExecuted,
                client::Outcome::Unknown | client::Outcome::Executed => Outcome::Unknown,
            }),
            // A read without an answer says nothing.
            None if txn.is_read_only() => return (None, failed),
            None => Outcome::Unknown,
        };
        (Some(Operation { client: self.who, invoked, returned, txn, outcome }), failed)
    }

    /// Reads all keys of a round once more and hands the round to the judge; gives it back if they can't be read.
    pub(super) async fn look_again(&mut self, mut closed: Closed) -> Option<Closed> {
        let names = closed.keys.names.clone();
        let look = Txn::from(names.iter().fold(Transaction::new(), Transaction::get));
        let invoked = self.shared.now();
        let Ok(reply) = self.client.transact(look.clone()).await else { return Some(closed) };
        let (returned, outcome) = (self.shared.now(), Outcome::Replied(reply));
        let operation = Operation { client: self.who, invoked, returned, txn: look, outcome };
        closed.history.operations.push(operation);
        self.hand_in(closed).await;
        // What is left is removed at the end.
        let _ = self.client.transact(names.iter().fold(Transaction::new(), Transaction::delete)).await;
        None
    }

    /// The last look at all that is left, when nothing is broken any more.
    pub(super) async fn look_at_rest(&mut self, rest: Vec<Closed>) {
        for closed in rest {
            let mut left = Some(closed);
            for _ in 0..LOOKS {
                if let Some(closed) = left {
                    left = self.look_again(closed).await;
                }
            }
            if let Some(unread) = left {
                self.shared.unread.fetch_add(1, Ordering::Relaxed);
                self.hand_in(unread).await;
            }
        }
    }

    async fn hand_in(&self, closed: Closed) {
        // Nobody listens any more once the run is called off.
        let _ = self.judge.send(closed.history).await;
    }

    /// The next operation.
    fn draw(&mut self, keys: &Keys) -> Txn {
        let Caller { random, memory, who, .. } = self;
        let any = |random: &mut SmallRng| keys.names[random.random_range(0..KEYS)].clone();
        let of = |random: &mut SmallRng, sort: Sort, count: usize| -> Vec<Vec<u8>> {
            let numbers: Vec<usize> = sort.numbers().collect();
            let drawn = sample(random, numbers.len(), count);
            drawn.into_iter().map(|at| keys.names[numbers[at]].clone()).collect()
        };
        let one = |random: &mut SmallRng, sort: Sort| of(random, sort, 1).swap_remove(0);
        memory.written += 1;
        let value = format!("{who}.{}", memory.written).into_bytes();
        let item = [&value[..], b";"].concat();
        match random.random_range(0..20) {
            0..=5 => alone(TxnOp::Get { key: any(random) }),
            6..=7 => alone(TxnOp::Put { key: one(random, Sort::Register), value }),
            8 => alone(TxnOp::Delete { key: one(random, Sort::Register) }),
            9..=10 => {
                let key = one(random, Sort::Register);
                let expected = memory.last(&key);
                alone(TxnOp::Cas { key, expected, value })
            }
            11..=12 => alone(TxnOp::Append { key: one(random, Sort::List), value: item }),
            13..=14 => {
                let by = random.random_range(1..=9);
                alone(TxnOp::Incr { key: one(random, Sort::Counter), by })
            }
            15..=16 => {
                let (two, amount) = (of(random, Sort::Counter, 2), random.random_range(1..=9));
                Transaction::new().incr(&two[0], -amount).incr(&two[1], amount).into()
            }
            17 => {
                let two = of(random, Sort::Register, 2);
                Transaction::new().copy(&two[0], &two[1]).copy(&two[1], &two[0]).into()
            }
            18 => {
                let count = random.random_range(2..=KEYS / 2);
                let some = sample(random, KEYS, count).into_iter().map(|at| &keys.names[at]);
                some.fold(Transaction::new(), Transaction::get).into()
            }
            _ => {
                let (register, list) = (one(random, Sort::Register), one(random, Sort::List));
                let begun = match memory.last(&register) {
                    Some(seen) => Transaction::new().when_value(&register, seen),
                    None => Transaction::new().when_absent(&register),
                };
                begun.put(&register, value).append(list, item).otherwise().get(register).into()
            }
        }
    }
}

impl Memory {
    fn last(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.seen.get(key).cloned().flatten()
    }

    fn learn(&mut self, txn: &Txn, reply: &TxnReply) {
        let steps = if reply.held { &txn.then } else { &txn.otherwise };
        for (step, result) in steps.iter().zip(&reply.results) {
            let now = match (step, result) {
                (TxnOp::Get { .. }, TxnResult::Value(found)) => {
                    found.as_ref().map(|(value, _)| value.clone())
                }
                (TxnOp::Put { value, .. } | TxnOp::Cas { value, .. }, _) => Some(value.clone()),
                (TxnOp::Delete { .. }, _) => None,
                _ => continue,
            };
            self.seen.insert(step.key().to_vec(), now);
        }
    }
}

/// What an error says of an operation that ran without effect; `None` if it says less.
fn outcome_of(error: &Error) -> Option<Outcome> {
    match error.kind {
        ErrorKind::Mismatch { .. } => Some(Outcome::Failed { op: 0, error: TxnError::Mismatch }),
        ErrorKind::NotANumber => Some(Outcome::Failed { op: 0, error: TxnError::NotANumber }),
        ErrorKind::TxnFailed { op, error } => Some(Outcome::Failed { op, error }),
        ErrorKind::TooLarge if error.outcome == client::Outcome::Executed => {
            Some(Outcome::Failed { op: 0, error: TxnError::TooLarge })
        }
        _ => None,
    }
}

/// A step on a single key by the operation of its own, all else as a transaction.
async fn ask(client: &Client, txn: &Txn, consistency: Consistency) -> Result<TxnReply, Error> {
    let single = match &txn.then[..] {
        [step] if txn.compares.is_empty() => step,
        _ => return client.transact(txn.clone()).await,
    };
    let length = |written: client::Written| TxnResult::Written { length: written.length };
    let result = match single {
        TxnOp::Get { key } => {
            let found = client.get(key, consistency).await?;
            TxnResult::Value(found.map(|found| (found.value, found.version)))
        }
        TxnOp::Put { key, value } => length(client.put(key, value).await?),
        TxnOp::Append { key, value } => length(client.append(key, value).await?),
        TxnOp::Delete { key } => TxnResult::Deleted { existed: client.delete(key).await? },
        TxnOp::Incr { key, by } => TxnResult::Number { value: client.incr(key, *by).await?.value },
        TxnOp::Cas { key, expected, value } => length(client.cas(key, expected.as_deref(), value).await?),
        TxnOp::Copy { .. } => return client.transact(txn.clone()).await,
    };
    Ok(TxnReply { held: true, results: vec![result] })
}
