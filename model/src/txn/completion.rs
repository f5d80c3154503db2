//! What a state comes to: whether everything ends as it should if nothing is lost from there on, and what the keys hold as
//! far as it is decided, installed or not. What is on the network doesn't matter for that, so it's worked out once for each state of the
//! two groups.

use std::sync::Arc;

use kvserver::command::{Reply, ShardId};
use kvserver::handoff::CopyPhase;
use kvserver::txn::{Decision, TxnCommand};

use crate::groups::GROUPS;
use crate::memo::Memo;
use crate::network::hash_of;
use crate::txn::bounds::{Bounds, SHARDS, shard_of_key};
use crate::txn::clients::{is_answer, is_retried};
use crate::txn::machines::{Letter, find, lock_of};
use crate::txn::replays::{Replays, Values, told};
use crate::txn::steps::{Done, Steps, Stores};

/// Many times as many rounds as a transaction takes.
const ROUNDS_MAX: usize = 50;

/// What each operation is answered in the end, or why it doesn't end as it should.
pub type Rest = Result<Arc<Vec<Option<Reply>>>, Arc<str>>;
/// What the keys hold once all that is decided is done.
pub type Decided = Result<Arc<Values>, Arc<str>>;

/// What is known of each state.
#[derive(Debug, Default)]
pub struct Completion {
    rests: Memo<u64, Rest>,
    decided: Memo<u64, Decided>,
}

/// Both groups on their way to rest.
#[derive(Clone, Debug)]
struct Machines<'a> {
    bounds: &'a Bounds,
    steps: &'a Steps,
    stores: Stores,
    heard: Vec<Option<Reply>>,
}

impl Machines<'_> {
    fn key(&self) -> u64 {
        hash_of(&(self.stores[0].hash, self.stores[1].hash))
    }

    fn server(&self, shard: ShardId) -> Option<usize> {
        (0..GROUPS).find(|at| self.stores[*at].serves(shard))
    }

    fn taken(&mut self, at: usize, done: &Done) -> Result<(), Arc<str>> {
        self.stores[at] = done.held.clone();
        for (n, reply) in &done.replies {
            if is_answer(reply) {
                self.heard[*n] = Some(reply.clone());
            } else if !is_retried(reply) {
                return Err(format!("operation {n} is refused for good: {reply:?}").into());
            }
        }
        Ok(())
    }

    /// A message arrives at whoever serves its shard. What its answer makes the sender log.
    fn deliver(&mut self, letter: &Letter) -> Result<Option<Arc<Letter>>, Arc<str>> {
        let Some(to) = self.server(letter.message.to()) else { return Ok(None) };
        let done = self.steps.deliver(self.bounds, to, &self.stores[to], letter)?;
        self.taken(to, &done)?;
        Ok(done.follow.clone())
    }

    /// Everyone does what it owes, once, and logs the answer; what moves goes on.
    fn round(&mut self) -> Result<(), Arc<str>> {
        for at in 0..GROUPS {
            for letter in self.stores[at].clone().sends.iter() {
                if let Some(follow) = self.deliver(letter)? {
                    self.deliver(&follow)?;
                }
            }
        }
        self.moves()
    }

    fn moves(&mut self) -> Result<(), Arc<str>> {
        for shard in (0..SHARDS).map(ShardId) {
            if self.stores.iter().any(|held| held.phase(shard) == Some(CopyPhase::Staging)) {
                self.stores = (*self.steps.go_on(self.bounds, &self.stores, shard)?).clone();
            }
        }
        Ok(())
    }

    /// Clients ask until they are answered.
    fn ask(&mut self, n: usize) -> Result<(), Arc<str>> {
        self.heard[n] = None;
        for _ in 0..ROUNDS_MAX {
            if let Some(to) = self.server(self.bounds.ops[n].home()) {
                let done = self.steps.request(self.bounds, to, &self.stores[to], n)?;
                self.taken(to, &done)?;
            }
            if self.heard[n].is_some() {
                return Ok(());
            }
            self.round()?;
        }
        Err(format!("operation {n} is never answered").into())
    }

    /// Ends if it doesn't change any more.
    fn settle(&mut self) -> Result<(), Arc<str>> {
        for _ in 0..ROUNDS_MAX {
            let before = self.key();
            self.round()?;
            if self.key() == before {
                return self.is_at_rest();
            }
        }
        Err("it goes on for ever".into())
    }

    fn is_at_rest(&self) -> Result<(), Arc<str>> {
        match () {
            () if !self.stores.iter().all(|held| held.store.is_idle()) => Err("a lock is never freed".into()),
            () if self.stores.iter().map(|held| held.copies.len()).sum::<usize>() != usize::from(SHARDS) => {
                Err("a move never ends".into())
            }
            () => Ok(()),
        }
    }

    /// Value and version of all keys, whoever has locked them.
    fn values(&self) -> Decided {
        let mut values = Values::new();
        for key in self.bounds.keys() {
            let at = self.server(shard_of_key(&key)).ok_or("nobody serves a shard")?;
            if let Some(found) = find(&self.stores[at].store, &key).flatten() {
                values.insert(key, found);
            }
        }
        Ok(Arc::new(values))
    }

    /// To rest, then every operation is asked for, those that only read last.
    fn rest(mut self, replays: &Replays) -> Rest {
        self.settle()?;
        let ops = &self.bounds.ops;
        let (read, write): (Vec<usize>, Vec<usize>) = (0..ops.len()).partition(|n| ops[*n].only_reads());
        for n in write.into_iter().chain(read) {
            self.ask(n)?;
            self.settle()?;
        }
        let values = self.values()?;
        let is_right = |n: usize, done: &Option<Reply>, next: &dyn Fn() -> Reply| match ops[n].only_reads() {
            true => self.heard[n] == Some(next()),
            false => self.heard[n] == *done,
        };
        let explained = replays
            .of(&values)
            .any(|replay| (0..ops.len()).all(|n| is_right(n, &replay.replies[n], &|| replay.next(&ops[n]))));
        match explained {
            true => Ok(Arc::new(self.heard)),
            false => {
                Err(format!("no order explains {} with the answers {:?}", told(&values), self.heard).into())
            }
        }
    }

    /// What is decided and not yet installed, on top of what is.
    fn decided(mut self) -> Decided {
        self.moves()?;
        let mut values = Values::clone(&*self.values()?);
        let sends = self.stores.iter().flat_map(|held| &held.sends);
        let decided = sends.filter_map(|letter| match &letter.message {
            TxnCommand::Decide { attempt, shard, decision: Decision::Commit { lock, writes } } => {
                Some((attempt, *shard, *lock, writes))
            }
            _ => None,
        });
        for (attempt, shard, lock, writes) in decided {
            let at = self.server(shard).ok_or("nobody serves a shard")?;
            if lock_of(&self.stores[at].duties, attempt, shard) != Some(lock) {
                continue;
            }
            let status = self.stores[at].store.shard_status(shard);
            let mut revision = status.map_or(0, |status| status.revision);
            for (key, value) in writes {
                let before = values.remove(key);
                revision += u64::from(value.is_some() || before.is_some());
                values.extend(value.clone().map(|value| (key.clone(), (value, revision))));
            }
        }
        Ok(Arc::new(values))
    }
}

impl Completion {
    /// What is answered in the end.
    pub fn rest(&self, bounds: &Bounds, steps: &Steps, replays: &Replays, stores: &Stores) -> Rest {
        let now = machines(bounds, steps, stores);
        let key = now.key();
        self.rests.get_or(key, key, || now.rest(replays))
    }

    /// What the keys hold as far as it is decided.
    pub fn decided(&self, bounds: &Bounds, steps: &Steps, stores: &Stores) -> Decided {
        let now = machines(bounds, steps, stores);
        let key = now.key();
        self.decided.get_or(key, key, || now.decided())
    }
}

fn machines<'a>(bounds: &'a Bounds, steps: &'a Steps, stores: &Stores) -> Machines<'a> {
    Machines { bounds, steps, stores: stores.clone(), heard: vec![None; bounds.ops.len()] }
}
