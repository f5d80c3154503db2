//! What clients do while a plan runs: the shipped client library, each client one step after the other, all of it written down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Consistency, Error, ErrorKind, Transaction};
use parking_lot::Mutex;
use testcluster::{Recorded, Recorder};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::cluster::Cluster;
use crate::observation::Called;
use crate::plan::{Plan, Step};

/// Calls of all clients, in their order.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<Called>>>);

/// See the module.
pub(super) struct Clients {
    pub(super) recorder: Recorder,
    pub(super) calls: Calls,
    /// All keys that a step names.
    pub(super) keys: BTreeSet<String>,
    working: JoinSet<()>,
}

impl Calls {
    /// Waits for an operation, and writes down how it went.
    pub(super) async fn call<T>(
        &self,
        cluster: &Cluster,
        what: String,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        let number = {
            let mut calls = self.0.lock();
            let (invoked_us, patience_us) = (cluster.now_us(), cluster.patience_us());
            calls.push(Called { what, invoked_us, patience_us, returned_us: None, failed: None });
            calls.len() - 1
        };
        let answer = operation.await;
        let failed = answer.as_ref().err().filter(|error| !is_an_answer(error)).map(|error| {
            let Error { kind, outcome, message } = error;
            format!("{kind}: {message} ({outcome})")
        });
        let mut calls = self.0.lock();
        calls[number].returned_us = Some(cluster.now_us());
        let called = &calls[number];
        cluster.watch.say(|| {
            let us = called.returned_us.unwrap_or_default() - called.invoked_us;
            format!("{} after {} ms: {}", called.what, us / 1_000, failed.as_deref().unwrap_or("done"))
        });
        calls[number].failed = failed;
        answer.ok()
    }

    pub(super) fn taken(&self) -> Vec<Called> {
        self.0.lock().clone()
    }
}

/// It ran, and found what it couldn't work with.
fn is_an_answer(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Mismatch { .. } | ErrorKind::TxnFailed { .. } | ErrorKind::NotANumber)
}

impl Clients {
    /// Connects all of them, and lets them begin.
    pub(super) async fn begin(plan: &Plan, cluster: &Arc<Cluster>) -> Clients {
        let (recorder, calls, mut working) = (Recorder::default(), Calls::default(), JoinSet::new());
        let keys = plan.clients.values().flatten().flat_map(keys_of).map(str::to_string).collect();
        for (number, steps) in &plan.clients {
            let (cluster, calls, steps, number) = (cluster.clone(), calls.clone(), steps.clone(), *number);
            let name = format!("client {number}: connect");
            let Some(client) = calls.call(&cluster, name, cluster.client()).await else { continue };
            let client = recorder.wrap(client);
            working.spawn(async move {
                for (place, step) in steps.iter().enumerate() {
                    let what = format!("client {number}: {step}");
                    let token = format!("{number}.{place};");
                    match step {
                        Step::Wait(ms) => sleep(Duration::from_millis(*ms)).await,
                        _ => drop(calls.call(&cluster, what, act(&client, step, token.as_bytes())).await),
                    }
                }
            });
        }
        Clients { recorder, calls, keys, working }
    }

    /// Waits until all have done their work, but not for ever.
    pub(super) async fn finish(&mut self, within: Duration) {
        let all = async { while self.working.join_next().await.is_some() {} };
        let _in_time = timeout(within, all).await;
        self.working.abort_all();
    }
}

fn keys_of(step: &Step) -> Vec<&str> {
    match step {
        Step::Wait(_) => Vec::new(),
        Step::Get(key) | Step::GetLeased(key) | Step::Put(key) | Step::Append(key) => vec![key],
        Step::Delete(key) | Step::Create(key) | Step::Incr(key, _) => vec![key],
        Step::Transfer(a, b, _) | Step::Swap(a, b) => vec![a, b],
        Step::Look(keys) => keys.iter().map(String::as_str).collect(),
    }
}

async fn act(client: &Recorded, step: &Step, token: &[u8]) -> Result<(), Error> {
    match step {
        Step::Wait(_) => Ok(()),
        Step::Get(key) => client.get(key.as_bytes()).await.map(drop),
        Step::GetLeased(key) => client.get_by(key.as_bytes(), Consistency::Lease).await.map(drop),
        Step::Put(key) => client.put(key.as_bytes(), token).await.map(drop),
        Step::Append(key) => client.append(key.as_bytes(), token).await.map(drop),
        Step::Delete(key) => client.delete(key.as_bytes()).await.map(drop),
        Step::Create(key) => client.cas(key.as_bytes(), None, token).await.map(drop),
        Step::Incr(key, by) => client.incr(key.as_bytes(), *by).await.map(drop),
        Step::Transfer(from, to, by) => {
            client.transact(Transaction::new().incr(from, -by).incr(to, *by)).await.map(drop)
        }
        Step::Swap(a, b) => client.transact(Transaction::new().copy(b, a).copy(a, b)).await.map(drop),
        Step::Look(keys) => {
            let look = keys.iter().fold(Transaction::new(), |txn, key| txn.get(key));
            client.transact(look).await.map(drop)
        }
    }
}
