//! Clients at work on a few keys, so that their operations meet: drawn from the seed, and written down for the judge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{ErrorKind, Transaction};
use scripted::prng::Prng;
use tokio::task::JoinSet;

use crate::cluster::TestCluster;
use crate::error::Error;
use crate::recorder::Recorded;

/// What clients do, see [`TestCluster::workload`].
#[must_use = "it works when it is run"]
pub struct Workload<'a> {
    cluster: &'a TestCluster,
    clients: u32,
    work: Work,
}

#[derive(Clone, Copy)]
struct Work {
    keys: u64,
    operations: u64,
    transactions_percent: u64,
    pause: Duration,
}

/// How a workload went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Operations that ran, also those that found something else than they expected.
    pub done: u64,
    /// Operations that failed, or whose outcome nobody knows: what faults may do.
    pub failed: Vec<String>,
}

impl<'a> Workload<'a> {
    pub(crate) fn new(cluster: &'a TestCluster) -> Workload<'a> {
        let pause = Duration::from_millis(1);
        let work = Work { keys: 4, operations: 100, transactions_percent: 10, pause };
        Workload { cluster, clients: 4, work }
    }

    /// Clients, each with a session of its own and one operation at a time; 4 if nothing is said.
    pub fn clients(mut self, clients: u32) -> Workload<'a> {
        self.clients = clients;
        self
    }

    /// Keys that they share; 4 if nothing is said.
    pub fn keys(mut self, keys: u64) -> Workload<'a> {
        self.work.keys = keys.max(1);
        self
    }

    /// Operations of each client, at most; 100 if nothing is said.
    pub fn operations(mut self, operations: u64) -> Workload<'a> {
        self.work.operations = operations;
        self
    }

    /// How many of them are transactions on two keys, in percent; 10 if nothing is said.
    pub fn transactions(mut self, percent: u64) -> Workload<'a> {
        self.work.transactions_percent = percent.min(100);
        self
    }

    /// Between two operations of a client; 1 ms if nothing is said.
    pub fn pause(mut self, pause: Duration) -> Workload<'a> {
        self.work.pause = pause;
        self
    }

    /// Runs to its end.
    ///
    /// # Errors
    /// [`Error::Client`] if a client finds no node to begin with.
    pub async fn run(self) -> Result<Summary, Error> {
        let running = self.start().await?;
        Ok(running.finish().await)
    }

    /// Runs while `meanwhile` does (faults, moves), and is told to end when that is over.
    ///
    /// # Errors
    /// [`Error::Client`] if a client finds no node to begin with; what `meanwhile` fails with.
    pub async fn during<T, E: From<Error>>(
        self,
        meanwhile: impl Future<Output = Result<T, E>>,
    ) -> Result<(T, Summary), E> {
        let running = self.start().await?;
        let done = meanwhile.await;
        running.stop.store(true, Ordering::Relaxed);
        let summary = running.finish().await;
        Ok((done?, summary))
    }

    async fn start(self) -> Result<Running, Error> {
        let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for number in 0..self.clients {
            let client = self.cluster.recorded().await?;
            let luck = self.cluster.luck(&format!("client {number}"));
            clients.spawn(self.work.of_client(client, luck, stop.clone()));
        }
        Ok(Running { stop, clients })
    }
}

struct Running {
    stop: Arc<AtomicBool>,
    /// Dropped, they end.
    clients: JoinSet<Summary>,
}

impl Running {
    async fn finish(self) -> Summary {
        let mut all = Summary::default();
        for summary in self.clients.join_all().await {
            all.done += summary.done;
            all.failed.extend(summary.failed);
        }
        all
    }
}

impl Work {
    async fn of_client(self, client: Recorded, mut luck: Prng, stop: Arc<AtomicBool>) -> Summary {
        let mut summary = Summary::default();
        for number in 0..self.operations {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Unique, so that the judge can tell whose it is.
            let value = format!("{}:{number};", client.number());
            match self.step(&client, &mut luck, value.as_bytes()).await {
                Ok(()) => summary.done += 1,
                Err(error) => match error.kind {
                    ErrorKind::Mismatch { .. } | ErrorKind::TxnFailed { .. } => summary.done += 1,
                    _ => summary.failed.push(format!("{error} ({})", error.outcome)),
                },
            }
            tokio::time::sleep(self.pause).await;
        }
        summary
    }

    async fn step(&self, client: &Recorded, luck: &mut Prng, value: &[u8]) -> Result<(), client::Error> {
        let mut key = || format!("key-{}", luck.below(self.keys)).into_bytes();
        let (a, b) = (key(), key());
        if luck.below(100) < self.transactions_percent {
            let txn = if luck.chance(500) {
                Transaction::new().get(&a).get(&b)
            } else {
                Transaction::new().when_present(&a).append(&b, value).get(&a).otherwise().put(&a, value)
            };
            return client.transact(txn).await.map(|_| ());
        }
        match luck.below(10) {
            0..4 => client.get(&a).await.map(|_| ()),
            4..8 => client.append(&a, value).await.map(|_| ()),
            8 => client.delete(&a).await.map(|_| ()),
            _ => client.cas(&a, None, value).await.map(|_| ()),
        }
    }
}
