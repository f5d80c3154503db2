//! Runs scripts of one's own: `script FILE` prints the file with the output of every command. Good for trying things out.
//! A path that has the word `shard` in it is a script of sharding.

use std::process::ExitCode;

use scripted::{golden, script, shard};

fn main() -> ExitCode {
    let mut same = true;
    for path in std::env::args().skip(1) {
        match std::fs::read_to_string(&path) {
            Ok(recorded) => {
                let fresh = match path.contains("shard") {
                    true => golden::replay::<shard::script::Script>(&recorded),
                    false => golden::replay::<script::Script>(&recorded),
                };
                same &= fresh == recorded;
                print!("{fresh}");
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                same = false;
            }
        }
    }
    if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
