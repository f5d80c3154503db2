//! Random scripts of transactions, a bounded number of them.
//!
//! `TXN_SEEDS=300..20000` runs others than the usual ones, `TXN_SEEDS=20000` so many.

use scripted::shard::random::transactions::{run, script};

const SEEDS: std::ops::Range<u64> = 0..60;

/// Which seeds are run.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("TXN_SEEDS").unwrap_or_default();
    let (first, end) = given.split_once("..").unwrap_or(("0", &given));
    match (first.parse(), end.parse()) {
        (Ok(first), Ok(end)) => first..end,
        _ => SEEDS,
    }
}

#[test]
fn no_property_breaks_in_random_transactions() {
    let mut ran = 0;
    for seed in seeds() {
        let failure = match std::panic::catch_unwind(|| run(seed)) {
            Ok(Ok(transactions)) => {
                ran += transactions;
                continue;
            }
            Ok(Err(failure)) => failure,
            Err(_) => format!("seed {seed} panicked, after\n> {}", script(seed).join("\n> ")),
        };
        let replay = format!("TXN_SEEDS={seed}..{} cargo test -p scripted --test transactions", seed + 1);
        panic!("{failure}\nreplay: {replay}");
    }
    println!("{ran} answers of transactions that ran");
    assert!(ran > 0, "the scripts are worth something");
}
