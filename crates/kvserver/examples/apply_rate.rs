//! How long a put takes to apply, in ns: 16-byte keys, 100-byte values, random keys overwritten, 256 shards, 64
//! clients with one request at a time in a shard, 64 requests a batch; at 10,000 and 1,000,000 keys.

use std::time::{Duration, Instant};

use kvserver::command::{Op, Reply, Request, shard_of};
use kvserver::genesis::{Genesis, Limits, SHARDS_DEFAULT};
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{ClientId, GroupId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;

const CLIENTS: usize = 64;
const BATCH: usize = 64;
const PUTS: u64 = 1 << 20;

/// Makes puts and applies them, batch by batch.
struct Load {
    random: u64,
    number: u64,
    last: Vec<u64>,
}

impl Load {
    fn random_key(&mut self, keys: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 20) % keys
    }

    fn put(&mut self, key: u64) -> Vec<u8> {
        let key = format!("key-{key:012}").into_bytes();
        let shard = shard_of(&key, SHARDS_DEFAULT);
        let client = self.number % CLIENTS as u64;
        self.number += 1;
        let last = &mut self.last[usize::from(shard.0) * CLIENTS + client as usize];
        let ack_through = Sequence(std::mem::replace(last, self.number));
        let op = Op::Put { key, value: vec![self.number as u8; 100] };
        let (client, sequence) = (ClientId(u128::from(client) << 96 | 1), Sequence(self.number));
        codec::encode(&Request { client, sequence, ack_through, sent_at: LogTime(1), shard, op })
    }

    /// Time a put, in ns.
    fn run(&mut self, store: &mut Store, puts: u64, key: impl Fn(&mut Load, u64) -> u64) -> f64 {
        let mut took = Duration::ZERO;
        let mut replies = Vec::new();
        for from in (0..puts).step_by(BATCH) {
            let mut builder = BatchBuilder::default();
            for at in from..puts.min(from + BATCH as u64) {
                let key = key(self, at);
                builder.push(&self.put(key));
            }
            let batch = builder.finish(LogTime(self.number / 100));
            replies.clear();
            let start = Instant::now();
            store.apply(Slot(0), &batch, &mut replies);
            took += start.elapsed();
            assert!(replies.iter().all(|(_, reply)| matches!(reply, Reply::Written { .. })));
        }
        took.as_nanos() as f64 / puts as f64
    }
}

fn measure(keys: u64) {
    let group = GroupId(1);
    let genesis =
        Genesis::spread(Limits::default(), SHARDS_DEFAULT, &[group]).expect("the default limits fit");
    let mut store = genesis.store(group);
    let mut load = Load { random: keys, number: 0, last: vec![0; usize::from(SHARDS_DEFAULT) * CLIENTS] };
    let fill = load.run(&mut store, keys, |_, at| at);
    let put = load.run(&mut store, PUTS, |load, _| load.random_key(keys));
    let clone = store.clone();
    let beside = load.run(&mut store, PUTS, |load, _| load.random_key(keys));
    let start = Instant::now();
    let bytes: usize = clone.pages().map(|page| page.body.len()).sum();
    println!(
        "{} keys: fill {fill:.0}, put {put:.0}, put beside a clone {beside:.0} ns; {} B a key; pages: {} kB in {} ms",
        store.keys(),
        store.state_bytes() / store.keys(),
        bytes >> 10,
        start.elapsed().as_millis(),
    );
}

fn main() {
    measure(10_000);
    measure(1_000_000);
}
