//! Which group serves a shard at a cluster's beginning: the counts stand in its Genesis. From then on the shardmaster says.

use paxos::ids::GroupId;

use crate::command::ShardId;

/// Most shards a cluster may have.
pub const SHARDS_MAX: u16 = 4096;
/// Most groups a cluster may have.
pub const GROUPS_MAX: u16 = 64;

/// The group that serves `shard`: shards in equal, contiguous parts, the first part to group 1.
///
/// `None` for a shard that the cluster doesn't have. Counts are within [`SHARDS_MAX`] and [`GROUPS_MAX`].
pub fn group_of(shard: ShardId, shards: u16, groups: u16) -> Option<GroupId> {
    let before = u32::from(shard.0) * u32::from(groups);
    (shard.0 < shards).then(|| GroupId(1 + before / u32::from(shards)))
}

/// The shards that `group` serves, in order.
pub fn shards_of(group: GroupId, shards: u16, groups: u16) -> impl Iterator<Item = ShardId> {
    (0..shards).map(ShardId).filter(move |shard| group_of(*shard, shards, groups) == Some(group))
}

/// All groups of a cluster.
pub fn groups(groups: u16) -> impl Iterator<Item = GroupId> {
    (1..=u32::from(groups)).map(GroupId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_group_and_parts_differ_by_at_most_one() {
        for shards in [1_u16, 2, 3, 7, 64, 100, 256, 1000, SHARDS_MAX] {
            for count in (1..=GROUPS_MAX).filter(|count| *count <= shards) {
                let sizes: Vec<usize> = groups(count).map(|g| shards_of(g, shards, count).count()).collect();
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert_eq!(sizes.iter().sum::<usize>(), usize::from(shards), "total: {shards}/{count}");
                assert!(*least >= 1 && most - least <= 1, "even: {shards}/{count}: {sizes:?}");
            }
        }
    }

    #[test]
    fn a_shard_beyond_the_count_has_no_group() {
        assert_eq!(group_of(ShardId(255), 256, 2), Some(GroupId(2)));
        assert_eq!(group_of(ShardId(256), 256, 2), None);
    }
}
