//! The keys and values of a shard, in the order of keys. A clone shares what is in it.
//!
//! Neighbours stand one after the other in the block of a leaf, up to 45 or a page of memory, and up to 128 leaves under a
//! branch. So to find a key takes few pages of memory, and a leaf that a clone shares is copied by one copy of bytes,
//! however many pairs it has. A clone takes time for its branches: one for about 2,000 small pairs.

mod leaf;
mod siblings;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use crate::key::Key;
use crate::pairs::leaf::Leaf;
use crate::pairs::siblings::{Branch, Siblings};

pub(crate) use crate::pairs::leaf::{Slot, Value, pair_bytes};

/// An ordered map of keys to values with versions. Keys have up to [`KEY_BYTES_MAX`](crate::command::KEY_BYTES_MAX) bytes, values up to
/// [`VALUE_BYTES_MAX`](crate::command::VALUE_BYTES_MAX): that is up to who puts them in.
#[derive(Clone, Default)]
pub(crate) struct Pairs {
    branches: Siblings<Arc<Branch>>,
    len: usize,
}

impl Pairs {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value<'_>> {
        let leaf = self.branches.covering(key)?.covering(key)?;
        Some(leaf.value(leaf.find(key)?))
    }

    /// Brings near what is looked at to find each of these keys. What one search waits for the next can't know, so it takes
    /// one step of all searches at a time.
    pub(crate) fn prefetch<'a, 'b>(keys: impl Iterator<Item = (&'a Pairs, &'b [u8])>) {
        let branches: Vec<(&Branch, &[u8])> = keys
            .filter_map(|(pairs, key)| {
                let branch = pairs.branches.covering(key)?;
                branch.prefetch();
                Some((&**branch, key))
            })
            .collect();
        for (branch, key) in &branches {
            branch.prefetch_part(key);
        }
        let leaves: Vec<(&Leaf, &[u8])> = branches
            .into_iter()
            .filter_map(|(branch, key)| {
                let leaf = branch.covering(key)?;
                leaf.prefetch();
                Some((leaf, key))
            })
            .collect();
        for (leaf, key) in leaves {
            leaf.prefetch_pair(key);
        }
    }

    /// The highest key.
    pub(crate) fn last_key(&self) -> Option<&[u8]> {
        let leaf = &self.branches.children.last()?.node.children.last()?.node;
        Some(leaf.key(leaf.len().checked_sub(1)?))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Value<'_>)> + '_ {
        self.iter_from(Bound::Unbounded)
    }

    /// Those from a key on.
    pub(crate) fn iter_from<'a>(
        &'a self,
        from: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + 'a {
        let key = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let leaves = self.branches.iter_from(key).flat_map(|branch| branch.iter_from(key));
        let pairs = leaves.enumerate().flat_map(move |(at, leaf)| {
            let skipped = if at == 0 { leaf.position(key) } else { 0 };
            leaf.iter(skipped)
        });
        pairs.skip_while(move |(found, _)| from == Bound::Excluded(*found))
    }

    /// Adds a pair above all others, in less time than [`Pairs::edit`]. The key must be above all others.
    pub(crate) fn push(&mut self, key: &[u8], version: u64, value: &[u8]) {
        let above = self.branches.last(key);
        let branch = Arc::make_mut(&mut self.branches.children[above].node);
        let at = branch.last(key);
        let leaf = &mut branch.children[at].node;
        if leaf.has_room(pair_bytes(key, value)) {
            leaf.insert(leaf.len(), key, version, value);
        } else {
            let mut leaf = Leaf::default();
            leaf.insert(0, key, version, value);
            branch.insert(at + 1, Key::from(key), leaf);
            branch.index();
            self.branches.split_or_join(above);
        }
        self.len += 1;
    }

    /// Changes what stands at a key. What a clone shares is copied first.
    pub(crate) fn edit<T>(&mut self, key: &[u8], edit: impl FnOnce(&mut Slot<'_>) -> T) -> T {
        let above = self.branches.cover(key);
        let branch = Arc::make_mut(&mut self.branches.children[above].node);
        let at = branch.cover(key);
        let leaf = &mut branch.children[at].node;
        let (before, found) = (leaf.len(), leaf.find(key));
        let mut slot = Slot { leaf, key, at: found };
        let result = edit(&mut slot);
        let last = slot.at.is_some_and(|at| at + 1 == slot.leaf.len());
        let (len, is_over) = (leaf.len(), leaf.is_over());
        self.len = self.len + len - before;

        let leaves = branch.children.len();
        if is_over {
            branch.split_leaf(at, last && len > before);
        } else if len < before || len == 0 {
            branch.join_leaf(at);
        }
        if branch.children.len() != leaves {
            branch.index();
            self.branches.split_or_join(above);
        }
        result
    }
}

impl PartialEq for Pairs {
    fn eq(&self, other: &Pairs) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Pairs {}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(key, value)| (String::from_utf8_lossy(key), value))).finish()
    }
}

#[cfg(test)]
mod tests;
