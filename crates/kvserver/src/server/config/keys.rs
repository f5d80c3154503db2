//! Every key of the configuration in one table: its place in [`Config`], unit, bounds and meaning. The file, the
//! flags, the environment, `config default` and the documentation all follow this table.

use std::path::PathBuf;

use paxos::limits::ACCEPT_AHEAD_SLOTS_MAX;

use crate::routing::{GROUPS_MAX, SHARDS_MAX};

use super::units::{parse_size, parse_time, show_size, show_time};
use super::{Config, NodeEntry};

/// The unit of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain number.
    Count,
    /// Bytes, written with a unit.
    Size,
    /// Microseconds, written with a unit.
    Time,
    /// `true` or `false`.
    Flag,
    /// A directory.
    Path,
    /// A file; empty for none.
    File,
    /// `host:port`.
    Address,
}

/// A value of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of `Count`, `Size` (bytes) and `Time` (µs).
    Number(u64),
    /// Of `Flag`.
    Flag(bool),
    /// Of `Path`, `File` and `Address`.
    Text(String),
}

/// One key that belongs to a `T`.
pub struct Key<T> {
    /// Its dotted name.
    pub name: &'static str,
    /// Its unit.
    pub kind: Kind,
    /// Smallest number allowed.
    pub min: u64,
    /// Largest number allowed.
    pub max: u64,
    /// What it is for.
    pub about: &'static str,
    pub(super) get: fn(&T) -> Value,
    pub(super) set: fn(&mut T, Value),
}

/// A field that a value can be stored in. Values were checked against the key's bounds before.
trait Field {
    fn get(&self) -> Value;
    fn set(&mut self, value: Value);
}

macro_rules! number_field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn get(&self) -> Value {
                Value::Number(u64::try_from(*self).unwrap_or(u64::MAX))
            }
            fn set(&mut self, value: Value) {
                let Value::Number(number) = value else { unreachable!("kinds are checked while parsing") };
                *self = <$int>::try_from(number).unwrap_or(<$int>::MAX);
            }
        }
    )*};
}
number_field!(u16, u32, u64, usize);

impl Field for bool {
    fn get(&self) -> Value {
        Value::Flag(*self)
    }
    fn set(&mut self, value: Value) {
        let Value::Flag(flag) = value else { unreachable!("kinds are checked while parsing") };
        *self = flag;
    }
}

impl Field for String {
    fn get(&self) -> Value {
        Value::Text(self.clone())
    }
    fn set(&mut self, value: Value) {
        let Value::Text(text) = value else { unreachable!("kinds are checked while parsing") };
        *self = text;
    }
}

impl Field for PathBuf {
    fn get(&self) -> Value {
        Value::Text(self.display().to_string())
    }
    fn set(&mut self, value: Value) {
        let Value::Text(text) = value else { unreachable!("kinds are checked while parsing") };
        *self = PathBuf::from(text);
    }
}

macro_rules! key {
    ($name:literal, $kind:ident, $min:expr, $max:expr, $($field:ident).+, $about:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            min: $min,
            max: $max,
            about: $about,
            get: |owner| Field::get(&owner.$($field).+),
            set: |owner, value| Field::set(&mut owner.$($field).+, value),
        }
    };
}

const ANY_NODE: u64 = u32::MAX as u64;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MS: u64 = 1000;
const S: u64 = 1_000_000;

/// Every key but those of `[[nodes]]`.
#[rustfmt::skip]
pub const KEYS: &[Key<Config>] = &[
    key!("node", Count, 1, ANY_NODE, node, "This node; one of `[[nodes]]`. Never reused: a wiped node comes back under a new id."),
    key!("data_dir", Path, 0, 0, data_dir, "The node's own directory; created if missing."),
    key!("shards", Count, 1, SHARDS_MAX as u64, shards, "Shards of the cluster. Fixed at its first start, the same on every node."),
    key!("groups", Count, 1, GROUPS_MAX as u64, groups, "Groups that the cluster begins with, at most one per shard. The same on every node."),
    key!("joins", Flag, 0, 0, joins, "This node joins a cluster that is there: `[[nodes]]` names the nodes that it began with, and this one. It learns the rest."),
    key!("listen.client", Address, 0, 0, listen.client, "Where to listen for clients (gRPC). If left out: this node's `client` of `[[nodes]]`."),
    key!("listen.peer", Address, 0, 0, listen.peer, "Where to listen for other nodes. If left out: this node's `peer`."),
    key!("listen.http", Address, 0, 0, listen.http, "Where to listen for HTTP (metrics, health, state). If left out: this node's `http`."),
    key!("limits.batch", Size, KIB, 32 * MIB, bounds.batch_bytes, "A batch is cut at this size; one request is always allowed."),
    key!("limits.pipeline", Count, 1, 64, bounds.pipeline, "Batches a leader has in flight before it waits for more requests."),
    key!("limits.queue_requests", Count, 1, 1_000_000, bounds.queue_requests, "Requests waiting to be proposed, per group; above it: BUSY."),
    key!("limits.queue", Size, MIB, 16 * GIB, bounds.queue_bytes, "Their bytes, per group; above it: BUSY."),
    key!("limits.outbox", Size, MIB, 16 * GIB, bounds.outbox_bytes, "Bytes waiting for one other node; above it messages are dropped and repaired later."),
    key!("limits.unsynced", Size, MIB, 16 * GIB, bounds.unsynced_bytes, "Log written but not synced; above it the node takes no more."),
    key!("limits.segment", Size, MIB, GIB, bounds.segment_bytes, "Size of a segment of the log on disk."),
    key!("limits.checkpoint_log", Size, MIB, 1024 * GIB, bounds.checkpoint_log_bytes, "Live log after which a checkpoint is due; a third of the state's size if that is larger."),
    key!("limits.checkpoint_rate", Size, MIB, 64 * GIB, bounds.checkpoint_bytes_per_s, "How fast a checkpoint is written, a second."),
    key!("limits.window_slots", Count, 1, 65_536, limits.window_slots, "Slots a leader may have in flight."),
    key!("limits.window", Size, MIB, 16 * GIB, limits.window_bytes, "Their bytes; one slot is always allowed."),
    key!("limits.accept_ahead", Count, 1, ACCEPT_AHEAD_SLOTS_MAX, limits.accept_ahead_slots, "How far above its chosen end a follower takes slots."),
    key!("limits.chunk", Size, KIB, 32 * MIB, limits.chunk_bytes, "Log in one message of catch-up; one entry is always allowed."),
    key!("limits.chunk_slots", Count, 1, 65_536, limits.chunk_slots, "Slots in one message of catch-up."),
    key!("limits.keep_min", Size, 0, 64 * GIB, limits.keep_bytes_min, "Log kept in memory once every voter has applied it."),
    key!("limits.keep_max", Size, MIB, 64 * GIB, limits.keep_bytes_max, "Log kept in memory for voters that lag; above it they need a snapshot."),
    key!("limits.connections", Count, 1, 65_536, serving.connections, "Open connections on the client port, and as many on the HTTP port."),
    key!("limits.stream_calls", Count, 1, 1 << 20, serving.stream_calls, "Calls in flight per client stream and group; above it: BUSY."),
    key!("limits.answers", Size, MIB, 16 * GIB, serving.answer_bytes, "Answers waiting for one client stream; a read that finds no room is BUSY, a write closes the stream."),
    key!("limits.copy_rate", Size, 64 * KIB, 64 * GIB, serving.copy_bytes_per_s, "What shards that move to the groups led here may copy, a second: a copied pair costs about as much as a put."),
    key!("timing.heartbeat", Time, MS, 60 * S, limits.heartbeat_us, "Time between heartbeats of a leader."),
    key!("timing.check_quorum", Time, MS, 60 * S, limits.check_quorum_us, "A leader that hears no quorum for this long steps down. Longer than `heartbeat`."),
    key!("timing.lease", Time, MS, 60 * S, limits.lease_us, "How long a follower sticks to its leader, and how long its lease lasts. At least `check_quorum`; the same on every node."),
    key!("timing.election_min", Time, MS, 60 * S, limits.election_min_us, "Shortest silence after which a follower campaigns. At least `lease`."),
    key!("timing.election_max", Time, MS, 120 * S, limits.election_max_us, "Longest such silence. Longer than `election_min`."),
    key!("timing.resend", Time, MS, 60 * S, limits.resend_us, "A message without an answer is sent again after this time."),
    key!("timing.catch_up", Time, MS, 60 * S, limits.catch_up_us, "How long a follower waits before it asks for what it misses."),
    key!("timing.disk_stall", Time, MS, 600 * S, limits.disk_stall_us, "A leader whose own disk takes longer than this hands over."),
    key!("timing.transfer", Time, MS, 60 * S, limits.transfer_us, "How long a transfer of leadership may take."),
    key!("timing.prepare", Time, 10 * MS, 60 * S, serving.prepare_timeout_us, "A transaction over several groups that waits longer for their votes is given up; it had no effect."),
    key!("timing.drift_ppm", Count, 0, 499_999, limits.drift_ppm, "Bound on the drift between two nodes' clocks, in parts per million. The same on every node."),
    key!("timing.leases", Flag, 0, 0, limits.leases, "Whether leaders answer reads under a lease."),
    key!("tls.cert", File, 0, 0, tls.cert, "Certificate of the client port (PEM, with its chain). With it clients must use TLS."),
    key!("tls.key", File, 0, 0, tls.key, "Private key of `tls.cert` (PEM)."),
    key!("tls.client_ca", File, 0, 0, tls.client_ca, "Authority (PEM) that must have signed the certificate of every client. Needs `tls.cert`."),
    key!("auth.token_file", File, 0, 0, auth.token_file, "Tokens, one a line, of which clients must show one. Lines with `#` are comments; a token has at least 16 bytes."),
    key!("faults.enabled", Flag, 0, 0, faults, "Whether faults of links can be injected. Only for demonstrations and tests."),
];

/// The keys of one entry of `[[nodes]]`; elsewhere `nodes.0.client` and so on, from 0.
#[rustfmt::skip]
pub const NODE_KEYS: &[Key<NodeEntry>] = &[
    key!("id", Count, 1, ANY_NODE, id, "The node."),
    key!("client", Address, 0, 0, client, "Its client port, as clients reach it."),
    key!("peer", Address, 0, 0, peer, "Its peer port, as other nodes reach it."),
    key!("http", Address, 0, 0, http, "Its HTTP port."),
];

impl<T> Key<T> {
    /// The value that `raw` stands for, checked against the bounds.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(&self, raw: &toml::Value) -> Result<Value, String> {
        let expected = |what: &str| format!("expected {what}, found {}", raw.type_str());
        match (self.kind, raw) {
            (Kind::Count, toml::Value::Integer(number)) => {
                let number = u64::try_from(*number).map_err(|_| format!("{number} is negative"))?;
                self.bounded(number)
            }
            (Kind::Count, _) => Err(expected("a whole number")),
            (Kind::Size, toml::Value::String(text)) => self.bounded(parse_size(text)?),
            (Kind::Size, _) => Err(expected("a size in quotes with a unit, like \"64MiB\"")),
            (Kind::Time, toml::Value::String(text)) => self.bounded(parse_time(text)?),
            (Kind::Time, _) => Err(expected("a duration in quotes with a unit, like \"100ms\"")),
            (Kind::Flag, toml::Value::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Kind::Flag, _) => Err(expected("true or false")),
            (Kind::Path, toml::Value::String(text)) if text.is_empty() => Err("is empty".to_string()),
            (Kind::Path, toml::Value::String(text)) => Ok(Value::Text(text.clone())),
            (Kind::Path, _) => Err(expected("a directory in quotes")),
            (Kind::File, toml::Value::String(text)) => Ok(Value::Text(text.clone())),
            (Kind::File, _) => Err(expected("a path in quotes")),
            (Kind::Address, toml::Value::String(text)) => address(text),
            (Kind::Address, _) => Err(expected("an address in quotes, like \"127.0.0.1:7000\"")),
        }
    }

    /// The same for a word of a command line or of the environment, where nothing is quoted.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_word(&self, word: &str) -> Result<Value, String> {
        let raw = match self.kind {
            Kind::Count => word.parse().ok().map(toml::Value::Integer),
            Kind::Flag => word.parse().ok().map(toml::Value::Boolean),
            Kind::Size | Kind::Time | Kind::Path | Kind::File | Kind::Address => None,
        };
        self.parse(&raw.unwrap_or_else(|| toml::Value::String(word.to_string())))
    }

    fn bounded(&self, number: u64) -> Result<Value, String> {
        if (self.min..=self.max).contains(&number) {
            return Ok(Value::Number(number));
        }
        Err(format!("{} is outside {}", self.show(&Value::Number(number)), self.bounds()))
    }

    /// `min..=max` with units; empty for keys without numbers.
    pub fn bounds(&self) -> String {
        match self.kind {
            Kind::Count | Kind::Size | Kind::Time => {
                let show = |number| self.show(&Value::Number(number));
                format!("{} to {}", show(self.min), show(self.max))
            }
            Kind::Flag | Kind::Path | Kind::File | Kind::Address => String::new(),
        }
    }

    /// A value as people write it, without quotes.
    pub fn show(&self, value: &Value) -> String {
        match (self.kind, value) {
            (Kind::Size, Value::Number(number)) => show_size(*number),
            (Kind::Time, Value::Number(number)) => show_time(*number),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Flag(flag)) => flag.to_string(),
            (_, Value::Text(text)) => text.clone(),
        }
    }

    /// A value as a file writes it.
    pub fn show_toml(&self, value: &Value) -> String {
        match self.kind {
            Kind::Count | Kind::Flag => self.show(value),
            Kind::Size | Kind::Time | Kind::Path | Kind::File | Kind::Address => {
                toml::Value::String(self.show(value)).to_string()
            }
        }
    }
}

fn address(text: &str) -> Result<Value, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
    match port {
        Some::<u16>(_) => Ok(Value::Text(text.to_string())),
        None => Err(format!("{text:?} isn't host:port")),
    }
}
