//! Clients at work on a cluster of processes, who write down what they saw for the judge of histories.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Client, ClientOptions, Consistency, Error, ErrorKind};
use kvserver::txn::{Txn, TxnOp, TxnReply, TxnResult};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use scripted::history::{History, Operation, Outcome, alone, judge};
use testcluster::outcome_of;

/// An operation that takes longer is an error.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Connects with an ample timeout.
///
/// # Panics
/// If nobody answers.
pub async fn connect(endpoints: Vec<String>) -> Client {
    let options = ClientOptions { endpoints, timeout: TIMEOUT, ..ClientOptions::default() };
    Client::connect(options).await.expect("the cluster serves")
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// All operations of which something is known.
    pub history: History,
    /// Operations that failed.
    pub errors: Vec<String>,
    /// How long the operation took that took longest.
    pub longest: Duration,
    /// How long all of it took.
    pub elapsed: Duration,
    /// Operations of which nobody knows whether they took effect.
    pub unknown: usize,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.history.operations.extend(other.history.operations);
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
        self.unknown += other.unknown;
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let (operations, seconds) = (self.history.operations.len(), self.elapsed.as_secs_f64());
        format!(
            "{operations} operations in {seconds:.1} s ({:.0}/s), {} of unknown outcome, {} errors, longest wait {:?}",
            operations as f64 / seconds,
            self.unknown,
            self.errors.len(),
            self.longest
        )
    }

    /// No errors, and a history that can be ordered.
    ///
    /// # Panics
    /// If it isn't so.
    pub fn assert_right(&self) {
        self.assert_no_errors();
        self.assert_ordered();
    }

    /// Each operation came to something.
    ///
    /// # Panics
    /// If one didn't.
    pub fn assert_no_errors(&self) {
        assert!(self.errors.is_empty(), "{} operations failed: {:#?}", self.errors.len(), self.errors);
    }

    /// A history that can be ordered: everything acknowledged is there, once.
    ///
    /// # Panics
    /// If it isn't so.
    pub fn assert_ordered(&self) {
        let began = Instant::now();
        match judge(&self.history).ordered() {
            Ok(figures) => println!("the history is right: {figures:?} in {:?}", began.elapsed()),
            Err(wrong) => panic!("P8, P9: {wrong}"),
        }
    }
}

/// One client, with a session of its own.
pub struct Worker {
    /// Its number.
    pub who: u64,
    /// Its connection.
    pub client: Client,
    /// Its luck.
    pub random: SmallRng,
    began: Instant,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    answered: Arc<[AtomicU64]>,
    seen: Seen,
}

impl Worker {
    /// Whether there is more to do.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// In µs since all of them began.
    ///
    /// # Panics
    /// If that is too long ago for a number.
    pub fn now(&self) -> u64 {
        micros_since(self.began)
    }

    /// Runs a transaction, and writes it down.
    pub async fn transact(&mut self, txn: Txn) -> Option<TxnReply> {
        let began = self.now();
        let answer = self.client.transact(txn.clone()).await;
        let reply = answer.as_ref().ok().cloned();
        self.note(began, txn, Some(answer));
        reply
    }

    /// Writes down what was asked at a time and answered now; no answer: it is lost.
    pub fn note(&mut self, began: u64, txn: Txn, answer: Option<Result<TxnReply, Error>>) {
        let ended = self.now();
        self.seen.longest = self.seen.longest.max(Duration::from_micros(ended - began));
        // Who reads at the end isn't counted.
        if let Some(count) = self.answered.get(self.who as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let outcome = match answer {
            Some(Ok(reply)) => {
                self.acked.fetch_add(u64::from(!txn.is_read_only()), Ordering::Relaxed);
                Outcome::Replied(reply)
            }
            Some(Err(error)) => self.failed(ended - began, &error),
            None => Outcome::Unknown,
        };
        // A read without an answer says nothing.
        if outcome != Outcome::Unknown || !txn.is_read_only() {
            self.seen.unknown += usize::from(outcome == Outcome::Unknown);
            let operation = Operation { client: self.who, invoked: began, returned: ended, txn, outcome };
            self.seen.history.operations.push(operation);
        }
    }

    fn failed(&mut self, after: u64, error: &Error) -> Outcome {
        if !matches!(error.kind, ErrorKind::TxnFailed { .. }) {
            let said = format!("client {} after {after} us: {error} ({})", self.who, error.outcome);
            self.seen.errors.push(said);
        }
        outcome_of(error)
    }
}

fn micros_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).expect("tests end")
}

/// Clients at work.
pub struct Running {
    began: Instant,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    answered: Arc<[AtomicU64]>,
    thread: Option<JoinHandle<Seen>>,
}

impl Running {
    /// Sends so many clients to work, until [`Worker::goes_on`] says no; then these keys are read.
    pub fn start<F>(
        endpoints: Vec<String>,
        clients: u64,
        keys: Vec<Vec<u8>>,
        work: impl Fn(Worker) -> F + Send + 'static,
    ) -> Running
    where
        F: Future<Output = Worker> + Send + 'static,
    {
        let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let acked = Arc::new(AtomicU64::new(0));
        let answered: Arc<[AtomicU64]> = (0..clients).map(|_| AtomicU64::new(0)).collect();
        let (told, counted) = (acked.clone(), answered.clone());
        let all = All { endpoints, keys, began, stop: stop.clone(), acked: told, answered: counted };
        let thread = std::thread::spawn(move || all.run(work));
        Running { began, stop, acked, answered, thread: Some(thread) }
    }

    /// In µs since the clients began: the time of their operations.
    ///
    /// # Panics
    /// If that is too long ago for a number.
    pub fn now(&self) -> u64 {
        micros_since(self.began)
    }

    /// Operations so far that may have changed something, and were answered.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Operations so far that came to an end, of each client.
    pub fn answered(&self) -> Vec<u64> {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Ends the work, and reads the keys.
    ///
    /// # Panics
    /// If a client panicked, or a key can't be read.
    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().expect("clients don't panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the clients have in common.
struct All {
    endpoints: Vec<String>,
    keys: Vec<Vec<u8>>,
    began: Instant,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    answered: Arc<[AtomicU64]>,
}

impl All {
    fn run<F>(self, work: impl Fn(Worker) -> F) -> Seen
    where
        F: Future<Output = Worker> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime can be made").block_on(async {
            let mut tasks = Vec::new();
            for who in 0..self.answered.len() as u64 {
                tasks.push(tokio::spawn(work(self.worker(who).await)));
            }
            let mut all = Seen::default();
            for task in tasks {
                all.add(task.await.expect("clients don't panic").seen);
            }
            all.elapsed = self.began.elapsed();
            all.add(self.read().await);
            all
        })
    }

    async fn worker(&self, who: u64) -> Worker {
        Worker {
            who,
            client: connect(self.endpoints.clone()).await,
            random: SmallRng::seed_from_u64(who),
            began: self.began,
            stop: self.stop.clone(),
            acked: self.acked.clone(),
            answered: self.answered.clone(),
            seen: Seen::default(),
        }
    }

    async fn read(&self) -> Seen {
        let mut reader = self.worker(self.answered.len() as u64).await;
        for key in &self.keys {
            let invoked = reader.now();
            let found = reader.client.get(key, Consistency::Linearizable).await.expect("keys can be read");
            let found = TxnResult::Value(found.map(|found| (found.value, found.version)));
            let reply = TxnReply { held: true, results: vec![found] };
            reader.note(invoked, alone(TxnOp::Get { key: key.clone() }), Some(Ok(reply)));
        }
        reader.seen
    }
}
