//! Scans against plain sorted maps: a page of several shards leaves out only what is above all it returns, so that a
//! client that merges pages by key sees every key once, in order.

mod common;

use std::collections::BTreeMap;

use common::{SHARDS, apply, put, request, store};
use kvserver::command::{ShardId, shard_of};
use kvserver::genesis::Limits;
use kvserver::query::{Answer, Query, SCAN_BYTES_MAX, SCAN_PAIRS_MAX, ShardCursor, ShardPage};
use kvserver::store::Store;
use paxos::rsm::state_machine::StateMachine;
use proptest::prelude::*;

fn filled(keys: &[String]) -> (Store, BTreeMap<Vec<u8>, Vec<u8>>) {
    let mut store = store(Limits::default());
    let mut reference = BTreeMap::new();
    for (n, key) in (1..).zip(keys) {
        apply(&mut store, 0, &request(1, n, n - 1, 0, put(key, &format!("value of {key}"))));
        reference.insert(key.clone().into_bytes(), format!("value of {key}").into_bytes());
    }
    (store, reference)
}

fn scan(store: &Store, shards: Vec<ShardCursor>, prefix: &[u8], limit: u32) -> Vec<ShardPage> {
    match store.query(&Query::Scan { shards, prefix: prefix.to_vec(), limit, keys_only: false }) {
        Answer::Page(pages) => pages,
        other => panic!("{other:?}"),
    }
}

fn all_shards() -> Vec<ShardCursor> {
    (0..SHARDS).rev().map(|shard| ShardCursor { shard: ShardId(shard), after: None }).collect()
}

proptest! {
    #[test]
    fn a_page_is_the_lowest_pairs_after_the_cursors(
        keys in proptest::collection::btree_set("[ab]{0,4}", 0..40),
        cursors in proptest::collection::btree_map(0..SHARDS, proptest::option::of("[ab]{0,4}"), 0..=4),
        prefix in "[ab]{0,2}",
        limit in 0_u32..12,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let (store, reference) = filled(&keys);
        let shards: Vec<ShardCursor> = cursors.iter().map(|(shard, after)| ShardCursor {
            shard: ShardId(*shard),
            after: after.as_ref().map(|key| key.clone().into_bytes()),
        }).collect();
        let wanted: Vec<(&Vec<u8>, &Vec<u8>)> = reference.iter().filter(|(key, _)| {
            let cursor = shards.iter().find(|c| c.shard == shard_of(key, SHARDS));
            cursor.is_some_and(|c| c.after.as_ref().is_none_or(|after| *key > after)) && key.starts_with(prefix.as_bytes())
        }).collect();
        let pages = scan(&store, shards.clone(), prefix.as_bytes(), limit);
        prop_assert_eq!(pages.iter().map(|p| p.shard).collect::<Vec<_>>(), shards.iter().map(|c| c.shard).collect::<Vec<_>>());
        let taken = wanted.len().min(limit as usize);
        let mut found: Vec<_> = pages.iter().flat_map(|p| &p.pairs).map(|p| (&p.key, &p.value)).collect();
        found.sort();
        prop_assert_eq!(&found[..], &wanted[..taken]);
        for page in &pages {
            prop_assert!(page.pairs.is_sorted_by(|a, b| a.key < b.key));
            prop_assert!(page.pairs.iter().all(|p| shard_of(&p.key, SHARDS) == page.shard));
            let more = wanted[taken..].iter().any(|(key, _)| shard_of(key, SHARDS) == page.shard);
            prop_assert_eq!(page.end, !more);
        }
    }

    #[test]
    fn pages_one_after_the_other_give_every_key_once(
        keys in proptest::collection::btree_set("[a-d]{0,6}", 0..60),
        limit in 1_u32..9,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let (store, reference) = filled(&keys);
        let mut cursors = all_shards();
        let mut found = Vec::new();
        while !cursors.is_empty() {
            let pages = scan(&store, cursors.clone(), b"", limit);
            let mut pairs: Vec<_> = pages.iter().flat_map(|p| p.pairs.clone()).collect();
            pairs.sort_by(|a, b| a.key.cmp(&b.key));
            found.extend(pairs.into_iter().map(|p| (p.key, p.value)));
            for (cursor, page) in cursors.iter_mut().zip(&pages) {
                cursor.after = page.pairs.last().map(|p| p.key.clone()).or(cursor.after.take());
            }
            let mut pages = pages.into_iter();
            cursors.retain(|_| pages.next().is_some_and(|page| !page.end));
        }
        prop_assert_eq!(found, reference.into_iter().collect::<Vec<_>>(), "in key order, none missing, none twice");
    }
}

#[test]
fn a_page_is_bounded_in_pairs_and_bytes_but_holds_one_pair() {
    let keys: Vec<String> = (0..SCAN_PAIRS_MAX + 10).map(|n| format!("{n:06}")).collect();
    let (mut store, _) = filled(&keys);
    let pairs = |store: &Store, prefix: &[u8]| -> Vec<usize> {
        let pages = scan(store, all_shards(), prefix, u32::MAX);
        pages.iter().flat_map(|p| &p.pairs).map(|p| p.key.len() + p.value.len()).collect()
    };
    assert_eq!(pairs(&store, b"").len(), SCAN_PAIRS_MAX as usize);

    let large = "x".repeat(SCAN_BYTES_MAX * 2 / 5);
    for n in 1..=4 {
        apply(&mut store, 0, &request(2, n, n - 1, 0, put(&format!("large{n}"), &large)));
    }
    assert_eq!(pairs(&store, b"large").len(), 2, "a third would pass the bound");
    let larger = "x".repeat(SCAN_BYTES_MAX + 1);
    apply(&mut store, 0, &request(2, 5, 4, 0, put("larger", &larger)));
    assert_eq!(pairs(&store, b"larger").len(), 1, "one pair is always allowed");
}

#[test]
fn keys_only_leaves_values_out_and_needs_no_room_for_them() {
    let (mut store, _) = filled(&[]);
    let large = "x".repeat(SCAN_BYTES_MAX);
    for n in 1..=3 {
        apply(&mut store, 0, &request(2, n, n - 1, 0, put(&format!("large{n}"), &large)));
    }
    let query = Query::Scan { shards: all_shards(), prefix: vec![], limit: 10, keys_only: true };
    let Answer::Page(pages) = store.query(&query) else { panic!("a page was asked for") };
    let pairs: Vec<_> = pages.iter().flat_map(|p| &p.pairs).collect();
    assert_eq!(pairs.len(), 3);
    assert!(pairs.iter().all(|pair| pair.value.is_empty() && pair.version > 0));
}

#[test]
fn a_shard_asked_for_twice_or_not_served_is_named() {
    let (store, _) = filled(&[]);
    let ask = |shards: Vec<u16>| {
        let shards =
            shards.into_iter().map(|shard| ShardCursor { shard: ShardId(shard), after: None }).collect();
        store.query(&Query::Scan { shards, prefix: vec![], limit: 1, keys_only: false })
    };
    assert_eq!(ask(vec![1, 1]), Answer::Invalid);
    assert_eq!(ask(vec![0, SHARDS]), Answer::WrongGroup { shard: ShardId(SHARDS), owner: None });
    assert_eq!(ask(vec![]), Answer::Page(vec![]));
}
