//! Clients that append unique values to shared keys and read them, and write down what they saw; and who moves shards
//! meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{Client, ClientOptions, Consistency, Error};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::Demo;
use crate::history::{Did, END, Lists, Operation};

/// An operation that takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(60);
/// When an answer is to be lost, it is after at most this time.
const LOST_WITHIN_US: u64 = 8_000;

/// A number from the environment.
pub fn dose(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Connects with an ample timeout.
///
/// # Panics
/// If nobody answers.
pub async fn connect(endpoints: Vec<String>) -> Client {
    let options = ClientOptions { endpoints, timeout: TIMEOUT, ..ClientOptions::default() };
    Client::connect(options).await.expect("the cluster serves")
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

/// What they saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// All operations of which something is known.
    pub history: Vec<Operation>,
    /// The lists afterwards.
    pub lists: Lists,
    /// Operations that failed.
    pub errors: Vec<String>,
    /// How long the operation took that took longest.
    pub longest: Duration,
    /// How long all of it took.
    pub elapsed: Duration,
    /// Appends of which nobody knows whether they took effect.
    pub unknown: usize,
}

impl Seen {
    /// In one line.
    pub fn summary(&self) -> String {
        let (operations, seconds) = (self.history.len(), self.elapsed.as_secs_f64());
        format!(
            "{operations} operations in {seconds:.1} s ({:.0}/s), {} of unknown outcome, {} errors, longest wait {:?}",
            operations as f64 / seconds,
            self.unknown,
            self.errors.len(),
            self.longest
        )
    }

    /// No errors, and a linearizable history in which everything acknowledged is there once.
    ///
    /// # Panics
    /// If it isn't so.
    pub fn assert_right(&self) {
        assert!(self.errors.is_empty(), "{} operations failed: {:#?}", self.errors.len(), self.errors);
        if let Err(wrong) = crate::history::judge(&self.history, &self.lists) {
            panic!("P8, P9: {wrong}");
        }
    }
}

/// Clients at work.
pub struct Running {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Seen>>,
}

impl Running {
    /// Sends them to work.
    pub fn start(demo: &Demo, load: Load) -> Running {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (endpoints, told, count) = (demo.endpoints(), stop.clone(), done.clone());
        let thread = std::thread::spawn(move || work(&endpoints, load, &told, &count));
        Running { stop, done, thread: Some(thread) }
    }

    /// Operations so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the work, and reads all lists.
    ///
    /// # Panics
    /// If a client panicked, or a list can't be read.
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

fn key(number: u64) -> String {
    format!("list-{number:03}")
}

fn work(endpoints: &[String], load: Load, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) -> Seen {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        let began = Instant::now();
        let mut tasks = Vec::new();
        for who in 0..load.clients {
            let worker = Worker {
                who,
                load,
                client: connect(endpoints.to_vec()).await,
                random: SmallRng::seed_from_u64(who),
                began,
                seen: Seen::default(),
            };
            tasks.push(tokio::spawn(worker.run(stop.clone(), done.clone())));
        }
        let mut all = Seen::default();
        for task in tasks {
            let seen = task.await.expect("clients don't panic");
            all.history.extend(seen.history);
            all.errors.extend(seen.errors);
            all.longest = all.longest.max(seen.longest);
            all.unknown += seen.unknown;
        }
        all.elapsed = began.elapsed();
        let client = connect(endpoints.to_vec()).await;
        for key in (0..load.keys).map(key) {
            let found =
                client.get(key.as_bytes(), Consistency::Linearizable).await.expect("lists can be read");
            all.lists.insert(key, text(found.map(|found| found.value)));
        }
        all
    })
}

fn text(value: Option<Vec<u8>>) -> String {
    String::from_utf8_lossy(&value.unwrap_or_default()).into_owned()
}

struct Worker {
    who: u64,
    load: Load,
    client: Client,
    random: SmallRng,
    began: Instant,
    seen: Seen,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Seen {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let key = key(self.random.random_range(0..self.load.keys));
            if self.random.random_range(0..2) == 0 {
                self.append(key, format!("{}:{number}", self.who)).await;
            } else {
                self.read(key).await;
            }
            number += 1;
            done.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.load.pause).await;
        }
        self.seen
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("tests end")
    }

    /// After which time this operation's answer is lost, if it is.
    fn patience(&mut self) -> Duration {
        if self.random.random_range(0..100) < self.load.lost_percent {
            Duration::from_micros(self.random.random_range(0..LOST_WITHIN_US))
        } else {
            2 * TIMEOUT
        }
    }

    async fn append(&mut self, key: String, value: String) {
        let (patience, began) = (self.patience(), self.now());
        let line = format!("{value}{END}");
        // Giving up drops the call: the answer is lost, whatever became of the request.
        let answer =
            tokio::time::timeout(patience, self.client.append(key.as_bytes(), line.as_bytes())).await;
        let ended = self.note(began, answer.map(|answer| answer.map(drop)).ok());
        self.seen.unknown += usize::from(ended.is_none());
        self.seen.history.push(Operation { key, did: Did::Append(value), began, ended });
    }

    async fn read(&mut self, key: String) {
        // Every other read trusts a lease.
        let consistency = match self.random.random_range(0..2) {
            0 => Consistency::Lease,
            _ => Consistency::Linearizable,
        };
        let (patience, began) = (self.patience(), self.now());
        let answer = tokio::time::timeout(patience, self.client.get(key.as_bytes(), consistency)).await;
        let (found, answer) = match answer {
            Ok(Ok(found)) => (Some(found), Some(Ok(()))),
            Ok(Err(error)) => (None, Some(Err(error))),
            Err(_) => (None, None),
        };
        let ended = self.note(began, answer);
        if let Some(found) = found {
            let did = Did::Read(text(found.map(|found| found.value)));
            self.seen.history.push(Operation { key, did, began, ended });
        }
    }

    /// When it ended, if it was answered.
    fn note(&mut self, began: u64, answer: Option<Result<(), Error>>) -> Option<u64> {
        let ended = self.now();
        self.seen.longest = self.seen.longest.max(Duration::from_micros(ended - began));
        match answer {
            Some(Ok(())) => Some(ended),
            Some(Err(error)) => {
                self.seen.errors.push(format!("client {} after {} us: {error}", self.who, ended - began));
                None
            }
            None => None,
        }
    }
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
