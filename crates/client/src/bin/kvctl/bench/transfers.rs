//! The transactions of `bench --workload txn`: 1 goes from a key to each of some others. The sum of all keys stays 0,
//! whatever fails.

use std::collections::BTreeMap;

use client::{Routing, Transaction};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::index::sample;

/// Tags that transactions of one shard choose from, each with many keys.
const TAGS_MAX: usize = 1024;

/// Which keys a transaction names.
pub(super) struct Transfers {
    keys: usize,
    at_once: usize,
    place: Place,
}

enum Place {
    /// Any.
    Anywhere,
    /// Those with one tag; how many tags there are.
    Local(usize),
    /// One of each group in turn; the keys of each.
    Across(Vec<Vec<usize>>),
}

impl Transfers {
    pub(super) fn anywhere(keys: usize, at_once: usize) -> Transfers {
        Transfers { keys, at_once, place: Place::Anywhere }
    }

    /// All keys of a transaction in one shard.
    pub(super) fn local(keys: usize, at_once: usize) -> Transfers {
        // As many tags as leave each of them enough keys.
        let tags = (keys / at_once).clamp(1, TAGS_MAX);
        Transfers { keys, at_once, place: Place::Local(tags) }
    }

    /// The keys of a transaction in different groups, as far as there are so many.
    pub(super) fn across(routing: &Routing, keys: usize, at_once: usize) -> Transfers {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for number in 0..keys {
            let place = routing.locate(key(number).as_bytes());
            groups.entry(place.map_or(0, |place| place.group.0)).or_default().push(number);
        }
        Transfers { keys, at_once, place: Place::Across(groups.into_values().collect()) }
    }

    /// The next transaction.
    pub(super) fn draw(&self, random: &mut SmallRng) -> Transaction {
        let keys = self.pick(random);
        let given = i64::try_from(keys.len()).unwrap_or(i64::MAX) - 1;
        let begun = keys.first().map(|from| Transaction::new().incr(from, -given)).unwrap_or_default();
        keys.iter().skip(1).fold(begun, |txn, to| txn.incr(to, 1))
    }

    /// Different keys, in no order.
    fn pick(&self, random: &mut SmallRng) -> Vec<String> {
        match &self.place {
            Place::Anywhere => sample(random, self.keys, self.at_once).into_iter().map(key).collect(),
            Place::Local(tags) => {
                let tag = random.random_range(0..*tags);
                let picked = sample(random, self.keys / tags, self.at_once);
                picked.into_iter().map(|number| format!("txn/{{{tag:04}}}{number:012}")).collect()
            }
            Place::Across(groups) => self.pick_across(groups, random),
        }
    }

    fn pick_across(&self, groups: &[Vec<usize>], random: &mut SmallRng) -> Vec<String> {
        let first = random.random_range(0..groups.len());
        // How many of each group, then which.
        let mut counts = vec![0; groups.len()];
        let mut left = self.at_once;
        for index in (0..groups.len()).cycle().skip(first) {
            if left == 0 {
                break;
            }
            if counts[index] < groups[index].len() {
                counts[index] += 1;
                left -= 1;
            }
        }
        let mut picked = Vec::with_capacity(self.at_once);
        for (group, count) in groups.iter().zip(counts) {
            picked.extend(sample(random, group.len(), count).into_iter().map(|at| key(group[at])));
        }
        picked
    }
}

fn key(number: usize) -> String {
    format!("txn/{number:012}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use client::{Txn, TxnOp};
    use kvserver::command::shard_of;
    use paxos::ids::GroupId;
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(transfers: &Transfers) -> Txn {
        let txn = Txn::from(transfers.draw(&mut SmallRng::seed_from_u64(1)));
        assert_eq!(txn.accesses().len(), transfers.at_once);
        let moved = txn.then.iter().map(|op| match op {
            TxnOp::Incr { by, .. } => *by,
            other => panic!("{other:?}"),
        });
        assert_eq!(moved.sum::<i64>(), 0);
        txn
    }

    fn shards(txn: &Txn) -> BTreeSet<u16> {
        txn.accesses().keys().map(|key| shard_of(key, 4096).0).collect()
    }

    #[test]
    fn a_transfer_names_different_keys_and_keeps_the_sum() {
        for (keys, at_once) in [(2, 2), (5000, 3), (1, 1)] {
            assert_eq!(shards(&drawn(&Transfers::anywhere(keys, at_once))).len(), at_once);
            assert_eq!(shards(&drawn(&Transfers::local(keys, at_once))).len(), 1);
        }
    }

    #[test]
    fn keys_of_different_groups_as_far_as_there_are() {
        let groups = |sizes: &[usize]| {
            let mut next = 0..;
            let groups: Vec<Vec<usize>> =
                sizes.iter().map(|size| next.by_ref().take(*size).collect()).collect();
            groups
        };
        for (sizes, at_once) in [(&[50, 50][..], 2), (&[1, 9], 5), (&[3, 3, 3], 3), (&[2], 2)] {
            let groups = groups(sizes);
            let transfers = Transfers { keys: 0, at_once, place: Place::Across(groups.clone()) };
            let txn = drawn(&transfers);
            let named = |number: &usize| txn.accesses().contains_key(key(*number).as_bytes());
            let counts: Vec<usize> =
                groups.iter().map(|group| group.iter().filter(|n| named(n)).count()).collect();
            let fair = at_once / groups.len();
            assert!(counts.iter().zip(sizes).all(|(count, size)| *count >= fair.min(*size)), "{counts:?}");
        }
    }

    #[test]
    fn the_groups_are_those_of_the_routing_table() {
        let owners = vec![GroupId(1), GroupId(2), GroupId(2), GroupId(1)];
        let routing = Routing { shards: 4, owners, ..Routing::default() };
        let mut random = SmallRng::seed_from_u64(1);
        let transfers = Transfers::across(&routing, 100, 2);
        for _ in 0..100 {
            let groups: BTreeSet<_> = transfers
                .pick(&mut random)
                .iter()
                .filter_map(|key| routing.locate(key.as_bytes()).map(|place| place.group))
                .collect();
            assert_eq!(groups.len(), 2);
        }
    }
}
