//! Clients that append unique values to shared keys and read them; and who moves shards meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use client::Consistency;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use scripted::history::alone;

use kvserver::txn::{TxnOp, TxnReply, TxnResult};

use crate::Demo;
use crate::work::{Running, TIMEOUT, Worker};

/// When an answer is to be lost, it is after at most this time.
const LOST_WITHIN_US: u64 = 8_000;

/// A number from the environment.
pub fn dose(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients, each with a session of its own and one operation at a time.
    pub clients: u64,
    /// Keys that they share.
    pub keys: u64,
    /// Between two operations of a client.
    pub pause: Duration,
    /// Answers that never arrive, in percent.
    pub lost_percent: u32,
}

impl Load {
    /// Sends them to work.
    pub fn start(self, endpoints: Vec<String>) -> Running {
        let keys = (0..self.keys).map(key).collect();
        Running::start(endpoints, self.clients, keys, move |worker| self.work(worker))
    }

    async fn work(self, mut worker: Worker) -> Worker {
        let mut number = 0;
        while worker.goes_on() {
            let key = key(worker.random.random_range(0..self.keys));
            let patience = self.patience(&mut worker.random);
            if worker.random.random_range(0..2) == 0 {
                let value = format!("{}:{number};", worker.who).into_bytes();
                append(&mut worker, key, value, patience).await;
            } else {
                read(&mut worker, key, patience).await;
            }
            number += 1;
            tokio::time::sleep(self.pause).await;
        }
        worker
    }

    /// After which time an operation's answer is lost, if it is.
    fn patience(self, random: &mut SmallRng) -> Duration {
        if random.random_range(0..100) < self.lost_percent {
            Duration::from_micros(random.random_range(0..LOST_WITHIN_US))
        } else {
            2 * TIMEOUT
        }
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("list-{number:03}").into_bytes()
}

fn reply(result: TxnResult) -> TxnReply {
    TxnReply { held: true, results: vec![result] }
}

async fn append(worker: &mut Worker, key: Vec<u8>, value: Vec<u8>, patience: Duration) {
    let began = worker.now();
    // Giving up drops the call: the answer is lost, whatever became of the request.
    let answer = tokio::time::timeout(patience, worker.client.append(&key, &value)).await.ok();
    let answer = answer.map(|answer| answer.map(|w| reply(TxnResult::Written { length: w.length })));
    worker.note(began, alone(TxnOp::Append { key, value }), answer);
}

async fn read(worker: &mut Worker, key: Vec<u8>, patience: Duration) {
    // Every other read trusts a lease.
    let consistency = match worker.random.random_range(0..2) {
        0 => Consistency::Lease,
        _ => Consistency::Linearizable,
    };
    let began = worker.now();
    let answer = tokio::time::timeout(patience, worker.client.get(&key, consistency)).await.ok();
    let found = |found: Option<client::Versioned>| found.map(|found| (found.value, found.version));
    let answer = answer.map(|answer| answer.map(|it| reply(TxnResult::Value(found(it)))));
    worker.note(began, alone(TxnOp::Get { key }), answer);
}

/// Makes groups come and go, and moves shards.
pub struct Mover {
    random: SmallRng,
    shards: u32,
    /// Changes that were made.
    pub changes: usize,
    /// What was refused, since another change was on its way or made already.
    pub refused: Vec<String>,
}

impl Mover {
    /// For a cluster of three nodes with so many shards.
    pub fn new(seed: u64, shards: u32) -> Mover {
        Mover { random: SmallRng::seed_from_u64(seed), shards, changes: 0, refused: Vec::new() }
    }

    /// A number below `below`.
    pub fn random(&mut self, below: u64) -> u64 {
        self.random.random_range(0..below)
    }

    /// Asks for one change, and doesn't wait for its shards.
    ///
    /// # Panics
    /// If it fails for another reason than that it can't be now.
    pub fn step(&mut self, demo: &Demo) {
        let listed: serde_json::Value =
            serde_json::from_str(&demo.ok(&["--timeout", "20s", "-o", "json", "group", "list"]))
                .expect("JSON");
        let groups = listed["groups"].as_array().expect("a list");
        let ids = |keep: &dyn Fn(&str) -> bool| -> BTreeSet<u64> {
            let kept = groups.iter().filter(|group| keep(group["state"].as_str().unwrap_or_default()));
            kept.filter_map(|group| group["id"].as_u64()).collect()
        };
        let (all, staying) = (ids(&|_| true), ids(&|state| state != "leaving"));
        let new = (1..=6).find(|id| !all.contains(id)).unwrap_or(7).to_string();
        let any = staying.iter().nth(self.random(staying.len() as u64) as usize).map(u64::to_string);
        let any = any.expect("there always are groups");
        let shards: Vec<String> =
            (0..=self.random(3)).map(|_| self.random(u64::from(self.shards)).to_string()).collect();
        let mut arguments = vec!["--timeout", "20s"];
        match self.random(4) {
            0 if staying.len() < 5 && all.len() < 6 => {
                arguments.extend(["group", "join", &new, "1", "2", "3"])
            }
            1 if staying.len() > 2 => arguments.extend(["group", "leave", &any]),
            _ => {
                arguments.extend(["shard", "move"]);
                arguments.extend(shards.iter().map(String::as_str));
                arguments.extend(["--to", &any]);
            }
        }
        let output = demo.kvctl(&arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => self.changes += 1,
            // 6: it was sent to a node that died, and may have been made.
            Some(4 | 6) => self.refused.push(format!("{arguments:?}: {words}")),
            code => panic!("kvctl {arguments:?}: {code:?}\n{words}"),
        }
    }
}

/// Waits until no shard is on its way.
///
/// # Panics
/// If some still are after `within`; with what they wait for.
pub fn await_moves(demo: &Demo, within: Duration) -> Duration {
    let began = Instant::now();
    loop {
        let listed = demo.kvctl(&["--timeout", "5s", "-o", "json", "migration", "list"]);
        let json: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        if json["migrations"].as_array().is_some_and(Vec::is_empty) {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < within,
            "shards are still on their way after {within:?}: {json:#}\n{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
