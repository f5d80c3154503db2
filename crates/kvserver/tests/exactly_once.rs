//! P9: a request takes effect at most once. Each test is a scenario in which it would take effect twice, or be refused
//! wrongly, if a rule of the session table were missing.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use common::{SHARDS, append, apply, cas, incr, put, request, small_limits, store};
use kvserver::command::{BusyReason, Op, Refusal, Reply, Request, shard_of};
use kvserver::genesis::Limits;
use kvserver::query::{Answer, Query};
use kvserver::store::Store;
use paxos::ids::Sequence;
use paxos::rsm::state_machine::StateMachine;
use proptest::prelude::*;

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(refusal)
}

fn number(store: &Store, key: &str) -> Option<String> {
    let query = Query::Get { shard: shard_of(key.as_bytes(), SHARDS), key: key.into() };
    match store.query(&query) {
        Answer::Value(value) => value.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_retry_gets_the_recorded_reply() {
    let mut store = store(small_limits());
    let first = request(1, 1, 0, 0, incr("k", 1));
    let reply = apply(&mut store, 0, &first);
    apply(&mut store, 0, &request(2, 1, 0, 0, incr("k", 10)));
    let before = store.clone();
    assert_eq!(apply(&mut store, 0, &first), reply);
    assert_eq!(store, before);
}

#[test]
fn a_failed_compare_is_an_outcome_too() {
    let mut store = store(small_limits());
    let failed = request(1, 1, 0, 0, cas("k", Some("x"), "y"));
    assert_eq!(apply(&mut store, 0, &failed), Reply::Mismatch { version: 0 });
    apply(&mut store, 0, &request(2, 1, 0, 0, put("k", "x")));
    assert_eq!(apply(&mut store, 0, &failed), Reply::Mismatch { version: 0 }, "else the retry would succeed");
}

#[test]
fn a_stamp_from_the_future_is_refused_and_leaves_no_trace() {
    // Executed, it could be forgotten before its duplicates count as old.
    let mut store = store(small_limits());
    let before = store.clone();
    let ahead = request(1, 1, 0, 21, incr("k", 1));
    assert_eq!(apply(&mut store, 0, &ahead), refused(Refusal::FromTheFuture));
    assert_eq!(store, before);
    assert!(matches!(apply(&mut store, 1, &ahead), Reply::Number { value: 1, .. }), "time came up to it");
}

#[test]
fn an_outcome_stamped_ahead_is_remembered_until_its_own_stamp_is_old() {
    let mut store = store(small_limits());
    let ahead = request(1, 1, 0, 20, incr("k", 1));
    let reply = apply(&mut store, 0, &ahead);
    // Anything that sweeps, at a time when a stamp of 0 would be expired but 20 isn't.
    for sequence in 1..50 {
        apply(&mut store, 101, &request(2, sequence, sequence - 1, 101, incr("k", 0)));
    }
    assert_eq!(apply(&mut store, 120, &ahead), reply);
    assert_eq!(apply(&mut store, 121, &ahead), refused(Refusal::SessionExpired));
    assert_eq!(number(&store, "k").as_deref(), Some("1"));
}

#[test]
fn acknowledged_requests_never_run_again() {
    let mut store = store(small_limits());
    let first = request(1, 1, 0, 0, incr("k", 1));
    apply(&mut store, 0, &first);
    apply(&mut store, 0, &request(1, 2, 1, 0, incr("k", 1)));
    assert_eq!(apply(&mut store, 0, &first), refused(Refusal::AlreadyAcknowledged));
    assert_eq!(number(&store, "k").as_deref(), Some("2"));
}

#[test]
fn a_row_without_outcomes_still_holds_the_floor() {
    let mut store = store(small_limits());
    let mut ack = request(1, 6, 5, 10, Op::Ack);
    ack.shard = shard_of(b"k", SHARDS);
    assert_eq!(apply(&mut store, 10, &ack), Reply::Acked);
    assert_eq!(store.sessions(), 1);
    let given_up = request(1, 5, 4, 10, incr("k", 1));
    assert_eq!(apply(&mut store, 110, &given_up), refused(Refusal::AlreadyAcknowledged));
    assert_eq!(apply(&mut store, 110, &ack), Reply::Acked, "an Ack may come twice");
    // Past the newest stamp the row may go: the stamp refuses instead.
    for sequence in 1..50 {
        apply(&mut store, 111, &request(2, sequence, sequence - 1, 111, append("k", "")));
    }
    assert_eq!(apply(&mut store, 111, &given_up), refused(Refusal::SessionExpired));
    assert_eq!(number(&store, "k").as_deref(), Some(""));
}

#[test]
fn after_expiry_a_late_duplicate_is_refused() {
    let mut store = store(small_limits());
    let first = request(1, 1, 0, 0, incr("k", 1));
    let reply = apply(&mut store, 0, &first);
    assert_eq!(apply(&mut store, 100, &first), reply, "not a millisecond early");
    for sequence in 1..50 {
        apply(&mut store, 101, &request(2, sequence, sequence - 1, 101, incr("k", 0)));
    }
    assert_eq!(store.sessions(), 1, "the row was swept");
    assert_eq!(apply(&mut store, 101, &first), refused(Refusal::SessionExpired));
    assert_eq!(number(&store, "k").as_deref(), Some("1"));
}

#[test]
fn log_time_never_falls() {
    let mut store = store(small_limits());
    let first = request(1, 1, 0, 0, incr("k", 1));
    apply(&mut store, 500, &request(2, 1, 0, 490, put("k", "0")));
    assert_eq!(apply(&mut store, 3, &first), refused(Refusal::SessionExpired));
    assert_eq!(store.log_time().0, 500);
}

#[test]
fn a_reused_sequence_is_an_error_not_an_old_reply() {
    let mut store = store(small_limits());
    apply(&mut store, 0, &request(1, 1, 0, 0, put("k", "v")));
    let before = store.clone();
    assert_eq!(apply(&mut store, 0, &request(1, 1, 0, 0, put("k", "w"))), refused(Refusal::SequenceReused));
    assert_eq!(store, before);
}

#[test]
fn a_full_window_refuses_until_an_ack_makes_room() {
    let mut store = store(small_limits());
    for sequence in 1..=3 {
        // Far apart: what counts is how many outcomes are kept.
        apply(&mut store, 0, &request(1, sequence * 5000, 0, 0, incr("k", 1)));
    }
    let before = store.clone();
    let fourth = request(1, 20_000, 0, 0, incr("k", 1));
    assert_eq!(apply(&mut store, 0, &fourth), refused(Refusal::Busy(BusyReason::Window)));
    assert_eq!(store, before);
    let mut ack = request(1, 20_000, 0, 0, Op::Ack);
    ack.shard = fourth.shard;
    assert_eq!(apply(&mut store, 0, &ack), Reply::Acked, "never for lack of room");
    ack = Request { ack_through: Sequence(5000), ..ack };
    assert_eq!(apply(&mut store, 0, &ack), Reply::Acked);
    assert!(matches!(apply(&mut store, 0, &fourth), Reply::Number { value: 4, .. }));
    let room_of_its_own = request(1, 30_000, 15_000, 0, incr("k", 1));
    assert!(matches!(apply(&mut store, 0, &room_of_its_own), Reply::Number { value: 5, .. }));
}

#[test]
fn outcomes_too_old_to_be_asked_for_make_room() {
    let mut store = store(small_limits());
    for sequence in 1..=3 {
        apply(&mut store, 50, &request(1, sequence, 0, 50 * (sequence / 3), incr("k", 1)));
    }
    let fourth = request(1, 4, 0, 101, incr("k", 1));
    assert!(
        matches!(apply(&mut store, 101, &fourth), Reply::Number { value: 4, .. }),
        "1 and 2 were stamped at 0"
    );
    let third = request(1, 3, 0, 50, incr("k", 1));
    assert!(matches!(apply(&mut store, 101, &third), Reply::Number { value: 3, .. }), "3 wasn't");
}

#[test]
fn a_full_table_refuses_new_clients_and_keeps_the_old() {
    let mut store = store(small_limits());
    for client in 1..=3 {
        apply(&mut store, 0, &request(client, 1, 0, 0, incr("k", 1)));
    }
    let before = store.clone();
    let fourth = request(4, 1, 0, 0, incr("k", 1));
    assert_eq!(apply(&mut store, 0, &fourth), refused(Refusal::Busy(BusyReason::Sessions)));
    assert_eq!(store, before);
    assert!(matches!(
        apply(&mut store, 0, &request(1, 2, 1, 0, incr("k", 1))),
        Reply::Number { value: 4, .. }
    ));
    // Time makes room, and the request that was refused may then run.
    for sequence in 3..40 {
        apply(&mut store, 101, &request(1, sequence, sequence - 1, 101, incr("k", 0)));
    }
    let later = request(4, 2, 0, 101, incr("k", 1));
    assert!(matches!(apply(&mut store, 101, &later), Reply::Number { .. }));
}

#[test]
fn the_sweep_goes_through_a_whole_shard() {
    let mut store = store(Limits { sessions_per_shard: 1000, ..small_limits() });
    for client in 1..=200 {
        apply(&mut store, client as u64 / 10, &request(client, 1, 0, 0, incr("k", 1)));
    }
    assert_eq!(store.sessions(), 200);
    for sequence in 1..=101 {
        apply(&mut store, 130, &request(1000, sequence, sequence - 1, 130, incr("k", 1)));
    }
    assert_eq!(store.sessions(), 1, "two rows a request");
}

#[test]
fn a_session_that_begins_behind_a_running_sweep_goes_in_time() {
    let mut store = store(Limits { sessions_per_shard: 1000, ..small_limits() });
    for client in [10, 20, 30, 40, 50, 60] {
        let sent_at = if client == 10 { 0 } else { 90 };
        apply(&mut store, sent_at, &request(client, 1, 0, sent_at, incr("k", 1)));
    }
    // The pass that drops client 10 is at 40 when client 5 begins, with the oldest stamp of all.
    apply(&mut store, 101, &request(20, 2, 1, 101, incr("k", 1)));
    apply(&mut store, 101, &request(5, 1, 0, 81, incr("k", 1)));
    for (time, sequence) in [(101, 3), (101, 4), (182, 5), (182, 6)] {
        apply(&mut store, time, &request(20, sequence, sequence - 1, time, incr("k", 1)));
    }
    assert_eq!(store.sessions(), 5, "10 and 5 are gone, the others not yet old");
}

/// What a run is compared with: a plain map, and for each client and shard everything that was ever executed.
#[derive(Default)]
struct Reference {
    numbers: BTreeMap<String, i64>,
    executed: HashMap<(u128, u64), Reply>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A client's next request: key, how far it acknowledges (back from the last), how old its stamp is.
    New { client: u128, key: usize, back: u64, age: u64 },
    /// An old request again.
    Retry { which: prop::sample::Index },
    /// Time passes.
    Wait { ms: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u128..5, 0_usize..6, 0_u64..6, 0_u64..60).prop_map(|(client, key, back, age)| Step::New {
            client, key, back, age
        }),
        6 => any::<prop::sample::Index>().prop_map(|which| Step::Retry { which }),
        1 => (0_u64..90).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #[test]
    fn every_request_takes_effect_at_most_once(steps in proptest::collection::vec(any_step(), 1..150)) {
        let mut store = store(small_limits());
        let mut reference = Reference::default();
        let mut sent: Vec<Request> = Vec::new();
        let mut sequences: HashMap<u128, u64> = HashMap::new();
        let mut time = 0;
        for step in steps {
            let request = match step {
                Step::Wait { ms } => {
                    time += ms;
                    continue;
                }
                Step::New { client, key, back, age } => {
                    let sequence = sequences.entry(client).or_default();
                    *sequence += 1;
                    let ack_through = (*sequence - 1).saturating_sub(back);
                    let op = incr(&format!("key{key}"), 1);
                    request(client, *sequence, ack_through, time.saturating_sub(age), op)
                }
                Step::Retry { which } if !sent.is_empty() => which.get(&sent).clone(),
                Step::Retry { .. } => continue,
            };
            sent.push(request.clone());
            let reply = apply(&mut store, time, &request);
            let id = (request.client.0, request.sequence.0);
            let key = String::from_utf8(request.op.key().unwrap().to_vec()).unwrap();
            match (&reply, reference.executed.get(&id)) {
                (Reply::Refused(_), _) => {}
                (_, Some(recorded)) => prop_assert_eq!(&reply, recorded, "a retry is answered as the first time"),
                (Reply::Number { value, .. }, None) => {
                    let number = reference.numbers.entry(key).or_default();
                    *number += 1;
                    prop_assert_eq!(value, number, "executed once, and only now");
                    reference.executed.insert(id, reply.clone());
                }
                (other, None) => prop_assert!(false, "{:?}", other),
            }
        }
        for (key, value) in &reference.numbers {
            prop_assert_eq!(number(&store, key), Some(value.to_string()));
        }
        let clients: BTreeSet<u128> = sent.iter().map(|r| r.client.0).collect();
        prop_assert!(store.sessions() <= clients.len() as u64 * u64::from(SHARDS));
    }
}
