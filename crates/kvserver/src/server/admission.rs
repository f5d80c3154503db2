//! What of a client's call is looked at before the node sees it: its sizes, that it can be read, and that its shard is
//! served by the group it names. Nothing is copied: the request's bytes go on as they came.

use bytes::Bytes;
use paxos::codec;
use paxos::ids::{GroupId, Sequence};
use runtime::api::{Call, ReadConsistency};
use wire::v1;

use super::context::Directory;
use super::refusal::Rejected;
use crate::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::query::{Query, ShardCursor};
use crate::request::{OpView, RequestView};
use crate::store::Store;

/// Larger than any request within the limits: two values, a key, and numbers around them.
const REQUEST_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX + KEY_BYTES_MAX + 256;
/// Larger than any query within the limits: a cursor for each shard, each with a key.
const QUERY_BYTES_MAX: usize = 32 << 20;

/// What a call asks of the node, and of which group.
pub(crate) fn admit(directory: &Directory, call: v1::Call) -> Result<(GroupId, Call<Store>), Rejected> {
    let consistency = consistency(call.consistency)?;
    let (group, admitted) = match call.kind {
        Some(v1::call::Kind::Write(request)) => admit_write(directory, request)?,
        Some(v1::call::Kind::Read(query)) => admit_read(directory, &query, consistency)?,
        None => return Err(Rejected::Invalid("neither a write nor a read")),
    };
    if group.0 != call.group {
        return Err(Rejected::WrongGroup(group));
    }
    Ok((group, admitted))
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

/// An encoded request as a call to the group of its shard.
pub(crate) fn admit_write(directory: &Directory, request: Bytes) -> Result<(GroupId, Call<Store>), Rejected> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(Rejected::TooLarge("the request is larger than any key and value may be"));
    }
    let view = RequestView::read(&request).map_err(|_| Rejected::Invalid("the request can't be read"))?;
    check_sizes(&view.op)?;
    if view.sequence == Sequence(0) {
        return Err(Rejected::Invalid("sequences begin at 1"));
    }
    let group = directory.group_of(view.shard).ok_or(Rejected::Invalid("no such shard"))?;
    let (id, sent_at) = (view.id(), view.sent_at.0);
    Ok((group, Call::Write { id, request, sent_at }))
}

fn check_sizes(op: &OpView<'_>) -> Result<(), Rejected> {
    let value = match op {
        OpView::Put { value, .. } | OpView::Append { value, .. } => value.len(),
        OpView::Cas { value, expected, .. } => value.len().max(expected.map_or(0, <[u8]>::len)),
        OpView::Delete { .. } | OpView::Incr { .. } | OpView::Ack => 0,
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

fn admit_read(
    directory: &Directory,
    query: &[u8],
    consistency: ReadConsistency,
) -> Result<(GroupId, Call<Store>), Rejected> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(Rejected::TooLarge("the query is larger than a cursor for each shard may be"));
    }
    let query: Query = codec::decode(query).map_err(|_| Rejected::Invalid("the query can't be read"))?;
    admit_query(directory, query, consistency)
}

/// A query as a call to the group of its shards.
pub(crate) fn admit_query(
    directory: &Directory,
    query: Query,
    consistency: ReadConsistency,
) -> Result<(GroupId, Call<Store>), Rejected> {
    let group = match &query {
        Query::Get { shard, key } => {
            check_key(key)?;
            directory.group_of(*shard).ok_or(Rejected::Invalid("no such shard"))?
        }
        Query::Scan { shards, prefix, .. } => {
            check_key(prefix)?;
            group_of_all(directory, shards)?
        }
    };
    Ok((group, Call::Read { query, consistency }))
}

/// The group that serves all shards of a scan.
fn group_of_all(directory: &Directory, cursors: &[ShardCursor]) -> Result<GroupId, Rejected> {
    let mut group = None;
    for cursor in cursors {
        check_key(cursor.after.as_deref().unwrap_or_default())?;
        let of = directory.group_of(cursor.shard).ok_or(Rejected::Invalid("no such shard"))?;
        if group.is_some_and(|group| group != of) {
            return Err(Rejected::Invalid("the shards of one scan are served by one group"));
        }
        group = Some(of);
    }
    group.ok_or(Rejected::Invalid("a scan of no shard"))
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, LogTime, NodeId};
    use paxos::rsm::state_machine::RequestId;

    use super::*;
    use crate::command::{Op, Request, ShardId};

    fn directory() -> Directory {
        Directory { node: NodeId(1), shards: 4, groups: 2, nodes: vec![(NodeId(1), "a:1".to_string())] }
    }

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

    fn write(group: u32, request: &Request) -> Result<(GroupId, Call<Store>), Rejected> {
        let kind = Some(v1::call::Kind::Write(codec::encode(request).into()));
        admit(&directory(), v1::Call { id: 1, group, kind, consistency: 0 })
    }

    fn read(group: u32, query: &Query) -> Result<(GroupId, Call<Store>), Rejected> {
        let kind = Some(v1::call::Kind::Read(codec::encode(query).into()));
        admit(&directory(), v1::Call { id: 1, group, kind, consistency: 1 })
    }

    fn error(result: Result<(GroupId, Call<Store>), Rejected>) -> Rejected {
        result.err().unwrap()
    }

    #[test]
    fn a_write_goes_on_with_its_header() {
        let (group, call) = write(2, &request(3, put(1, 1))).ok().unwrap();
        let Call::Write { id, sent_at, request: bytes } = call else { panic!("not a write") };
        assert_eq!((group, sent_at), (GroupId(2), 99));
        assert_eq!(id, RequestId { client: ClientId(7), sequence: Sequence(3) });
        assert_eq!(bytes, codec::encode(&request(3, put(1, 1))));
    }

    #[test]
    fn sizes_are_checked_before_anything_else() {
        let at_most = write(2, &request(3, put(KEY_BYTES_MAX, VALUE_BYTES_MAX)));
        assert!(at_most.is_ok());
        for op in [put(KEY_BYTES_MAX + 1, 0), put(1, VALUE_BYTES_MAX + 1), put(1, 3 * VALUE_BYTES_MAX)] {
            assert!(matches!(error(write(1, &request(3, op))), Rejected::TooLarge(_)));
        }
        let key = vec![0; KEY_BYTES_MAX + 1];
        assert!(matches!(error(read(2, &Query::Get { shard: ShardId(3), key })), Rejected::TooLarge(_)));
    }

    #[test]
    fn the_wrong_group_is_told_the_right_one() {
        assert_eq!(error(write(1, &request(3, put(1, 1)))), Rejected::WrongGroup(GroupId(2)));
        assert_eq!(error(write(0, &request(0, put(1, 1)))), Rejected::WrongGroup(GroupId(1)));
        let get = Query::Get { shard: ShardId(1), key: vec![1] };
        assert_eq!(error(read(2, &get)), Rejected::WrongGroup(GroupId(1)));
    }

    #[test]
    fn what_cant_be_executed_is_invalid() {
        assert!(matches!(error(write(1, &request(4, put(1, 1)))), Rejected::Invalid(_)));
        let zero = Request { sequence: Sequence(0), ..request(0, put(1, 1)) };
        assert!(matches!(error(write(1, &zero)), Rejected::Invalid(_)));
        let empty = v1::Call { id: 1, group: 1, kind: None, consistency: 0 };
        assert!(matches!(error(admit(&directory(), empty)), Rejected::Invalid(_)));
        let garbage = Some(v1::call::Kind::Write(Bytes::from_static(&[255; 40])));
        let call = v1::Call { id: 1, group: 1, kind: garbage, consistency: 0 };
        assert!(matches!(error(admit(&directory(), call)), Rejected::Invalid(_)));
        assert!(matches!(consistency(9), Err(Rejected::Invalid(_))));
    }

    #[test]
    fn a_scan_stays_within_one_group() {
        let scan = |shards: &[u16]| Query::Scan {
            shards: shards.iter().map(|s| ShardCursor { shard: ShardId(*s), after: None }).collect(),
            prefix: Vec::new(),
            limit: 10,
            keys_only: false,
        };
        assert!(read(1, &scan(&[0, 1])).is_ok());
        assert!(matches!(error(read(1, &scan(&[0, 2]))), Rejected::Invalid(_)));
        assert!(matches!(error(read(1, &scan(&[]))), Rejected::Invalid(_)));
        assert_eq!(error(read(1, &scan(&[2, 3]))), Rejected::WrongGroup(GroupId(2)));
    }
}
