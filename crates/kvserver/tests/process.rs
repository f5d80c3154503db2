//! The process as scripts see it: exit codes, what it says about configurations, and how it ends.

#![cfg(feature = "server")]
// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn kvserver(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
    command.args(args).env_clear();
    command
}

fn output(args: &[&str]) -> Output {
    kvserver(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_default_configuration_passes_its_own_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let printed = output(&["config", "default"]);
    assert_eq!(printed.status.code(), Some(0));
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = output(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    assert_eq!(output(&["--version"]).status.code(), Some(0));
}

#[test]
fn what_is_wrong_with_a_configuration_is_named_with_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "node = 1\n[limits]\nbach = \"1MiB\"\n").unwrap();
    let name = file.to_str().unwrap();
    for args in [vec!["config", "check", name], vec!["--config", name]] {
        let refused = output(&args);
        assert_eq!(refused.status.code(), Some(2));
        let expected = format!("error: {name}: limits.bach: unknown key; did you mean limits.batch?\n");
        assert_eq!(stderr(&refused), expected);
    }
    for args in [
        vec!["--limits.bach", "1MiB"],
        vec!["--no-such-flag"],
        vec!["config", "check", "no/such/file"],
        vec![],
    ] {
        assert_eq!(output(&args).status.code(), Some(2), "{args:?}");
    }
    let refused = kvserver(&["--node", "1"]).env("KVSERVER_TIMING__LEASE", "soon").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("environment KVSERVER_TIMING__LEASE: timing.lease"),
        "{}",
        stderr(&refused)
    );
}

/// A cluster of one, once it serves.
fn start(dir: &Path, more: &[&str]) -> Child {
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |at: usize| held[at].local_addr().unwrap().to_string();
    let (client, peer, http) = (address(0), address(1), address(2));
    drop(held);
    let dir = dir.to_str().unwrap();
    let nodes =
        ["--nodes.0.id", "1", "--nodes.0.client", &client, "--nodes.0.peer", &peer, "--nodes.0.http", &http];
    let mut command = kvserver(&["--node", "1", "--data-dir", dir]);
    command.args(nodes).args(more).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let serving = lines.by_ref().map(Result::unwrap).any(|line| line.contains("serving"));
    assert!(serving, "it said that it serves");
    // Keeps reading, so that the process never waits for its log.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn ends_well(mut child: Child) {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            return;
        }
        if started.elapsed() > Duration::from_secs(5) {
            child.kill().unwrap();
            panic!("it didn't end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_ends_with_its_standard_input_and_starts_again_on_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut child = start(dir.path(), &["--exit-with-stdin"]);
        drop(child.stdin.take());
        ends_well(child);
    }
}

#[test]
fn it_ends_well_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let child = start(dir.path(), &[]);
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    ends_well(child);
}

#[test]
fn a_port_in_use_is_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nodes =
        ["--nodes.0.id", "1", "--nodes.0.client", &taken, "--nodes.0.peer", "h:1", "--nodes.0.http", "h:2"];
    let mut command = kvserver(&["--node", "1", "--data-dir", dir.path().to_str().unwrap()]);
    let refused = command.args(nodes).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(&format!("listen.client {taken}")), "{}", stderr(&refused));
}
