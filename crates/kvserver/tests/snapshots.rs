//! Snapshots give the same state back and nothing else, clones are isolated, and the incremental hash is that of the
//! state (P5).

mod common;

use std::ops::ControlFlow;

use common::{SHARDS, append, apply, apply_bytes, cas, delete, incr, put, request, small_limits, store};
use kvserver::command::{Op, Request, VALUE_BYTES_MAX, shard_of};
use kvserver::genesis::Limits;
use kvserver::store::Store;
use paxos::codec;
use paxos::rsm::state_machine::{Page, RestoreError, StateMachine};
use proptest::prelude::*;

fn any_op() -> impl Strategy<Value = Op> {
    let key = || (0_u32..12).prop_map(|n| if n == 0 { "k".repeat(40) } else { format!("key{n}") });
    prop_oneof![
        (key(), "[a-z]{0,300}").prop_map(|(key, value)| put(&key, &value)),
        (key(), "[0-9]{0,3}").prop_map(|(key, value)| append(&key, &value)),
        key().prop_map(|key| delete(&key)),
        (key(), any::<i64>()).prop_map(|(key, by)| incr(&key, by)),
        (key(), "[a-z]{0,3}").prop_map(|(key, value)| cas(&key, None, &value)),
        Just(Op::Ack),
    ]
}

/// Requests of a few clients in order, with the log times at which they are applied.
fn any_history(length: usize) -> impl Strategy<Value = Vec<(u64, Request)>> {
    let step = (any_op(), 1_u128..6, 0_u64..4, 0_u64..8, any::<bool>());
    proptest::collection::vec(step, 0..length).prop_map(|steps| {
        let mut time = 0;
        let mut history: Vec<(u64, Request)> = Vec::new();
        for (number, (op, client, back, wait, again)) in (1_u64..).zip(steps) {
            time += wait;
            match history.last() {
                Some((_, last)) if again => history.push((time, last.clone())),
                _ => {
                    history.push((time, request(client, number, number - 1 - back.min(number - 1), time, op)))
                }
            }
        }
        history
    })
}

fn play(store: &mut Store, history: &[(u64, Request)]) {
    for (time, request) in history {
        apply(store, *time, request);
    }
}

fn pages(store: &Store) -> Vec<Page> {
    store.pages().collect()
}

fn restore(limits: Limits, pages: Vec<Page>) -> Result<Store, RestoreError> {
    store(limits).restore(&mut pages.into_iter())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_restored_state_is_the_state_and_goes_on_alike(before in any_history(60), after in any_history(30)) {
        let mut original = store(small_limits());
        play(&mut original, &before);
        let mut restored = restore(small_limits(), pages(&original)).unwrap();
        prop_assert_eq!(&restored, &original);
        prop_assert_eq!(restored.state_hash(), original.state_hash());
        prop_assert_eq!(restored.state_bytes(), original.state_bytes());
        play(&mut original, &after);
        play(&mut restored, &after);
        prop_assert_eq!(restored, original);
    }

    #[test]
    fn a_clone_keeps_what_it_was(before in any_history(60), after in any_history(30)) {
        let mut original = store(small_limits());
        play(&mut original, &before);
        let (clone, snapshot) = (original.clone(), pages(&original));
        play(&mut original, &after);
        prop_assert_eq!(pages(&clone), snapshot);
        prop_assert_eq!(clone.state_hash(), clone.recomputed_hash());
    }

    #[test]
    fn damaged_pages_are_refused(
        history in any_history(60),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
        kind in 0..4,
    ) {
        let mut original = store(small_limits());
        play(&mut original, &history);
        let mut pages = pages(&original);
        let which = which.index(pages.len());
        match kind {
            0 => { pages.remove(which); }
            1 => { let twin = pages[which].clone(); pages.insert(which, twin); }
            2 => { let end = at.index(pages[which].body.len()); pages[which].body.truncate(end); }
            _ => { let at = at.index(pages[which].body.len()); pages[which].body[at] ^= 1_u8 << bit; }
        }
        match restore(small_limits(), pages) {
            Err(_) => {}
            Ok(restored) => prop_assert!(false, "restored {restored:?} of {original:?}"),
        }
    }
}

#[test]
fn a_state_that_is_handed_on_page_by_page_gives_the_same_pages_until_it_is_stopped() {
    let mut store = store(Limits::default());
    for n in 1..500 {
        let put = request(1, n, n - 1, 0, put(&format!("key{n:05}"), &"v".repeat(100)));
        apply_bytes(&mut store, &common::batch(0, &[put]));
    }
    let expected = pages(&store);
    for stop in [1, 2, expected.len() - 1, expected.len(), usize::MAX] {
        let mut handed_on = Vec::new();
        store.clone().into_pages(&mut |page| {
            handed_on.push(page);
            if handed_on.len() < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert!(handed_on == expected[..stop.min(expected.len())], "stopped after {stop} pages");
    }
}

#[test]
fn pages_are_small_ascending_and_large_values_stand_alone() {
    let mut store = store(Limits::default());
    let large = Op::Put { key: b"large".to_vec(), value: vec![7; VALUE_BYTES_MAX] };
    apply(&mut store, 0, &request(1, 1, 0, 0, large));
    for n in 2..2000 {
        let put = request(1, n, n - 1, 0, put(&format!("key{n:05}"), &"v".repeat(100)));
        apply_bytes(&mut store, &common::batch(0, &[put]));
    }
    let pages = pages(&store);
    assert!(pages.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(pages.iter().filter(|page| page.body.len() > 5000).count(), 1);
    assert!(
        pages.len() < 2000 * 150 / 4096 + 4 * usize::from(SHARDS),
        "{} pages: they are packed",
        pages.len()
    );
    let restored = restore(Limits::default(), pages).unwrap();
    assert_eq!(restored, store);
}

#[test]
fn snapshots_of_other_limits_or_versions_are_refused_by_name() {
    let store = store(small_limits());
    let refused = restore(Limits::default(), pages(&store)).unwrap_err();
    assert_eq!(refused.0, "made under other replicated limits");
    let mut pages = pages(&store);
    pages[0].body[0] = 9;
    assert_eq!(restore(small_limits(), pages).unwrap_err().0, "version 9, this code knows 3");
    assert_eq!(restore(small_limits(), vec![]).unwrap_err().0, "no header");
}

/// No node ever holds such a pair; a page that has one was forged.
#[test]
fn pairs_beyond_the_largest_key_or_value_are_refused() {
    let mut store = store(Limits::default());
    apply(&mut store, 0, &request(1, 1, 0, 0, put("key", "value")));
    let pages = pages(&store);
    let at = pages.iter().position(|page| page.body.ends_with(b"value")).expect("the page of the pair");
    let shard = shard_of(b"key", SHARDS);
    let ends = (0..64_u8).map(|end| [&vec![b'k'; 70_000][..], &[end]].concat());
    let long = ends.into_iter().find(|key| shard_of(key, SHARDS) == shard).expect("a key of the shard");
    for (key, value) in [(long, vec![1]), (b"key".to_vec(), vec![7; VALUE_BYTES_MAX + 1])] {
        let mut pages = pages.clone();
        pages[at].body = codec::encode(&vec![(key, 1_u64, value)]);
        let why = format!("a key of shard {} is out of place", shard.0);
        assert_eq!(restore(Limits::default(), pages).unwrap_err().0, why);
    }
}
