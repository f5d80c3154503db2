//! What of a client's call is looked at before the node sees it: its sizes, that it can be read, and that its shard is
//! served by the group it names. Nothing is copied: the request's bytes go on as they came.

use bytes::Bytes;
use paxos::codec;
use paxos::ids::Sequence;
use runtime::api::{Call, ReadConsistency};
use wire::v1;

use super::context::Loads;
use super::refusal::Rejected;
use crate::command::{KEY_BYTES_MAX, ShardId, VALUE_BYTES_MAX, shard_of};
use crate::entry::is_group_request;
use crate::machine::{self, Machine};
use crate::query::Query;
use crate::request::{OpView, RequestView};
use crate::txn::{TXN_BYTES_MAX, TXN_KEYS_MAX, Txn, Unfit};

/// Larger than any request within the limits: two values, a key, and numbers around them; so is a transaction, whose
/// keys and values have the size of one value.
const REQUEST_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX + KEY_BYTES_MAX + 256;
/// Larger than any query within the limits: a cursor for each shard, each with a key.
const QUERY_BYTES_MAX: usize = 32 << 20;

/// A call that may go to the node.
pub(crate) struct Admitted {
    pub(crate) call: Call<Machine>,
    pub(crate) about: About,
}

/// The shards that a call is about.
pub(crate) struct About {
    /// If it is about one; of a transaction its home.
    shard: Option<ShardId>,
    /// The other shards of a transaction.
    others: Vec<ShardId>,
    writes: bool,
}

impl About {
    /// Counts the call for every shard that it is about.
    pub(crate) fn count(&self, loads: &Loads) {
        self.shard.iter().chain(&self.others).for_each(|shard| loads.count(*shard, self.writes));
    }
}

/// What a call asks of the group that it names. Whether that group serves the shard is for its state to say.
pub(crate) fn admit(shards: u16, call: v1::Call) -> Result<Admitted, Rejected> {
    let consistency = consistency(call.consistency)?;
    match call.kind {
        Some(v1::call::Kind::Write(request)) => admit_write(shards, request),
        Some(v1::call::Kind::Read(query)) => admit_read(shards, &query, consistency),
        None => Err(Rejected::Invalid("neither a write nor a read")),
    }
}

/// How fresh a read must be, from its number on the wire.
pub(crate) fn consistency(number: i32) -> Result<ReadConsistency, Rejected> {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Linearizable) => Ok(ReadConsistency::Quorum),
        Ok(v1::Consistency::Lease) => Ok(ReadConsistency::Lease),
        Ok(v1::Consistency::Stale) => Ok(ReadConsistency::Stale),
        Err(_) => Err(Rejected::Invalid("unknown consistency")),
    }
}

/// An encoded request as a call.
pub(crate) fn admit_write(shards: u16, request: Bytes) -> Result<Admitted, Rejected> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(Rejected::TooLarge("the request is larger than any key and value may be"));
    }
    if is_group_request(&request) {
        return Err(Rejected::Invalid("sessions are named by anything but zero"));
    }
    let view = RequestView::read(&request).map_err(|_| Rejected::Invalid("the request can't be read"))?;
    check_sizes(&view.op)?;
    if view.sequence == Sequence(0) {
        return Err(Rejected::Invalid("sequences begin at 1"));
    }
    let shard = checked_shard(shards, view.shard)?;
    let (others, writes) = match &view.op {
        OpView::Txn(txn) => (other_shards(shards, shard, txn)?, !txn.is_read_only()),
        _ => (Vec::new(), true),
    };
    let (id, sent_at) = (view.id(), view.sent_at.0);
    let about = About { shard: Some(shard), others, writes };
    Ok(Admitted { call: Call::Write { id, request, sent_at }, about })
}

/// The shards of a transaction besides its home, which must be one of them.
fn other_shards(shards: u16, home: ShardId, txn: &Txn) -> Result<Vec<ShardId>, Rejected> {
    let mut of: Vec<ShardId> = txn.accesses().keys().map(|key| shard_of(key, shards)).collect();
    of.sort_unstable();
    of.dedup();
    let at = of
        .binary_search(&home)
        .map_err(|_| Rejected::Invalid("no key of the transaction is in its shard"))?;
    of.remove(at);
    Ok(of)
}

fn check_txn(txn: &Txn) -> Result<(), Rejected> {
    txn.check(TXN_KEYS_MAX, TXN_BYTES_MAX).map_err(|unfit| match unfit {
        Unfit::NoKey => Rejected::Invalid("the transaction names no key"),
        Unfit::Operations => Rejected::TooLarge("the transaction has more than 256 compares, or operations"),
        Unfit::Key => Rejected::TooLarge("the key is larger than 16 KiB"),
        Unfit::Keys(_) => Rejected::TooLarge("the transaction names more than 128 keys"),
        Unfit::Bytes(_) => Rejected::TooLarge("the transaction carries more than 8 MiB"),
    })
}

fn check_sizes(op: &OpView<'_>) -> Result<(), Rejected> {
    let value = match op {
        OpView::Put { value, .. } | OpView::Append { value, .. } => value.len(),
        OpView::Cas { value, expected, .. } => value.len().max(expected.map_or(0, <[u8]>::len)),
        OpView::Delete { .. } | OpView::Incr { .. } | OpView::Ack => 0,
        OpView::Txn(txn) => return check_txn(txn),
    };
    if value > VALUE_BYTES_MAX {
        return Err(Rejected::TooLarge("the value is larger than 8 MiB"));
    }
    check_key(op.key().unwrap_or_default())
}

fn check_key(key: &[u8]) -> Result<(), Rejected> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Rejected::TooLarge("the key is larger than 16 KiB"));
    }
    Ok(())
}

fn checked_shard(shards: u16, shard: ShardId) -> Result<ShardId, Rejected> {
    (shard.0 < shards).then_some(shard).ok_or(Rejected::Invalid("no such shard"))
}

fn admit_read(shards: u16, query: &[u8], consistency: ReadConsistency) -> Result<Admitted, Rejected> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(Rejected::TooLarge("the query is larger than a cursor for each shard may be"));
    }
    let query: Query = codec::decode(query).map_err(|_| Rejected::Invalid("the query can't be read"))?;
    admit_query(shards, query, consistency)
}

/// A client's query as a call.
pub(crate) fn admit_query(
    shards: u16,
    query: Query,
    consistency: ReadConsistency,
) -> Result<Admitted, Rejected> {
    let shard = match &query {
        Query::Get { shard, key } => {
            check_key(key)?;
            Some(checked_shard(shards, *shard)?)
        }
        Query::Scan { shards: cursors, prefix, .. } => {
            check_key(prefix)?;
            if cursors.is_empty() {
                return Err(Rejected::Invalid("a scan of no shard"));
            }
            for cursor in cursors {
                check_key(cursor.after.as_deref().unwrap_or_default())?;
                checked_shard(shards, cursor.shard)?;
            }
            None
        }
        // Between groups, on the port of peers.
        _ => return Err(Rejected::Invalid("not a query of clients")),
    };
    let call = Call::Read { query: machine::Query::Store(query), consistency };
    Ok(Admitted { call, about: About { shard, others: Vec::new(), writes: false } })
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, LogTime};
    use paxos::rsm::state_machine::RequestId;

    use super::*;
    use crate::command::{Op, Request};
    use crate::query::ShardCursor;
    use crate::txn::TxnOp;

    const SHARDS: u16 = 4;

    fn request(shard: u16, op: Op) -> Request {
        Request {
            client: ClientId(7),
            sequence: Sequence(3),
            ack_through: Sequence(2),
            sent_at: LogTime(99),
            shard: ShardId(shard),
            op,
        }
    }

    fn put(key: usize, value: usize) -> Op {
        Op::Put { key: vec![b'k'; key], value: vec![b'v'; value] }
    }

    fn write(request: &Request) -> Result<Admitted, Rejected> {
        let kind = Some(v1::call::Kind::Write(codec::encode(request).into()));
        admit(SHARDS, v1::Call { id: 1, group: 1, kind, consistency: 0 })
    }

    fn read(query: &Query) -> Result<Admitted, Rejected> {
        let kind = Some(v1::call::Kind::Read(codec::encode(query).into()));
        admit(SHARDS, v1::Call { id: 1, group: 1, kind, consistency: 1 })
    }

    fn error(result: Result<Admitted, Rejected>) -> Rejected {
        result.err().unwrap()
    }

    #[test]
    fn a_write_goes_on_with_its_header() {
        let Admitted { call, about } = write(&request(3, put(1, 1))).ok().unwrap();
        let Call::Write { id, sent_at, request: bytes } = call else { panic!("not a write") };
        assert_eq!((about.shard, sent_at), (Some(ShardId(3)), 99));
        assert_eq!(id, RequestId { client: ClientId(7), sequence: Sequence(3) });
        assert_eq!(bytes, codec::encode(&request(3, put(1, 1))));
    }

    #[test]
    fn sizes_are_checked_before_anything_else() {
        let at_most = write(&request(3, put(KEY_BYTES_MAX, VALUE_BYTES_MAX)));
        assert!(at_most.is_ok());
        for op in [put(KEY_BYTES_MAX + 1, 0), put(1, VALUE_BYTES_MAX + 1), put(1, 3 * VALUE_BYTES_MAX)] {
            assert!(matches!(error(write(&request(3, op))), Rejected::TooLarge(_)));
        }
        let key = vec![0; KEY_BYTES_MAX + 1];
        assert!(matches!(error(read(&Query::Get { shard: ShardId(3), key })), Rejected::TooLarge(_)));
    }

    #[test]
    fn what_cant_be_executed_is_invalid() {
        assert!(matches!(error(write(&request(4, put(1, 1)))), Rejected::Invalid(_)));
        let zero = Request { sequence: Sequence(0), ..request(0, put(1, 1)) };
        assert!(matches!(error(write(&zero)), Rejected::Invalid(_)));
        let empty = v1::Call { id: 1, group: 1, kind: None, consistency: 0 };
        assert!(matches!(error(admit(SHARDS, empty)), Rejected::Invalid(_)));
        let garbage = Some(v1::call::Kind::Write(Bytes::from_static(&[255; 40])));
        let call = v1::Call { id: 1, group: 1, kind: garbage, consistency: 0 };
        assert!(matches!(error(admit(SHARDS, call)), Rejected::Invalid(_)));
        assert!(matches!(consistency(9), Err(Rejected::Invalid(_))));
    }

    #[test]
    fn a_transaction_keeps_its_bounds_and_lives_in_a_shard_of_its_own() {
        let keys = |count: usize| (0..count).map(|n| n.to_string().into_bytes());
        let gets =
            |count| Txn { then: keys(count).map(|key| TxnOp::Get { key }).collect(), ..Txn::default() };
        let home = |txn: &Txn| shard_of(txn.first_key().unwrap_or_default(), SHARDS);
        let admitted = |txn: Txn| write(&request(home(&txn).0, Op::Txn(Box::new(txn))));
        let small = admitted(gets(20)).ok().unwrap().about;
        let mut of: Vec<ShardId> = small.shard.iter().chain(&small.others).copied().collect();
        of.sort_unstable();
        assert_eq!(of, (0..SHARDS).map(ShardId).collect::<Vec<_>>(), "each shard once");
        assert!(!small.writes);
        let value = vec![0; VALUE_BYTES_MAX - 1];
        let large = TxnOp::Put { key: b"k".to_vec(), value: value.clone() };
        let put = Txn { then: vec![large.clone()], ..Txn::default() };
        assert!(admitted(put).ok().unwrap().about.writes);
        let twice = Txn { then: vec![large.clone()], otherwise: vec![large], ..Txn::default() };
        let many = Txn { then: vec![TxnOp::Get { key: b"k".to_vec() }; 257], ..Txn::default() };
        let long = Txn { then: vec![TxnOp::Get { key: vec![0; KEY_BYTES_MAX + 1] }], ..Txn::default() };
        for txn in [twice, many, long, gets(129)] {
            assert!(matches!(error(admitted(txn)), Rejected::TooLarge(_)));
        }
        assert!(matches!(error(admitted(Txn::default())), Rejected::Invalid(_)));
        let elsewhere = (home(&gets(1)).0 + 1) % SHARDS;
        let stray = write(&request(elsewhere, Op::Txn(Box::new(gets(1)))));
        assert!(matches!(error(stray), Rejected::Invalid(_)));
    }

    #[test]
    fn a_scan_names_shards_that_are_there() {
        let scan = |shards: &[u16]| Query::Scan {
            shards: shards.iter().map(|s| ShardCursor { shard: ShardId(*s), after: None }).collect(),
            prefix: Vec::new(),
            limit: 10,
            keys_only: false,
        };
        assert!(read(&scan(&[0, 3])).is_ok());
        assert!(matches!(error(read(&scan(&[0, 4]))), Rejected::Invalid(_)));
        assert!(matches!(error(read(&scan(&[]))), Rejected::Invalid(_)));
    }

    #[test]
    fn what_groups_ask_each_other_is_not_for_clients() {
        assert!(matches!(error(read(&Query::Duties)), Rejected::Invalid(_)));
    }
}
