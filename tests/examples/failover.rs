//! How long writes stop when the leader is killed with -9:
//! `cargo run --release -p tests --example failover -- [KILLS] [-o json]`.
//!
//! One client writes without pause, each time another value; for each kill the longest time between two acknowledgements around
//! it is taken. At the end all that was acknowledged must be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Client, ClientOptions, Consistency};
use tests::nodes::{Nodes, Plan};

/// From a kill to the restart of who was killed, and from there to the next kill.
const PAUSE: Duration = Duration::from_secs(2);
/// What is written goes round so many keys, so that an old value is noticed, too.
const KEYS: u64 = 1000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_json = words.ends_with(&["-o".to_string(), "json".to_string()]);
    let kills: usize = words.first().and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut plan = Plan::new(3);
    plan.groups = 1;
    let mut nodes = Nodes::start(plan);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, endpoints) = (stop.clone(), nodes.endpoints());
        std::thread::spawn(move || write(endpoints, &stop))
    };
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(PAUSE);
        let leader = nodes.await_leader(1);
        killed_at.push(Instant::now());
        nodes.kill(&[leader]);
        std::thread::sleep(PAUSE);
        nodes.start_node(leader);
    }
    stop.store(true, Ordering::Relaxed);
    let (done, lost) = writer.join().expect("the writer ends");
    let mut gaps: Vec<u128> = killed_at.iter().map(|at| gap_after(*at, &done)).collect();
    gaps.sort_unstable();
    let at = |q: usize| gaps[(gaps.len() - 1) * q / 100];
    let (writes, p50, p99, max) = (done.len(), at(50), at(99), at(100));
    if is_json {
        let told = serde_json::json!({
            "v": 1, "kills": kills, "writes": writes, "lost": lost,
            "gap_ms": {"p50": p50, "p90": at(90), "p99": p99, "max": max},
        });
        println!("{told}");
    } else {
        println!(
            "{kills} kills, {writes} writes, {lost} lost: gap p50 {p50} ms, p90 {} ms, p99 {p99} ms, max {max} ms",
            at(90)
        );
    }
    assert_eq!(lost, 0, "acknowledged writes are gone");
}

/// When each write was acknowledged, and how many of the keys don't hold the last one of theirs.
fn write(endpoints: Vec<String>, stop: &AtomicBool) -> (Vec<Instant>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = ClientOptions { endpoints, timeout: Duration::from_secs(30), ..Default::default() };
        let client = Client::connect(options).await.expect("the cluster serves");
        let key = |number: u64| format!("failover-{}", number % KEYS).into_bytes();
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = done.len() as u64;
            client.put(&key(number), number.to_string().as_bytes()).await.expect("a write within 30 s");
            done.push(Instant::now());
        }
        let mut lost = 0;
        let written = done.len() as u64;
        for number in written.saturating_sub(KEYS)..written {
            let found =
                client.get(&key(number), Consistency::Linearizable).await.expect("a read within 30 s");
            lost += usize::from(found.is_none_or(|found| found.value != number.to_string().into_bytes()));
        }
        (done, lost)
    })
}

/// The longest pause between two acknowledgements that begins around a kill, in ms.
fn gap_after(at: Instant, done: &[Instant]) -> u128 {
    let near = |pair: &&[Instant]| pair[0] + Duration::from_millis(100) > at && pair[0] < at + 2 * PAUSE;
    let gaps = done.windows(2).filter(near).map(|pair| (pair[1] - pair[0]).as_millis());
    gaps.max().unwrap_or(u128::MAX)
}
