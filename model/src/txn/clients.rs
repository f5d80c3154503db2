//! What clients ask for, and what counts as an answer.

use kvserver::command::{Op, Refusal, Reply, Request, ShardId};
use kvserver::txn::{Txn, TxnOp};
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::txn::bounds::shard_of_key;

/// The one request of a client. The lower its id, the older its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOp {
    /// Who asks.
    pub client: ClientId,
    /// For what.
    pub op: Op,
}

/// A transaction of these steps.
pub fn transaction(client: u128, then: Vec<TxnOp>) -> ClientOp {
    ClientOp { client: ClientId(client), op: Op::Txn(Box::new(Txn { then, ..Txn::default() })) }
}

/// A write outside of any transaction.
pub fn single(client: u128, key: &str, byte: u8) -> ClientOp {
    ClientOp { client: ClientId(client), op: Op::Append { key: key.into(), value: vec![byte] } }
}

/// A step that adds one byte.
pub fn append_to(key: &str, byte: u8) -> TxnOp {
    TxnOp::Append { key: key.into(), value: vec![byte] }
}

/// A step that reads.
pub fn get(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into() }
}

/// A step that copies what another key was before the transaction.
pub fn copy(key: &str, from: &str) -> TxnOp {
    TxnOp::Copy { key: key.into(), from: from.into() }
}

impl ClientOp {
    /// The shard of its first key, where it is answered.
    pub fn home(&self) -> ShardId {
        let first = match &self.op {
            Op::Txn(txn) => txn.first_key(),
            op => op.key(),
        };
        shard_of_key(first.unwrap_or_default())
    }

    /// The keys it names.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        match &self.op {
            Op::Txn(txn) => txn.accesses().into_keys().map(<[u8]>::to_vec).collect(),
            op => op.key().map(<[u8]>::to_vec).into_iter().collect(),
        }
    }

    /// What its reply is matched by.
    pub fn id(&self) -> RequestId {
        RequestId { client: self.client, sequence: Sequence(1) }
    }

    /// The bytes of the request, the same in every try.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&Request {
            client: self.client,
            sequence: Sequence(1),
            ack_through: Sequence(0),
            sent_at: LogTime(0),
            shard: self.home(),
            op: self.op.clone(),
        })
    }

    /// Whether it isn't remembered, since it changes nothing.
    pub fn only_reads(&self) -> bool {
        matches!(&self.op, Op::Txn(txn) if txn.is_read_only())
    }
}

/// Whether a reply tells that the operation was executed.
pub fn is_answer(reply: &Reply) -> bool {
    !matches!(reply, Reply::Refused(_) | Reply::Handoff(_) | Reply::Between(_))
}

/// Whether a reply asks the client to try again.
pub fn is_retried(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Refused(
            Refusal::Conflict(_) | Refusal::Busy(_) | Refusal::WrongGroup { .. } | Refusal::Awaiting
        )
    )
}
