//! What a shard does for a transaction of any home: lock and vote, learn the decision, and let those go on who waited.

use paxos::ids::LogTime;
use paxos::mutants::{self, Mutant};

use crate::command::{BusyReason, KEY_BYTES_MAX, Refusal, Reply, ShardId, shard_of};
use crate::handoff::{Elsewhere, Place};
use crate::request::RequestView;
use crate::store::Store;
use crate::txn::locks::{Lock, Prepared};
use crate::txn::record::RecordState;
use crate::txn::{
    Access, Attempt, Conflict, Decision, Grant, Parked, Step, TxnAnswer, TxnCommand, TxnDuty, TxnState,
    TxnStatus,
};

impl Store {
    /// Applies what another group, or the own leader, says about a transaction; `None` if it can't mean anything.
    pub(crate) fn apply_between(&mut self, command: TxnCommand, step: &mut Step<'_>) -> Option<TxnAnswer> {
        if !self.makes_sense(&command) {
            return None;
        }
        Some(match command {
            TxnCommand::Prepare { attempt, shard, keys } => self.prepare(attempt, shard, keys, step),
            TxnCommand::Vote { attempt, shard, grant } => self.vote(&attempt, shard, grant, step),
            TxnCommand::Refuse { attempt, conflict, .. } => self.doubt(&attempt, conflict, step),
            TxnCommand::Expire { attempt } => self.doubt(&attempt, Conflict::TimedOut, step),
            TxnCommand::Decide { attempt, shard, decision } => self.learn(&attempt, shard, decision, step),
            TxnCommand::Acked { attempt, shard } => self.acked(&attempt, shard),
        })
    }

    /// Whether its keys are in order and in its shard: nothing else may come between the tables of a shard.
    fn makes_sense(&self, command: &TxnCommand) -> bool {
        let shards = self.shard_count();
        let fits = |shard: ShardId, key: &[u8]| key.len() <= KEY_BYTES_MAX && shard_of(key, shards) == shard;
        match command {
            TxnCommand::Prepare { shard, keys, .. } => {
                let few = (1..=self.limits.txn_keys).contains(&(keys.len() as u64));
                few && keys.is_sorted_by(|a, b| a.0 < b.0) && keys.iter().all(|(key, _)| fits(*shard, key))
            }
            TxnCommand::Decide { shard, decision: Decision::Commit { writes, .. }, .. } => {
                let small = |value: &Option<Vec<u8>>| {
                    value.as_ref().is_none_or(|value| value.len() as u64 <= self.limits.value_bytes_max)
                };
                writes.is_sorted_by(|a, b| a.0 < b.0)
                    && writes.iter().all(|(key, value)| fits(*shard, key) && small(value))
            }
            TxnCommand::Decide { .. }
            | TxnCommand::Vote { .. }
            | TxnCommand::Refuse { .. }
            | TxnCommand::Expire { .. }
            | TxnCommand::Acked { .. } => true,
        }
    }

    /// Locks the keys of a shard for an attempt, all or none.
    pub(crate) fn prepare(
        &mut self,
        attempt: Attempt,
        shard: ShardId,
        keys: Vec<(Vec<u8>, Access)>,
        step: &mut Step<'_>,
    ) -> TxnAnswer {
        let (limits, now) = (self.limits.clone(), self.log_time);
        let prepared = self.open(shard, |open| {
            let txns = open.shard().txns();
            if open.is_draining() && txns.locks().of_attempt(&attempt).is_none() {
                return (Prepared::Refused(Conflict::Moving), Vec::new());
            }
            let values = keys.iter().filter(|(_, access)| access.reads);
            let values = values.filter_map(|(key, _)| open.shard().data().pairs.get(&key[..]));
            if values.map(|value| value.as_bytes().len() as u64).sum::<u64>() > limits.txn_bytes {
                return (Prepared::Refused(Conflict::TooLarge), Vec::new());
            }
            open.change_txns(|id, txns, tally| txns.prepare(id, attempt, keys, now, &limits, tally))
        });
        let (prepared, dropped) = match prepared {
            Ok(prepared) => prepared,
            Err(elsewhere) => return elsewhere.txn_answer(),
        };
        dropped.iter().for_each(|younger| self.drop_waiter(younger, shard, Conflict::Older, step));
        match prepared {
            Prepared::Granted(lock) => self.grant(shard, lock).map_or(TxnAnswer::Later, TxnAnswer::Granted),
            Prepared::Waiting => TxnAnswer::Waiting,
            Prepared::Refused(why) => TxnAnswer::Refused(why),
        }
    }

    /// What a lock promises.
    fn grant(&self, shard: ShardId, number: u64) -> Option<Grant> {
        let tables = self.shard(shard).ok()?;
        let value = |key: &[u8]| {
            tables.data().pairs.get(key).map(|value| (value.as_bytes().to_vec(), value.version()))
        };
        let keys = &tables.txns().locks().get(number)?.keys;
        let found = keys.iter().map(|(key, access)| if access.reads { value(key) } else { None });
        Some(Grant { lock: number, found: found.collect() })
    }

    /// Does what was decided, and unlocks. Only the group that serves the shard may say that it is done.
    pub(crate) fn learn(
        &mut self,
        attempt: &Attempt,
        shard: ShardId,
        decision: Decision,
        step: &mut Step<'_>,
    ) -> TxnAnswer {
        let lock = match self.shard(shard) {
            Ok(tables) => tables.txns().locks().of_attempt(attempt),
            Err(_) if mutants::is_on(Mutant::StrangerAcknowledges) => return TxnAnswer::Done,
            Err(elsewhere) => return elsewhere.txn_answer(),
        };
        let Some(lock) = lock else { return TxnAnswer::Done };
        if let Decision::Commit { lock: named, writes } = &decision {
            // Done before, under the lock that it names; this one was made by a Prepare that came late.
            if *named != lock && !mutants::is_on(Mutant::LockNumberIgnored) {
                return TxnAnswer::Done;
            }
            // It is served: looked up above.
            let _served = self.install(shard, writes);
        }
        let _served = self.open(shard, |open| open.change_txns(|_, txns, tally| txns.unlock(lock, tally)));
        step.look_at(shard);
        TxnAnswer::Done
    }

    /// Sends those away that have waited long enough for keys to be unlocked, so that they hear that nothing came of it.
    pub(crate) fn send_away(&mut self, step: &mut Step<'_>) {
        let (now, wait_ms) = (self.log_time.0, self.limits.parked_ms);
        let is_over = |first: &Parked| now > first.since.0.saturating_add(wait_ms);
        let shards: Vec<ShardId> = self.busy().collect();
        for shard in shards {
            while self.shard(shard).is_ok_and(|tables| tables.txns().first_parked().is_some_and(is_over)) {
                let first =
                    self.open(shard, |open| open.change_txns(|id, txns, tally| txns.unpark_first(id, tally)));
                if let Ok(Some(parked)) = first
                    && let Ok(request) = RequestView::read(&parked.request)
                {
                    step.reply(request.id(), Reply::Refused(Refusal::Busy(BusyReason::Locked)));
                }
            }
        }
    }

    /// Writes what a transaction came to.
    pub(crate) fn install(
        &mut self,
        shard: ShardId,
        writes: &[(Vec<u8>, Option<Vec<u8>>)],
    ) -> Result<(), Elsewhere> {
        self.open(shard, |open| {
            writes.iter().for_each(|(key, value)| open.install_write(key, value.as_deref()));
        })
    }

    /// Lets everyone go on who waited for what this step ended, until nobody can.
    pub(crate) fn settle(&mut self, step: &mut Step<'_>) {
        while let Some(shard) = step.next() {
            while let Ok(Some(lock)) =
                self.open(shard, |open| open.change_txns(|id, txns, tally| txns.grant_next(id, tally)))
            {
                self.tell_grant(shard, lock, step);
            }
            let parked = self.open(shard, |open| open.change_txns(|id, txns, tally| txns.unpark(id, tally)));
            for parked in parked.unwrap_or_default() {
                step.waited_since = Some(parked.since);
                self.apply_request(&parked.request, step);
            }
            step.waited_since = None;
            self.freeze_if_drained(shard);
        }
    }

    /// The coordinator of a lock that was waited for is here, or has to be told.
    fn tell_grant(&mut self, shard: ShardId, number: u64, step: &mut Step<'_>) {
        let Some(grant) = self.grant(shard, number) else { return };
        let Some(attempt) = self
            .shard(shard)
            .ok()
            .and_then(|tables| tables.txns().locks().get(number))
            .map(|lock| lock.attempt)
        else {
            return;
        };
        if self.shard(attempt.home).is_ok() {
            self.take_vote(&attempt, shard, grant, step);
        } else {
            let command = TxnCommand::Vote { attempt, shard, grant };
            self.due.push(TxnDuty { to: attempt.home, urgent: true, command });
        }
    }

    /// A shard that is about to move lets nobody wait: those attempts are given up.
    pub(crate) fn refuse_waiters(&mut self, shard: ShardId, step: &mut Step<'_>) {
        let draining = self.open(shard, |open| open.is_draining());
        if draining != Ok(true) {
            return;
        }
        let waiting = self.shard(shard).map_or(Vec::new(), |tables| tables.txns().locks().waiting());
        if waiting.is_empty() {
            // A Freeze that comes again changes nothing: requests that wait for a lock keep their places.
            return;
        }
        for number in waiting {
            let removed =
                self.open(shard, |open| open.change_txns(|_, txns, tally| txns.unlock(number, tally)));
            if let Ok(Some(attempt)) = removed {
                self.drop_waiter(&attempt, shard, Conflict::Moving, step);
            }
        }
        step.look_at(shard);
    }

    /// A waiter had to go, so its attempt is given up. A home that is elsewhere would hear of it when it asks again; telling
    /// it saves the wait.
    fn drop_waiter(&mut self, attempt: &Attempt, shard: ShardId, conflict: Conflict, step: &mut Step<'_>) {
        if self.shard(attempt.home).is_ok() {
            return self.give_up(attempt, conflict, true, step);
        }
        let command = TxnCommand::Refuse { attempt: *attempt, shard, conflict };
        self.due.push(TxnDuty { to: attempt.home, urgent: true, command });
    }

    /// What this group owes others because of transactions. Takes no longer for shards without one.
    pub fn txn_duties(&self) -> Vec<TxnDuty> {
        let shards = self.shard_count();
        let mut duties = Vec::new();
        for tables in self.busy().filter_map(|shard| self.shard(shard).ok()) {
            let txns = tables.txns();
            duties.extend(txns.records().flat_map(|(_, record)| record.duties(shards)));
            let locks = txns.locks().all().filter(|(_, lock)| lock.granted);
            duties.extend(locks.map(|(number, lock)| self.question(tables.id(), number, lock)));
        }
        duties
    }

    /// What whoever holds a lock asks its coordinator: at once if that doesn't know of it, else after a while.
    fn question(&self, shard: ShardId, number: u64, lock: &Lock) -> TxnDuty {
        let attempt = lock.attempt;
        let urgent = lock.late && self.shard(attempt.home).is_err();
        let asks = || Grant { lock: number, found: Vec::new() };
        let grant = if urgent { self.grant(shard, number).unwrap_or_else(asks) } else { asks() };
        TxnDuty { to: attempt.home, urgent, command: TxnCommand::Vote { attempt, shard, grant } }
    }

    /// Whether a shard is about to leave and waits for its transactions to end: nothing new begins in it.
    pub fn is_draining(&self, shard: ShardId) -> bool {
        self.place(shard).is_some_and(Place::is_draining)
    }

    /// The requests that wait for locked keys, ascending by shard, as they stood in the log.
    pub fn parked(&self) -> Vec<(ShardId, Vec<u8>)> {
        let tables = self.busy().filter_map(|shard| self.shard(shard).ok());
        tables
            .flat_map(|tables| {
                tables.txns().parked().map(|(_, parked)| (tables.id(), parked.request.to_vec()))
            })
            .collect()
    }

    /// The transactions under way here, ascending by shard.
    pub fn txns(&self) -> Vec<TxnStatus> {
        let age = |since: LogTime| self.log_time.0.saturating_sub(since.0);
        let mut all = Vec::new();
        for tables in self.busy().filter_map(|shard| self.shard(shard).ok()) {
            let (txns, shard) = (tables.txns(), tables.id());
            all.extend(txns.records().map(|(_, record)| TxnStatus {
                attempt: record.attempt,
                shard,
                state: match &record.state {
                    RecordState::Undecided(_) => TxnState::Undecided,
                    RecordState::Decided { pending } if pending.values().any(|d| *d == Decision::Abort) => {
                        TxnState::Aborted
                    }
                    RecordState::Decided { .. } => TxnState::Committed,
                },
                since_ms: age(record.since),
                waits_for: record.waits_for(),
                keys: Vec::new(),
            }));
            all.extend(txns.locks().all().map(|(_, lock)| TxnStatus {
                attempt: lock.attempt,
                shard,
                state: if lock.granted { TxnState::Prepared } else { TxnState::Waiting },
                since_ms: age(lock.since),
                waits_for: Vec::new(),
                keys: lock.keys.iter().map(|(key, _)| key.clone()).collect(),
            }));
        }
        all.truncate(crate::query::TXNS_MAX);
        all
    }
}
