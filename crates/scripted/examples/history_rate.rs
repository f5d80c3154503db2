//! How fast histories are judged: `cargo run --release -p scripted --example history_rate [seed]`.

use std::time::{Duration, Instant};

use kvserver::txn::TxnResult;
use scripted::history::drawn::{self, Kind, Shape};
use scripted::history::{Operation, Outcome, Verdict, judge, judge_within};
use scripted::prng::Prng;

/// Judges so many histories of this shape, one after another.
fn measure(name: &str, seed: u64, histories: u64, shape: Shape) {
    let (mut operations, mut steps, mut elapsed, mut longest) = (0, 0, Duration::ZERO, Duration::ZERO);
    for n in 0..histories {
        let history = drawn::history(&mut Prng::new(seed * 1_000_000 + n), shape);
        let began = Instant::now();
        match judge_within(&history, 1_000_000) {
            Verdict::Ordered(figures) => {
                operations += figures.operations;
                steps += figures.steps;
            }
            Verdict::Violation(window) => println!("{name}: history {n} is wrong: {window}"),
            Verdict::Undecided(figures) => println!("{name}: history {n} is undecided: {figures:?}"),
        }
        elapsed += began.elapsed();
        longest = longest.max(began.elapsed());
    }
    let rate = operations as f64 / elapsed.as_secs_f64();
    println!(
        "{name:<50} {operations:>7} operations {:>7.2} s {rate:>9.0}/s {steps:>9} steps, longest {longest:.2?}",
        elapsed.as_secs_f64()
    );
}

/// How long it takes to find what is wrong with a bank in which a reading near the end shows a transfer that nobody made.
fn measure_wrong(seed: u64, shape: Shape) {
    let mut history = drawn::history(&mut Prng::new(seed), shape);
    let is_reading = |op: &&mut Operation| op.txn.is_read_only() && op.outcome != Outcome::Unknown;
    let reading = history.operations.iter_mut().rev().filter(is_reading).nth(10);
    let Some(Outcome::Replied(reply)) = reading.map(|reading| &mut reading.outcome) else { return };
    for (result, by) in reply.results.iter_mut().zip([-10_i64, 10]) {
        let TxnResult::Value(Some((found, _))) = result else { return };
        let number: i64 = String::from_utf8_lossy(found).parse().unwrap_or_default();
        *found = (number + by).to_string().into_bytes();
    }
    let began = Instant::now();
    let words = match judge(&history) {
        Verdict::Ordered(_) => "not noticed".to_string(),
        Verdict::Violation(window) => format!("a window of {} operations", window.operations.len()),
        Verdict::Undecided(figures) => format!("undecided after {} steps", figures.steps),
    };
    println!(
        "bank of {} operations, one of them wrong: {words} in {:.2?}",
        shape.operations,
        began.elapsed()
    );
}

fn main() {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let key =
        |kind, clients, unknown| Shape { kind, operations: 1_000, clients, keys: 1, values: 0, unknown };
    measure("lists: 100 keys, each 20 clients", seed, 100, key(Kind::Lists, 20, 0));
    measure("lists: 100 keys, each 50 clients", seed, 100, key(Kind::Lists, 50, 0));
    measure("lists: 100 keys, each 50 clients, 1 % unknown", seed, 100, key(Kind::Lists, 50, 10));
    let shared = Shape { operations: 100_000, keys: 100, ..key(Kind::Registers, 50, 0) };
    measure("registers: 100 keys, 50 clients", seed, 1, shared);
    measure("registers: 100 keys, 50 clients, 1 % unknown", seed, 1, Shape { unknown: 10, ..shared });
    measure("registers: 100 keys, each 8 clients", seed, 100, key(Kind::Registers, 8, 0));
    measure("registers: 100 keys, each 8 clients, 1 % unknown", seed, 100, key(Kind::Registers, 8, 10));
    let few = Shape { values: 4, ..key(Kind::Registers, 8, 0) };
    measure("registers of 4 values: 100 keys, each 8 clients", seed, 100, few);
    let bank = |operations, unknown| Shape {
        kind: Kind::Bank,
        operations,
        clients: 20,
        keys: 64,
        values: 0,
        unknown,
    };
    measure("bank: 64 accounts, 20 clients", seed, 1, bank(20_000, 0));
    measure("bank: 64 accounts, 20 clients, 0.1 % unknown", seed, 1, bank(20_000, 1));
    measure("bank: 64 accounts, 20 clients", seed, 1, bank(100_000, 0));
    measure_wrong(seed, bank(20_000, 0));
    let mixed =
        Shape { kind: Kind::Transactions, operations: 2_000, clients: 6, keys: 8, values: 4, unknown: 0 };
    measure("transactions of all kinds: 8 keys, 6 clients", seed, 10, mixed);
}
