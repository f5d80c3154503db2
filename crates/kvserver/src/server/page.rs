//! Merges what several groups found into one page in key order that a scan can go on from.

use crate::query::{Pair, ShardPage};

/// A page being merged.
#[derive(Default)]
pub(crate) struct Merge {
    pairs: Vec<Pair>,
    /// The lowest key up to which some group told all, of the groups that have more.
    complete_to: Option<Vec<u8>>,
    more: bool,
}

impl Merge {
    /// What one group found. A group leaves out only keys above those it returns, so up to its highest it is complete.
    pub(crate) fn add(&mut self, shards: Vec<ShardPage>) {
        if shards.iter().any(|shard| !shard.end) {
            self.more = true;
            let highest = shards.iter().filter_map(|shard| shard.pairs.last()).map(|pair| &pair.key).max();
            let highest = highest.cloned().unwrap_or_default();
            let lower = self.complete_to.take().map_or(highest.clone(), |key| key.min(highest));
            self.complete_to = Some(lower);
        }
        self.pairs.extend(shards.into_iter().flat_map(|shard| shard.pairs));
    }

    /// The first `limit` pairs that are certainly the next ones, and whether none is left after them.
    pub(crate) fn page(mut self, limit: u32) -> (Vec<Pair>, bool) {
        self.pairs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        if let Some(complete_to) = &self.complete_to {
            let certain = self.pairs.partition_point(|pair| pair.key <= *complete_to);
            self.pairs.truncate(certain);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.more |= self.pairs.len() > limit;
        self.pairs.truncate(limit);
        (self.pairs, !self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::ShardId;

    fn shard(keys: &[&str], end: bool) -> ShardPage {
        let pair = |key: &&str| Pair { key: key.as_bytes().to_vec(), value: Vec::new(), version: 1 };
        ShardPage { shard: ShardId(0), pairs: keys.iter().map(pair).collect(), end }
    }

    fn page(groups: Vec<Vec<ShardPage>>, limit: u32) -> (Vec<String>, bool) {
        let mut merge = Merge::default();
        groups.into_iter().for_each(|shards| merge.add(shards));
        let (pairs, done) = merge.page(limit);
        (pairs.into_iter().map(|pair| String::from_utf8(pair.key).unwrap()).collect(), done)
    }

    #[test]
    fn groups_that_ended_are_merged_whole() {
        let groups = vec![vec![shard(&["b", "d"], true), shard(&["a"], true)], vec![shard(&["c"], true)]];
        assert_eq!(page(groups, 10), (vec!["a".into(), "b".into(), "c".into(), "d".into()], true));
    }

    #[test]
    fn nothing_above_what_a_cut_group_told_is_returned() {
        let groups = vec![vec![shard(&["a", "c"], false)], vec![shard(&["b", "d"], true)]];
        assert_eq!(page(groups, 10), (vec!["a".into(), "b".into(), "c".into()], false));
        let both = vec![vec![shard(&["a", "x"], false)], vec![shard(&["b", "d"], false)]];
        assert_eq!(page(both, 10), (vec!["a".into(), "b".into(), "d".into()], false));
    }

    #[test]
    fn the_limit_cuts_and_says_so() {
        let groups = || vec![vec![shard(&["a", "c"], true)], vec![shard(&["b"], true)]];
        assert_eq!(page(groups(), 2), (vec!["a".into(), "b".into()], false));
        assert!(page(groups(), 3).1);
    }

    #[test]
    fn a_shard_without_pairs_doesnt_hide_its_group() {
        let groups = vec![vec![shard(&[], false), shard(&["a"], false)], vec![shard(&["z"], true)]];
        assert_eq!(page(groups, 10), (vec!["a".into()], false));
    }
}
