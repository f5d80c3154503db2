//! What may differ between two runs comes through `runtime::env`, or simulations aren't what they say: words that take time,
//! luck, tasks or threads from elsewhere, and the files that may.

use super::{Tree, assert_none, the_tree};

/// Where nodes and the client library are.
const ROOTS: &[&str] = &["crates/runtime/src/", "crates/kvserver/src/server/", "crates/client/src/"];
const WORDS: &[&str] = &[
    "tokio::spawn(",
    "spawn_blocking(",
    "std::thread",
    "std::time::Instant",
    "time::{Duration, Instant}",
    "SystemTime",
    "rand::random",
    "rand::rng()",
];
/// The seam itself, and what is only there where nothing is simulated: sled, the log's threads, sockets, the command line.
const MAY: &[&str] = &[
    "crates/runtime/src/env.rs",
    "crates/runtime/src/clock.rs",
    "crates/runtime/src/checkpoint/",
    "crates/runtime/src/log/",
    "crates/runtime/src/node/mod.rs",
    "crates/kvserver/src/server/ports.rs",
    "crates/kvserver/src/server/http.rs",
    "crates/client/src/bin/",
];
/// May leave it to chance which branch comes first.
const MAY_SELECT: &[&str] = &["crates/kvserver/src/server/http.rs", "crates/client/src/bin/"];

fn begins_with_any(path: &str, with: &[&str]) -> bool {
    with.iter().any(|prefix| path.starts_with(prefix))
}

/// A file without its tests.
fn shipped<'a>(path: &str, text: &'a str) -> &'a str {
    if path.contains("tests") || path.ends_with("/fake.rs") || path.ends_with("engine/sim.rs") {
        return "";
    }
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

fn leaks(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".rs").filter(|(path, _)| begins_with_any(path, ROOTS)) {
        let text = shipped(path, text);
        if !begins_with_any(path, MAY) {
            let used = WORDS.iter().filter(|word| text.contains(**word));
            found.extend(used.map(|word| format!("{path}: {word} doesn't go through runtime::env")));
        }
        if !begins_with_any(path, MAY_SELECT) {
            let unbiased = text
                .split("tokio::select! {")
                .skip(1)
                .filter(|rest| !rest.trim_start().starts_with("biased;"));
            found.extend(unbiased.map(|_| format!("{path}: a select! that leaves its order to chance")));
        }
    }
    found
}

#[test]
fn nodes_and_clients_take_time_luck_and_tasks_from_the_seam_alone() {
    assert_none(&leaks(&the_tree()));
}

#[test]
fn a_leak_in_the_seam_is_noticed() {
    let select = "tokio::select! {\n    x = y => {}";
    let tree = Tree::of(&[
        ("crates/runtime/src/node/turn.rs", "tokio::spawn(x);\n#[cfg(test)]\nmod tests { rand::random() }"),
        ("crates/runtime/src/env.rs", "tokio::spawn(x)"),
        ("crates/client/src/stream.rs", select),
        ("crates/client/src/bin/kvctl/main.rs", select),
        ("crates/kvserver/src/server/ready.rs", "tokio::select! {\n    biased;\n"),
        ("crates/testcluster/src/host/thread.rs", "std::thread"),
    ]);
    assert_eq!(leaks(&tree).len(), 2);
}

/// Crates that ship and depend on what is simulated.
fn simulating(tree: &Tree) -> Vec<String> {
    let may = ["crates/simulated/", "crates/testcluster/", "crates/testkit/", "tests/"];
    let manifests = tree.ending("Cargo.toml").filter(|(path, _)| !begins_with_any(path, &may));
    let named = manifests.filter(|(path, text)| *path != "Cargo.toml" && text.contains("simulated"));
    named.map(|(path, _)| format!("{path}: what ships doesn't depend on simulated")).collect()
}

#[test]
fn nothing_that_ships_is_simulated() {
    assert_none(&simulating(&the_tree()));
}

#[test]
fn a_simulation_that_ships_is_noticed() {
    let dependency = "[dependencies]\nsimulated.workspace = true\n";
    let tree = Tree::of(&[
        ("crates/kvserver/Cargo.toml", dependency),
        ("crates/testcluster/Cargo.toml", dependency),
    ]);
    assert_eq!(simulating(&tree).len(), 1);
}
