//! `kvctl check linearizable` against real processes: what it finds, what it breaks, and that nothing stays broken.
//!
//! `CHECK_SECONDS` sets the dose; the default fits a test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value as Json;
use tests::load::dose;
use tests::{Demo, kvctl_alone};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(text: &[u8]) -> Json {
    serde_json::from_slice(text).unwrap()
}

/// The nodes of `fault list`.
fn nodes(demo: &Demo) -> Vec<Json> {
    json(demo.ok(&["-o", "json", "fault", "list"]).as_bytes())["nodes"].as_array().unwrap().clone()
}

fn assert_whole(demo: &Demo) {
    for node in nodes(demo) {
        let links = &node["links"];
        let is_cut = |which: &str| links[which].as_array().is_none_or(|cut| !cut.is_empty());
        assert_eq!(node["process"], "runs", "{node}");
        assert!(!is_cut("deaf_to") && !is_cut("mute_to") && links["loss_percent"] == 0, "{node}");
    }
}

/// Which group each shard is to be in.
fn desired(demo: &Demo) -> Vec<u64> {
    let listed = json(demo.ok(&["-o", "json", "shard", "list"]).as_bytes());
    let shards = listed["shards"].as_array().unwrap();
    shards.iter().map(|shard| shard["desired"].as_u64().unwrap()).collect()
}

#[test]
fn linearizable_through_all_faults_and_whole_after_them() {
    let demo = Demo::start(&["--groups", "2", "--shards", "16"]);
    let before = desired(&demo);
    let seconds = dose("CHECK_SECONDS", 4).to_string();
    let arguments = ["-o", "json", "check", "linearizable", "--faults", "all", "--seconds", &seconds];
    let output = demo.kvctl(&arguments);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code(&output), 0, "{told}\n{}", words(&output));
    println!("{told}");
    assert!(told.starts_with("{\"v\":1,"), "{told}");
    let told = json(&output.stdout);
    assert_eq!((&told["verdict"], &told["groups"]), (&Json::from("linearizable"), &Json::from(2)));
    for kind in ["kill", "pause", "isolate", "oneway", "loss"] {
        assert!(told["faults"][kind].as_u64() > Some(0), "a fault that never fired proves nothing: {told}");
    }
    assert!(told["moves"].as_u64() > Some(0) && told["operations"].as_u64() > Some(20), "{told}");
    assert!(words(&output).contains(&format!("seed {}\n", told["seed"])), "{}", words(&output));

    assert_whole(&demo);
    assert_eq!(desired(&demo), before, "shards are back where they were");
    // What was given up may have come after all was removed: two keys each at most.
    let left = demo.ok(&["scan", "check/", "--keys-only"]).lines().count() as u64;
    assert!(left <= 2 * told["unknown"].as_u64().unwrap(), "{left} keys are left: {told}");
}

#[test]
fn leases_without_faults() {
    let demo = Demo::start(&["--groups", "1", "--shards", "4"]);
    let output = demo.kvctl(&["--consistency", "lease", "check", "linearizable", "--seconds", "1"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code(&output), 0, "{told}\n{}", words(&output));
    assert!(told.starts_with("linearizable: ") && told.contains("judged in "), "{told}");
    assert!(!told.contains("faults") && !told.contains("moves"), "{told}");
}

/// Waits until some node is so.
fn await_fault(demo: &Demo, check: &mut Child, is_so: impl Fn(&Json) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !nodes(demo).iter().any(&is_so) {
        assert!(Instant::now() < end && check.try_wait().unwrap().is_none(), "the fault never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interrupted_in_the_middle_of_a_fault_it_leaves_nothing_broken() {
    let demo = Demo::start(&["--groups", "2", "--shards", "16"]);
    let before = desired(&demo);
    let is_cut = |node: &Json| {
        let links = &node["links"];
        let cut = |which: &str| links[which].as_array().is_some_and(|cut| !cut.is_empty());
        cut("deaf_to") || cut("mute_to") || links["loss_percent"].as_u64() > Some(0)
    };
    for (faults, signal) in [("pause", Signal::INT), ("partition", Signal::TERM), ("kill", Signal::INT)] {
        let mut check = demo.command(&["check", "linearizable", "--seconds", "60", "--faults", faults]);
        let mut check = check.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        await_fault(&demo, &mut check, |node| match faults {
            "pause" => node["process"] == "paused",
            "kill" => node["process"] == "down",
            _ => is_cut(node),
        });
        rustix::process::kill_process(Pid::from_child(&check), signal).unwrap();
        assert_eq!(check.wait().unwrap().code(), Some(130), "{faults}");
        assert_whole(&demo);
        assert_eq!(desired(&demo), before, "{faults}: shards are back where they were");
        let left = demo.ok(&["scan", "check/", "--keys-only"]).lines().count();
        assert!(left < 24, "{faults}: {left} keys are left");
    }
}

#[test]
fn refused_where_it_would_harm_or_say_nothing() {
    let output = kvctl_alone(&["check", "linearizable", "--faults", "kill"]);
    assert_eq!(code(&output), 2, "{}", words(&output));
    assert!(words(&output).starts_with("error[NOT_A_DEMO]: "), "{}", words(&output));
    for wrong in [&["--clients", "0"][..], &["--seconds", "0"], &["--faults", "fire"], &["--moves", "2"]] {
        let output = kvctl_alone(&[&["check", "linearizable"], wrong].concat());
        assert_eq!(code(&output), 2, "{wrong:?}: {}", words(&output));
    }
    let output = kvctl_alone(&["--consistency", "stale", "check", "linearizable"]);
    assert_eq!(code(&output), 2, "{}", words(&output));
    assert!(words(&output).contains("stale reads aren't linearizable"), "{}", words(&output));

    let demo = Demo::start(&["--groups", "1", "--shards", "4"]);
    let elsewhere = demo.port(1, "client");
    let output = demo.kvctl(&["-e", &elsewhere, "check", "linearizable", "--faults", "kill"]);
    assert_eq!(code(&output), 2, "{}", words(&output));
    assert!(words(&output).contains("--endpoints"), "{}", words(&output));
    let output = demo.kvctl(&["check", "linearizable", "--moves", "yes"]);
    assert_eq!(code(&output), 4, "{}", words(&output));
    demo.ok(&["fault", "pause", "--node", "3"]);
    let output = demo.kvctl(&["check", "linearizable", "--faults", "kill"]);
    assert_eq!(code(&output), 4, "{}", words(&output));
    assert!(words(&output).contains("node 3 is paused"), "{}", words(&output));
    assert_eq!(nodes(&demo)[2]["process"], "paused", "what somebody else broke is left alone");
    demo.ok(&["fault", "resume", "--node", "3"]);
}
