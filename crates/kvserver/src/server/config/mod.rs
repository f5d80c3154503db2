//! The configuration of a node: what can be set, how it is read (flag, then environment, then file, then default),
//! and what of it is refused before anything starts.

pub mod keys;
pub mod layers;
mod suggest;
pub mod units;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use paxos::ids::NodeId;
use paxos::limits::Limits;
use runtime::env::Env;
use runtime::options::{Bounds, NodeAddress, NodeOptions};
use shardmaster::ids::SHARDMASTER;

use super::security::Security;
use crate::routing;
use keys::{KEYS, Key, NODE_KEYS};
use layers::{Layers, Origin};

/// A setting that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{reason}", with_colon(key))]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// The key; empty if the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

fn with_colon(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

impl ConfigError {
    fn new(origin: Origin, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError { origin, key: key.to_string(), reason: reason.into() }
    }
}

/// Everything a node is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: u32,
    /// Its directory.
    pub data_dir: PathBuf,
    /// Shards of the cluster.
    pub shards: u16,
    /// Groups of the cluster.
    pub groups: u16,
    /// Whether this node joins a cluster that is there.
    pub joins: bool,
    /// Where to listen.
    pub listen: Listen,
    /// All nodes of the cluster.
    pub nodes: Vec<NodeEntry>,
    /// Bounds of the node's queues and files.
    pub bounds: Bounds,
    /// Bounds and timeouts of its replicas.
    pub limits: Limits,
    /// Bounds of its ports.
    pub serving: Serving,
    /// How the client port is encrypted.
    pub tls: TlsFiles,
    /// Who may use the client port and the HTTP port.
    pub auth: Auth,
    /// Whether faults of links can be injected.
    pub faults: bool,
}

/// Addresses to listen on, `host:port`; port 0 lets the system choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// For clients (gRPC).
    pub client: String,
    /// For other nodes.
    pub peer: String,
    /// For HTTP.
    pub http: String,
}

/// A node of the cluster, and where it is reached, `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its id, not zero.
    pub id: u32,
    /// By clients.
    pub client: String,
    /// By other nodes.
    pub peer: String,
    /// By HTTP.
    pub http: String,
}

/// Files of the client port's encryption, as PEM; empty paths for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that clients' certificates must be signed by.
    pub client_ca: PathBuf,
}

/// Who may use the client port and the HTTP port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// The file of tokens; empty for none.
    pub token_file: PathBuf,
}

/// Bounds of a node's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Open connections per port.
    pub connections: usize,
    /// Calls in flight per stream and group.
    pub stream_calls: u32,
    /// Answers waiting for one stream, in bytes.
    pub answer_bytes: usize,
    /// What moves to the groups led here may copy, in bytes a second.
    pub copy_bytes_per_s: u64,
    /// A transaction whose votes take longer is given up, in µs.
    pub prepare_timeout_us: u64,
}

impl Default for Serving {
    fn default() -> Serving {
        Serving {
            connections: 1024,
            stream_calls: 4096,
            answer_bytes: 64 << 20,
            copy_bytes_per_s: 3 << 20,
            prepare_timeout_us: 2_000_000,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: 0,
            data_dir: PathBuf::new(),
            shards: 256,
            groups: 2,
            joins: false,
            listen: Listen::default(),
            nodes: Vec::new(),
            bounds: Bounds::default(),
            limits: Limits::default(),
            serving: Serving::default(),
            tls: TlsFiles::default(),
            auth: Auth::default(),
            faults: false,
        }
    }
}

impl Config {
    /// The configuration that `layers` give; `origin` is named where a key is missing or two don't fit each other.
    ///
    /// # Errors
    /// The first setting that is unknown, malformed, missing, or doesn't fit the others.
    pub fn from_layers(layers: Layers, origin: &Origin) -> Result<Config, ConfigError> {
        let mut config = layers.apply()?;
        config.fill_listen();
        let wrong = |(key, reason): (String, String)| ConfigError::new(origin.clone(), &key, reason);
        config.validate().map_err(wrong)?;
        Security::load(&config).map_err(wrong)?;
        Ok(config)
    }

    /// Where nothing is said about listening, a node listens where the others look for it.
    fn fill_listen(&mut self) {
        let Some(own) = self.nodes.iter().find(|entry| entry.id == self.node) else { return };
        let listen = &mut self.listen;
        for (address, own) in
            [(&mut listen.client, &own.client), (&mut listen.peer, &own.peer), (&mut listen.http, &own.http)]
        {
            if address.is_empty() {
                address.clone_from(own);
            }
        }
    }

    /// Checks what no single key can know.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let fail = |key: &str, reason: String| Err((key.to_string(), reason));
        if self.node == 0 {
            return fail("node", "is missing: the id of this node".to_string());
        }
        if self.data_dir.as_os_str().is_empty() {
            return fail("data_dir", "is missing: the directory of this node".to_string());
        }
        self.validate_nodes()?;
        for key in KEYS.iter().filter(|key| matches!(key.kind, keys::Kind::Count)) {
            if let Err(reason) = key.parse_word(&key.show(&(key.get)(self))) {
                return fail(key.name, reason);
            }
        }
        if self.groups > self.shards {
            return fail("groups", format!("{} groups can't share {} shards", self.groups, self.shards));
        }
        self.limits.validate().or_else(|e| fail("timing", e.to_string()))
    }

    fn validate_nodes(&self) -> Result<(), (String, String)> {
        let fail = |key: String, reason: String| Err((key, reason));
        if self.nodes.is_empty() {
            return fail("nodes".to_string(), "is missing: a [[nodes]] entry for each node".to_string());
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for (index, entry) in self.nodes.iter().enumerate() {
            if entry.id == 0 {
                return fail(format!("nodes.{index}.id"), "is missing, or zero".to_string());
            }
            if !ids.insert(entry.id) {
                return fail(format!("nodes.{index}.id"), format!("{} stands there twice", entry.id));
            }
            for (name, address) in [("client", &entry.client), ("peer", &entry.peer), ("http", &entry.http)] {
                let key = format!("nodes.{index}.{name}");
                if address.is_empty() {
                    return fail(key, "is missing".to_string());
                }
                if !addresses.insert(address) {
                    return fail(key, format!("{address} is used twice"));
                }
            }
        }
        if !ids.contains(&self.node) {
            return fail("node".to_string(), format!("{} isn't one of [[nodes]]", self.node));
        }
        Ok(())
    }

    /// What the node below is started with in `env`; `genesis` is the replicated part.
    pub fn node_options(&self, env: Env, genesis: Vec<u8>) -> NodeOptions {
        let nodes =
            self.nodes.iter().map(|entry| NodeAddress { id: NodeId(entry.id), peer: entry.peer.clone() });
        let founders = self.nodes.iter().map(|entry| NodeId(entry.id));
        let founders = founders.filter(|node| !self.joins || node.0 != self.node).collect();
        NodeOptions {
            node: NodeId(self.node),
            data_dir: self.data_dir.clone(),
            listen_peer: self.listen.peer.clone(),
            nodes: nodes.collect(),
            founders,
            groups: std::iter::once(SHARDMASTER).chain(routing::groups(self.groups)).collect(),
            genesis,
            limits: self.limits.clone(),
            bounds: self.bounds.clone(),
            env,
        }
    }

    /// Three nodes on this machine with every key at its default: what `kvserver config default` prints.
    pub fn example() -> Config {
        let entry = |id: u32| {
            let address = |port: u32| format!("127.0.0.1:{port}");
            NodeEntry { id, client: address(7100 + id), peer: address(7200 + id), http: address(7300 + id) }
        };
        let mut config = Config {
            node: 1,
            data_dir: PathBuf::from("data/n1"),
            nodes: (1..=3).map(entry).collect(),
            ..Config::default()
        };
        config.fill_listen();
        config
    }

    /// This configuration as a file, with what each key is for.
    pub fn to_toml(&self) -> String {
        let mut text = String::from(
            "# A node of a Synod cluster. Every key but node, data_dir and [[nodes]] may be left out.\n",
        );
        let mut section = "";
        for key in KEYS {
            let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if of != section {
                // Tables come after plain keys; the array of nodes stands between them like one more section.
                let _infallible = write!(text, "\n[{of}]\n");
                section = of;
            }
            line(&mut text, key, name, self);
        }
        for entry in &self.nodes {
            text.push_str("\n[[nodes]]\n");
            for key in NODE_KEYS {
                let _infallible = writeln!(text, "{} = {}", key.name, key.show_toml(&(key.get)(entry)));
            }
        }
        text
    }
}

fn line<T>(text: &mut String, key: &Key<T>, name: &str, owner: &T) {
    let _infallible = writeln!(text, "{name} = {} # {}", key.show_toml(&(key.get)(owner)), key.about);
}

#[cfg(test)]
mod tests;
