//! Random schedules, a bounded number of them; `cargo run --release --example seeds` runs more.

use scripted::random;

#[test]
fn no_property_breaks_in_random_runs() {
    for seed in 0..20 {
        match std::panic::catch_unwind(|| random::run(seed)) {
            Ok(Ok(_)) => {}
            Ok(Err(violation)) => panic!("seed {seed}: {violation}\n{}", advice(seed)),
            Err(_) => panic!("seed {seed} panicked\n{}", advice(seed)),
        }
    }
}

/// How it came about, and how to see all of it.
fn advice(seed: u64) -> String {
    let last = random::last_lines(seed, 40).join("\n");
    let end = seed + 1;
    format!("{last}\nreplay: cargo run -p scripted --example seeds -- --seeds {seed}..{end} --trace")
}
