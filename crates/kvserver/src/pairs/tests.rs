//! The pairs of a shard against an ordered map, and their tree against its bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pairs::leaf::{LEAF_BYTES, LEAF_BYTES_MIN, LEAF_PAIRS};
use crate::pairs::siblings::BRANCH_CHILDREN;

type Model = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>, Vec<u8>),
    Append(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    /// Removes that many keys from one on.
    Clear(Vec<u8>, usize),
    /// Adds that many keys, ascending after one.
    Fill(Vec<u8>, usize),
    /// Adds a pair above all.
    Push(Vec<u8>),
    /// Keeps a clone, which must never change.
    Clone,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::collection::vec(0_u8..4, 0..6),
        1 => proptest::collection::vec(0_u8..2, 20..30),
        1 => proptest::collection::vec(any::<u8>(), 300),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![20 => 0_usize..200, 2 => 1000..5000_usize, 1 => 8000..40_000_usize];
    (any::<u8>(), lengths).prop_map(|(byte, length)| vec![byte; length])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        3 => (key(), value()).prop_map(|(key, value)| Step::Append(key, value)),
        6 => key().prop_map(Step::Remove),
        1 => (key(), 0_usize..500).prop_map(|(key, count)| Step::Clear(key, count)),
        1 => (key(), 0_usize..500).prop_map(|(key, count)| Step::Fill(key, count)),
        2 => value().prop_map(Step::Push),
        1 => Just(Step::Clone),
    ]
}

/// Does a step to the pairs and to the model of them.
fn run(pairs: &mut Pairs, model: &mut Model, version: u64, step: &Step) {
    let set = |pairs: &mut Pairs, model: &mut Model, key: &[u8], value: &[u8]| {
        pairs.edit(key, |slot| slot.set(version, value));
        model.insert(key.to_vec(), (version, value.to_vec()));
    };
    match step {
        Step::Set(key, value) => set(pairs, model, key, value),
        Step::Append(key, tail) => {
            pairs.edit(key, |slot| slot.append(version, tail));
            let (newest, value) = model.entry(key.clone()).or_default();
            *newest = version;
            value.extend(tail);
        }
        Step::Remove(key) => {
            pairs.edit(key, |slot| slot.remove());
            model.remove(key);
        }
        Step::Clear(from, count) => {
            let keys: Vec<_> = model.range(from.clone()..).take(*count).map(|(key, _)| key.clone()).collect();
            for key in keys {
                pairs.edit(&key, |slot| slot.remove());
                model.remove(&key);
            }
        }
        Step::Fill(after, count) => {
            for number in 0..*count {
                let key = [&after[..], &(number as u16).to_be_bytes()].concat();
                set(pairs, model, &key, &key);
            }
        }
        Step::Push(value) => {
            let last = model.keys().next_back().cloned().unwrap_or_default();
            let key = [&last[..], &[0]].concat();
            pairs.push(&key, version, value);
            model.insert(key, (version, value.clone()));
        }
        Step::Clone => {}
    }
}

fn assert_same(pairs: &Pairs, model: &Model) {
    assert_eq!(pairs.len(), model.len());
    assert_eq!(pairs.last_key(), model.keys().next_back().map(Vec::as_slice));
    let found = pairs.iter().map(|(key, value)| (key, value.version(), value.as_bytes()));
    assert!(found.eq(model.iter().map(|(key, (version, value))| (&key[..], *version, &value[..]))));
}

/// Every bound of the tree, and that each part has the keys that are looked for in it.
fn assert_sound(pairs: &Pairs) {
    let mut leaves = 0;
    for (branch, low) in pairs.branches.children.iter().zip(&pairs.branches.lows) {
        let branch = &branch.node;
        assert!((1..=BRANCH_CHILDREN).contains(&branch.children.len()));
        assert_eq!(branch.children.len(), branch.lows.len());
        assert!(low <= &branch.lows[0] && branch.lows.is_sorted_by(|a, b| a < b));
        for (leaf, low) in branch.children.iter().zip(&branch.lows) {
            let leaf = &leaf.node;
            assert!(leaf.len() > 0 && leaf.len() < LEAF_PAIRS);
            assert!(leaf.len() == 1 || leaf.used() <= LEAF_BYTES);
            assert!(low.as_bytes() <= leaf.key(0));
            let room = leaf.0.len();
            assert!(leaf.used() <= room && (room <= LEAF_BYTES || leaf.used() > LEAF_BYTES));
            assert!(leaf.used() >= room / 4 || room == LEAF_BYTES_MIN);
            leaves += 1;
        }
    }
    assert_eq!(pairs.branches.children.len(), pairs.branches.lows.len());
    assert!(pairs.branches.lows.is_sorted_by(|a, b| a < b));
    for (key, value) in pairs.iter() {
        assert_eq!(pairs.get(key), Some(value));
    }
    assert!(leaves <= pairs.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn as_an_ordered_map_and_clones_never_change(steps in proptest::collection::vec(step(), 1..120), probe in key()) {
        let (mut pairs, mut model) = (Pairs::default(), Model::new());
        let mut clones = Vec::new();
        for (version, step) in (1..).zip(&steps) {
            run(&mut pairs, &mut model, version, step);
            if let Step::Clone = step {
                clones.push((pairs.clone(), model.clone()));
            }
        }
        clones.push((pairs.clone(), model));
        for (pairs, model) in &clones {
            assert_same(pairs, model);
            assert_sound(pairs);
            // It must come through whatever is asked for, and changes nothing.
            Pairs::prefetch(pairs.iter().map(|(key, _)| (pairs, key)).chain([(pairs, &probe[..])]));
            let found = pairs.get(&probe).map(|value| (value.version(), value.as_bytes().to_vec()));
            prop_assert_eq!(found, model.get(&probe).cloned());
            for from in [Bound::Included(&probe[..]), Bound::Excluded(&probe[..]), Bound::Unbounded] {
                let after = (from.map(<[u8]>::to_vec), Bound::Unbounded);
                let found = pairs.iter_from(from).map(|(key, _)| key);
                prop_assert!(found.eq(model.range(after).map(|(key, _)| &key[..])));
            }
        }
    }
}

/// Enough keys for many branches, put in in an order and taken out in another: nothing is lost on the way.
#[test]
fn branches_split_and_join() {
    const KEYS: u32 = 40_000;
    let key = |number: u32| number.wrapping_mul(2_654_435_761).to_be_bytes();
    let mut pairs = Pairs::default();
    let mut model = Model::new();
    for number in 0..KEYS {
        pairs.edit(&key(number), |slot| slot.set(1, b"value"));
        model.insert(key(number).to_vec(), (1, b"value".to_vec()));
    }
    assert_same(&pairs, &model);
    assert_sound(&pairs);
    assert!(pairs.branches.children.len() > 4, "{} branches", pairs.branches.children.len());
    let full = pairs.clone();
    for number in (0..KEYS).filter(|number| number % 50 != 0) {
        pairs.edit(&key(number), |slot| slot.remove());
        model.remove(&key(number)[..]);
    }
    assert_same(&pairs, &model);
    assert_sound(&pairs);
    let leaves: usize = pairs.branches.children.iter().map(|branch| branch.node.children.len()).sum();
    assert!(leaves < 180, "{} pairs stand in {leaves} leaves", pairs.len());
    for number in 0..KEYS {
        pairs.edit(&key(number), |slot| slot.remove());
    }
    assert!(pairs.branches.children.is_empty() && pairs.len() == 0 && full.len() == KEYS as usize);
}

/// Keys that come in ascending order leave full leaves behind, and pairs that are pushed, too: a state that is restored takes no
/// more room than it needs.
#[test]
fn ascending_keys_fill_their_leaves() {
    let (mut pairs, mut pushed) = (Pairs::default(), Pairs::default());
    for number in 0_u64..10_000 {
        pairs.edit(&number.to_be_bytes(), |slot| slot.set(number, &[0; 100]));
        pushed.push(&number.to_be_bytes(), number, &[0; 100]);
    }
    assert_eq!(pairs, pushed);
    for pairs in [pairs, pushed] {
        assert_sound(&pairs);
        let leaves = || pairs.branches.children.iter().flat_map(|branch| &branch.node.children);
        let bytes: usize = leaves().map(|leaf| leaf.node.0.len() + 16).sum();
        assert!(bytes < 10_000 * 118 * 12 / 10, "{bytes} bytes in {} leaves", leaves().count());
    }
}

#[test]
fn a_value_beyond_a_leaf_stands_alone() {
    let mut pairs = Pairs::default();
    for number in 0_u8..40 {
        pairs.edit(&[number], |slot| slot.set(1, b"small"));
    }
    let large = vec![7; 1 << 20];
    pairs.edit(&[20], |slot| slot.set(2, &large));
    assert_sound(&pairs);
    assert_eq!(pairs.get(&[20]).map(Value::as_bytes), Some(&large[..]));
    pairs.edit(&[20], |slot| slot.set(3, b"small"));
    assert_sound(&pairs);
    assert_eq!((pairs.len(), pairs.get(&[20]).map(Value::version)), (40, Some(3)));
}
