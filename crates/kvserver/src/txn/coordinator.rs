//! What the home shard of a transaction does: run it in one step if all its shards are here, else begin, collect votes,
//! decide, and tell until everyone knows.
//!
//! The vote that completes the votes decides in its own step: what is decided is a function of the log, and nothing is
//! sent that wasn't applied (J. Gray and L. Lamport, "Consensus on Transaction Commit", TODS 2006, §3; the coordinator is
//! a replicated state machine here instead of a process).

use std::collections::BTreeMap;
use std::sync::Arc;

use paxos::mutants::{self, Mutant};

use crate::command::{BusyReason, Refusal, Reply, ShardId, shard_of};
use crate::handoff::Elsewhere;
use crate::request::RequestView;
use crate::session::{Context, Head};
use crate::store::Store;
use crate::txn::evaluate::{Bounds, evaluate};
use crate::txn::record::{Asked, RecordState, Undecided};
use crate::txn::{
    Access, Age, Attempt, Conflict, Decision, Grant, Record, Step, Txn, TxnAnswer, TxnCommand, TxnDuty,
    TxnError,
};

/// Keys by shard.
type Parts = BTreeMap<ShardId, Vec<(Vec<u8>, Access)>>;
/// New values by shard.
type Writes = BTreeMap<ShardId, Vec<(Vec<u8>, Option<Vec<u8>>)>>;

impl Store {
    /// A client's transaction, whose entry is `bytes`. No reply: it comes in a later step.
    pub(crate) fn apply_txn(
        &mut self,
        request: &RequestView<'_>,
        txn: &Txn,
        bytes: &[u8],
        head: &Head,
        step: &mut Step<'_>,
    ) -> Result<Option<Reply>, Elsewhere> {
        let home = request.shard;
        let shard = self.shard(home)?;
        if let Some(number) = shard.txns().undecided(head.client, head.sequence) {
            return Ok(self.attach(home, number, head));
        }
        let limits = self.limits.clone();
        let context = Context { limits: &limits, log_time: self.log_time };
        if let Some(answer) = shard.sessions().judge(head, !txn.is_read_only(), &context) {
            return Ok(Some(answer));
        }
        let parts = txn.parts(self.shard_count());
        match parts.keys().all(|shard| self.shard(*shard).is_ok()) {
            true => self.run_here(txn, &parts, bytes, head, step),
            false => self.begin(txn, parts, bytes, head, step),
        }
    }

    /// A repeated request of a transaction that isn't decided waits with the first one.
    fn attach(&mut self, home: ShardId, number: u64, head: &Head) -> Option<Reply> {
        let record = self.record(home, number)?;
        let RecordState::Undecided(undecided) = &record.state else { return None };
        if undecided.request_hash != head.request_hash {
            return Some(Reply::Refused(Refusal::SequenceReused));
        }
        let mut again = Record::clone(record);
        if let RecordState::Undecided(undecided) = &mut again.state {
            undecided.attached = undecided.attached.saturating_add(1);
        }
        self.set_record(home, number, Some(again));
        None
    }

    /// All shards are served here: one step, unless a key is locked.
    fn run_here(
        &mut self,
        txn: &Txn,
        parts: &Parts,
        bytes: &[u8],
        head: &Head,
        step: &Step<'_>,
    ) -> Result<Option<Reply>, Elsewhere> {
        for (shard, keys) in parts {
            if !self.shard(*shard)?.txns().locks().allows(keys) {
                return self.park(*shard, bytes, step);
            }
        }
        for (shard, keys) in parts {
            // One more for the client's row.
            let changes = keys.len() as u64 + 1;
            if !self.open(*shard, |open| open.has_room(changes))? {
                return Ok(Some(Reply::Refused(Refusal::Busy(BusyReason::Moving))));
            }
        }
        let shards = self.shard_count();
        let found = |key: &[u8]| {
            let value = self.shard(shard_of(key, shards)).ok()?.data().pairs.get(key)?;
            Some((value.as_bytes(), value.version()))
        };
        let (reply, writes) = match evaluate(txn, &self.bounds(), found) {
            Ok(evaluated) => (Reply::Txn(Box::new(evaluated.reply)), by_shard(evaluated.writes, shards)),
            Err((op, error)) => (Reply::TxnFailed { op, error }, Writes::new()),
        };
        for (shard, writes) in &writes {
            self.install(*shard, writes)?;
        }
        self.remember(shard_of(txn.first_key().unwrap_or_default(), shards), txn, head, &reply)?;
        Ok(Some(reply))
    }

    /// Lets a request wait until something is unlocked in this shard. One that has waited before, here or in another
    /// shard, has waited since then.
    pub(crate) fn park(
        &mut self,
        shard: ShardId,
        bytes: &[u8],
        step: &Step<'_>,
    ) -> Result<Option<Reply>, Elsewhere> {
        let (limits, since) = (self.limits.clone(), step.waited_since.unwrap_or(self.log_time));
        let parked = self.open(shard, |open| {
            open.change_txns(|id, txns, tally| txns.park(id, bytes, since, &limits, tally))
        })?;
        Ok((!parked).then_some(Reply::Refused(Refusal::Busy(BusyReason::Locked))))
    }

    fn begin(
        &mut self,
        txn: &Txn,
        parts: Parts,
        bytes: &[u8],
        head: &Head,
        step: &mut Step<'_>,
    ) -> Result<Option<Reply>, Elsewhere> {
        let home = shard_of(txn.first_key().unwrap_or_default(), self.shard_count());
        let limits = self.limits.clone();
        let busy =
            self.open(home, |open| match (open.is_draining(), open.shard().txns().has_room(&limits)) {
                (true, _) => Some(BusyReason::Moving),
                (false, false) => Some(BusyReason::Transactions),
                (false, true) => None,
            })?;
        if let Some(busy) = busy {
            return Ok(Some(Reply::Refused(Refusal::Busy(busy))));
        }
        // It holds no lock yet, so it may wait for anyone; later only for younger ones.
        let locked = |(shard, keys): &(&ShardId, &Vec<_>)| {
            self.shard(**shard).is_ok_and(|tables| !tables.txns().locks().allows(keys))
        };
        if let Some((shard, _)) = parts.iter().find(locked) {
            return self.park(*shard, bytes, step);
        }
        let number = self.open(home, |open| open.change_txns(|_, txns, _| txns.next_ticket()))?;
        let age = Age { sent_at: head.sent_at, client: head.client, sequence: head.sequence };
        let attempt = Attempt { home, number, age };
        let undecided = Undecided {
            ack_through: head.ack_through,
            request_hash: head.request_hash,
            attached: 1,
            txn: Arc::new(txn.clone()),
            votes: parts.iter().map(|(shard, keys)| (*shard, Asked::new(keys.len()))).collect(),
        };
        let state = RecordState::Undecided(Box::new(undecided));
        self.set_record(home, number, Some(Record { attempt, since: self.log_time, state }));
        let mut remote = Vec::new();
        for (shard, keys) in parts {
            if self.shard(shard).is_err() {
                remote.push(TxnDuty {
                    to: shard,
                    urgent: true,
                    command: TxnCommand::Prepare { attempt, shard, keys },
                });
                continue;
            }
            match self.prepare(attempt, shard, keys, step) {
                TxnAnswer::Granted(grant) => self.take_vote(&attempt, shard, grant, step),
                TxnAnswer::Refused(conflict) => {
                    // Nobody else has heard of it.
                    self.give_up(&attempt, conflict, false, step);
                    return Ok(None);
                }
                _ => {}
            }
        }
        remote.into_iter().for_each(|duty| self.due.push(duty));
        Ok(None)
    }

    /// A participant has locked its keys, or asks what became of them.
    pub(crate) fn vote(
        &mut self,
        attempt: &Attempt,
        shard: ShardId,
        grant: Grant,
        step: &mut Step<'_>,
    ) -> TxnAnswer {
        let tickets = match self.shard(attempt.home) {
            Ok(home) => home.txns().tickets(),
            Err(elsewhere) => return elsewhere.txn_answer(),
        };
        if attempt.number > tickets {
            return TxnAnswer::Later;
        }
        let lock = grant.lock;
        self.take_vote(attempt, shard, grant, step);
        // Whoever serves the home shard and knows nothing of it says so: it isn't forgotten before all have acknowledged.
        let unknown = TxnAnswer::Decided(Decision::Abort);
        let Some(record) = self.record_of(attempt) else { return unknown };
        match &record.state {
            RecordState::Undecided(undecided) if undecided.votes.contains_key(&shard) => TxnAnswer::Undecided,
            RecordState::Undecided(_) => unknown,
            RecordState::Decided { pending } => match pending.get(&shard) {
                Some(decision @ Decision::Commit { lock: voted, .. }) if *voted == lock => {
                    TxnAnswer::Decided(decision.clone())
                }
                Some(_) | None => unknown,
            },
        }
    }

    /// Counts a vote that is missing; the last one decides.
    pub(crate) fn take_vote(&mut self, attempt: &Attempt, shard: ShardId, grant: Grant, step: &mut Step<'_>) {
        let Some(record) = self.record_of(attempt) else { return };
        let RecordState::Undecided(undecided) = &record.state else { return };
        // One that only asks brings no values.
        if !undecided.votes.get(&shard).is_some_and(|asked| asked.is_answered_by(&grant)) {
            return;
        }
        let mut again = Record::clone(record);
        let RecordState::Undecided(undecided) = &mut again.state else { return };
        if let Some(asked) = undecided.votes.get_mut(&shard) {
            asked.grant = Some(Arc::new(grant));
        }
        let complete = undecided.missing().next().is_none();
        self.set_record(attempt.home, attempt.number, Some(again));
        if complete {
            self.decide(attempt, step);
        }
    }

    fn decide(&mut self, attempt: &Attempt, step: &mut Step<'_>) {
        let Some(record) = self.record_of(attempt).cloned() else { return };
        let RecordState::Undecided(undecided) = &record.state else { return };
        let head = record.head(undecided);
        // The client has moved on: from here on it must not run.
        if self.shard(attempt.home).is_ok_and(|home| home.sessions().is_over(&head)) {
            return self.give_up(attempt, Conflict::GivenUp, true, step);
        }
        let shards = self.shard_count();
        let parts = undecided.txn.parts(shards);
        let grants =
            || undecided.votes.iter().filter_map(|(shard, asked)| Some((shard, asked.grant.as_deref()?)));
        let found: BTreeMap<&[u8], (&[u8], u64)> = grants()
            .flat_map(|(shard, grant)| parts.get(shard).into_iter().flatten().zip(&grant.found))
            .filter_map(|((key, _), found)| {
                found.as_ref().map(|(value, version)| (&key[..], (&value[..], *version)))
            })
            .collect();
        match evaluate(&undecided.txn, &self.bounds(), |key| found.get(key).copied()) {
            Err((op, error)) => self.fail(attempt, op, error, step),
            Ok(evaluated) => {
                let mut writes = by_shard(evaluated.writes, shards);
                let commit = |(shard, grant): (&ShardId, &Grant)| {
                    let writes = writes.remove(shard).unwrap_or_default();
                    (*shard, Decision::Commit { lock: grant.lock, writes })
                };
                let decisions = grants().map(commit).collect();
                let reply = Reply::Txn(Box::new(evaluated.reply));
                // It is served here, or this wouldn't be its log.
                let _served = self.remember(attempt.home, &undecided.txn, &head, &reply);
                self.end(attempt, decisions, &reply, step);
            }
        }
    }

    /// Ends a transaction that can't be done.
    fn fail(&mut self, attempt: &Attempt, op: u32, error: TxnError, step: &mut Step<'_>) {
        let Some(record) = self.record_of(attempt).cloned() else { return };
        let RecordState::Undecided(undecided) = &record.state else { return };
        let reply = Reply::TxnFailed { op, error };
        let _served = self.remember(attempt.home, &undecided.txn, &record.head(undecided), &reply);
        let decisions = undecided.votes.keys().map(|shard| (*shard, Decision::Abort)).collect();
        self.end(attempt, decisions, &reply, step);
    }

    /// Gives an attempt up that isn't decided. It leaves no trace in the session table, and may come again. `told`: others
    /// may have heard of it.
    pub(crate) fn give_up(&mut self, attempt: &Attempt, why: Conflict, told: bool, step: &mut Step<'_>) {
        let Some(record) = self.record_of(attempt) else { return };
        let RecordState::Undecided(undecided) = &record.state else { return };
        if why == Conflict::TooLarge {
            return self.fail(attempt, 0, TxnError::TooLarge, step);
        }
        let hears = |shard: &&ShardId| told || self.shard(**shard).is_ok();
        let decisions = undecided.votes.keys().filter(hears).map(|shard| (*shard, Decision::Abort)).collect();
        self.end(attempt, decisions, &Reply::Refused(Refusal::Conflict(why)), step);
    }

    /// Answers whoever waits, does what is to be done in the shards that are served here, and keeps the rest to be told.
    fn end(
        &mut self,
        attempt: &Attempt,
        decisions: BTreeMap<ShardId, Decision>,
        reply: &Reply,
        step: &mut Step<'_>,
    ) {
        let Some(record) = self.record_of(attempt) else { return };
        let RecordState::Undecided(undecided) = &record.state else { return };
        let (attached, since, id) = (undecided.attached, record.since, record.head(undecided).id());
        // What is locked here can't have moved.
        let (here, pending): (BTreeMap<_, _>, BTreeMap<_, _>) =
            decisions.into_iter().partition(|(shard, _)| self.shard(*shard).is_ok());
        let is_over = pending.is_empty() || mutants::is_on(Mutant::DecisionNotLogged);
        let record = Record { attempt: *attempt, since, state: RecordState::Decided { pending } };
        let due = record.duties(self.shard_count());
        self.set_record(attempt.home, attempt.number, (!is_over).then_some(record));
        due.into_iter().for_each(|duty| self.due.push(duty));
        for (shard, decision) in here {
            self.learn(attempt, shard, decision, step);
        }
        (0..attached).for_each(|_| step.reply(id, reply.clone()));
        step.look_at(attempt.home);
    }

    /// A participant knows the decision; the last one to know lets it be forgotten.
    pub(crate) fn acked(&mut self, attempt: &Attempt, shard: ShardId) -> TxnAnswer {
        if let Err(elsewhere) = self.shard(attempt.home) {
            return elsewhere.txn_answer();
        }
        if let Some(record) = self.record_of(attempt)
            && let RecordState::Decided { pending } = &record.state
            && pending.contains_key(&shard)
        {
            let mut again = Record::clone(record);
            let mut left = false;
            if let RecordState::Decided { pending } = &mut again.state {
                pending.remove(&shard);
                left = !pending.is_empty();
            }
            self.set_record(attempt.home, attempt.number, left.then_some(again));
        }
        TxnAnswer::Done
    }

    /// A participant refused, or all took too long.
    pub(crate) fn doubt(&mut self, attempt: &Attempt, why: Conflict, step: &mut Step<'_>) -> TxnAnswer {
        if let Err(elsewhere) = self.shard(attempt.home) {
            return elsewhere.txn_answer();
        }
        self.give_up(attempt, why, true, step);
        TxnAnswer::Done
    }

    /// Keeps the outcome of a transaction in its home shard; of one that only read, that the client was heard.
    fn remember(&mut self, home: ShardId, txn: &Txn, head: &Head, reply: &Reply) -> Result<(), Elsewhere> {
        let limits = self.limits.clone();
        let context = Context { limits: &limits, log_time: self.log_time };
        let outcome = (!txn.is_read_only()).then_some(reply);
        self.open(home, |open| open.record(head, &context, outcome))
    }

    fn bounds(&self) -> Bounds {
        Bounds { value_bytes_max: self.limits.value_bytes_max, txn_bytes_max: self.limits.txn_bytes }
    }

    fn record(&self, home: ShardId, number: u64) -> Option<&Record> {
        self.shard(home).ok()?.txns().record(number)
    }

    /// The record of an attempt, if its home shard is served here.
    pub(crate) fn record_of(&self, attempt: &Attempt) -> Option<&Record> {
        self.record(attempt.home, attempt.number).filter(|record| record.attempt == *attempt)
    }

    fn set_record(&mut self, home: ShardId, number: u64, record: Option<Record>) {
        // A record is in a shard that is served here.
        let _served = self.open(home, |open| open.set_record(number, record));
    }
}

fn by_shard(writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>, shards: u16) -> Writes {
    let mut parts = Writes::new();
    for (key, value) in writes {
        parts.entry(shard_of(&key, shards)).or_default().push((key, value));
    }
    parts
}
