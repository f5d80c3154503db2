//! A demo cluster on disk and in the process table: its directory, its nodes, their processes.
//!
//! `DIR/demo.json` says who runs now; `DIR/nN/node.toml` is the configuration of node N, written once, so that the same
//! directory comes back on the same ports; `DIR/nN/data` is its data directory and `DIR/nN/kvserver.log` what it said.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Failure};
use crate::process::{self, State};

/// Longest wait for a node to be ready.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(10);
/// How often a node is asked whether it's ready.
const READY_POLL: Duration = Duration::from_millis(20);

/// `demo.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DemoFile {
    pub(crate) v: u32,
    pub(crate) endpoints: Vec<String>,
    pub(crate) nodes: Vec<DemoNode>,
}

/// A node as `demo.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DemoNode {
    pub(crate) id: u32,
    pub(crate) pid: u32,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) http: String,
    pub(crate) data_dir: PathBuf,
}

/// `node.toml`, the part of `kvserver`'s configuration that a demo sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeConfig {
    pub(crate) node: u32,
    pub(crate) data_dir: PathBuf,
    pub(crate) shards: u32,
    pub(crate) groups: u32,
    pub(crate) listen: Addresses,
    pub(crate) nodes: Vec<Peer>,
    pub(crate) faults: Faults,
}

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) http: String,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) id: u32,
    #[serde(flatten)]
    pub(crate) addresses: Addresses,
}

/// Whether faults may be injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    pub(crate) enabled: bool,
}

/// Nodes that hold it exit when the process that made it is gone, however it went.
#[derive(Debug)]
pub(crate) struct Leash {
    node_end: PipeReader,
    _our_end: PipeWriter,
}

impl Leash {
    pub(crate) fn new() -> Result<Leash, Failure> {
        let (node_end, our_end) = io::pipe().map_err(|e| Failure::local("cannot make a pipe", &e))?;
        Ok(Leash { node_end, _our_end: our_end })
    }
}

/// The directory of a demo cluster.
#[derive(Clone, Debug)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `directory` must exist; it is made absolute, since nodes are recognised by it.
    pub(crate) fn open(directory: &Path) -> Result<Home, Failure> {
        directory.canonicalize().map(Home).map_err(|error| {
            Failure::usage(format!("no demo cluster in {}: {error}", directory.display()))
                .hint("KVCTL_DEMO is the data directory that `kvctl demo` prints")
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn node_dir(&self, id: u32) -> PathBuf {
        self.0.join(format!("n{id}"))
    }

    pub(crate) fn config_path(&self, id: u32) -> PathBuf {
        self.node_dir(id).join("node.toml")
    }

    pub(crate) fn data_path(&self, id: u32) -> PathBuf {
        self.node_dir(id).join("data")
    }

    pub(crate) fn log_path(&self, id: u32) -> PathBuf {
        self.node_dir(id).join("kvserver.log")
    }

    fn file_path(&self) -> PathBuf {
        self.0.join("demo.json")
    }

    /// Who runs now; a failure if no demo does.
    pub(crate) fn read(&self) -> Result<DemoFile, Failure> {
        let path = self.file_path();
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Failure::usage(format!("no demo cluster runs in {}", self.0.display()))
                    .hint(format!("kvctl demo --data-dir {}", self.0.display()))
            }
            _ => Failure::local(path.display(), &error),
        })?;
        serde_json::from_str(&text).map_err(|e| Failure::usage(e.to_string()).at(path.display()))
    }

    /// Replaces `demo.json` in one step.
    pub(crate) fn write(&self, file: &DemoFile) -> Result<(), Failure> {
        let text = serde_json::to_string(file).map_err(|e| Failure::usage(e.to_string()))?;
        replace_file(&self.file_path(), text.as_bytes())
    }

    /// Nobody runs any more.
    pub(crate) fn forget(&self) {
        // Absent is what is wanted.
        let _ = fs::remove_file(self.file_path());
    }

    /// Notes the process of a node, safe against another `kvctl` that does the same.
    pub(crate) fn set_pid(&self, id: u32, pid: u32) -> Result<(), Failure> {
        let path = self.0.join("demo.json.lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let _lock = lock.map_err(|e| Failure::local(path.display(), &e))?;
        let mut file = self.read()?;
        for node in file.nodes.iter_mut().filter(|node| node.id == id) {
            node.pid = pid;
        }
        self.write(&file)
    }

    /// What the node's process does. A pid that the system gave to somebody else counts as gone.
    pub(crate) fn state(&self, node: &DemoNode) -> State {
        process::state(node.pid, &self.config_path(node.id))
    }

    /// The configuration of node `id`, `None` if there is none yet.
    pub(crate) fn read_config(&self, id: u32) -> Result<Option<NodeConfig>, Failure> {
        let path = self.config_path(id);
        match fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).map(Some).map_err(|e| Failure::usage(e.to_string()).at(path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::local(path.display(), &error)),
        }
    }

    pub(crate) fn write_config(&self, config: &NodeConfig) -> Result<(), Failure> {
        let directory = self.node_dir(config.node);
        fs::create_dir_all(&directory).map_err(|e| Failure::local(directory.display(), &e))?;
        let text = toml::to_string(config).map_err(|e| Failure::usage(e.to_string()))?;
        replace_file(&self.config_path(config.node), text.as_bytes())
    }

    /// Starts the process of a node, in a process group of its own, so that Ctrl-C at the terminal reaches only `kvctl`.
    pub(crate) fn spawn(&self, id: u32, leash: Option<&Leash>) -> Result<Child, Failure> {
        let server = server_path()?;
        let log_path = self.log_path(id);
        let open_log = || File::options().create(true).append(true).open(&log_path);
        let (out, err) = open_log()
            .and_then(|out| Ok((out, open_log()?)))
            .map_err(|e| Failure::local(log_path.display(), &e))?;
        let mut command = Command::new(&server);
        command.arg("--config").arg(self.config_path(id)).stdin(Stdio::null()).stdout(out).stderr(err);
        command.process_group(0);
        if let Some(leash) = leash {
            let held = leash.node_end.try_clone().map_err(|e| Failure::local("cannot share a pipe", &e))?;
            command.arg("--exit-with-stdin").stdin(held);
        }
        command.spawn().map_err(|e| Failure::local(format!("cannot start {}", server.display()), &e))
    }

    /// The last lines a node said, for an error message.
    pub(crate) fn log_tail(&self, id: u32, lines: usize) -> String {
        let text = fs::read(self.log_path(id)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  n{id} | {line}\n")).collect()
    }
}

/// Waits until a node says it's ready; `false` if it ended or took too long.
pub(crate) async fn wait_ready(http: &str, runs: impl Fn() -> bool) -> bool {
    let end = Instant::now() + READY_WITHIN;
    while Instant::now() < end {
        if process::http_ok(http, "/readyz", Duration::from_secs(1)).await {
            return true;
        }
        if !runs() {
            return false;
        }
        tokio::time::sleep(READY_POLL).await;
    }
    false
}

/// The `kvserver` beside this executable.
fn server_path() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|e| Failure::local("cannot find this executable", &e))?;
    let path = own.with_file_name("kvserver");
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(Exit::Usage, "NO_SERVER", format!("{} isn't there", path.display()))
        .hint("it is built beside kvctl: cargo build -p kvserver (with --release for a release kvctl)"))
}

/// Writes a file beside the old one, then renames it over: a reader sees all of one or of the other.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Failure::local(path.display(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        let addresses = Addresses {
            client: "127.0.0.1:1".into(),
            peer: "127.0.0.1:2".into(),
            http: "127.0.0.1:3".into(),
        };
        NodeConfig {
            node: 1,
            data_dir: "/d/n1/data".into(),
            shards: 256,
            groups: 2,
            listen: addresses.clone(),
            nodes: vec![Peer { id: 1, addresses }],
            faults: Faults { enabled: true },
        }
    }

    #[test]
    fn node_toml_has_the_names_of_the_server() {
        let text = toml::to_string(&config()).unwrap();
        let expected = "node = 1\ndata_dir = \"/d/n1/data\"\nshards = 256\ngroups = 2\n\n\
            [listen]\nclient = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\nhttp = \"127.0.0.1:3\"\n\n\
            [[nodes]]\nid = 1\nclient = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\nhttp = \"127.0.0.1:3\"\n\n\
            [faults]\nenabled = true\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_home_keeps_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        assert_eq!(home.read().unwrap_err().exit(), Exit::Usage);
        assert_eq!(home.read_config(1).unwrap(), None);

        home.write_config(&config()).unwrap();
        assert_eq!(home.read_config(1).unwrap(), Some(config()));

        let node = DemoNode {
            id: 1,
            pid: 5,
            client: "127.0.0.1:1".into(),
            peer: "127.0.0.1:2".into(),
            http: "127.0.0.1:3".into(),
            data_dir: home.data_path(1),
        };
        home.write(&DemoFile { v: 1, endpoints: vec![node.client.clone()], nodes: vec![node] }).unwrap();
        home.set_pid(1, 6).unwrap();
        assert_eq!(home.read().unwrap().nodes[0].pid, 6);
        home.forget();
        assert!(home.read().is_err());
    }

    #[test]
    fn the_log_tail_is_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        assert_eq!(home.log_tail(1, 2), "");
        fs::create_dir(directory.path().join("n1")).unwrap();
        fs::write(home.log_path(1), "a\nb\nc\n").unwrap();
        assert_eq!(home.log_tail(1, 2), "  n1 | b\n  n1 | c\n");
    }
}
