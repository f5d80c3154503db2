//! Operations of clients, written down as the judge of histories wants them.
//!
//! An operation stands in the history from its call on: one whose future is dropped stays there as one of unknown outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{
    Client, Consistency, Error, ErrorKind, Number, Txn, TxnError, TxnOp, TxnReply, TxnResult, Versioned,
    Written,
};
use parking_lot::Mutex;
use scripted::history::{History, Operation, Outcome, alone};
use tokio::time::Instant;

/// What clients saw, in one time. Clones write to the same history.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    /// The time that was last written down.
    last: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    clients: u64,
    history: History,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            shared: Arc::new(Shared {
                began: Instant::now(),
                last: AtomicU64::new(0),
                seen: Mutex::default(),
            }),
        }
    }
}

impl Recorder {
    /// A client whose operations are written down here.
    pub fn wrap(&self, client: Client) -> Recorded {
        Recorded { client, recorder: self.clone(), who: self.new_client() }
    }

    /// The number of one more client, for [`Recorder::record`].
    pub fn new_client(&self) -> u64 {
        let mut seen = self.shared.seen.lock();
        seen.clients += 1;
        seen.clients
    }

    /// Says what a key held before all operations. Other keys were absent.
    pub fn initially(&self, key: &[u8], value: &[u8]) {
        self.shared.seen.lock().history.initial.insert(key.to_vec(), value.to_vec());
    }

    /// Runs an operation of client `who`, and writes down that it did `txn`: for what isn't a [`Client`]'s own operation,
    /// such as that of a cache or a queue of yours. `outcome` says what the answer means; of a client's error, [`outcome_of`]
    /// does.
    pub async fn record<T>(
        &self,
        who: u64,
        txn: Txn,
        operation: impl Future<Output = T>,
        outcome: impl FnOnce(&T) -> Outcome,
    ) -> T {
        let index = self.call(who, txn);
        let answer = operation.await;
        let outcome = outcome(&answer);
        self.answered(index, outcome);
        answer
    }

    fn call(&self, client: u64, txn: Txn) -> usize {
        let operations = &mut self.shared.seen.lock().history.operations;
        // Under the lock, so that the times rise with the places.
        let invoked = self.now();
        operations.push(Operation { client, invoked, returned: u64::MAX, txn, outcome: Outcome::Unknown });
        operations.len() - 1
    }

    fn answered(&self, index: usize, outcome: Outcome) {
        // Before the lock: to wait for it isn't part of the operation.
        let returned = self.now();
        if let Some(operation) = self.shared.seen.lock().history.operations.get_mut(index) {
            operation.outcome = outcome;
            operation.returned = returned;
        }
    }

    /// In µs. Never the same twice: what is written down later was later, also where time stands still meanwhile.
    fn now(&self) -> u64 {
        let now = u64::try_from(self.shared.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let rises = |last: u64| Some(now.max(last + 1));
        let last = self.shared.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rises);
        last.map_or(now, |last| now.max(last + 1))
    }

    /// What was written down so far, but for reads without an answer: they say nothing.
    pub fn history(&self) -> History {
        let mut history = self.shared.seen.lock().history.clone();
        let says_nothing = |op: &Operation| op.outcome == Outcome::Unknown && op.txn.is_read_only();
        history.operations.retain(|operation| !says_nothing(operation));
        history
    }
}

/// A client whose operations are written down. Clones are the same client: its operations may overlap.
#[derive(Clone)]
pub struct Recorded {
    client: Client,
    recorder: Recorder,
    who: u64,
}

impl Recorded {
    /// The client itself, for what isn't to be written down.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its number in the history.
    pub fn number(&self) -> u64 {
        self.who
    }

    /// [`Client::get`], linearizable.
    ///
    /// # Errors
    /// As there.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        self.get_by(key, Consistency::Linearizable).await
    }

    /// [`Client::get`]. A stale read isn't written down, since it may be wrong.
    ///
    /// # Errors
    /// As there.
    pub async fn get_by(&self, key: &[u8], consistency: Consistency) -> Result<Option<Versioned>, Error> {
        let get = self.client.get(key, consistency);
        if consistency == Consistency::Stale {
            return get.await;
        }
        let found = |found: &Option<Versioned>| {
            TxnResult::Value(found.as_ref().map(|found| (found.value.clone(), found.version)))
        };
        self.single(TxnOp::Get { key: key.to_vec() }, get, found).await
    }

    /// [`Client::put`].
    ///
    /// # Errors
    /// As there.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Written, Error> {
        let op = TxnOp::Put { key: key.to_vec(), value: value.to_vec() };
        self.single(op, self.client.put(key, value), written).await
    }

    /// [`Client::append`].
    ///
    /// # Errors
    /// As there.
    pub async fn append(&self, key: &[u8], value: &[u8]) -> Result<Written, Error> {
        let op = TxnOp::Append { key: key.to_vec(), value: value.to_vec() };
        self.single(op, self.client.append(key, value), written).await
    }

    /// [`Client::delete`].
    ///
    /// # Errors
    /// As there.
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let deleted = |existed: &bool| TxnResult::Deleted { existed: *existed };
        self.single(TxnOp::Delete { key: key.to_vec() }, self.client.delete(key), deleted).await
    }

    /// [`Client::cas`].
    ///
    /// # Errors
    /// As there.
    pub async fn cas(&self, key: &[u8], expected: Option<&[u8]>, value: &[u8]) -> Result<Written, Error> {
        let op =
            TxnOp::Cas { key: key.to_vec(), expected: expected.map(<[u8]>::to_vec), value: value.to_vec() };
        self.single(op, self.client.cas(key, expected, value), written).await
    }

    /// [`Client::incr`].
    ///
    /// # Errors
    /// As there.
    pub async fn incr(&self, key: &[u8], by: i64) -> Result<Number, Error> {
        let number = |number: &Number| TxnResult::Number { value: number.value };
        self.single(TxnOp::Incr { key: key.to_vec(), by }, self.client.incr(key, by), number).await
    }

    /// [`Client::transact`].
    ///
    /// # Errors
    /// As there.
    pub async fn transact(&self, txn: impl Into<Txn>) -> Result<TxnReply, Error> {
        let txn = txn.into();
        let operation = self.client.transact(txn.clone());
        let outcome = |answer: &Result<TxnReply, Error>| match answer {
            Ok(reply) => Outcome::Replied(reply.clone()),
            Err(error) => outcome_of(error),
        };
        self.recorder.record(self.who, txn, operation, outcome).await
    }

    async fn single<T>(
        &self,
        op: TxnOp,
        operation: impl Future<Output = Result<T, Error>>,
        result: impl FnOnce(&T) -> TxnResult,
    ) -> Result<T, Error> {
        let outcome = |answer: &Result<T, Error>| match answer {
            Ok(value) => Outcome::Replied(TxnReply { held: true, results: vec![result(value)] }),
            Err(error) => outcome_of(error),
        };
        self.recorder.record(self.who, alone(op), operation, outcome).await
    }
}

fn written(written: &Written) -> TxnResult {
    TxnResult::Written { length: written.length }
}

/// What a client's error says of its operation.
pub fn outcome_of(error: &Error) -> Outcome {
    match (error.kind, error.outcome) {
        (ErrorKind::TxnFailed { op, error }, _) => Outcome::Failed { op, error },
        (ErrorKind::Mismatch { .. }, _) => Outcome::Failed { op: 0, error: TxnError::Mismatch },
        (ErrorKind::NotANumber, _) => Outcome::Failed { op: 0, error: TxnError::NotANumber },
        (ErrorKind::TooLarge, client::Outcome::Executed) => {
            Outcome::Failed { op: 0, error: TxnError::TooLarge }
        }
        (_, client::Outcome::NotExecuted) => Outcome::NotExecuted,
        (_, client::Outcome::Unknown | client::Outcome::Executed) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use scripted::history::judge;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn reply(result: TxnResult) -> Outcome {
        Outcome::Replied(TxnReply { held: true, results: vec![result] })
    }

    #[test]
    fn a_dropped_operation_stays_as_one_of_unknown_outcome_unless_it_only_reads() {
        let recorder = Recorder::default();
        let who = recorder.new_client();
        let (put, get) =
            (TxnOp::Put { key: b"k".to_vec(), value: b"v".to_vec() }, TxnOp::Get { key: b"k".to_vec() });
        run(async {
            for op in [put, get.clone()] {
                let never =
                    recorder.record(who, alone(op), std::future::pending::<()>(), |()| Outcome::Unknown);
                let _late = tokio::time::timeout(std::time::Duration::from_millis(1), never).await;
            }
            let found = |(): &()| reply(TxnResult::Value(Some((b"v".to_vec(), 1))));
            recorder.record(who, alone(get), async {}, found).await;
        });
        let history = recorder.history();
        assert_eq!(history.operations.len(), 2);
        assert_eq!(history.operations[0].outcome, Outcome::Unknown);
        judge(&history).ordered().unwrap();
    }

    #[test]
    fn what_was_there_before_is_part_of_the_history() {
        let recorder = Recorder::default();
        recorder.initially(b"k", b"old");
        let found = |(): &()| reply(TxnResult::Value(Some((b"old".to_vec(), 1))));
        run(recorder.record(1, alone(TxnOp::Get { key: b"k".to_vec() }), async {}, found));
        judge(&recorder.history()).ordered().unwrap();
    }
}
