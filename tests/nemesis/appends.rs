//! Real processes, killed while clients append: every append is applied exactly once, in each client's order.
//!
//! `NEMESIS_APPENDS` sets the dose; the default fits a test run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Client, ClientOptions, Consistency};
use tests::Demo;

const CLIENTS: usize = 32;
const KEYS: usize = 100;

fn dose() -> usize {
    std::env::var("NEMESIS_APPENDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

async fn connect(demo: &Demo) -> Client {
    let options =
        ClientOptions { endpoints: demo.endpoints(), timeout: Duration::from_secs(60), ..Default::default() };
    Client::connect(options).await.expect("the cluster serves")
}

/// Kills a random leader every `every`, and starts it again, until told to stop; how often.
fn kill_leaders(demo: &Demo, every: Duration, stop: &AtomicBool) -> u64 {
    let mut kills = 0;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(every);
        let group = 1 + kills % 2;
        let leader = demo.leader(group).to_string();
        demo.ok(&["fault", "kill", "--node", &leader]);
        kills += 1;
        std::thread::sleep(every / 4);
        demo.ok(&["fault", "start", "--node", &leader]);
    }
    kills
}

#[test]
fn appends_through_kills_are_applied_exactly_once() {
    let demo = Arc::new(Demo::start(&["--groups", "2"]));
    let appends = dose();
    let stop = Arc::new(AtomicBool::new(false));
    let killer = {
        let (demo, stop) = (demo.clone(), stop.clone());
        std::thread::spawn(move || kill_leaders(&demo, Duration::from_secs(3), &stop))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let began = Instant::now();
    let longest = Arc::new(AtomicU64::new(0));
    let values = runtime.block_on(async {
        let client = connect(&demo).await;
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|who| {
                let (client, longest) = (client.clone(), longest.clone());
                tokio::spawn(async move {
                    for n in 0..appends / CLIENTS {
                        // Slow enough for several kills, whatever the machine.
                        let key = format!("list-{:03}", (n * 7 + who * 13) % KEYS);
                        let sent = Instant::now();
                        client.append(key.as_bytes(), format!("{who}:{n};").as_bytes()).await.unwrap();
                        longest.fetch_max(sent.elapsed().as_millis() as u64, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(15)).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let mut values = Vec::new();
        for key in 0..KEYS {
            let key = format!("list-{key:03}");
            let value = client.get(key.as_bytes(), Consistency::Linearizable).await.unwrap();
            values.push((key, value.map(|v| v.value).unwrap_or_default()));
        }
        values
    });
    let elapsed = began.elapsed();
    let kills = killer.join().unwrap();
    let longest = longest.load(Ordering::Relaxed);
    println!("{appends} appends, {kills} kills, {elapsed:?}, longest wait {longest} ms");
    assert!(kills >= 2, "a fault that never fired proves nothing");
    judge(&values, appends);
}

/// Every append is there once, and each client's appends to a key stand in the order it sent them.
fn judge(values: &[(String, Vec<u8>)], appends: usize) {
    let mut seen: HashMap<(usize, usize), u32> = HashMap::new();
    for (key, value) in values {
        let text = std::str::from_utf8(value).expect("clients append text");
        let mut last: HashMap<usize, usize> = HashMap::new();
        for item in text.split_terminator(';') {
            let (who, n) = item.split_once(':').expect("client:number");
            let number = |text: &str| -> usize { text.parse().expect("a number") };
            let (who, n) = (number(who), number(n));
            *seen.entry((who, n)).or_default() += 1;
            let before = last.insert(who, n);
            assert!(
                before.is_none_or(|before| before < n),
                "P9: client {who} at {key}: {n} after {before:?}"
            );
        }
    }
    for who in 0..CLIENTS {
        for n in 0..appends / CLIENTS {
            let times = seen.get(&(who, n)).copied().unwrap_or(0);
            assert_eq!(times, 1, "P9: append {n} of client {who} is there {times} times");
        }
    }
}

#[test]
#[should_panic(expected = "is there 2 times")]
fn the_judge_sees_a_doubled_append() {
    let all: String = (0..CLIENTS).map(|who| format!("{who}:0;")).collect();
    judge(&[("a".to_string(), all.clone().into_bytes()), ("b".to_string(), b"3:0;".to_vec())], CLIENTS);
}

#[test]
#[should_panic(expected = "P9: client 1")]
fn the_judge_sees_a_client_out_of_order() {
    judge(&[("a".to_string(), b"1:1;1:0;".to_vec())], 2 * CLIENTS);
}
