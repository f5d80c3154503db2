//! How long writes stop when the leader is killed with -9: `cargo run --release -p tests --example failover -- [KILLS]`.
//!
//! One client writes without pause; for each kill the longest time between two acknowledgements around it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::{Client, ClientOptions};
use tests::Demo;

fn main() {
    let kills: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    let demo = Demo::start(&["--groups", "1"]);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, endpoints) = (stop.clone(), demo.endpoints());
        std::thread::spawn(move || write(endpoints, &stop))
    };
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_secs(2));
        let leader = demo.leader(1).to_string();
        killed_at.push(Instant::now());
        demo.ok(&["fault", "kill", "--node", &leader]);
        std::thread::sleep(Duration::from_secs(2));
        demo.ok(&["fault", "start", "--node", &leader]);
    }
    stop.store(true, Ordering::Relaxed);
    let done = writer.join().expect("the writer ends");
    let mut gaps: Vec<u128> = killed_at.iter().map(|at| gap_after(*at, &done)).collect();
    gaps.sort_unstable();
    let at = |q: usize| gaps[(gaps.len() - 1) * q / 100];
    println!(
        "{kills} kills, {} writes: gap p50 {} ms, p90 {} ms, max {} ms",
        done.len(),
        at(50),
        at(90),
        at(100)
    );
}

/// When each write was acknowledged.
fn write(endpoints: Vec<String>, stop: &AtomicBool) -> Vec<Instant> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = ClientOptions { endpoints, timeout: Duration::from_secs(30), ..Default::default() };
        let client = Client::connect(options).await.expect("the cluster serves");
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            client.put(b"failover", b"value").await.expect("a write within 30 s");
            done.push(Instant::now());
        }
        done
    })
}

/// The longest pause between two acknowledgements within 2 s of a kill, in ms.
fn gap_after(at: Instant, done: &[Instant]) -> u128 {
    let near = |t: &Instant| *t + Duration::from_millis(100) > at && *t < at + Duration::from_secs(4);
    let times: Vec<Instant> = done.iter().copied().filter(near).collect();
    times.windows(2).map(|w| (w[1] - w[0]).as_millis()).max().unwrap_or(u128::MAX)
}
