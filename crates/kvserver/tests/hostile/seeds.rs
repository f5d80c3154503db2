//! Valid calls of every service, to be changed.

use bytes::Bytes;
use kvserver::command::{Op, Request, ShardId, shard_of};
use kvserver::entry::GroupRequest;
use kvserver::handoff::HandoffCommand;
use kvserver::query::Query;
use paxos::codec;
use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
use prost::Message;
use shardmaster::ids::Epoch;
use shardmaster::orders::Order;
use wire::v1;

use crate::nodes::SHARDS;

/// Where a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Client,
    Peer,
}

/// A method, and messages that it takes.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) port: Port,
    pub(crate) path: &'static str,
    pub(crate) seeds: Vec<Vec<u8>>,
    pub(crate) streams: bool,
}

fn call(path: &'static str, seeds: Vec<Vec<u8>>) -> Call {
    let peer = path.contains(".Peer/") || path.contains(".Groups/");
    let port = if peer { Port::Peer } else { Port::Client };
    Call { port, path, seeds, streams: path.ends_with("/Connect") }
}

fn key() -> Bytes {
    Bytes::from_static(b"key")
}

fn session() -> Option<v1::Session> {
    Some(v1::Session { client: vec![9; 16].into(), sequence: 300, ack_through: 299, sent_at: 1_000 })
}

fn request(op: Op) -> Bytes {
    let shard = shard_of(op.key().unwrap_or_default(), SHARDS);
    let (sequence, ack_through) = (Sequence(7), Sequence(0));
    let request =
        Request { client: ClientId(1 << 77), sequence, ack_through, sent_at: LogTime(5), shard, op };
    codec::encode(&request).into()
}

fn frame() -> Vec<u8> {
    use v1::call::Kind;
    let get = Query::Get { shard: shard_of(&key(), SHARDS), key: key().to_vec() };
    let kinds = [
        Kind::Write(request(Op::Put { key: key().to_vec(), value: b"value".to_vec() })),
        Kind::Read(codec::encode(&get).into()),
        Kind::Read(codec::encode(&Query::Txns).into()),
    ];
    let call = |(id, kind)| v1::Call { id, group: 1 + id as u32 % 2, kind: Some(kind), consistency: 1 };
    v1::ClientFrame { calls: (1..).zip(kinds).map(call).collect() }.encode_to_vec()
}

fn txn() -> Vec<u8> {
    use v1::txn_compare::Condition;
    use v1::txn_op::Op;
    let condition = v1::VersionCondition { relation: 2, version: 9 };
    let put = || v1::TxnPut { key: key(), value: key() };
    let ops = [
        Op::Get(key()),
        Op::Put(put()),
        Op::Append(put()),
        Op::Delete(key()),
        Op::Incr(v1::TxnIncr { key: "number".into(), by: -3 }),
        Op::Cas(v1::TxnCas { key: key(), expected: None, value: key() }),
        Op::Copy(v1::TxnCopy { key: key(), from: "other".into() }),
    ];
    let then: Vec<v1::TxnOp> = ops.into_iter().map(|op| v1::TxnOp { op: Some(op) }).collect();
    let compares = vec![v1::TxnCompare { key: key(), condition: Some(Condition::Version(condition)) }];
    v1::TxnRequest { compares, otherwise: then.clone(), then, session: session() }.encode_to_vec()
}

/// Requests between groups, of moves that nobody ordered.
fn group_calls() -> Vec<Bytes> {
    let (shard, epoch) = (ShardId(3), Epoch(2));
    let orders = [Order::Greet, Order::Abandon { shard, epoch }, Order::Release { shard, epoch }];
    let entry = |order| GroupRequest {
        client: ClientId(1 << 100),
        sequence: Sequence(1),
        command: HandoffCommand::Order(order).into(),
    };
    orders.into_iter().map(|order| entry(order).encode().into()).collect()
}

fn hello() -> v1::PeerHello {
    v1::PeerHello {
        protocol: wire::PEER_PROTOCOL,
        cluster: vec![7; 16].into(),
        node: 2,
        incarnation: 9,
        boot: 3,
        genesis: Bytes::new(),
        heard_boot: 1,
        heard: vec![v1::HeardPromise { group: 1, round: 3, node: 2, generation: 1 }],
    }
}

fn kv() -> Vec<Call> {
    let value = || Bytes::from_static(b"5");
    let put = v1::PutRequest { key: key(), value: value(), session: session() };
    let append = v1::AppendRequest { key: key(), value: value(), session: None };
    let cas = v1::CasRequest { key: key(), expected: Some(value()), value: value(), session: session() };
    let scan = v1::ScanRequest { prefix: key(), after: key(), limit: 10, keys_only: true, consistency: 2 };
    vec![
        call("/synod.v1.Kv/Get", vec![v1::GetRequest { key: key(), consistency: 1 }.encode_to_vec()]),
        call("/synod.v1.Kv/Put", vec![put.encode_to_vec()]),
        call("/synod.v1.Kv/Append", vec![append.encode_to_vec()]),
        call("/synod.v1.Kv/Delete", vec![v1::DeleteRequest { key: key(), session: None }.encode_to_vec()]),
        call("/synod.v1.Kv/Cas", vec![cas.encode_to_vec()]),
        call(
            "/synod.v1.Kv/Incr",
            vec![v1::IncrRequest { key: key(), by: -1, session: session() }.encode_to_vec()],
        ),
        call("/synod.v1.Kv/Scan", vec![scan.encode_to_vec()]),
        call("/synod.v1.Kv/Txn", vec![txn()]),
        call("/synod.v1.Client/Connect", vec![frame()]),
    ]
}

fn admin() -> Vec<Call> {
    let faults = v1::Faults {
        deaf_to: vec![2],
        mute_to: vec![3],
        loss_percent: 10,
        doubled_percent: 5,
        shuffled_percent: 5,
        slow: vec![v1::SlowLink { node: 2, delay_ms: 5 }],
        enabled: true,
        crash_at: String::new(),
    };
    let log = v1::LogRequest { group: 1, from: 0, to: 100, limit: 10 };
    let transfer = v1::TransferLeaderRequest { group: 1, to: 2 };
    vec![
        call("/synod.v1.Admin/Status", vec![Vec::new()]),
        call("/synod.v1.Admin/GetRouting", vec![Vec::new()]),
        call("/synod.v1.Admin/Log", vec![log.encode_to_vec()]),
        call("/synod.v1.Admin/Explain", vec![v1::ExplainRequest { group: 1, slot: 3 }.encode_to_vec()]),
        call("/synod.v1.Admin/Trace", vec![v1::TraceRequest { group: 1 }.encode_to_vec()]),
        call("/synod.v1.Admin/TransferLeader", vec![transfer.encode_to_vec()]),
        call("/synod.v1.Admin/Transactions", vec![Vec::new()]),
        call("/synod.v1.Admin/SetFaults", vec![faults.encode_to_vec()]),
        call("/synod.v1.Admin/GetFaults", vec![Vec::new()]),
    ]
}

fn shardmaster() -> Vec<Call> {
    let join = v1::JoinRequest { group: 3, nodes: vec![1, 2, 3], dry_run: true };
    let policy = v1::RebalancePolicy {
        by: "count".to_string(),
        tolerance_percent: 20,
        cooldown_ms: 10_000,
        p99_max_us: 1,
    };
    let rebalance = v1::RebalanceRequest { paused: Some(false), policy: Some(policy), run_once: true };
    let shards = v1::MoveRequest { shards: vec![1, 2], to: 2, dry_run: true };
    vec![
        call("/synod.v1.Shardmaster/Join", vec![join.encode_to_vec()]),
        call(
            "/synod.v1.Shardmaster/Leave",
            vec![v1::LeaveRequest { group: 2, dry_run: true }.encode_to_vec()],
        ),
        call("/synod.v1.Shardmaster/Move", vec![shards.encode_to_vec()]),
        call("/synod.v1.Shardmaster/Query", vec![v1::QueryRequest { config: 1 }.encode_to_vec()]),
        call("/synod.v1.Shardmaster/History", vec![v1::HistoryRequest { from: 0, limit: 9 }.encode_to_vec()]),
        call("/synod.v1.Shardmaster/Migrations", vec![Vec::new()]),
        call("/synod.v1.Shardmaster/Rebalance", vec![rebalance.encode_to_vec()]),
    ]
}

fn peers() -> Vec<Call> {
    use v1::group_call::Kind;
    let asked =
        |group, kind| v1::GroupCall { group, generation: 1, from: 2, kind: Some(kind) }.encode_to_vec();
    let mut submit: Vec<Vec<u8>> =
        group_calls().into_iter().map(|bytes| asked(1, Kind::Write(bytes))).collect();
    let map = shardmaster::query::Query::Routing { newer_than: 0 };
    submit.push(asked(0, Kind::Read(codec::encode(&map).into())));
    submit.push(asked(1, Kind::Read(codec::encode(&Query::Duties).into())));
    let dry = shardmaster::command::Command::Leave { group: GroupId(2) };
    submit.push(asked(0, Kind::Read(codec::encode(&shardmaster::query::Query::DryRun(dry)).into())));
    let many = v1::GroupCalls { group: 1, generation: 1, from: 2, writes: group_calls() };
    let snapshot = v1::SnapshotRequest { hello: Some(hello()), group: 1, generation: 1, at_least: 3 };
    let envelope = v1::PeerEnvelope { group: 1, generation: 1, message: vec![5; 20].into(), digest: None };
    let frame = v1::PeerFrame { hello: Some(hello()), envelopes: vec![envelope] };
    vec![
        call("/synod.v1.Groups/Submit", submit),
        call("/synod.v1.Groups/SubmitMany", vec![many.encode_to_vec()]),
        call("/synod.v1.Groups/Load", vec![Vec::new()]),
        call("/synod.v1.Peer/Connect", vec![frame.encode_to_vec()]),
        call("/synod.v1.Peer/Snapshot", vec![snapshot.encode_to_vec()]),
        call("/synod.v1.Peer/Identify", vec![Vec::new()]),
    ]
}

/// Every method of every service.
pub(crate) fn calls() -> Vec<Call> {
    [kv(), admin(), shardmaster(), peers()].concat()
}

/// What a browser or a probe says.
pub(crate) fn pages() -> [&'static str; 4] {
    [
        "GET /api/v1/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 7\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
    ]
}
