//! What keeps the model finite, and what clients do.

use kvserver::command::{Op, Request, ShardId};
use kvserver::genesis::Limits;
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::StateMachine;

use crate::once::sabotage::Sabotage;

/// The one shard.
pub const SHARD: ShardId = ShardId(0);
/// The one key that all write.
pub const KEY: &[u8] = b"a";
/// Most operations of clients.
pub const OPS_MAX: usize = 4;
/// Above all sequences that a request has.
pub const LAST: u64 = 1_000;
/// Nothing is remembered that was stamped longer ago than this.
pub const TTL: u64 = 2;
/// No stamp may be ahead of the log time by more.
pub const AHEAD: u64 = 1;

/// A request of a client, in the order of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOp {
    /// Who asks.
    pub client: ClientId,
    /// Position in its session.
    pub sequence: Sequence,
    /// What it does: an append of its own byte, or an acknowledgement.
    pub op: Op,
}

/// An append of one byte.
pub fn append(client: u128, sequence: u64, byte: u8) -> ClientOp {
    let op = Op::Append { key: KEY.to_vec(), value: vec![byte] };
    ClientOp { client: ClientId(client), sequence: Sequence(sequence), op }
}

/// Tells what was heard, and changes nothing.
pub fn ack(client: u128, sequence: u64) -> ClientOp {
    ClientOp { client: ClientId(client), sequence: Sequence(sequence), op: Op::Ack }
}

/// What a request carries besides its operation, the same in every try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The highest log time that the client had heard.
    pub sent_at: LogTime,
    /// The client's lowest unanswered sequence, minus one.
    pub ack_through: Sequence,
}

impl ClientOp {
    /// As it is sent.
    pub fn request(&self, stamp: Stamp) -> Request {
        Request {
            client: self.client,
            sequence: self.sequence,
            ack_through: stamp.ack_through,
            sent_at: stamp.sent_at,
            shard: SHARD,
            op: self.op.clone(),
        }
    }
}

/// The size of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What clients ask for, each client in this order, without waiting for answers.
    pub ops: Vec<ClientOp>,
    /// No log time is above.
    pub last_time: u64,
    /// Clients that the shard remembers.
    pub clients: u64,
    /// Outcomes that it remembers of each.
    pub window: u64,
    /// Clients may give requests up.
    pub gives_up: bool,
    /// A bug put in on purpose, outside the shipped code.
    pub sabotage: Option<Sabotage>,
}

impl Bounds {
    /// The group before anything happened.
    pub fn store(&self) -> Store {
        let limits = Limits {
            session_ttl_ms: TTL,
            ahead_max_ms: AHEAD,
            sessions_per_shard: self.clients,
            session_window: self.window,
            ..Limits::default()
        };
        Store::new(limits, 1, &[SHARD])
    }

    /// The bytes of a request, as it is sent at that log time.
    pub fn encode(&self, n: usize, stamp: Stamp, log_time: LogTime) -> Vec<u8> {
        let mut request = self.ops[n].request(stamp);
        if let Some(bug) = self.sabotage {
            bug.sends(&mut request, log_time);
        }
        codec::encode(&request)
    }
}

/// The log time of a store.
pub(crate) fn log_time(store: &Store) -> LogTime {
    StateMachine::log_time(store)
}
