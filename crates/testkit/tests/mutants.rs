//! `sim --mutant`: a seed that catches a seeded bug is told as any failing seed is. The build with the bugs is tested by
//! `cargo test --profile sim -p testkit --features mutants --test mutants`.

use std::process::{Command, Output};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the binary starts")
}

#[test]
fn a_name_that_is_none_is_answered_with_those_that_are() {
    let output = sim(&["--seeds", "0..2", "--mutant", "hole-skiped"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hole-skipped"));
}

#[cfg(feature = "mutants")]
#[test]
fn a_seed_that_catches_a_bug_is_told_with_the_way_to_see_it_again() {
    let output = sim(&["--seeds", "0..4", "--mutant", "caught-up-is-vote", "--jobs", "1"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = said.lines().find(|line| line.starts_with("seed ")).unwrap_or_else(|| panic!("{said}"));
    let seed = failed.split([' ', ':']).nth(1).unwrap_or_default();
    let replay = format!("-- --seed {seed} --mutant caught-up-is-vote --trace");
    assert!(failed.contains(": P") && said.lines().any(|line| line.ends_with(&replay)), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(sim(&["--seeds", "0..4"]).status.code(), Some(0), "without the bug");
}
