//! The command line against a scripted cluster: what scripts rely on (output, exit codes), and imports that are killed.

// Everything here is a test.
#![allow(clippy::unwrap_used)]

mod everyday;
#[allow(dead_code, unreachable_pub)]
#[path = "../client/fake.rs"]
mod fake;
mod import;
mod reshard;
mod transactions;

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use fake::Fake;

/// `kvctl` with the settings of nobody but these arguments.
fn kvctl<S: AsRef<OsStr>>(cluster: &Fake, args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvctl"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KVCTL_")) {
        command.env_remove(name);
    }
    // No home, no configuration file.
    command.env_remove("HOME").env_remove("XDG_CONFIG_HOME");
    command.arg("-e").arg(cluster.endpoints().join(",")).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn run<S: AsRef<OsStr>>(cluster: &Fake, args: &[S]) -> (i32, String, String) {
    told(&kvctl(cluster, args).output().unwrap())
}

/// With something to read on stdin.
fn run_with(cluster: &Fake, args: &[&str], stdin: &[u8]) -> (i32, String, String) {
    use std::io::Write as _;
    let mut child = kvctl(cluster, args).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    let writer = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    told(&output)
}
