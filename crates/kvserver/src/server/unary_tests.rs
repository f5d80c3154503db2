//! Requests, answers and refusals of the unary service.

use paxos::ids::NodeId;
use runtime::api::{Refused, RefusedReason};
use tonic::Code;

use super::super::fake::FakeNode;
use super::super::node::Numbered;
use super::*;
use crate::query::{Pair, ShardPage};

fn service(respond: impl Fn(&Numbered) -> CallResult<Machine> + Send + 'static) -> Unary {
    let node = Arc::new(FakeNode::default());
    *node.respond.lock() = Some(Box::new(respond));
    Unary::new(Arc::new(FakeNode::context(&node, |_| {})))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn replied(reply: Reply) -> CallResult<Machine> {
    CallResult::Reply(machine::Reply::Store(reply))
}

fn found(answer: Answer) -> CallResult<Machine> {
    CallResult::Found(machine::Answer::Store(answer))
}

fn sent(call: &Numbered) -> Write {
    match &call.1 {
        Call::Write { request, .. } => codec::decode(request).unwrap(),
        Call::Read { .. } => panic!("a read"),
    }
}

fn put(session: Option<v1::Session>) -> Request<v1::PutRequest> {
    Request::new(v1::PutRequest { key: "k".into(), value: "v".into(), session })
}

fn session(client: &'static [u8]) -> v1::Session {
    v1::Session { client: client.into(), sequence: 9, ack_through: 8, sent_at: 7 }
}

#[test]
fn a_put_without_a_session_gets_one_of_the_node() {
    let kv = service(|call| {
        let request = sent(call);
        assert_eq!(request.op, Op::Put { key: b"k".to_vec(), value: b"v".to_vec() });
        assert_eq!(request.shard, shard_of(b"k", 256));
        replied(Reply::Written { length: request.sequence.0, version: request.ack_through.0 })
    });
    run(async {
        let first = kv.put(put(None)).await.unwrap().into_inner();
        let second = kv.put(put(None)).await.unwrap().into_inner();
        assert_eq!((first.length, first.version), (1, 0));
        assert_eq!((second.length, second.version), (2, 1), "the first was answered, so it is acknowledged");
    });
}

#[test]
fn a_callers_session_goes_through_as_it_is() {
    let kv = service(|call| {
        let request = sent(call);
        assert_eq!((request.client, request.sequence.0), (ClientId(1), 9));
        assert_eq!((request.ack_through.0, request.sent_at.0), (8, 7));
        replied(Reply::Written { length: 1, version: 2 })
    });
    run(async {
        let own = session(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(kv.put(put(Some(own))).await.unwrap().into_inner().version, 2);
        let short = kv.put(put(Some(session(&[1, 2, 3])))).await.unwrap_err();
        assert_eq!(short.code(), Code::InvalidArgument);
    });
}

#[test]
fn a_follower_answers_unavailable_and_names_the_leader() {
    let reason = RefusedReason::NotLeader;
    let refused = Refused { reason, leader: Some(NodeId(3)), outcome_unknown: false };
    let kv = service(move |_| CallResult::Refused(refused));
    let status = run(kv.put(put(None))).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("synod-leader").unwrap(), "127.0.0.1:7103");
    assert_eq!(status.metadata().get("synod-outcome").unwrap(), "not executed");
}

#[test]
fn a_cas_that_doesnt_match_tells_the_version() {
    let kv = service(|_| replied(Reply::Mismatch { version: 5 }));
    let cas = v1::CasRequest { key: "k".into(), expected: None, value: "v".into(), session: None };
    let status = run(kv.cas(Request::new(cas))).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get("synod-version").unwrap(), "5");
}

#[test]
fn a_key_that_is_too_large_never_reaches_the_node() {
    let kv = service(|_| panic!("reached the node"));
    let get = v1::GetRequest { key: vec![0; 20_000].into(), consistency: 0 };
    let status = run(kv.get(Request::new(get))).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[test]
fn an_absent_key_is_not_found_and_an_empty_value_is() {
    let found = |value: Option<(Vec<u8>, u64)>| {
        let kv = service(move |_| found(Answer::Value(value.clone())));
        let get = v1::GetRequest { key: "k".into(), consistency: 2 };
        run(kv.get(Request::new(get))).unwrap().into_inner()
    };
    assert!(!found(None).found);
    let empty = found(Some((Vec::new(), 3)));
    assert!(empty.found && empty.value.is_empty() && empty.version == 3);
}

#[test]
fn a_scan_merges_the_groups() {
    let kv = service(|(group, call, _)| {
        let Call::Read { query: machine::Query::Store(Query::Scan { shards, .. }), .. } = call else {
            panic!("no scan")
        };
        assert_eq!(shards.len(), 128);
        assert!(shards.iter().all(|cursor| cursor.after.as_deref() == Some(b"a".as_slice())));
        let key = if *group == GroupId(1) { b"c".to_vec() } else { b"b".to_vec() };
        let pairs = vec![Pair { key, value: b"v".to_vec(), version: 1 }];
        found(Answer::Page(vec![ShardPage { shard: shards[0].shard, pairs, end: true }]))
    });
    let scan = v1::ScanRequest { after: "a".into(), ..v1::ScanRequest::default() };
    let page = run(kv.scan(Request::new(scan))).unwrap().into_inner();
    let keys: Vec<_> = page.pairs.iter().map(|pair| pair.key.as_ref()).collect();
    assert!(keys == [b"b", b"c"] && page.done);
}

#[test]
fn a_stopping_process_takes_no_call() {
    let kv = service(|_| panic!("reached the node"));
    kv.context.enter(Phase::Draining);
    let status = run(kv.put(put(None))).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("synod-code").unwrap(), "STOPPING");
}

/// Swaps two keys of two groups.
fn swap(session: Option<v1::Session>) -> Request<v1::TxnRequest> {
    let copy = |key: &'static str, from: &'static str| {
        let copy = v1::TxnCopy { key: key.into(), from: from.into() };
        v1::TxnOp { op: Some(v1::txn_op::Op::Copy(copy)) }
    };
    let then = vec![copy("a", "b"), copy("b", "a")];
    Request::new(v1::TxnRequest { then, session, ..v1::TxnRequest::default() })
}

#[test]
fn a_transaction_that_gives_way_is_tried_again_as_the_same_request() {
    let tries = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = tries.clone();
    let kv = service(move |call| {
        let Call::Write { request, .. } = &call.1 else { panic!("a read") };
        let mut tries = seen.lock();
        tries.push(request.clone());
        replied(match tries.len() {
            1 => Reply::Refused(Refusal::Conflict(crate::txn::Conflict::Older)),
            2 => Reply::Refused(Refusal::Busy(BusyReason::Locked)),
            3 => Reply::Refused(Refusal::Awaiting),
            _ => Reply::Txn(Box::new(TxnReply { held: true, results: Vec::new() })),
        })
    });
    let told = run(kv.txn(swap(None))).unwrap().into_inner();
    assert!(told.held);
    let tries = tries.lock();
    assert!(tries.len() == 4 && tries.iter().all(|request| *request == tries[0]));
    let request: Write = codec::decode(&tries[0]).unwrap();
    assert_eq!(request.shard, shard_of(b"a", 256), "home is the shard of the first key");
}

#[test]
fn a_transaction_that_cant_go_on_says_why() {
    let refused = |refusal: Refusal| {
        let kv = service(move |_| replied(Reply::Refused(refusal.clone())));
        run(kv.txn(swap(None))).unwrap_err()
    };
    assert_eq!(refused(Refusal::WrongGroup { owner: None }).code(), Code::Unavailable);
    assert_eq!(refused(Refusal::Busy(BusyReason::Window)).code(), Code::ResourceExhausted);
    let kv = service(|_| replied(Reply::TxnFailed { op: 1, error: crate::txn::TxnError::TooLarge }));
    let status = run(kv.txn(swap(None))).unwrap_err();
    assert_eq!(status.metadata().get("synod-outcome").unwrap(), "executed");
    let kv = service(|_| panic!("reached the node"));
    let status = run(kv.txn(Request::new(v1::TxnRequest::default()))).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "no key");
}
