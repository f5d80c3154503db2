//! A request as `apply` reads it: [`crate::command::Request`] with slices of the batch in place of copies. Same
//! encoding, same bytes accepted: a test holds the two together.

use bincode::BorrowDecode;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::command::ShardId;
use crate::entry::is_group_request;
use crate::txn::Txn;

/// See [`crate::command::Request`].
#[derive(Debug, BorrowDecode)]
pub(crate) struct RequestView<'a> {
    pub(crate) client: ClientId,
    pub(crate) sequence: Sequence,
    pub(crate) ack_through: Sequence,
    pub(crate) sent_at: LogTime,
    pub(crate) shard: ShardId,
    pub(crate) op: OpView<'a>,
}

/// See [`crate::command::Op`]; variants in the same order.
#[derive(Debug, BorrowDecode)]
pub(crate) enum OpView<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Append { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    Cas { key: &'a [u8], expected: Option<&'a [u8]>, value: &'a [u8] },
    Incr { key: &'a [u8], by: i64 },
    Ack,
    Txn(Box<Txn>),
}

impl<'a> OpView<'a> {
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        match *self {
            OpView::Put { key, .. } | OpView::Append { key, .. } | OpView::Delete { key } => Some(key),
            OpView::Cas { key, .. } | OpView::Incr { key, .. } => Some(key),
            OpView::Ack | OpView::Txn(_) => None,
        }
    }

    /// Whether the outcome goes into the session table. An acknowledgement and a read have none: running them twice
    /// changes nothing.
    pub(crate) fn is_recorded(&self) -> bool {
        match self {
            OpView::Ack => false,
            OpView::Txn(txn) => !txn.is_read_only(),
            OpView::Put { .. } | OpView::Append { .. } | OpView::Delete { .. } | OpView::Cas { .. } => true,
            OpView::Incr { .. } => true,
        }
    }
}

/// The id under which a request that can't be read is answered: nobody's, since sequences begin at 1.
pub(crate) const NOBODY: RequestId = RequestId { client: ClientId(0), sequence: Sequence(0) };

impl<'a> RequestView<'a> {
    /// Reads a request; else the id that its bytes begin with, so that whoever waits for it can be told. No client has
    /// the id 0: such bytes are something else.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<RequestView<'a>, RequestId> {
        if is_group_request(bytes) {
            return Err(NOBODY);
        }
        codec::decode_borrowed(bytes).map_err(|_| match codec::decode_prefix(bytes) {
            Ok((client, sequence)) => RequestId { client, sequence },
            Err(_) => NOBODY,
        })
    }

    pub(crate) fn id(&self) -> RequestId {
        RequestId { client: self.client, sequence: self.sequence }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Op, Request};

    fn owned(view: &RequestView<'_>) -> Request {
        let op = match &view.op {
            OpView::Put { key, value } => Op::Put { key: key.to_vec(), value: value.to_vec() },
            OpView::Append { key, value } => Op::Append { key: key.to_vec(), value: value.to_vec() },
            OpView::Delete { key } => Op::Delete { key: key.to_vec() },
            OpView::Cas { key, expected, value } => {
                Op::Cas { key: key.to_vec(), expected: expected.map(<[u8]>::to_vec), value: value.to_vec() }
            }
            OpView::Incr { key, by } => Op::Incr { key: key.to_vec(), by: *by },
            OpView::Ack => Op::Ack,
            OpView::Txn(txn) => Op::Txn(txn.clone()),
        };
        let RequestView { client, sequence, ack_through, sent_at, shard, .. } = *view;
        Request { client, sequence, ack_through, sent_at, shard, op }
    }

    fn read(bytes: &[u8]) -> Option<Request> {
        RequestView::read(bytes).ok().map(|view| owned(&view))
    }

    fn decoded(bytes: &[u8]) -> Option<Request> {
        codec::decode(bytes).ok().filter(|_| !is_group_request(bytes))
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| Op::Put { key, value }),
            (bytes(), bytes()).prop_map(|(key, value)| Op::Append { key, value }),
            bytes().prop_map(|key| Op::Delete { key }),
            (bytes(), proptest::option::of(bytes()), bytes()).prop_map(|(key, expected, value)| Op::Cas {
                key,
                expected,
                value
            }),
            (bytes(), any::<i64>()).prop_map(|(key, by)| Op::Incr { key, by }),
            Just(Op::Ack),
        ]
    }

    fn any_request() -> impl Strategy<Value = Request> {
        (1..=u128::MAX, any::<u64>(), any::<u64>(), any::<u64>(), any::<u16>(), any_op()).prop_map(
            |(client, sequence, ack_through, sent_at, shard, op)| Request {
                client: ClientId(client),
                sequence: Sequence(sequence),
                ack_through: Sequence(ack_through),
                sent_at: LogTime(sent_at),
                shard: ShardId(shard),
                op,
            },
        )
    }

    proptest! {
        #[test]
        fn the_view_reads_what_the_client_encodes(request in any_request()) {
            let bytes = codec::encode(&request);
            prop_assert_eq!(owned(&RequestView::read(&bytes).unwrap()), request);
        }

        #[test]
        fn both_accept_the_same_damaged_bytes(
            request in any_request(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = codec::encode(&request);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            prop_assert_eq!(read(&bytes), decoded(&bytes));
        }

        #[test]
        fn both_accept_the_same_random_bytes(bytes in proptest::collection::vec(0_u8..8, 0..40)) {
            prop_assert_eq!(read(&bytes), decoded(&bytes));
        }
    }
}
