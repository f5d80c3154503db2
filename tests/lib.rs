//! Shared helpers of the whole-system tests: real `kvserver` processes behind a real `kvctl`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

pub mod load;
pub mod nodes;
pub mod proxy;
pub mod root;
pub mod work;

/// The directory with `kvctl` and `kvserver` of this build, built if need be.
///
/// # Panics
/// If they can't be built.
pub fn binaries() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        let dir = test.ancestors().nth(2).expect("tests live in target/<profile>/deps").to_path_buf();
        let target = dir.parent().expect("a profile has a target directory");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--quiet", "-p", "kvserver", "-p", "client", "--bins", "--target-dir"])
            .arg(target);
        if dir.ends_with("release") {
            build.arg("--release");
        }
        // What cargo tells a test of its package would make build scripts run again, and all that depends on them.
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
            build.env_remove(name);
        }
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "kvctl and kvserver can't be built");
        dir
    })
}

/// A demo cluster of real processes; it stops when this is dropped. Its directory stays if the test failed.
pub struct Demo {
    child: Option<Child>,
    dir: PathBuf,
    own: Option<tempfile::TempDir>,
}

/// Nodes that aren't optimized take long to go through their logs when they start. For whatever starts nodes.
fn checkpoint_sooner(command: &mut Command) {
    if cfg!(debug_assertions) {
        command.env("KVSERVER_LIMITS__CHECKPOINT_LOG", "8MiB");
    }
}

impl Demo {
    /// Starts one in a directory of its own.
    pub fn start(arguments: &[&str]) -> Demo {
        let own = tempfile::tempdir().expect("a temporary directory");
        let mut demo = Demo::start_in(own.path(), arguments);
        demo.own = Some(own);
        demo
    }

    /// Starts one, new or with the data that is there, and waits until it serves.
    ///
    /// # Panics
    /// If it doesn't within 60 s.
    pub fn start_in(dir: &Path, arguments: &[&str]) -> Demo {
        let ready = dir.join("demo.json");
        let _absent = std::fs::remove_file(&ready);
        let log = std::fs::File::create(dir.join("demo.log")).expect("the directory is writable");
        let mut command = Command::new(binaries().join("kvctl"));
        command.args(["demo", "--no-shell", "--base-port", "0", "--data-dir"]).arg(dir).args(arguments);
        checkpoint_sooner(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("kvctl starts");
        let demo = Demo { child: Some(child), dir: dir.to_path_buf(), own: None };
        let began = Instant::now();
        while !ready.exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "no cluster:\n{}", demo.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        demo
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("demo.log")).unwrap_or_default()
    }

    /// `demo.json`.
    ///
    /// # Panics
    /// If it isn't JSON.
    pub fn json(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.dir.join("demo.json")).expect("a ready demo has demo.json");
        serde_json::from_str(&text).expect("demo.json is JSON")
    }

    /// `host:port` of a node's port: `client`, `peer` or `http`.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn port(&self, node: usize, which: &str) -> String {
        self.json()["nodes"][node - 1][which].as_str().expect("nodes have ports").to_string()
    }

    /// Client addresses of all nodes.
    pub fn endpoints(&self) -> Vec<String> {
        let json = self.json();
        let endpoints = json["endpoints"].as_array().expect("a list of endpoints");
        endpoints.iter().map(|e| e.as_str().expect("an address").to_string()).collect()
    }

    /// `kvctl` with these arguments, against this cluster.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("kvctl"));
        command.args(arguments).env("KVCTL_DEMO", &self.dir).stdin(Stdio::null());
        checkpoint_sooner(&mut command);
        command
    }

    /// Runs `kvctl` and waits.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn kvctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kvctl starts")
    }

    /// Runs `kvctl`, which must succeed; its stdout.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.kvctl(arguments);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kvctl {arguments:?}: {:?}\n{words}\n{}", output.status, self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// The node that leads a group, once there is one.
    ///
    /// # Panics
    /// If there is none within 30 s.
    pub fn leader(&self, group: u64) -> u64 {
        let began = Instant::now();
        loop {
            let status = self.kvctl(&["-o", "json", "status"]);
            if let Some(leader) = leader_in(&status.stdout, group) {
                return leader;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "group {group} has no leader");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it with SIGTERM; whether `kvctl demo` ended with success.
    ///
    /// # Panics
    /// If it doesn't stop within 30 s.
    pub fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return true };
        let pid = Pid::from_child(&child);
        let _gone = rustix::process::kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = child.kill();
        panic!("the demo doesn't stop:\n{}", self.log());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
            return;
        }
        if let Some(mut child) = self.child.take() {
            let _gone = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
            let _ended = child.wait();
        }
        if let Some(own) = self.own.take() {
            eprintln!("the nodes' logs and data are left in {}", own.keep().display());
        }
    }
}

/// The leader of a group in the JSON of `kvctl status`.
pub fn leader_in(json: &[u8], group: u64) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_slice(json).ok()?;
    let groups = status["groups"].as_array()?;
    let found =
        groups.iter().find(|g| g["group"].as_u64() == Some(group) || g["id"].as_u64() == Some(group))?;
    found["leader"].as_u64().filter(|leader| *leader > 0)
}

/// Runs `kvctl` without a cluster.
///
/// # Panics
/// If it can't be started.
pub fn kvctl_alone(arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries().join("kvctl"));
    command.args(arguments).env_remove("KVCTL_DEMO").stdin(Stdio::null());
    command.output().expect("kvctl starts")
}
