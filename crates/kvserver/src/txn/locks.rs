//! The locks of a shard: which transaction has promised to change nothing, or to let nobody else change anything, until
//! it is decided.
//!
//! Wait-die (D. Rosenkrantz, R. Stearns, P. Lewis, TODS 1978): one that meets younger ones waits, one that meets an older
//! one gives up. Waiting goes from old to young only, so there's no circle. A shard locks all keys of a transaction or
//! none. Waiters are replicated state like locks, and granted in the step that unlocks.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use paxos::ids::LogTime;

use crate::command::ShardId;
use crate::key::Key;
use crate::tally::{Table, Tally};
use crate::txn::kept::Kept;
use crate::txn::{Access, Age, Attempt, Conflict};

/// Keys of one attempt in a shard: locked, or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Lock {
    pub(crate) attempt: Attempt,
    /// Ascending.
    pub(crate) keys: Vec<(Vec<u8>, Access)>,
    pub(crate) granted: bool,
    /// It was granted after it had waited, so that nobody but the participant knows.
    pub(crate) late: bool,
    /// Log time of the Prepare.
    pub(crate) since: LogTime,
}

/// Orders attempts by who waits for whom: the lower one waits, the higher one gives way. A new try of a transaction waits
/// for its earlier ones, which are about to be unlocked.
type Rank = (Age, ShardId, Reverse<u64>);

fn rank(attempt: &Attempt) -> Rank {
    (attempt.age, attempt.home, Reverse(attempt.number))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    lock: u64,
    writes: bool,
}

/// All locks of a shard, by their numbers. A clone shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locks {
    all: OrdMap<u64, Kept<Lock>>,
    // What follows is derived from it.
    by_attempt: OrdMap<(ShardId, u64), u64>,
    /// Granted ones, ascending.
    by_key: OrdMap<Key, Arc<Vec<Holder>>>,
    /// Oldest first.
    waiting: OrdMap<Rank, u64>,
}

/// What came of a Prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// All keys are locked, under this number.
    Granted(u64),
    /// It waits for younger ones.
    Waiting,
    /// An older one was met, or there is no room.
    Refused(Conflict),
}

impl Locks {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// By number.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, &Kept<Lock>)> + '_ {
        self.all.iter().map(|(number, lock)| (*number, lock))
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Lock> {
        self.all.get(&number).map(|lock| &**lock)
    }

    /// The lock of an attempt, granted or waiting.
    pub(crate) fn of_attempt(&self, attempt: &Attempt) -> Option<u64> {
        self.by_attempt.get(&(attempt.home, attempt.number)).copied()
    }

    /// Whether a write of the key has to wait.
    pub(crate) fn blocks_write(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether a read of the key has to wait: a transaction that may be decided already is about to change it.
    pub(crate) fn blocks_read(&self, key: &[u8]) -> bool {
        self.by_key.get(key).is_some_and(|holders| holders.iter().any(|holder| holder.writes))
    }

    /// Whether a scan of the keys of a prefix after a key has to wait.
    pub(crate) fn blocks_scan(&self, prefix: &[u8], after: Option<&[u8]>) -> bool {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut keys = self.by_key.range::<_, [u8]>((from, Bound::Unbounded));
        let in_prefix = |key: &Key| key.as_bytes().starts_with(prefix);
        keys.by_ref().take_while(|(key, _)| in_prefix(key)).any(|(_, all)| all.iter().any(|h| h.writes))
    }

    /// Whether a transaction that holds no lock could use these keys now.
    pub(crate) fn allows(&self, keys: &[(Vec<u8>, Access)]) -> bool {
        keys.iter().all(|(key, access)| match access.writes {
            true => !self.blocks_write(key),
            false => !self.blocks_read(key),
        })
    }

    /// Locks all keys of an attempt, or lets it wait, or refuses it. `number` is its name if it is new here. Also returns
    /// younger waiters that had to go.
    pub(crate) fn prepare(
        &mut self,
        shard: ShardId,
        number: u64,
        attempt: Attempt,
        keys: Vec<(Vec<u8>, Access)>,
        since: LogTime,
        tally: &mut Tally,
    ) -> (Prepared, Vec<Attempt>) {
        if let Some(found) = self.of_attempt(&attempt) {
            let granted = self.get(found).is_some_and(|lock| lock.granted);
            return (if granted { Prepared::Granted(found) } else { Prepared::Waiting }, Vec::new());
        }
        let own = rank(&attempt);
        let holders = self.holders(&keys);
        let older = |number: &u64| self.get(*number).is_some_and(|lock| rank(&lock.attempt) < own);
        let waiters = self.waiters(&keys);
        if holders.iter().any(older) || waiters.iter().any(older) {
            return (Prepared::Refused(Conflict::Older), Vec::new());
        }
        let dropped = waiters.into_iter().filter_map(|waiter| self.remove(waiter, tally)).collect();
        let granted = holders.is_empty();
        let lock = Lock { attempt, keys, granted, late: false, since };
        self.insert(number, Kept::new(Table::Lock, shard, number, lock), tally);
        (if granted { Prepared::Granted(number) } else { Prepared::Waiting }, dropped)
    }

    /// The locks that conflict with these keys.
    fn holders(&self, keys: &[(Vec<u8>, Access)]) -> BTreeSet<u64> {
        let of_key = |(key, access): &(Vec<u8>, Access)| {
            let writes = access.writes;
            let holders = self.by_key.get(&key[..]).map(|all| all.iter()).into_iter().flatten();
            holders
                .filter(move |holder| writes || holder.writes)
                .map(|holder| holder.lock)
                .collect::<Vec<_>>()
        };
        keys.iter().flat_map(of_key).collect()
    }

    /// The waiters that want one of these keys for themselves, or that these keys would keep waiting.
    fn waiters(&self, keys: &[(Vec<u8>, Access)]) -> Vec<u64> {
        let conflicts = |number: &&u64| self.get(**number).is_some_and(|lock| overlap(&lock.keys, keys));
        self.waiting.values().filter(conflicts).copied().collect()
    }

    /// Grants the oldest waiter that nobody is in the way of. Its number.
    pub(crate) fn grant_next(&mut self, shard: ShardId, tally: &mut Tally) -> Option<u64> {
        let free = |number: &&u64| self.get(**number).is_some_and(|lock| self.holders(&lock.keys).is_empty());
        let number = self.waiting.values().find(free).copied()?;
        let waited = self.all.get(&number)?.clone();
        self.remove(number, tally);
        let lock = Lock { granted: true, late: true, ..Lock::clone(&waited) };
        self.insert(number, Kept::new(Table::Lock, shard, number, lock), tally);
        Some(number)
    }

    /// Takes a lock, or a waiter, out. Whose it was.
    pub(crate) fn remove(&mut self, number: u64, tally: &mut Tally) -> Option<Attempt> {
        let lock = self.all.remove(&number)?;
        lock.remove_from(tally);
        self.by_attempt.remove(&(lock.attempt.home, lock.attempt.number));
        self.waiting.remove(&rank(&lock.attempt));
        for (key, _) in lock.keys.iter().filter(|_| lock.granted) {
            let left: Vec<Holder> = self.by_key.get(&key[..]).map_or(Vec::new(), |holders| {
                holders.iter().filter(|holder| holder.lock != number).copied().collect()
            });
            match left.is_empty() {
                true => drop(self.by_key.remove(&key[..])),
                false => drop(self.by_key.insert(Key::from(&key[..]), Arc::new(left))),
            }
        }
        Some(lock.attempt)
    }

    /// Puts a lock in place, with all that is derived from it.
    fn insert(&mut self, number: u64, lock: Kept<Lock>, tally: &mut Tally) {
        lock.add_to(tally);
        self.by_attempt.insert((lock.attempt.home, lock.attempt.number), number);
        if lock.granted {
            for (key, access) in &lock.keys {
                let holders = Arc::make_mut(self.by_key.entry(Key::from(&key[..])).or_default());
                // In the order of their numbers, as a snapshot brings them: waiters are granted in another one.
                let at = holders.partition_point(|holder| holder.lock < number);
                holders.insert(at, Holder { lock: number, writes: access.writes });
            }
        } else {
            self.waiting.insert(rank(&lock.attempt), number);
        }
        self.all.insert(number, lock);
    }

    /// Puts back a lock of a snapshot; they come by number. Whether it fits what is there.
    pub(crate) fn restore(&mut self, shard: ShardId, number: u64, lock: Lock, tally: &mut Tally) -> bool {
        let in_order = self.all.get_max().is_none_or(|(last, _)| *last < number);
        let fits = in_order
            && self.of_attempt(&lock.attempt).is_none()
            && lock.keys.is_sorted_by(|a, b| a.0 < b.0)
            && (!lock.granted || self.holders(&lock.keys).is_empty());
        if fits {
            self.insert(number, Kept::new(Table::Lock, shard, number, lock), tally);
        }
        fits
    }

    /// The attempts that wait, oldest first.
    pub(crate) fn waiting(&self) -> Vec<u64> {
        self.waiting.values().copied().collect()
    }
}

/// Whether one of the two writes a key that both use. Both ascending.
fn overlap(a: &[(Vec<u8>, Access)], b: &[(Vec<u8>, Access)]) -> bool {
    a.iter().any(|(key, access)| {
        let found = b.binary_search_by(|(other, _)| other.cmp(key)).ok().and_then(|at| b.get(at));
        found.is_some_and(|(_, other)| access.writes || other.writes)
    })
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, Sequence};

    use super::*;

    const SHARD: ShardId = ShardId(0);
    const WRITE: Access = Access { reads: true, writes: true };
    const READ: Access = Access { reads: true, writes: false };

    fn attempt(age: u64, number: u64) -> Attempt {
        let age = Age { sent_at: LogTime(age), client: ClientId(1), sequence: Sequence(age) };
        Attempt { home: ShardId(9), number, age }
    }

    struct Table {
        locks: Locks,
        next: u64,
        tally: Tally,
    }

    impl Table {
        fn new() -> Table {
            Table { locks: Locks::default(), next: 0, tally: Tally::default() }
        }

        fn prepare(&mut self, age: u64, keys: &[(&str, Access)]) -> (Prepared, Vec<u64>) {
            self.next += 1;
            let keys = keys.iter().map(|(key, access)| (key.as_bytes().to_vec(), *access)).collect();
            let (prepared, dropped) =
                self.locks.prepare(SHARD, self.next, attempt(age, age), keys, LogTime(0), &mut self.tally);
            (prepared, dropped.into_iter().map(|attempt| attempt.number).collect())
        }

        fn remove(&mut self, number: u64) {
            assert!(self.locks.remove(number, &mut self.tally).is_some());
        }

        fn grant(&mut self) -> Option<u64> {
            self.locks.grant_next(SHARD, &mut self.tally)
        }
    }

    #[test]
    fn the_older_one_waits_and_the_younger_one_gives_up() {
        let mut table = Table::new();
        assert_eq!(table.prepare(5, &[("a", WRITE)]).0, Prepared::Granted(1));
        assert_eq!(table.prepare(9, &[("a", WRITE)]).0, Prepared::Refused(Conflict::Older));
        assert_eq!(table.prepare(2, &[("a", WRITE), ("b", WRITE)]).0, Prepared::Waiting);
        assert_eq!(table.prepare(4, &[("b", READ)]).0, Prepared::Refused(Conflict::Older), "an older waiter");
        assert_eq!(table.grant(), None);
        table.remove(1);
        assert_eq!(table.grant(), Some(3));
        assert!(table.locks.blocks_read(b"b") && table.locks.get(3).unwrap().late);
        table.remove(3);
        assert!(table.locks.is_empty() && table.tally == Tally::default());
    }

    #[test]
    fn an_older_one_takes_the_place_of_a_younger_waiter() {
        let mut table = Table::new();
        table.prepare(9, &[("a", WRITE)]);
        assert_eq!(table.prepare(5, &[("a", WRITE)]).0, Prepared::Waiting);
        assert_eq!(table.prepare(3, &[("a", WRITE)]), (Prepared::Waiting, vec![5]));
        assert_eq!(table.prepare(1, &[("b", WRITE)]).0, Prepared::Granted(4), "another key");
    }

    #[test]
    fn readers_share() {
        let mut table = Table::new();
        assert_eq!(table.prepare(5, &[("a", READ)]).0, Prepared::Granted(1));
        assert_eq!(table.prepare(7, &[("a", READ)]).0, Prepared::Granted(2));
        assert!(table.locks.blocks_write(b"a") && !table.locks.blocks_read(b"a"));
        assert_eq!(table.prepare(6, &[("a", WRITE)]).0, Prepared::Refused(Conflict::Older));
        assert_eq!(table.prepare(3, &[("a", WRITE)]).0, Prepared::Waiting);
        table.remove(1);
        assert_eq!(table.grant(), None, "one reader is left");
        table.remove(2);
        assert_eq!(table.grant(), Some(4));
    }

    #[test]
    fn a_snapshot_brings_back_readers_that_were_granted_in_another_order() {
        let mut table = Table::new();
        table.prepare(9, &[("a", WRITE)]);
        assert_eq!(table.prepare(7, &[("a", READ)]).0, Prepared::Waiting);
        assert_eq!(table.prepare(5, &[("a", READ)]).0, Prepared::Waiting);
        table.remove(1);
        assert_eq!([table.grant(), table.grant()], [Some(3), Some(2)], "the oldest first");
        let mut restored = Locks::default();
        for (number, lock) in table.locks.all() {
            assert!(restored.restore(SHARD, number, Lock::clone(lock), &mut Tally::default()));
        }
        assert_eq!(restored, table.locks);
    }

    #[test]
    fn a_new_try_waits_for_the_last_one_and_a_late_one_gives_up() {
        let mut table = Table::new();
        let keys = vec![(b"a".to_vec(), WRITE)];
        let mut prepare = |lock, number| {
            let Table { locks, tally, .. } = &mut table;
            locks.prepare(SHARD, lock, attempt(5, number), keys.clone(), LogTime(0), tally).0
        };
        assert_eq!(prepare(1, 1), Prepared::Granted(1));
        assert_eq!(prepare(2, 2), Prepared::Waiting);
        assert_eq!(prepare(3, 1), Prepared::Granted(1), "the same again");
        table.remove(1);
        assert_eq!(table.grant(), Some(2));
        let late = table.locks.prepare(SHARD, 4, attempt(5, 1), keys, LogTime(0), &mut table.tally);
        assert_eq!(late.0, Prepared::Refused(Conflict::Older));
    }

    #[test]
    fn a_scan_waits_for_writers_in_its_range() {
        let mut table = Table::new();
        table.prepare(5, &[("a/5", WRITE), ("b/1", READ)]);
        assert!(table.locks.blocks_scan(b"", None) && table.locks.blocks_scan(b"a/", Some(b"a/4")));
        assert!(!table.locks.blocks_scan(b"a/", Some(b"a/5")) && !table.locks.blocks_scan(b"b", None));
    }
}
