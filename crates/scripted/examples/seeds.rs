//! Runs many seeds of the random schedules: `seeds --seeds 0..1000`. With `--trace`, prints what happens; with `--stop`, stops at
//! the first seed that fails.

use std::process::ExitCode;

use scripted::random::{self, Figures};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let after = |flag: &str| words.iter().position(|w| w == flag).and_then(|i| words.get(i + 1));
    let range = after("--seeds").and_then(|w| w.split_once(".."));
    let numbers = range.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    let Some((first, end)) = numbers else {
        eprintln!("usage: seeds --seeds FIRST..END [--trace] [--stop]");
        return ExitCode::from(2);
    };
    let trace = words.iter().any(|w| w == "--trace");
    let mut figures = Figures::default();
    let mut failed = 0;
    let stop = words.iter().any(|w| w == "--stop");
    for seed in first..end {
        if stop && failed > 0 {
            break;
        }
        let run = || if trace { random::replay(seed) } else { random::run(seed) };
        match std::panic::catch_unwind(run) {
            Ok(Ok(run)) => figures.add(run),
            Ok(Err(violation)) => {
                failed += 1;
                println!("seed {seed}: {violation}");
            }
            Err(_) => {
                failed += 1;
                println!("seed {seed}: panicked");
            }
        }
    }
    println!("{figures:?}, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
