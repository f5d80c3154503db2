//! How many shards each group is to serve, and which: as even as possible with the fewest changes. Pure functions.
//!
//! With `n` shards and `k` groups each group gets `n / k`, and the `n % k` groups that have the most get one more: then
//! no group gives a shard that it could keep, so no plan has fewer changes. From an even start a newcomer gets exactly
//! `n / k` and nobody else any; and only the leaver's shards change. Ties go to the lowest shard and the lowest group.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use paxos::ids::GroupId;

use crate::command::ShardChange;
use crate::ids::ShardId;

/// Who is to serve a shard, and who does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Place {
    /// Is to serve it.
    pub desired: GroupId,
    /// Serves it now.
    pub actual: GroupId,
}

/// The changes that make `groups` serve equal parts, by ascending shard. `places` has one for each shard, at most 65,535;
/// shards of groups that aren't in `groups` all change. No group, no change.
pub fn even(places: &[Place], groups: &[GroupId]) -> Vec<ShardChange> {
    let mut room = wanted(places, groups);
    let mut freed = Vec::new();
    for index in in_order_of_leaving(places) {
        match room.get_mut(&places[index].desired) {
            Some(left) if *left > 0 => *left -= 1,
            Some(_) | None => freed.push(index),
        }
    }
    freed.sort_unstable();
    let mut changes = Vec::with_capacity(freed.len());
    freed.retain(|index| match room.get_mut(&places[*index].actual) {
        Some(left) if *left > 0 => {
            *left -= 1;
            changes.push(change(places, *index, places[*index].actual));
            false
        }
        Some(_) | None => true,
    });
    let mut freed = freed.into_iter();
    for (group, left) in room {
        changes.extend(freed.by_ref().take(left).map(|index| change(places, index, group)));
    }
    changes.sort_unstable();
    changes
}

/// How many shards each group is to serve.
fn wanted(places: &[Place], groups: &[GroupId]) -> BTreeMap<GroupId, usize> {
    let mut counts: BTreeMap<GroupId, usize> = groups.iter().map(|group| (*group, 0)).collect();
    if counts.is_empty() {
        return counts;
    }
    for place in places {
        if let Some(count) = counts.get_mut(&place.desired) {
            *count += 1;
        }
    }
    let (each, more) = (places.len() / counts.len(), places.len() % counts.len());
    let mut by_count: Vec<(GroupId, usize)> = counts.into_iter().collect();
    by_count.sort_by_key(|(group, count)| (std::cmp::Reverse(*count), *group));
    let with_more =
        |(index, (group, _)): (usize, (GroupId, usize))| (group, each + usize::from(index < more));
    by_count.into_iter().enumerate().map(with_more).collect()
}

/// Shards in the order in which they keep their group: the last ones are the first to change. A shard that hasn't
/// arrived where it is desired costs least to redirect, so those keep it last; then the highest shard keeps it first.
fn in_order_of_leaving(places: &[Place]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|index| (places[*index].desired != places[*index].actual, std::cmp::Reverse(*index)));
    order
}

fn change(places: &[Place], index: usize, to: GroupId) -> ShardChange {
    let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
    ShardChange { shard, from: places[index].desired, to }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(places: &[Place], groups: &[GroupId]) -> Vec<usize> {
        groups.iter().map(|g| places.iter().filter(|p| p.desired == *g).count()).collect()
    }

    /// The fewest changes over all even distributions, by trying every choice of who gets one more.
    fn fewest(places: &[Place], groups: &[GroupId]) -> usize {
        let have = counts(places, groups);
        let (each, more) = (places.len() / groups.len(), places.len() % groups.len());
        let choices = (0_u32..1 << groups.len()).filter(|choice| choice.count_ones() as usize == more);
        let kept = |choice: u32| -> usize {
            have.iter().enumerate().map(|(i, c)| (*c).min(each + (choice >> i & 1) as usize)).sum()
        };
        places.len() - choices.map(kept).max().unwrap()
    }

    fn make(changes: &[ShardChange], places: &mut [Place]) {
        for change in changes {
            let place = &mut places[usize::from(change.shard.0)];
            assert_eq!(place.desired, change.from);
            assert_ne!(change.from, change.to);
            place.desired = change.to;
        }
    }

    fn settled(count: usize, groups: &[GroupId]) -> Vec<Place> {
        let of = |s: usize| groups[s * groups.len() / count];
        (0..count).map(|s| Place { desired: of(s), actual: of(s) }).collect()
    }

    #[test]
    fn ties_go_to_the_lowest_shard_and_group() {
        let groups = [GroupId(1), GroupId(2), GroupId(3)];
        let changes = even(&settled(8, &groups[..2]), &groups);
        let shards: Vec<(u16, u32)> = changes.iter().map(|c| (c.shard.0, c.to.0)).collect();
        assert_eq!(shards, vec![(0, 3), (4, 3)]);
    }

    #[test]
    fn a_shard_that_has_not_arrived_changes_first_and_may_go_home() {
        let mut places = settled(6, &[GroupId(1), GroupId(2)]);
        places[4].desired = GroupId(1);
        let changes = even(&places, &[GroupId(1), GroupId(2)]);
        assert_eq!(changes, vec![ShardChange { shard: ShardId(4), from: GroupId(1), to: GroupId(2) }]);
    }

    #[test]
    fn no_group_gives_no_change() {
        assert_eq!(even(&settled(4, &[GroupId(1)]), &[]), vec![]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_start_becomes_even_with_the_fewest_changes(
            start in prop::collection::vec((1_u32..9, 1_u32..9), 1..40),
            remaining in prop::collection::btree_set(1_u32..9, 1..8),
        ) {
            let mut places: Vec<Place> =
                start.iter().map(|(d, a)| Place { desired: GroupId(*d), actual: GroupId(*a) }).collect();
            let groups: Vec<GroupId> = remaining.into_iter().map(GroupId).collect();
            let bound = fewest(&places, &groups);
            let changes = even(&places, &groups);
            prop_assert_eq!(changes.len(), bound);
            prop_assert!(changes.is_sorted());
            make(&changes, &mut places);
            let have = counts(&places, &groups);
            prop_assert_eq!(have.iter().sum::<usize>(), places.len());
            prop_assert!(have.iter().max().unwrap() - have.iter().min().unwrap() <= 1);
            prop_assert_eq!(even(&places, &groups), vec![]);
        }

        #[test]
        fn joins_and_leaves_from_an_even_start_change_only_what_they_must(
            shards in 1_usize..300,
            first in 1_u32..9,
            steps in prop::collection::vec((any::<bool>(), 1_u32..12), 1..12),
        ) {
            let mut groups: Vec<GroupId> = (1..=first).map(GroupId).collect();
            let mut places = settled(shards, &groups);
            make(&even(&places, &groups), &mut places);
            for (join, id) in steps {
                let id = GroupId(id);
                match join {
                    true if !groups.contains(&id) => {
                        groups.push(id);
                        groups.sort_unstable();
                        let changes = even(&places, &groups);
                        prop_assert_eq!(changes.len(), shards / groups.len());
                        prop_assert!(changes.iter().all(|c| c.to == id));
                        make(&changes, &mut places);
                    }
                    false if groups.len() > 1 && groups.contains(&id) => {
                        groups.retain(|g| *g != id);
                        let leaving = places.iter().filter(|p| p.desired == id).count();
                        let changes = even(&places, &groups);
                        prop_assert_eq!(changes.len(), leaving);
                        prop_assert!(changes.iter().all(|c| c.from == id));
                        make(&changes, &mut places);
                    }
                    true | false => {}
                }
                let have = counts(&places, &groups);
                prop_assert!(have.iter().max().unwrap() - have.iter().min().unwrap() <= 1);
            }
        }
    }
}
