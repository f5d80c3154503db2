//! FAULTS row 30: three nodes under hostile frames: every call of every service in every role, HTTP, and streams that begin
//! well. No panic, no memory without bound, and the nodes go on serving, with equal states.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod nodes;
#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/seeds.rs"]
mod seeds;

use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuzz::corpus::hex_of;
use fuzz::dice::Dice;
use fuzz::mutate::mutate;
use nodes::{Cluster, channel, fetch, until};
use raw::Outcome;
use seeds::{Call, Port, calls, pages};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use wire::v1;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// What all of it may add to the memory of the process, three nodes in all, in bytes.
const MEMORY_MAX: u64 = 768 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A node catches a panic of one call, so that nothing would be seen of it.
fn count_panics() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        shown(info);
    }));
}

fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    resident * 4096
}

/// One to three messages, mostly changed.
fn messages(dice: &mut Dice, call: &Call, all: &[Call]) -> Vec<Vec<u8>> {
    let count = if call.streams { 1 + dice.below(3) } else { 1 };
    (0..count)
        .map(|_| {
            let from = dice.pick(&call.seeds).clone();
            let other = dice.pick(&dice.clone().pick(all).seeds).clone();
            match dice.below(20) {
                0 => from,
                1 => vec![0xff; dice.below(200)],
                2 => vec![b'x'; 1 << (10 + dice.below(12))],
                _ => mutate(dice, &from, &other, &[], 1 << 20),
            }
        })
        .collect()
}

/// Random words to the HTTP port.
async fn say(cluster: &Cluster, node: usize, dice: &mut Dice) {
    let (one, other) = (*dice.pick(&pages()), *dice.pick(&pages()));
    let bytes = mutate(dice, one.as_bytes(), other.as_bytes(), &[], 1 << 16);
    let mut stream = TcpStream::connect(cluster.node(node).http_addr).await.unwrap();
    let _reset = stream.write_all(&bytes).await;
    let _closed = stream.shutdown().await;
    let _late = tokio::time::timeout(PATIENCE / 3, stream.read_to_end(&mut Vec::new())).await;
}

async fn links(cluster: &Cluster) -> Vec<[Channel; 2]> {
    let mut links = Vec::new();
    for (node, config) in cluster.nodes.iter().zip(&cluster.configs) {
        let client = channel(node.as_ref().unwrap().client_addr).await;
        links.push([client, channel(config.listen.peer.parse().unwrap()).await]);
    }
    links
}

/// Most keys can be written, and replicas that are equally far are equal (P5). Which groups there are, and where shards
/// are, is as the calls that were valid made it.
async fn goes_on(cluster: &Cluster) {
    let mut written = 0;
    for n in 0..20 {
        let put = v1::PutRequest { key: format!("after{n}").into(), value: "x".into(), session: None };
        for node in 0..3 {
            let mut kv = cluster.kv(node).await;
            let done = tokio::time::timeout(PATIENCE * 5, kv.put(put.clone())).await;
            if done.is_ok_and(|done| done.is_ok()) {
                written += 1;
                break;
            }
        }
    }
    assert!(written >= 10, "only {written} of 20 keys can be written");
    until(async || {
        let mut states = BTreeMap::new();
        let mut equal = true;
        for node in 0..3 {
            let status = cluster.node(node).handle.status().await.unwrap();
            assert_eq!(status.condition, "ok", "node {node} goes on");
            for replica in status.replicas {
                let state = (replica.applied_end, replica.state_hash);
                equal &= *states.entry((replica.group, replica.generation)).or_insert(state) == state;
            }
        }
        equal
    })
    .await;
}

async fn attack(cases: u64) {
    let cluster = Cluster::start().await;
    let links = links(&cluster).await;
    let all = calls();
    let (before, mut most) = (memory(), 0);
    let (mut answered, mut refused, mut silent) = (0, 0, 0);
    for case in 0..cases {
        let mut dice = Dice::of_case("node_calls", fuzz::seed(), case);
        let node = dice.below(3);
        if dice.chance(10) {
            say(&cluster, node, &mut dice).await;
            continue;
        }
        let call = dice.pick(&all).clone();
        let messages = messages(&mut dice, &call, &all);
        let link = links[node][usize::from(call.port == Port::Peer)].clone();
        let sent: Vec<String> = messages.iter().map(|bytes| hex_of(bytes)).collect();
        match raw::call(link, call.path, messages, PATIENCE).await {
            Outcome::Answered => answered += 1,
            Outcome::Refused(code) => {
                refused += 1;
                assert_ne!(code, tonic::Code::Unknown, "a refusal has a kind: {} {sent:?}", call.path);
            }
            Outcome::Silent => silent += 1,
        }
        let panics = PANICS.load(Ordering::SeqCst);
        assert_eq!(panics, 0, "case {case}, node {node}, {}: {sent:?}", call.path);
        if case % 64 == 0 {
            most = most.max(memory());
        }
    }
    drop(links);
    goes_on(&cluster).await;
    for node in 0..3 {
        assert!(fetch(cluster.node(node).http_addr, "/livez").await.starts_with("HTTP/1.1 200"));
    }
    let grown = most.max(memory()).saturating_sub(before);
    println!(
        "fuzz node_calls: {cases} calls, {answered} answered, {refused} refused, {silent} silent, {} MiB more memory",
        grown >> 20
    );
    assert!(grown < MEMORY_MAX, "{grown} bytes more memory");
    assert!(answered > 0 && refused > 0);
    cluster.stop().await;
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

/// A call takes as long as hundreds of inputs of a decoder.
#[test]
fn fuzz_calls() {
    assert!(fuzz::targets::is_listed("node_calls"));
    count_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = match fuzz::cases(0) {
        0 => 1500,
        cases => (cases / 50).max(1500),
    };
    runtime.block_on(attack(cases));
}
