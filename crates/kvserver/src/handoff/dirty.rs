//! The dirty index of a copy that moves: which items changed since the move began, each under the number of its latest
//! change. An item that is gone is in it like any other, so deletes reach the destination.

use std::ops::Bound;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use paxos::codec;
use paxos::ids::ClientId;

use crate::command::ShardId;
use crate::key::Key;
use crate::tally::{Table, Tally, hash_bytes};

/// Memory of an entry in both maps, in bytes, about.
const ENTRY_BYTES: usize = 2 * (size_of::<DirtyItem>() + size_of::<u64>()) * 4 / 3;

/// What may change in a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DirtyItem {
    /// A key with its value.
    Key(Key),
    /// A session row.
    Row(ClientId),
    /// A decided transaction that the shard coordinates.
    Record(u64),
}

/// As it stands in snapshots.
#[derive(Encode, Decode)]
pub(crate) enum DirtyRecord {
    Key(Vec<u8>),
    Row(ClientId),
    Record(u64),
}

/// A clone shares all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    changes: u64,
    by_item: OrdMap<DirtyItem, u64>,
    by_change: OrdMap<u64, DirtyItem>,
    tally: Tally,
}

impl DirtyItem {
    pub(crate) fn record(&self) -> DirtyRecord {
        match self {
            DirtyItem::Key(key) => DirtyRecord::Key(key.as_bytes().to_vec()),
            DirtyItem::Row(client) => DirtyRecord::Row(*client),
            DirtyItem::Record(number) => DirtyRecord::Record(*number),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            DirtyItem::Key(key) => ENTRY_BYTES + key.as_bytes().len(),
            DirtyItem::Row(_) | DirtyItem::Record(_) => ENTRY_BYTES,
        }
    }

    fn hash(&self, shard: ShardId, change: u64) -> u128 {
        hash_bytes(Table::Dirty, shard, &codec::encode(&(change, self.record())))
    }
}

impl DirtyRecord {
    /// About its length, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            DirtyRecord::Key(key) => key.len(),
            DirtyRecord::Row(_) | DirtyRecord::Record(_) => size_of::<ClientId>(),
        }
    }
}

impl From<DirtyRecord> for DirtyItem {
    fn from(record: DirtyRecord) -> DirtyItem {
        match record {
            DirtyRecord::Key(key) => DirtyItem::Key(Key::from(&key[..])),
            DirtyRecord::Row(client) => DirtyItem::Row(client),
            DirtyRecord::Record(number) => DirtyItem::Record(number),
        }
    }
}

impl Dirty {
    /// Gives the item the next number.
    pub(crate) fn touch(&mut self, shard: ShardId, item: DirtyItem) {
        self.changes += 1;
        let change = self.changes;
        self.tally.add(item.hash(shard, change), item.bytes());
        if let Some(old) = self.by_item.insert(item.clone(), change) {
            self.by_change.remove(&old);
            self.tally.remove(item.hash(shard, old), item.bytes());
        }
        self.by_change.insert(change, item);
    }

    /// Changes so far: the number of the last one.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Items that changed.
    pub(crate) fn items(&self) -> u64 {
        self.by_item.len() as u64
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// The items changed after `staged`, in the order of their latest changes.
    pub(crate) fn after(&self, staged: u64) -> impl Iterator<Item = (u64, &DirtyItem)> + '_ {
        self.by_change
            .range((Bound::Excluded(staged), Bound::Unbounded))
            .map(|(change, item)| (*change, item))
    }

    /// How many items changed after `staged`: exact up to `exact_max`, an upper bound above it. Looks at as many.
    pub(crate) fn left(&self, staged: u64, exact_max: u64) -> u64 {
        let looked_at = usize::try_from(exact_max.saturating_add(1)).unwrap_or(usize::MAX);
        let found = self.after(staged).take(looked_at).count() as u64;
        if found <= exact_max { found } else { self.items().min(self.changes.saturating_sub(staged)) }
    }

    /// The index with its tally made from scratch.
    pub(crate) fn recomputed(&self, shard: ShardId) -> Dirty {
        let mut again = Dirty::with_changes(self.changes);
        for (change, item) in self.after(0) {
            again.restore(shard, change, item.clone());
        }
        again
    }

    /// An index with this counter and no entry.
    pub(crate) fn with_changes(changes: u64) -> Dirty {
        Dirty { changes, ..Dirty::default() }
    }

    /// Puts an entry back; they come in ascending order. Returns whether it can be one.
    pub(crate) fn restore(&mut self, shard: ShardId, change: u64, item: DirtyItem) -> bool {
        let in_order = self.by_change.get_max().is_none_or(|(last, _)| *last < change);
        let fits = in_order && (1..=self.changes).contains(&change) && !self.by_item.contains_key(&item);
        if fits {
            self.tally.add(item.hash(shard, change), item.bytes());
            self.by_item.insert(item.clone(), change);
            self.by_change.insert(change, item);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_one_entry_its_latest() {
        let (shard, row) = (ShardId(0), |client| DirtyItem::Row(ClientId(client)));
        let mut dirty = Dirty::default();
        for client in [1, 2, 1, 3, 1] {
            dirty.touch(shard, row(client));
        }
        let entries: Vec<_> = dirty.after(0).map(|(change, item)| (change, item.clone())).collect();
        assert_eq!(entries, [(2, row(2)), (4, row(3)), (5, row(1))]);
        assert_eq!((dirty.left(0, 10), dirty.left(2, 10), dirty.left(5, 10)), (3, 2, 0));
        assert_eq!(dirty.left(0, 1), 3, "above what is counted: a bound");
        let mut restored = Dirty::with_changes(5);
        assert!(entries.into_iter().all(|(change, item)| restored.restore(shard, change, item)));
        assert_eq!(restored, dirty);
    }
}
