//! Remembers what was worked out once. A world has millions of transitions but its nodes have few thousand states of
//! their own, so each step of a replica runs once and is then looked up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

type Shard<K, V> = HashMap<K, V, BuildHasherDefault<std::hash::DefaultHasher>>;

/// A map that threads fill together; a value never changes once it is there.
#[derive(Debug)]
pub struct Memo<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
}

impl<K: Hash + Eq, V: Clone> Default for Memo<K, V> {
    fn default() -> Self {
        Memo { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<K: Hash + Eq, V: Clone> Memo<K, V> {
    /// The value of `key`, of which `hash` is any hash; made by `make`, without a lock, if it isn't there.
    pub fn get_or(&self, hash: u64, key: K, make: impl FnOnce() -> V) -> V {
        let found = self.get(hash, &key);
        found.unwrap_or_else(|| {
            let made = make();
            self.shard(hash).entry(key).or_insert(made).clone()
        })
    }

    /// The value of `key`, if it is there.
    pub fn get(&self, hash: u64, key: &K) -> Option<V> {
        self.shard(hash).get(key).cloned()
    }

    /// How many values were made.
    pub fn len(&self) -> usize {
        (0..SHARDS as u64).map(|n| self.shard(n).len()).sum()
    }

    /// Whether none was made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<K, V>> {
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
