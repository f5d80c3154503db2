//! Real processes whose groups come, go and give shards to one another while clients write, nodes die and messages get lost.
//!
//! `MOVES_SECONDS`, `MOVES_KILLS`, `MOVES_LOSSY_SECONDS`, `MOVES_PAUSES` and `MOVES_CIRCLES` set the doses; the defaults fit
//! a test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::path::Path;
use std::time::{Duration, Instant};

use client::{Client, Consistency};
use serde_json::Value as Json;
use tests::Demo;
use tests::load::{Load, Mover, await_moves, dose};
use tests::work::connect;

const SHARDS: u32 = 16;
const SETTLED: Duration = Duration::from_secs(10);

fn cluster() -> Demo {
    Demo::start(&["--groups", "3", "--shards", &SHARDS.to_string()])
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Writes records that nobody changes, so that moves take a while; the file.
fn fill(demo: &Demo, records: u64) -> String {
    let file = demo.dir().join("bulk.jsonl");
    let line = |n| format!("{{\"key\":\"bulk-{n:06}\",\"value\":\"{:0>100}\"}}\n", n * 7);
    let lines: String = (0..records).map(line).collect();
    std::fs::write(&file, &lines).unwrap();
    demo.ok(&["import", &file.display().to_string()]);
    lines
}

fn assert_filled(demo: &Demo, lines: &str) {
    let exported = demo.ok(&["--timeout", "20s", "export", "bulk-"]);
    assert!(exported == lines, "P8: {} of {} bytes are there", exported.len(), lines.len());
}

#[test]
fn appends_go_on_exactly_once_while_shards_move() {
    let demo = cluster();
    let lines = fill(&demo, 5_000);
    let load = Load { clients: 24, keys: 64, pause: Duration::from_millis(10), lost_percent: 0 };
    let running = load.start(demo.endpoints());
    let mut mover = Mover::new(dose("MOVES_SEED", 1), SHARDS);
    let end = Instant::now() + Duration::from_secs(dose("MOVES_SECONDS", 8));
    while Instant::now() < end {
        mover.step(&demo);
        std::thread::sleep(Duration::from_millis(mover.random(300)));
    }
    let settled = await_moves(&demo, SETTLED);
    let seen = running.finish();
    println!("{} changes, settled after {settled:?}; {}", mover.changes, seen.summary());
    assert!(mover.changes >= 8, "too few changes: {:?}", mover.refused);
    seen.assert_right();
    assert_filled(&demo, &lines);
}

/// A group of those that there are now, and who leads it: the `turn`-th of them, or one after it that has a leader.
fn a_leader(demo: &Demo, turn: usize) -> (u64, u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let status = json(&demo.ok(&["-o", "json", "status"]));
        let groups = status["groups"].as_array().unwrap();
        let led: Vec<_> = groups
            .iter()
            .filter_map(|group| Some((group["id"].as_u64()?, group["leader"].as_u64()?)))
            .collect();
        if !led.is_empty() {
            return led[turn % led.len()];
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no group has a leader");
}

#[test]
fn kills_in_every_phase_of_moves_lose_nothing() {
    let demo = cluster();
    let lines = fill(&demo, 10_000);
    let load = Load { clients: 16, keys: 64, pause: Duration::from_millis(10), lost_percent: 0 };
    let running = load.start(demo.endpoints());
    let mut mover = Mover::new(dose("MOVES_SEED", 2), SHARDS);
    for turn in 0..dose("MOVES_KILLS", 6) as usize {
        let (group, leader) = a_leader(&demo, turn);
        mover.step(&demo);
        // A move takes about so long.
        std::thread::sleep(Duration::from_millis(mover.random(300)));
        println!("kill {turn}: node {leader}, which leads group {group}");
        let leader = leader.to_string();
        demo.ok(&["fault", "kill", "--node", &leader]);
        mover.step(&demo);
        std::thread::sleep(Duration::from_millis(mover.random(600)));
        demo.ok(&["fault", "start", "--node", &leader]);
    }
    let settled = await_moves(&demo, SETTLED);
    let seen = running.finish();
    println!("{} changes, settled after {settled:?}; {}", mover.changes, seen.summary());
    assert!(mover.changes >= 6, "too few changes: {:?}", mover.refused);
    seen.assert_right();
    assert_filled(&demo, &lines);
}

#[test]
fn linearizable_while_the_config_changes_and_messages_are_lost() {
    let demo = cluster();
    demo.ok(&["fault", "loss", "10"]);
    let load = Load { clients: 10, keys: 32, pause: Duration::from_millis(4), lost_percent: 10 };
    let running = load.start(demo.endpoints());
    let mut mover = Mover::new(dose("MOVES_SEED", 3), SHARDS);
    let seconds = dose("MOVES_LOSSY_SECONDS", 10);
    for _ in 0..seconds * 2 {
        let next = Instant::now() + Duration::from_millis(500);
        mover.step(&demo);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    demo.ok(&["fault", "heal"]);
    let settled = await_moves(&demo, SETTLED);
    let seen = running.finish();
    println!("{} changes, settled after {settled:?}; {}", mover.changes, seen.summary());
    assert!(mover.changes as u64 >= seconds, "too few changes: {:?}", mover.refused);
    assert!(seen.unknown > 0, "a fault that never fired proves nothing");
    seen.assert_right();
    assert!(seen.longest < Duration::from_secs(4), "an operation took {:?}", seen.longest);
}

/// Shard, group and leader of a key.
fn locate(demo: &Demo, key: &str) -> (u64, u64) {
    let located = json(&demo.ok(&["-o", "json", "locate", key]));
    let found = if located["keys"].is_array() { &located["keys"][0] } else { &located };
    (found["shard"].as_u64().unwrap(), found["group"].as_u64().unwrap())
}

/// What a node answers to a read, under its lease or not, or with what words it refuses.
async fn ask_node(
    address: String,
    key: &'static [u8],
    consistency: wire::v1::Consistency,
) -> Result<u64, String> {
    let node = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = node.connect().await.unwrap();
    let mut node = wire::v1::kv_client::KvClient::new(channel);
    let request = wire::v1::GetRequest { key: key.to_vec().into(), consistency: consistency.into() };
    match node.get(request).await {
        Ok(answer) => Ok(number(&answer.into_inner().value)),
        Err(status) => Err(format!("{}: {}", status.code(), status.message())),
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[test]
fn a_paused_old_owner_serves_nothing_when_it_comes_back() {
    const KEY: &[u8] = b"moved";
    let demo = cluster();
    let runtime = runtime();
    let client = runtime.block_on(connect(demo.endpoints()));
    runtime.block_on(client.put(KEY, b"0")).unwrap();
    let mut answers = std::collections::BTreeMap::new();
    for round in 1..=dose("MOVES_PAUSES", 3) {
        let (shard, source) = locate(&demo, "moved");
        let to = source % 3 + 1;
        let old = demo.leader(source);
        // It reads once more just before, so that it has a lease, and connections to be asked over.
        let before = ask_node(demo.port(old as usize, "client"), KEY, wire::v1::Consistency::Lease);
        assert_eq!(runtime.block_on(before), Ok(round - 1), "the leader serves its shard");
        demo.ok(&["fault", "pause", "--node", &old.to_string()]);
        demo.ok(&[
            "shard",
            "move",
            &shard.to_string(),
            "--to",
            &to.to_string(),
            "--wait",
            "--wait-timeout",
            "30s",
            // The shardmaster may have lost its leader just now.
            "--timeout",
            "20s",
        ]);
        runtime.block_on(client.put(KEY, round.to_string().as_bytes())).unwrap();
        // Some reads wait in its socket when it wakes up, some come later; all began after the write had ended.
        let address = demo.port(old as usize, "client");
        let reads: Vec<_> = (0..40)
            .map(|n| {
                let consistency = match n % 2 {
                    0 => wire::v1::Consistency::Lease,
                    _ => wire::v1::Consistency::Linearizable,
                };
                let address = address.clone();
                runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(n / 2 * 20)).await;
                    ask_node(address, KEY, consistency).await
                })
            })
            .collect();
        let through = runtime.spawn(async move {
            let through = connect(vec![address]).await;
            through.get(KEY, Consistency::Lease).await.unwrap().map(|found| number(&found.value))
        });
        std::thread::sleep(Duration::from_millis(100));
        demo.ok(&["fault", "resume", "--node", &old.to_string()]);
        for read in reads {
            let answer = runtime.block_on(read).unwrap();
            if let Ok(found) = answer {
                assert_eq!(
                    found, round,
                    "P8: node {old} served the old value of shard {shard} in round {round}"
                );
            }
            *answers.entry(answer.err()).or_insert(0) += 1;
        }
        assert_eq!(runtime.block_on(through).unwrap(), Some(round), "P8: by way of node {old}");
        await_moves(&demo, SETTLED);
    }
    println!("answers of nodes that had been paused: {answers:?}");
    assert!(
        answers.keys().flatten().all(|words| !words.contains("deadline")),
        "a read without answer proves nothing: {answers:?}"
    );
}

/// The slowest of a hundred operations on these keys, of 2 s of them.
async fn p99(client: &Client, keys: &[String]) -> Duration {
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let (began, key) = (Instant::now(), keys[times.len() % keys.len()].as_bytes());
        match times.len() % 2 {
            0 => drop(client.put(key, b"value").await.unwrap()),
            _ => drop(client.get(key, Consistency::Linearizable).await.unwrap()),
        }
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[test]
fn a_group_without_majority_harms_no_other() {
    let demo = cluster();
    let lines = fill(&demo, 2_000);
    demo.ok(&["group", "join", "4", "3", "--wait"]);
    let listed = json(&demo.ok(&["-o", "json", "shard", "list"]));
    let owned = |group: u64| -> Vec<String> {
        let shards = listed["shards"].as_array().unwrap().iter().filter(|shard| shard["group"] == group);
        shards.map(|shard| shard["shard"].as_u64().unwrap().to_string()).collect()
    };
    let (lost, others) = (owned(4), owned(1));
    let names: Vec<String> = (0..200).map(|n| format!("name-{n}")).collect();
    let arguments: Vec<&str> =
        ["-o", "json", "locate"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let located = json(&demo.ok(&arguments));
    let located = located["keys"].as_array().unwrap();
    let (theirs, ours): (Vec<&Json>, Vec<&Json>) = located.iter().partition(|key| key["group"] == 4);
    let ours: Vec<String> = ours.iter().map(|key| key["key"].as_str().unwrap().to_string()).collect();
    let theirs = theirs[0]["key"].as_str().unwrap();
    demo.ok(&["put", theirs, "kept"]);
    let runtime = runtime();
    let client = runtime.block_on(connect(demo.endpoints()));
    let before = runtime.block_on(p99(&client, &ours));

    demo.ok(&["fault", "kill", "--node", "3"]);
    // The others elect where node 3 led.
    std::thread::sleep(Duration::from_secs(2));
    let asked = Instant::now();
    let status = json(&demo.ok(&["-o", "json", "status"]));
    assert!(asked.elapsed() < Duration::from_secs(2), "status took {:?}", asked.elapsed());
    let problems = status["problems"].to_string();
    assert!(problems.contains("group 4 has no leader"), "{problems}");
    // What is to leave it waits, and says why; what is to go elsewhere doesn't wait for that.
    demo.ok(&["shard", "move", &lost[0], &lost[1], "--to", "2"]);
    demo.ok(&["shard", "move", &others[0], "--to", "4"]);
    demo.ok(&["shard", "move", &others[1], "--to", "3", "--wait", "--wait-timeout", "10s"]);
    let waiting = json(&demo.ok(&["-o", "json", "migration", "list"]));
    let waiting = waiting["migrations"].as_array().unwrap().clone();
    for shard in [&lost[0], &lost[1], &others[0]] {
        let found = waiting.iter().find(|moving| moving["shard"].as_u64() == shard.parse().ok());
        let found = found.unwrap_or_else(|| panic!("shard {shard} doesn't wait: {waiting:#?}"));
        println!("shard {shard}: {}, {}", found["state"], found["reason"]);
        assert_ne!(found["reason"], "", "shard {shard} waits without a reason: {found}");
    }
    // A shard that is to go to a group that doesn't answer is served where it is.
    let during = runtime.block_on(p99(&client, &ours));
    println!("p99 of the other groups: {before:?} before, {during:?} while group 4 is gone");
    assert!(during < 10 * before + Duration::from_millis(50), "p99 grew from {before:?} to {during:?}");

    demo.ok(&["fault", "start", "--node", "3"]);
    println!("settled {:?} after the restart", await_moves(&demo, SETTLED));
    assert_eq!(demo.ok(&["-o", "raw", "get", theirs]), "kept");
    assert_filled(&demo, &lines);
}

/// Memory of all nodes, and what their directories take on disk, in bytes.
fn taken(demo: &Demo) -> (u64, u64) {
    let status = json(&demo.ok(&["-o", "json", "status"]));
    let nodes = status["nodes"].as_array().unwrap();
    let memory = nodes.iter().map(|node| node["memory_bytes"].as_u64().unwrap()).sum();
    let directories = (1..=nodes.len()).map(|node| demo.dir().join(format!("n{node}/data")));
    (memory, directories.map(|directory| disk(&directory)).sum())
}

fn disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // Files come and go meanwhile.
    let Ok(known) = path.symlink_metadata() else { return 0 };
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten();
    known.blocks() * 512 + inside.map(|entry| disk(&entry.path())).sum::<u64>()
}

#[test]
fn ownership_in_circles_leaves_nothing_behind() {
    const SLACK: u64 = 24 << 20;
    let demo = cluster();
    let lines = fill(&demo, 3_000);
    let all: Vec<String> = (0..SHARDS).map(|shard| shard.to_string()).collect();
    let circle = || {
        for to in ["2", "1"] {
            let mut arguments = vec!["shard", "move"];
            arguments.extend(all.iter().map(String::as_str));
            arguments.extend(["--to", to, "--wait"]);
            demo.ok(&arguments);
        }
    };
    // The first circle warms up: what it allocates is used again.
    circle();
    let before = taken(&demo);
    let circles = dose("MOVES_CIRCLES", 5);
    for _ in 0..circles {
        circle();
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = taken(&demo);
    println!("{circles} circles: memory {} -> {}, disk {} -> {} bytes", before.0, after.0, before.1, after.1);
    assert_filled(&demo, &lines);
    for (what, before, after) in [("memory", before.0, after.0), ("disk", before.1, after.1)] {
        assert!(after < before + before / 5 + SLACK, "{what} grew from {before} to {after} bytes");
    }
}
