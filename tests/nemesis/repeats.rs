//! Requests that arrive 2 to 10 times, at several nodes, at once and late, while leaders die, nodes restart from their checkpoints
//! and shards move: each increment happens once. And duplicates that are older than what the session table remembers.
//!
//! A client of the test's own speaks the stream protocol, since no client of ours would do so. `INCREMENTS` sets the dose.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvserver::command::{Op, Refusal, Reply, Request, shard_of};
use kvserver::machine;
use parking_lot::Mutex;
use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON, bound, until};
use tokio::sync::mpsc;
use wire::v1;

const SHARDS: u16 = 16;
const KEYS: u64 = 24;
const CALLERS: u64 = 48;
/// The sequence of a request, and what a copy of it was answered.
type Told = (u64, v1::answer::Result);
/// A try without an answer is repeated after this time.
const PATIENCE: Duration = Duration::from_millis(300);

/// Streams to all nodes.
struct Streams {
    nodes: Vec<mpsc::UnboundedSender<v1::ClientFrame>>,
    /// Who waits, by the number of a copy, with the sequence of the request.
    callers: Mutex<BTreeMap<u64, (u64, mpsc::UnboundedSender<Told>)>>,
    /// The group of each shard, as the newest table says.
    owners: Mutex<(u64, Vec<u32>)>,
    log_time: AtomicU64,
    next: AtomicU64,
    sent: AtomicU64,
}

impl Streams {
    fn open(endpoints: Vec<String>) -> Arc<Streams> {
        let (nodes, outgoing): (Vec<_>, Vec<_>) = endpoints.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let streams = Arc::new(Streams {
            nodes,
            callers: Mutex::default(),
            owners: Mutex::default(),
            log_time: AtomicU64::new(0),
            next: AtomicU64::new(1),
            sent: AtomicU64::new(0),
        });
        for (endpoint, frames) in endpoints.into_iter().zip(outgoing) {
            tokio::spawn(converse(streams.clone(), endpoint, frames));
        }
        streams
    }

    /// Copies of one request, each under a number of its own: all answers go to this caller.
    fn frame(
        &self,
        request: &Request,
        copies: usize,
        caller: &mpsc::UnboundedSender<Told>,
    ) -> v1::ClientFrame {
        self.sent.fetch_add(copies as u64, Ordering::Relaxed);
        let group = self.owners.lock().1.get(usize::from(request.shard.0)).copied().unwrap_or(1);
        let bytes = bytes::Bytes::from(paxos::codec::encode(request));
        let call = |_| {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            self.callers.lock().insert(id, (request.sequence.0, caller.clone()));
            v1::Call { id, group, kind: Some(v1::call::Kind::Write(bytes.clone())), consistency: 0 }
        };
        v1::ClientFrame { calls: (0..copies).map(call).collect() }
    }

    fn heard(&self, frame: v1::ServerFrame) {
        self.log_time.fetch_max(frame.log_time, Ordering::Relaxed);
        let table = frame.routing.or_else(|| frame.hello.and_then(|hello| hello.routing));
        if let Some(table) = table {
            let mut owners = self.owners.lock();
            if table.version > owners.0 {
                *owners = (table.version, table.owners);
            }
        }
        for answer in frame.answers {
            let caller = self.callers.lock().remove(&answer.id);
            if let (Some((sequence, caller)), Some(result)) = (caller, answer.result) {
                // A copy's answer may come when its caller is done with all.
                let _done = caller.send((sequence, result));
            }
        }
    }
}

/// One stream after the other to a node; frames of between two are lost.
async fn converse(
    streams: Arc<Streams>,
    endpoint: String,
    mut frames: mpsc::UnboundedReceiver<v1::ClientFrame>,
) {
    while !frames.is_closed() {
        let talk = async {
            let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
            let channel = channel.connect_timeout(Duration::from_secs(1)).connect().await.ok()?;
            let (outgoing, on_the_wire) = mpsc::channel(64);
            let mut node = v1::client_client::ClientClient::new(channel);
            let on_the_wire = tokio_stream::wrappers::ReceiverStream::new(on_the_wire);
            let mut answers = node.connect(on_the_wire).await.ok()?.into_inner();
            loop {
                tokio::select! {
                    frame = frames.recv() => outgoing.send(frame?).await.ok()?,
                    answer = answers.message() => streams.heard(answer.ok()??),
                }
            }
        };
        let _ended: Option<()> = talk.await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        while frames.try_recv().is_ok() {}
    }
}

/// What one caller saw.
#[derive(Default)]
struct Seen {
    /// Each number that an increment of a key came to.
    numbers: Vec<(u64, i64)>,
    /// Copies that were told the same as the first one, and that were told that it is acknowledged already.
    same: u64,
    acknowledged: u64,
}

async fn increment(streams: Arc<Streams>, who: u64, count: u64) -> Seen {
    let mut random = SmallRng::seed_from_u64(who);
    let mut seen = Seen::default();
    // What each of its requests came to, from sequence 1.
    let mut came_to: Vec<i64> = Vec::new();
    let mut old: VecDeque<Request> = VecDeque::new();
    let (caller, mut answers) = mpsc::unbounded_channel();
    for sequence in 1..=count {
        let key = random.random_range(0..KEYS);
        let name = format!("counter-{key}").into_bytes();
        let request = Request {
            client: ClientId(0xc0ffee << 64 | u128::from(who)),
            sequence: Sequence(sequence),
            ack_through: Sequence(sequence - 1),
            sent_at: LogTime(streams.log_time.load(Ordering::Relaxed)),
            shard: shard_of(&name, SHARDS),
            op: Op::Incr { key: name, by: 1 },
        };
        let send = |request: &Request, copies: usize, node: usize| {
            let _stream_is_gone = streams.nodes[node].send(streams.frame(request, copies, &caller));
        };
        let mut number = None;
        while number.is_none() {
            // To all nodes: one of them leads, most of the time.
            for node in 0..streams.nodes.len() {
                send(&request, random.random_range(1..=3), node);
            }
            let until = tokio::time::Instant::now() + PATIENCE;
            while number.is_none() {
                let Ok(answer) = tokio::time::timeout_at(until, answers.recv()).await else { break };
                let (of, answer) = answer.unwrap();
                match value_of(&answer) {
                    Some(Ok(value)) if of == sequence => number = Some(value),
                    Some(Ok(value)) => seen.repeated(&came_to, of, value),
                    Some(Err(())) => seen.acknowledged += 1,
                    None => {}
                }
            }
        }
        let number = number.unwrap();
        came_to.push(number);
        seen.numbers.push((key, number));
        // A late copy of this one, and of one of long ago.
        send(&request, 1, random.random_range(0..streams.nodes.len()));
        if old.len() == 64 {
            old.pop_front();
        }
        old.push_back(request.clone());
        let copy = &old[random.random_range(0..old.len())];
        send(copy, 1, random.random_range(0..streams.nodes.len()));
        if random.random_range(0..8) == 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        }
    }
    seen
}

impl Seen {
    /// A copy's answer after the first one: it must be the same.
    fn repeated(&mut self, came_to: &[i64], sequence: u64, value: i64) {
        let first = came_to[sequence as usize - 1];
        assert_eq!(value, first, "P9: a copy of request {sequence} came to another number");
        self.same += 1;
    }
}

/// The number that an increment came to, or that it was acknowledged before; nothing if it has to be tried again.
fn value_of(answer: &v1::answer::Result) -> Option<Result<i64, ()>> {
    let v1::answer::Result::Reply(bytes) = answer else { return None };
    match machine::Reply::decode(GroupId(1), bytes) {
        Some(machine::Reply::Store(Reply::Number { value, .. })) => Some(Ok(value)),
        Some(machine::Reply::Store(Reply::Refused(Refusal::AlreadyAcknowledged))) => Some(Err(())),
        Some(machine::Reply::Store(Reply::Refused(
            Refusal::WrongGroup { .. } | Refusal::Awaiting | Refusal::Busy(_),
        ))) => None,
        other => panic!("P9: an increment came to {other:?}"),
    }
}

/// Every number of every key once, from 1.
fn judge(seen: &[Seen]) -> BTreeMap<u64, i64> {
    let mut numbers: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for (key, number) in seen.iter().flat_map(|seen| &seen.numbers) {
        numbers.entry(*key).or_default().push(*number);
    }
    for (key, numbers) in &mut numbers {
        numbers.sort_unstable();
        let exact = numbers.iter().zip(1..).all(|(number, expected)| *number == expected);
        assert!(exact, "P9: the increments of {key} came to {numbers:?}");
    }
    numbers.into_iter().map(|(key, numbers)| (key, numbers.len() as i64)).collect()
}

#[test]
fn increments_sent_many_times_happen_once() {
    let plan = Plan::new(3).with("--limits.segment=1MiB").with("--limits.checkpoint_log=1MiB");
    let mut nodes = Nodes::start(plan);
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let increments = dose("INCREMENTS", 3_000);
    let streams = runtime.block_on(async { Streams::open(nodes.endpoints()) });
    until("a table", SOON, || (!streams.owners.lock().1.is_empty()).then_some(()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|who| runtime.spawn(increment(streams.clone(), who, increments / CALLERS)))
        .collect();
    let (mut kills, mut moves, mut turn) = (0, 0, 0_u32);
    while callers.iter().any(|caller| !caller.is_finished()) {
        // All of them there and back.
        let to = 1 + (turn / 4 + turn) % 2;
        let shards: Vec<u32> = (0..4).map(|n| (turn * 4 + n) % u32::from(SHARDS)).collect();
        let moved = runtime.block_on(client.shardmaster().move_shards(&shards, to, false));
        moves += u32::from(moved.is_ok_and(|change| !change.already));
        let leader = nodes.await_leader(1 + turn % 2);
        nodes.kill(&[leader]);
        nodes.start_node(leader);
        kills += 1;
        nodes.await_serving(bound(10));
        turn += 1;
    }
    let seen: Vec<Seen> = callers.into_iter().map(|caller| runtime.block_on(caller).unwrap()).collect();
    let sent = streams.sent.load(Ordering::Relaxed);
    let (same, acknowledged) = seen.iter().fold((0, 0), |(a, b), s| (a + s.same, b + s.acknowledged));
    let exact = judge(&seen);
    let total: i64 = exact.values().sum();
    println!(
        "{total} increments, {sent} requests, {kills} kills, {moves} moves; copies told the same: {same}, \
         told that it is acknowledged: {acknowledged}"
    );
    assert!(
        kills > 0 && moves > 0 && same > 0 && acknowledged > 0,
        "a fault that never fired proves nothing"
    );
    assert!(sent >= 4 * total as u64, "too few copies");
    for (key, count) in exact {
        let found = runtime.block_on(client.incr(format!("counter-{key}").as_bytes(), 0)).unwrap();
        assert_eq!(found.value, count, "P9: counter-{key}");
    }
    nodes.await_agreement(&nodes.ids());
}

#[test]
#[should_panic(expected = "P9: the increments of 7")]
fn an_increment_that_happened_twice_would_be_noticed() {
    let seen = Seen { numbers: vec![(7, 1), (7, 3)], ..Seen::default() };
    judge(&[seen]);
}

/// An increment in a session of the caller's own.
fn incr(client: u128, sequence: u64, sent_at: u64) -> v1::IncrRequest {
    let session = v1::Session {
        client: client.to_be_bytes().to_vec().into(),
        sequence,
        ack_through: sequence - 1,
        sent_at,
    };
    v1::IncrRequest { key: "expired".into(), by: 1, session: Some(session) }
}

#[test]
fn a_duplicate_after_its_session_expired_is_refused() {
    const HOUR_MS: u64 = 3_600_000;
    const AHEAD_MS: u64 = 60_000;
    let mut plan = Plan::new(3);
    plan.groups = 1;
    let mut nodes = Nodes::start(plan);
    let runtime = crate::runtime();
    // The one answer of whoever leads; what others say doesn't count.
    let ask = |nodes: &Nodes, request: v1::IncrRequest| -> Result<i64, tonic::Status> {
        until("an answer of the leader", SOON, || {
            let address = nodes.endpoint(nodes.await_leader(1));
            runtime.block_on(async {
                let node = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
                match v1::kv_client::KvClient::new(node.connect().await.ok()?).incr(request.clone()).await {
                    Ok(answer) => Some(Ok(answer.into_inner().value)),
                    Err(status) if status.message().contains("leader") => None,
                    Err(status) => Some(Err(status)),
                }
            })
        })
    };
    let log_time =
        |nodes: &Nodes| until("a leader", SOON, || nodes.replica(nodes.await_leader(1), 1)).log_time;
    let old = incr(1, 1, log_time(&nodes));
    assert_eq!(ask(&nodes, old.clone()).unwrap(), 1);
    assert_eq!(ask(&nodes, old.clone()).unwrap(), 1, "a duplicate is answered from the table");
    // Log time passes with the stamps of requests, at most a minute with each: what stands in for waiting an hour.
    let began = log_time(&nodes);
    let mut sequence = 0;
    while log_time(&nodes) <= began + HOUR_MS {
        sequence += 1;
        ask(&nodes, incr(2, sequence, log_time(&nodes) + AHEAD_MS - 1_000)).unwrap();
        assert!(sequence < 200, "log time stands still");
    }
    let refused = ask(&nodes, old.clone()).unwrap_err();
    println!("after {sequence} stamps: {refused:?}");
    assert!(refused.message().to_lowercase().contains("expired"), "{refused:?}");
    // After a restart of all, too.
    nodes.kill(&nodes.ids());
    nodes.start_all();
    nodes.await_serving(SOON);
    let refused = ask(&nodes, old).unwrap_err();
    assert!(refused.message().to_lowercase().contains("expired"), "{refused:?}");
    let value = ask(&nodes, incr(3, 1, log_time(&nodes))).unwrap();
    assert_eq!(value, 2 + sequence as i64, "P9: a duplicate was executed");
}
