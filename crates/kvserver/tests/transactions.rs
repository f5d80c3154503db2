//! Transactions at one store: within a group, what they lock, who waits, what is remembered, and every bound.

mod common;

use common::{SHARDS, apply_bytes};
use kvserver::command::{BusyReason, Op, Refusal, Reply, Request, ShardId, shard_of};
use kvserver::entry::GroupRequest;
use kvserver::genesis::Limits;
use kvserver::query::{Query, ShardCursor};
use kvserver::store::Store;
use kvserver::txn::{
    Access, Age, Attempt, Compare, Condition, Conflict, Decision, Grant, Txn, TxnAnswer, TxnCommand, TxnDuty,
    TxnError, TxnOp, TxnReply, TxnResult, TxnState,
};
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;

const WRITES: Access = Access { reads: true, writes: true };

/// Keys of four shards.
fn key(shard: u16) -> Vec<u8> {
    other_key(shard, 0)
}

/// More keys of each shard.
fn other_key(shard: u16, n: usize) -> Vec<u8> {
    let keys = (0..).map(|n| format!("key{n}").into_bytes());
    keys.filter(|key| shard_of(key, SHARDS).0 == shard).nth(n).unwrap_or_default()
}

/// A store that serves the first two shards of four.
fn half(limits: &Limits) -> Store {
    Store::new(limits.clone(), SHARDS, &[ShardId(0), ShardId(1)])
}

fn whole(limits: &Limits) -> Store {
    common::store(limits.clone())
}

fn request(client: u128, sequence: u64, op: Op) -> Request {
    let shard = match &op {
        Op::Txn(txn) => shard_of(txn.first_key().unwrap_or_default(), SHARDS),
        op => op.key().map_or(ShardId(0), |key| shard_of(key, SHARDS)),
    };
    Request {
        client: ClientId(client),
        sequence: Sequence(sequence),
        ack_through: Sequence(0),
        sent_at: LogTime(u64::try_from(client).unwrap_or(0)),
        shard,
        op,
    }
}

fn replies(store: &mut Store, bytes: &[u8]) -> Vec<(u128, Reply)> {
    let mut builder = BatchBuilder::default();
    builder.push(bytes);
    let all = apply_bytes(store, &builder.finish(LogTime(100)));
    assert_eq!(store.state_hash(), store.recomputed_hash(), "the incremental hash is the state's (P5)");
    all.into_iter().map(|(id, reply)| (id.client.0, reply)).collect()
}

/// All replies of one entry, by client.
fn ask(store: &mut Store, request: &Request) -> Vec<(u128, Reply)> {
    replies(store, &codec::encode(request))
}

fn between(store: &mut Store, command: TxnCommand) -> (TxnAnswer, Vec<(u128, Reply)>) {
    let request = GroupRequest { client: ClientId(1 << 90), sequence: Sequence(1), command: command.into() };
    let mut all = replies(store, &request.encode());
    let at = all.iter().position(|(client, _)| *client == 1 << 90).expect("it is answered");
    match all.remove(at).1 {
        Reply::Between(answer) => (*answer, all),
        other => panic!("{other:?}"),
    }
}

fn put(key: &[u8], value: &[u8]) -> TxnOp {
    TxnOp::Put { key: key.to_vec(), value: value.to_vec() }
}

fn get(key: &[u8]) -> TxnOp {
    TxnOp::Get { key: key.to_vec() }
}

fn incr(key: &[u8], by: i64) -> TxnOp {
    TxnOp::Incr { key: key.to_vec(), by }
}

fn txn(then: Vec<TxnOp>) -> Op {
    Op::Txn(Box::new(Txn { then, ..Txn::default() }))
}

fn done(results: Vec<TxnResult>) -> Reply {
    Reply::Txn(Box::new(TxnReply { held: true, results }))
}

fn single(client: u128, sequence: u64, key: &[u8], by: i64) -> Request {
    request(client, sequence, Op::Incr { key: key.to_vec(), by })
}

/// Begins a transaction over both halves; the duty to prepare the other one.
fn begin(store: &mut Store, client: u128, sequence: u64) -> TxnDuty {
    let op = txn(vec![incr(&key(0), 1), incr(&key(2), 1)]);
    assert_eq!(ask(store, &request(client, sequence, op)), []);
    let mut due = store.due();
    assert!(due.iter().all(|duty| store.txn_duties().contains(duty)), "any leader owes it");
    due.remove(0)
}

fn stranger(age: u64, number: u64) -> Attempt {
    let age = Age { sent_at: LogTime(age), client: ClientId(77), sequence: Sequence(1) };
    Attempt { home: ShardId(3), number, age }
}

fn prepare(attempt: Attempt, shard: u16) -> TxnCommand {
    TxnCommand::Prepare { attempt, shard: ShardId(shard), keys: vec![(key(shard), WRITES)] }
}

#[test]
fn within_a_group_it_is_one_entry_and_is_answered_again_from_the_table() {
    let mut store = whole(&Limits::default());
    let swap = txn(vec![
        put(&key(0), b"zero"),
        TxnOp::Copy { key: key(1), from: key(0) },
        get(&key(0)),
        incr(&key(2), 5),
    ]);
    let first = request(1, 1, swap);
    let answer = done(vec![
        TxnResult::Written { length: 4 },
        TxnResult::Copied { existed: false },
        TxnResult::Value(Some((b"zero".to_vec(), 0))),
        TxnResult::Number { value: 5 },
    ]);
    assert_eq!(ask(&mut store, &first), [(1, answer.clone())]);
    assert_eq!(ask(&mut store, &first), [(1, answer)], "not run again");
    let read = request(1, 2, txn(vec![get(&key(2)), get(&key(1))]));
    let seen = done(vec![TxnResult::Value(Some((b"5".to_vec(), 1))), TxnResult::Value(None)]);
    assert_eq!(ask(&mut store, &read), [(1, seen)]);
    assert_eq!((store.keys(), store.txns()), (2, vec![]));
}

#[test]
fn a_read_is_run_again_and_not_remembered() {
    let mut store = whole(&Limits::default());
    let read = request(1, 1, txn(vec![get(&key(0))]));
    assert_eq!(ask(&mut store, &read), [(1, done(vec![TxnResult::Value(None)]))]);
    ask(&mut store, &single(2, 1, &key(0), 3));
    assert_eq!(ask(&mut store, &read), [(1, done(vec![TxnResult::Value(Some((b"3".to_vec(), 1)))]))]);
}

#[test]
fn one_that_cant_be_done_changes_nothing() {
    let mut store = whole(&Limits::default());
    ask(&mut store, &request(2, 1, Op::Put { key: key(1), value: b"text".to_vec() }));
    let before = store.keys();
    let failing = request(1, 1, txn(vec![put(&key(0), b"x"), incr(&key(1), 1)]));
    let failed = Reply::TxnFailed { op: 1, error: TxnError::NotANumber };
    assert_eq!(ask(&mut store, &failing), [(1, failed.clone())]);
    assert_eq!((ask(&mut store, &failing), store.keys()), (vec![(1, failed)], before));
}

#[test]
fn compares_choose_the_branch() {
    let mut store = whole(&Limits::default());
    let compares = vec![Compare { key: key(3), condition: Condition::Present(true) }];
    let op = Txn { compares, then: vec![put(&key(0), b"a")], otherwise: vec![put(&key(0), b"b")] };
    let reply =
        Reply::Txn(Box::new(TxnReply { held: false, results: vec![TxnResult::Written { length: 1 }] }));
    assert_eq!(ask(&mut store, &request(1, 1, Op::Txn(Box::new(op)))), [(1, reply)]);
}

#[test]
fn over_two_groups_the_last_vote_decides_and_answers() {
    let (mut home, mut other) =
        (half(&Limits::default()), Store::new(Limits::default(), SHARDS, &[ShardId(2), ShardId(3)]));
    ask(&mut other, &single(9, 1, &key(2), 40));
    let duty = begin(&mut home, 1, 1);
    // A repeated request waits with the first one; writes of what is locked wait, reads are told to.
    let again = request(1, 1, txn(vec![incr(&key(0), 1), incr(&key(2), 1)]));
    assert_eq!(ask(&mut home, &again), []);
    assert_eq!(ask(&mut home, &single(5, 1, &key(0), 10)), []);
    let read = Query::Get { shard: ShardId(0), key: key(0) };
    let scan = Query::Scan {
        shards: vec![ShardCursor { shard: ShardId(0), after: None }],
        prefix: Vec::new(),
        limit: 10,
        keys_only: false,
    };
    assert!(home.is_blocked(&read) && home.is_blocked(&scan));
    let (granted, none) = between(&mut other, duty.command.clone());
    assert_eq!(none, []);
    assert_eq!(between(&mut other, duty.command.clone()).0, granted, "a repeated Prepare");
    let vote = duty.take(granted).expect("a vote");
    let (said, answers) = between(&mut home, vote);
    let result = done(vec![TxnResult::Number { value: 1 }, TxnResult::Number { value: 41 }]);
    let TxnAnswer::Decided(Decision::Commit { writes, .. }) = said else { panic!("{said:?}") };
    assert_eq!(writes, [(key(2), Some(b"41".to_vec()))]);
    let mut expected = vec![(1, result.clone()), (1, result), (5, Reply::Number { value: 11, version: 2 })];
    let mut heard = answers;
    heard.sort_by_key(|(client, _)| *client);
    expected.sort_by_key(|(client, _)| *client);
    assert_eq!(heard, expected, "both tries, and the one that waited");
    assert!(!home.is_blocked(&read) && !home.is_blocked(&scan));

    let decide = home.due().remove(0);
    assert_eq!(home.txns()[0].state, TxnState::Committed);
    assert_eq!(other.txns()[0].state, TxnState::Prepared);
    let (told, _) = between(&mut other, decide.command.clone());
    // A late Prepare makes another lock; the repeated Commit names the one that is gone.
    let (late, _) = between(&mut other, duty.command);
    assert!(matches!(&late, TxnAnswer::Granted(Grant { lock, .. }) if *lock == 2));
    assert_eq!(between(&mut other, decide.command.clone()).0, TxnAnswer::Done);
    let value = Query::Get { shard: ShardId(2), key: key(2) };
    assert!(matches!(other.query(&value), kvserver::query::Answer::Value(Some((v, 2))) if v == b"41"));
    // Its holder asks, and is told to let go.
    let question = other.txn_duties().remove(0);
    assert!(!question.urgent);
    let (answer, _) = between(&mut home, question.command.clone());
    assert_eq!(answer, TxnAnswer::Decided(Decision::Abort));
    between(&mut other, question.take(answer).expect("a decision"));
    between(&mut home, decide.take(told).expect("acknowledged"));
    assert_eq!((home.txns(), other.txns()), (vec![], vec![]));
}

#[test]
fn one_that_waited_votes_by_itself() {
    let mut store = half(&Limits::default());
    let (younger, older) = (stranger(9, 1), stranger(5, 2));
    assert!(matches!(between(&mut store, prepare(younger, 0)).0, TxnAnswer::Granted(_)));
    assert_eq!(between(&mut store, prepare(older, 0)).0, TxnAnswer::Waiting);
    assert_eq!(store.due(), []);
    let shard = ShardId(0);
    between(&mut store, TxnCommand::Decide { attempt: younger, shard, decision: Decision::Abort });
    let due = store.due();
    let [TxnDuty { urgent: true, command: TxnCommand::Vote { attempt, grant, .. }, .. }] = &due[..] else {
        panic!("{due:?}");
    };
    assert_eq!((*attempt, &grant.found), (older, &vec![None]));
    assert_eq!(store.txn_duties(), due, "any leader says so");
}

#[test]
fn a_group_says_only_what_it_may() {
    let mut store = half(&Limits::default());
    let attempt = stranger(1, 1);
    let decide = TxnCommand::Decide { attempt, shard: ShardId(2), decision: Decision::Abort };
    for command in [prepare(attempt, 2), decide] {
        assert_eq!(between(&mut store, command).0, TxnAnswer::WrongGroup(None));
    }
    let grant = Grant { lock: 1, found: Vec::new() };
    let vote = |attempt| TxnCommand::Vote { attempt, shard: ShardId(2), grant: grant.clone() };
    assert_eq!(between(&mut store, vote(attempt)).0, TxnAnswer::WrongGroup(None), "its home isn't here");
    let own = Attempt { home: ShardId(0), ..attempt };
    assert_eq!(between(&mut store, vote(own)).0, TxnAnswer::Later, "an attempt that was never begun");
    // Keys out of order, or of another shard.
    let keys = vec![(key(1), WRITES)];
    let stray = TxnCommand::Prepare { attempt, shard: ShardId(0), keys };
    let request = GroupRequest { client: ClientId(1), sequence: Sequence(1), command: stray.into() };
    assert_eq!(replies(&mut store, &request.encode()), [(1, Reply::Refused(Refusal::Invalid))]);
}

#[test]
fn every_bound_is_kept() {
    let limits = Limits {
        txn_keys: 2,
        txn_bytes: 100,
        txns_per_shard: 2,
        parked_per_shard: 1,
        value_bytes_max: 90,
        ..Limits::default()
    };
    let mut store = half(&limits);
    let invalid = [(1, Reply::Refused(Refusal::Invalid))];
    let three = txn(vec![get(&key(0)), get(&key(1)), get(&key(2))]);
    assert_eq!(ask(&mut store, &request(1, 1, three)), invalid);
    assert_eq!(ask(&mut store, &request(1, 1, txn(vec![put(&key(0), &[7; 100])]))), invalid);
    assert_eq!(ask(&mut store, &request(1, 1, txn(Vec::new()))), invalid, "no key");
    let elsewhere = Request { shard: ShardId(1), ..request(1, 1, txn(vec![get(&key(0))])) };
    assert_eq!(ask(&mut store, &elsewhere), invalid, "not its home");

    for n in 0..2 {
        ask(&mut store, &request(2, n + 1, Op::Put { key: key(n as u16), value: vec![7; 60] }));
    }
    let large = request(1, 1, txn(vec![get(&key(0)), get(&key(1))]));
    let too_large = Reply::TxnFailed { op: 0, error: TxnError::TooLarge };
    assert_eq!(ask(&mut store, &large), [(1, too_large)], "what it reads");

    let own = |client, n| request(client, 1, txn(vec![put(&other_key(0, n), b"x"), put(&key(2), b"y")]));
    assert_eq!(ask(&mut store, &own(10, 0)), []);
    assert_eq!(ask(&mut store, &single(30, 1, &key(0), 1)), [], "it waits");
    let busy = |client, reason| vec![(client, Reply::Refused(Refusal::Busy(reason)))];
    assert_eq!(ask(&mut store, &single(31, 1, &key(0), 1)), busy(31, BusyReason::Locked));
    assert_eq!(ask(&mut store, &own(9, 0)), busy(9, BusyReason::Locked), "a transaction waits likewise");
    assert_eq!(ask(&mut store, &own(8, 1)), []);
    assert_eq!(ask(&mut store, &own(7, 2)), busy(7, BusyReason::Transactions));
    let full = between(&mut store, prepare(stranger(1, 1), 0)).0;
    assert_eq!(full, TxnAnswer::Refused(Conflict::Full));
}

#[test]
fn nobody_waits_for_ever() {
    let mut store = half(&Limits::default());
    begin(&mut store, 1, 1);
    assert_eq!(ask(&mut store, &single(5, 1, &key(0), 10)), []);
    let time = |store: &mut Store, ms| {
        let all = apply_bytes(store, &BatchBuilder::default().finish(LogTime(ms)));
        assert_eq!(store.state_hash(), store.recomputed_hash());
        all.into_iter().map(|(id, reply)| (id.client.0, reply)).collect::<Vec<_>>()
    };
    assert_eq!(time(&mut store, 1_100), [], "since 100");
    assert_eq!(time(&mut store, 1_200), [(5, Reply::Refused(Refusal::Busy(BusyReason::Locked)))]);
    assert_eq!(time(&mut store, 2_000), [], "once");
}

#[test]
fn one_that_is_let_go_in_vain_has_waited_all_the_time() {
    let mut store = half(&Limits::default());
    let shard = ShardId(0);
    let end = |store: &mut Store, attempt, ms| {
        let command = TxnCommand::Decide { attempt, shard, decision: Decision::Abort };
        let client = ClientId(1 << 90);
        let request = GroupRequest { client, sequence: Sequence(1), command: command.into() };
        let mut batch = BatchBuilder::default();
        batch.push(&request.encode());
        apply_bytes(store, &batch.finish(LogTime(ms)))
            .into_iter()
            .map(|(id, reply)| (id.client.0, reply))
            .collect()
    };
    // An older transaction waits for the younger one's lock, and so does a write: it is let go behind both.
    let (younger, older) = (stranger(9, 1), stranger(5, 2));
    between(&mut store, prepare(younger, 0));
    between(&mut store, prepare(older, 0));
    assert_eq!(ask(&mut store, &single(5, 1, &key(0), 1)), [], "since 100");
    let heard: Vec<(u128, Reply)> = end(&mut store, younger, 1_000);
    assert!(heard.iter().all(|(client, _)| *client != 5), "the older one has the lock now");
    let heard = apply_bytes(&mut store, &BatchBuilder::default().finish(LogTime(1_200)));
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].1, Reply::Refused(Refusal::Busy(BusyReason::Locked)));
}

#[test]
fn a_request_that_was_given_up_runs_no_more() {
    let mut store = half(&Limits::default());
    let duty = begin(&mut store, 1, 1);
    let ack = Request { ack_through: Sequence(1), ..single(1, 2, &key(0), 1) };
    let other = Request { op: Op::Ack, ..ack };
    assert_eq!(ask(&mut store, &other), [(1, Reply::Acked)]);
    let grant = Grant { lock: 1, found: vec![None] };
    let (_, answers) = between(&mut store, duty.take(TxnAnswer::Granted(grant)).expect("a vote"));
    assert_eq!(answers, [(1, Reply::Refused(Refusal::Conflict(Conflict::GivenUp)))]);
    assert_eq!((store.keys(), store.txns()[0].state), (0, TxnState::Aborted));
}

#[test]
fn a_conflict_leaves_no_trace_and_the_next_try_is_as_old() {
    let mut store = half(&Limits::default());
    let first = begin(&mut store, 1, 1).command.attempt();
    let (_, answers) = between(&mut store, TxnCommand::Expire { attempt: first });
    assert_eq!(answers, [(1, Reply::Refused(Refusal::Conflict(Conflict::TimedOut)))]);
    assert_eq!(store.sessions(), 0);
    store.due();
    let second = begin(&mut store, 1, 1).command.attempt();
    assert!(second.number > first.number && second.age == first.age);
}
