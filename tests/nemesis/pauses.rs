//! SIGSTOP of a leader while reads wait in its sockets: when it goes on it may not answer them with what it remembers, under a
//! lease or not. All answers, its own too, are judged as one history.
//!
//! `SIGSTOPS` sets the dose: so many pauses of 0.5 to 20 s, most of them short; by default a few up to 1 s. A third as many
//! shorter ones, about as long as a lease, come in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, Consistency, TxnOp, TxnResult};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use scripted::history::{History, Operation, judge};
use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON, until};
use tokio::sync::watch;
use wire::v1::kv_client::KvClient;

/// Reads that wait in the sockets of a leader that stands still, besides those that loops have under way.
const QUEUED: usize = 24;
/// Reads in loops.
const READERS: usize = 4;

/// What one round's clients saw of its key.
#[derive(Clone)]
struct Notes {
    key: Arc<Vec<u8>>,
    began: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

/// What became of reads that the paused node was asked.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    answered: usize,
    refused: usize,
}

impl Notes {
    fn new(round: u64) -> Notes {
        let key = Arc::new(format!("paused-{round}").into_bytes());
        Notes { key, began: Instant::now(), operations: Arc::default() }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn written(&self) -> usize {
        self.operations.lock().iter().filter(|operation| !operation.txn.is_read_only()).count()
    }

    /// Writes a number after the other.
    async fn write(self, client: Client, stop: watch::Receiver<bool>) {
        let mut number = 0_u64;
        while !*stop.borrow() {
            number += 1;
            let (began, value) = (self.now(), number.to_string().into_bytes());
            let written = client.put(&self.key, &value).await.unwrap();
            let op = TxnOp::Put { key: self.key.to_vec(), value };
            let result = TxnResult::Written { length: written.length };
            self.operations.lock().push(Operation::single(0, began, self.now(), op, result));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks this node once; whether it answered.
    async fn read(&self, who: u64, node: &mut KvClient<tonic::transport::Channel>) -> bool {
        let consistency = match who % 2 {
            0 => wire::v1::Consistency::Lease,
            _ => wire::v1::Consistency::Linearizable,
        };
        let key = self.key.to_vec().into();
        let began = self.now();
        let Ok(answer) = node.get(wire::v1::GetRequest { key, consistency: consistency.into() }).await else {
            return false;
        };
        let answer = answer.into_inner();
        let found = answer.found.then(|| answer.value.to_vec());
        self.operations.lock().push(Operation::get(1 + who, began, self.now(), &self.key, found));
        true
    }

    /// Asks it again and again.
    async fn keep_reading(
        self,
        who: u64,
        mut node: KvClient<tonic::transport::Channel>,
        stop: watch::Receiver<bool>,
    ) -> Told {
        let mut told = Told::default();
        while !*stop.borrow() {
            match self.read(who, &mut node).await {
                true => told.answered += 1,
                false => told.refused += 1,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        told
    }

    /// By way of a client of ours, from whoever leads.
    async fn read_through(self, client: Client, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let began = self.now();
            let found = client.get(&self.key, Consistency::Lease).await.unwrap();
            let found = found.map(|found| found.value);
            self.operations.lock().push(Operation::get(100, began, self.now(), &self.key, found));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One pause; what the paused node told of what waited for it, and whether it still led.
fn one_pause(
    nodes: &Nodes,
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    round: u64,
    pause: Duration,
) -> Told {
    let notes = Notes::new(round);
    let leader = nodes.await_leader(1);
    let address = format!("http://{}", nodes.endpoint(leader));
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().timeout(SOON);
    let node = KvClient::new(runtime.block_on(channel.connect()).unwrap());
    let (stop, stopped) = watch::channel(false);
    let writer = runtime.spawn(notes.clone().write(client.clone(), stopped.clone()));
    let through = runtime.spawn(notes.clone().read_through(client.clone(), stopped.clone()));
    let readers: Vec<_> = (0..READERS as u64)
        .map(|who| runtime.spawn(notes.clone().keep_reading(who, node.clone(), stopped.clone())))
        .collect();
    until("some writes", SOON, || (notes.written() >= 5).then_some(()));
    nodes.pause(leader);
    std::thread::sleep(pause / 2);
    // These begin after whatever another leader has acknowledged by now.
    let queued: Vec<_> = (0..QUEUED as u64)
        .map(|n| {
            let (notes, mut node) = (notes.clone(), node.clone());
            runtime.spawn(async move { notes.read(20 + n, &mut node).await })
        })
        .collect();
    std::thread::sleep(pause / 2);
    nodes.resume(leader);
    let mut told = Told::default();
    for read in queued {
        match runtime.block_on(read).unwrap() {
            true => told.answered += 1,
            false => told.refused += 1,
        }
    }
    let written = notes.written();
    until("writes after the pause", SOON, || (notes.written() > written + 3).then_some(()));
    stop.send_replace(true);
    runtime.block_on(async {
        writer.await.unwrap();
        through.await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
    });
    let history = History { operations: notes.operations.lock().clone(), ..History::default() };
    if let Err(wrong) = judge(&history).ordered() {
        panic!("P7: a stale read at node {leader} after {pause:?}, round {round}: {wrong}");
    }
    told
}

/// How long: one in four about as long as a lease, the others at least 0.5 s, mostly not much more, at most 20 s in a full dose.
fn pause_of(random: &mut SmallRng, round: u64, is_full: bool) -> Duration {
    let part: f64 = random.random();
    if round.is_multiple_of(4) {
        return Duration::from_secs_f64(0.1 + 0.4 * part);
    }
    let most: f64 = if is_full { 40.0 } else { 2.0 };
    Duration::from_secs_f64(0.5 * most.powf(part.powi(4)))
}

fn pauses(leases: bool, seed: u64) {
    let nodes = Nodes::start(Plan::new(3).with(&format!("--timing.leases={leases}")));
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let mut random = SmallRng::seed_from_u64(seed);
    let long = dose("SIGSTOPS", 6).div_ceil(2);
    let rounds = long + long.div_ceil(3);
    let (mut told, mut longest, mut moved) = (Told::default(), Duration::ZERO, 0);
    for round in 0..rounds {
        let before = nodes.await_leader(1);
        let pause = pause_of(&mut random, round, long > 3);
        let one = one_pause(&nodes, &runtime, &client, round, pause);
        told = Told { answered: told.answered + one.answered, refused: told.refused + one.refused };
        moved += usize::from(nodes.await_leader(1) != before);
        longest = longest.max(pause);
        if round % 50 == 49 {
            println!("{} pauses: {told:?}, leadership moved {moved} times", round + 1);
        }
    }
    println!(
        "leases {leases}: {rounds} pauses, {long} of 0.5 s to {longest:?}, 0 stale reads; of those that waited: {told:?}; \
         leadership moved {moved} times"
    );
    assert!(told.answered + told.refused > 0, "reads that never waited prove nothing");
}

#[test]
fn a_paused_leader_answers_no_stale_read_under_leases() {
    pauses(true, dose("SIGSTOP_SEED", 1));
}

#[test]
fn a_paused_leader_answers_no_stale_read_without_leases() {
    pauses(false, dose("SIGSTOP_SEED", 2));
}

#[test]
#[should_panic(expected = "no order")]
fn a_stale_read_would_be_noticed() {
    let put = |began, value: &[u8]| {
        let op = TxnOp::Put { key: b"k".to_vec(), value: value.to_vec() };
        Operation::single(0, began, began + 5, op, TxnResult::Written { length: 1 })
    };
    let stale = Operation::get(1, 30, 40, b"k", Some(b"1".to_vec()));
    let operations = vec![put(0, b"1"), put(10, b"2"), stale];
    judge(&History { operations, ..History::default() }).ordered().unwrap_or_else(|_| panic!("no order"));
}
