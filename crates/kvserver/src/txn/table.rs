//! What a shard knows of transactions: those it coordinates, the locks on its keys, and the requests that wait for them.

use std::sync::Arc;

use imbl::OrdMap;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};

use crate::command::ShardId;
use crate::genesis::Limits;
use crate::tally::{Table, Tally, hash_bytes};
use crate::txn::kept::Kept;
use crate::txn::locks::{Lock, Locks, Prepared};
use crate::txn::record::Record;
use crate::txn::{Access, Attempt, Conflict};

/// What a parked request takes beside its bytes.
const PARKED_BYTES: usize = 80;

/// A clone shares all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Txns {
    /// The last number given to an attempt, a lock or a waiting request. Moves with the shard.
    tickets: u64,
    /// By number.
    records: OrdMap<u64, Kept<Record>>,
    /// Derived from the records.
    undecided: OrdMap<(ClientId, Sequence), u64>,
    locks: Locks,
    /// Requests that met a lock, in order.
    parked: OrdMap<u64, Parked>,
    parked_bytes: u64,
}

/// A request that waits for keys to be unlocked. It holds no lock, so nobody waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    /// Log time at which it met the lock.
    pub(crate) since: LogTime,
    /// As it stood in the log.
    pub(crate) request: Arc<[u8]>,
}

impl Txns {
    pub(crate) fn with_tickets(tickets: u64) -> Txns {
        Txns { tickets, ..Txns::default() }
    }

    pub(crate) fn tickets(&self) -> u64 {
        self.tickets
    }

    pub(crate) fn set_tickets(&mut self, tickets: u64) {
        self.tickets = tickets;
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, &Kept<Record>)> + '_ {
        self.records.iter().map(|(number, record)| (*number, record))
    }

    pub(crate) fn record(&self, number: u64) -> Option<&Record> {
        self.records.get(&number).map(|record| &**record)
    }

    /// A record that moves with the shard.
    pub(crate) fn decided(&self, number: u64) -> Option<&Kept<Record>> {
        self.records.get(&number).filter(|record| !record.is_undecided())
    }

    pub(crate) fn parked(&self) -> impl Iterator<Item = (u64, &Parked)> + '_ {
        self.parked.iter().map(|(number, parked)| (*number, parked))
    }

    /// The first of those that wait.
    pub(crate) fn first_parked(&self) -> Option<&Parked> {
        self.parked.get_min().map(|(_, parked)| parked)
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.records.is_empty() && self.locks.is_empty() && self.parked.is_empty()
    }

    /// Nothing is under way that must not move.
    pub(crate) fn may_freeze(&self) -> bool {
        self.undecided.is_empty() && self.locks.is_empty() && self.parked.is_empty()
    }

    /// The attempt of this request that isn't decided yet.
    pub(crate) fn undecided(&self, client: ClientId, sequence: Sequence) -> Option<u64> {
        self.undecided.get(&(client, sequence)).copied()
    }

    /// A number that was never used in this shard.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Whether another record fits.
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        (self.records.len() as u64) < limits.txns_per_shard
    }

    /// Puts a record in place of the one with its number, or takes that out.
    pub(crate) fn set_record(
        &mut self,
        shard: ShardId,
        number: u64,
        record: Option<Record>,
        tally: &mut Tally,
    ) {
        if let Some(before) = self.records.remove(&number) {
            before.remove_from(tally);
            if before.is_undecided() {
                self.undecided.remove(&(before.attempt.age.client, before.attempt.age.sequence));
            }
        }
        let Some(record) = record else { return };
        let record = Kept::new(Table::Record, shard, number, record);
        record.add_to(tally);
        if record.is_undecided() {
            self.undecided.insert((record.attempt.age.client, record.attempt.age.sequence), number);
        }
        self.records.insert(number, record);
    }

    /// See [`Locks::prepare`]; refused too if there are as many locks as there may be.
    pub(crate) fn prepare(
        &mut self,
        shard: ShardId,
        attempt: Attempt,
        keys: Vec<(Vec<u8>, Access)>,
        now: LogTime,
        limits: &Limits,
        tally: &mut Tally,
    ) -> (Prepared, Vec<Attempt>) {
        let is_new = self.locks.of_attempt(&attempt).is_none();
        if is_new && self.locks.len() as u64 >= limits.txns_per_shard {
            return (Prepared::Refused(Conflict::Full), Vec::new());
        }
        let number = self.tickets + 1;
        let prepared = self.locks.prepare(shard, number, attempt, keys, now, tally);
        if is_new && !matches!(prepared.0, Prepared::Refused(_)) {
            self.tickets = number;
        }
        prepared
    }

    /// See [`Locks::grant_next`].
    pub(crate) fn grant_next(&mut self, shard: ShardId, tally: &mut Tally) -> Option<u64> {
        self.locks.grant_next(shard, tally)
    }

    /// See [`Locks::remove`].
    pub(crate) fn unlock(&mut self, number: u64, tally: &mut Tally) -> Option<Attempt> {
        self.locks.remove(number, tally)
    }

    /// Lets a request wait; whether there's room for it.
    pub(crate) fn park(
        &mut self,
        shard: ShardId,
        request: &[u8],
        since: LogTime,
        limits: &Limits,
        tally: &mut Tally,
    ) -> bool {
        let bytes = self.parked_bytes.saturating_add(request.len() as u64);
        let fits = (self.parked.len() as u64) < limits.parked_per_shard
            && (self.parked.is_empty() || bytes <= limits.parked_bytes_per_shard);
        if fits {
            let number = self.next_ticket();
            self.put_parked(shard, number, Parked { since, request: Arc::from(request) }, tally);
        }
        fits
    }

    fn put_parked(&mut self, shard: ShardId, number: u64, parked: Parked, tally: &mut Tally) {
        parked.add_to(shard, number, tally);
        self.parked_bytes = self.parked_bytes.saturating_add(parked.request.len() as u64);
        self.parked.insert(number, parked);
    }

    /// Takes out all that wait, in order.
    pub(crate) fn unpark(&mut self, shard: ShardId, tally: &mut Tally) -> Vec<Parked> {
        std::iter::from_fn(|| self.unpark_first(shard, tally)).collect()
    }

    /// Takes out the first one.
    pub(crate) fn unpark_first(&mut self, shard: ShardId, tally: &mut Tally) -> Option<Parked> {
        let number = self.parked.get_min().map(|(number, _)| *number)?;
        let parked = self.parked.remove(&number)?;
        parked.remove_from(shard, number, tally);
        self.parked_bytes = self.parked_bytes.saturating_sub(parked.request.len() as u64);
        Some(parked)
    }

    /// Counts in all it holds.
    pub(crate) fn add_to(&self, shard: ShardId, tally: &mut Tally) {
        self.records.values().for_each(|record| record.add_to(tally));
        self.locks.all().for_each(|(_, lock)| lock.add_to(tally));
        self.parked.iter().for_each(|(number, parked)| parked.add_to(shard, *number, tally));
    }

    /// Everything made anew from what it is derived from.
    pub(crate) fn recomputed(&self, shard: ShardId) -> Txns {
        let mut again = Txns::with_tickets(self.tickets);
        for (number, record) in self.records() {
            again.restore_record(shard, number, Record::clone(record));
        }
        for (number, lock) in self.locks.all() {
            again.restore_lock(shard, number, Lock::clone(lock));
        }
        for (number, parked) in self.parked() {
            again.restore_parked(shard, number, parked.clone());
        }
        again
    }

    /// Puts back a record of a snapshot, in the order of numbers; whether it fits what is there. What it counts is up to
    /// whoever asked.
    pub(crate) fn restore_record(&mut self, shard: ShardId, number: u64, record: Record) -> bool {
        let in_order = self.records.get_max().is_none_or(|(last, _)| *last < number);
        // A copy that is staged has its counter only in the end.
        let fits = in_order && number == record.attempt.number;
        if fits {
            self.set_record(shard, number, Some(record), &mut Tally::default());
        }
        fits
    }

    /// The same of a lock.
    pub(crate) fn restore_lock(&mut self, shard: ShardId, number: u64, lock: Lock) -> bool {
        number <= self.tickets && self.locks.restore(shard, number, lock, &mut Tally::default())
    }

    /// The same of a request that waits.
    pub(crate) fn restore_parked(&mut self, shard: ShardId, number: u64, parked: Parked) -> bool {
        let in_order = self.parked.get_max().is_none_or(|(last, _)| *last < number);
        let fits = in_order && number <= self.tickets;
        if fits {
            self.put_parked(shard, number, parked, &mut Tally::default());
        }
        fits
    }
}

impl Parked {
    fn hash(&self, shard: ShardId, number: u64) -> u128 {
        let head = [number.to_le_bytes(), self.since.0.to_le_bytes()];
        hash_bytes(Table::Parked, shard, &[head.as_flattened(), &self.request].concat())
    }

    fn add_to(&self, shard: ShardId, number: u64, tally: &mut Tally) {
        tally.add(self.hash(shard, number), self.request.len() + PARKED_BYTES);
    }

    fn remove_from(&self, shard: ShardId, number: u64, tally: &mut Tally) {
        tally.remove(self.hash(shard, number), self.request.len() + PARKED_BYTES);
    }
}

/// Whether these bytes are a record that moves with its shard, under its number.
pub(crate) fn is_record_that_moves(number: u64, bytes: &[u8]) -> bool {
    let record: Result<Record, _> = codec::decode(bytes);
    record.is_ok_and(|record| !record.is_undecided() && record.attempt.number == number)
}
