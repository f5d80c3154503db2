//! What clients feel of moving shards: `cargo run --release -p tests --example moves -- [KEYS] [ROUNDS] [SECONDS]`.
//!
//! Imports KEYS records of 100 bytes, then in each round runs `kvctl bench --workload mixed` for SECONDS undisturbed, and
//! again while group 4 joins, group 1 leaves and 20 shards move at random. What was imported must be exported at the end.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tests::Demo;
use tests::load::{Mover, await_moves};

const SHARDS: u64 = 256;
const MOVES: usize = 20;
const SETTLED: Duration = Duration::from_secs(300);

fn main() {
    let argument = |at: usize, default: u64| -> u64 {
        std::env::args().nth(at).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let (keys, rounds, seconds) = (argument(1, 1_000_000), argument(2, 3), argument(3, 20));
    let demo = Demo::start(&["--groups", "3", "--shards", &SHARDS.to_string()]);
    let file = demo.dir().join("records.tsv");
    let mut lines = std::io::BufWriter::new(std::fs::File::create(&file).expect("a file can be made"));
    for key in 0..keys {
        writeln!(lines, "moved-{key:09}\t{:0>100}", key * 7).expect("it can be written");
    }
    drop(lines);
    let began = Instant::now();
    demo.ok(&["--timeout", "30s", "import", &file.display().to_string(), "--format", "tsv"]);
    println!("{keys} records imported in {:.1} s", began.elapsed().as_secs_f64());
    let export = || demo.ok(&["--timeout", "30s", "export", "moved-", "--format", "tsv"]);
    let before = export();
    assert_eq!(before.lines().count() as u64, keys, "all records are there");

    println!("round   before/s   during/s  ratio  errors   p99 ms  p999 ms  stall ms   moved in s");
    let mut random = Mover::new(1, SHARDS as u32);
    let mut told: Vec<[f64; 7]> =
        (1..=rounds).map(|round| one_round(&demo, round, seconds, &mut random)).collect();
    let mut median = [0.0; 7];
    for (column, median) in median.iter_mut().enumerate() {
        told.sort_by(|a, b| a[column].total_cmp(&b[column]));
        *median = told[told.len() / 2][column];
    }
    print("median", median);
    assert!(export() == before, "P8: what is exported isn't what was imported");
    println!("the export is the same as before, byte for byte");
}

fn print(round: &str, row: [f64; 7]) {
    let [before, during, errors, p99, p999, stall, moved] = row;
    println!(
        "{round:<6} {before:>9.0} {during:>10.0} {:>6.2} {errors:>7.0} {p99:>8.1} {p999:>8.1} {stall:>9.1} {moved:>12.1}",
        during / before
    );
}

/// Before and during a second, errors, p99, p999, longest stall in ms, and how long the moves took in s.
fn one_round(demo: &Demo, round: u64, seconds: u64, random: &mut Mover) -> [f64; 7] {
    let seconds = seconds.to_string();
    let bench = [
        "-o",
        "json",
        "--timeout",
        "60s",
        "bench",
        "--workload",
        "mixed",
        "--clients",
        "64",
        "--seconds",
        &seconds,
    ];
    let before: Json = serde_json::from_str(&demo.ok(&bench)).expect("JSON");
    let under_way =
        demo.command(&bench).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kvctl starts");
    let began = Instant::now();
    demo.ok(&["group", "join", "4", "1", "2", "3", "--wait"]);
    demo.ok(&["group", "leave", "1", "--wait"]);
    for _ in 0..MOVES {
        let (shard, to) = (random.random(SHARDS).to_string(), (2 + random.random(3)).to_string());
        demo.ok(&["shard", "move", &shard, "--to", &to, "--wait"]);
    }
    let moved = began.elapsed().as_secs_f64();
    let output = under_way.wait_with_output().expect("kvctl ends");
    let during: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    // As it was, for the next round.
    demo.ok(&["group", "join", "1", "1", "2", "3", "--wait"]);
    demo.ok(&["group", "leave", "4", "--wait"]);
    await_moves(demo, SETTLED);
    let number = |json: &Json, name: &str| json[name].as_f64().expect("a number");
    let ms = |name: &str| number(&during, name) / 1000.0;
    let errors = number(&before, "errors") + number(&during, "errors");
    let row = [
        number(&before, "ops_per_s"),
        number(&during, "ops_per_s"),
        errors,
        ms("p99_us"),
        ms("p999_us"),
        ms("max_us"),
        moved,
    ];
    print(&round.to_string(), row);
    row
}
