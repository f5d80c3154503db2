//! Steps of the groups, each taken once.

use std::sync::Arc;

use kvserver::command::{Reply, ShardId};
use kvserver::store::Store;
use kvserver::txn::{TxnCommand, TxnDuty};
use paxos::rsm::state_machine::{RequestId, StateMachine};

use crate::groups::{GROUPS, enter, hash_of_store};
use crate::memo::Memo;
use crate::network::hash_of;
use crate::notes::{Key, Notes};
use crate::txn::bounds::Bounds;
use crate::txn::machines::{HeldStore, Letter, enter_txn, own_answer};
use crate::txn::{moves, sabotage};

/// What a group's entry came to.
#[derive(Debug)]
pub struct Done {
    /// The group after it.
    pub held: Arc<HeldStore>,
    /// What clients are answered, by their operations.
    pub replies: Vec<(usize, Reply)>,
    /// What the leader of whoever owed the message puts into its own log after the answer.
    pub follow: Option<Arc<Letter>>,
    /// What became owed in this step.
    pub due: Vec<Arc<Letter>>,
}

/// A step, or what an assertion that it broke said.
pub type Taken<T> = Result<Arc<T>, Arc<str>>;
/// Both groups.
pub type Stores = [Arc<HeldStore>; GROUPS];

/// All steps of one search.
#[derive(Debug, Default)]
pub struct Steps {
    entries: Memo<Key, Taken<Done>>,
    both: Memo<Key, Taken<Stores>>,
    stores: Memo<u64, Arc<HeldStore>>,
    notes: Arc<Notes>,
}

type Said = (Vec<(RequestId, Reply)>, Option<TxnCommand>);

impl Steps {
    /// A group takes a message, or what its own leader logs.
    pub fn deliver(&self, bounds: &Bounds, at: usize, held: &HeldStore, letter: &Letter) -> Taken<Done> {
        self.entry(bounds, at, held, letter.hash, |store| {
            let command = &letter.message;
            let taken = bounds.sabotage.and_then(|bug| bug.takes(store, command));
            let said = enter_txn(store, taken.as_ref().unwrap_or(command));
            let answer = own_answer(&said);
            let answer = bounds.sabotage.map_or(answer.clone(), |bug| bug.answers(store, command, answer));
            let duty = TxnDuty { to: command.to(), urgent: true, command: command.clone() };
            (said, answer.and_then(|answer| duty.take(answer)))
        })
    }

    /// A group takes a client's request.
    pub fn request(&self, bounds: &Bounds, at: usize, held: &HeldStore, n: usize) -> Taken<Done> {
        self.entry(bounds, at, held, n as u64, |store| (enter(store, &bounds.ops[n].encode()), None))
    }

    /// A group's new leader knows of no locks: only with [`sabotage::Sabotage::LocksLost`].
    pub fn lose_locks(&self, bounds: &Bounds, at: usize, held: &HeldStore) -> Taken<Done> {
        self.entry(bounds, at, held, u64::MAX, |store| (sabotage::lose_locks(store), None))
    }

    fn entry(
        &self,
        bounds: &Bounds,
        at: usize,
        held: &HeldStore,
        name: u64,
        step: impl FnOnce(&mut Store) -> Said,
    ) -> Taken<Done> {
        let key = (held.hash, name);
        self.entries.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut store = held.store.clone();
                let (said, follow) = step(&mut store);
                let due = store.due().into_iter().map(|duty| Letter::new(duty.command)).collect();
                if let Some(bug) = bounds.sabotage {
                    bug.after(bounds, &mut store, &said);
                }
                let op = |id: RequestId| bounds.ops.iter().position(|op| op.id() == id);
                let replies = said.into_iter().filter_map(|(id, reply)| Some((op(id)?, reply))).collect();
                let held = self.held(bounds, at, store);
                Arc::new(Done { held, replies, follow: follow.map(Letter::new), due })
            })
        })
    }

    fn held(&self, bounds: &Bounds, at: usize, store: Store) -> Arc<HeldStore> {
        let hash = hash_of_store(at, &store);
        self.stores.get_or(hash, hash, || Arc::new(HeldStore::new(bounds, at, store)))
    }

    /// A move goes as far as it can.
    pub fn go_on(&self, bounds: &Bounds, stores: &Stores, shard: ShardId) -> Taken<Stores> {
        self.both(bounds, stores, ("moves", shard), |stores| {
            if let Some(bug) = bounds.sabotage {
                bug.moves(stores, shard);
            }
            moves::go_on(stores, shard);
        })
    }

    /// A move is cancelled.
    pub fn cancel(&self, bounds: &Bounds, stores: &Stores, shard: ShardId) -> Taken<Stores> {
        self.both(bounds, stores, ("cancelled", shard), |stores| moves::cancel(stores, shard))
    }

    fn both(
        &self,
        bounds: &Bounds,
        held: &Stores,
        name: (&str, ShardId),
        step: impl FnOnce(&mut [Store; GROUPS]),
    ) -> Taken<Stores> {
        let key = (hash_of(&(held[0].hash, name)), held[1].hash);
        self.both.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut stores = [held[0].store.clone(), held[1].store.clone()];
                step(&mut stores);
                let [a, b] = stores;
                Arc::new([self.held(bounds, 0, a), self.held(bounds, 1, b)])
            })
        })
    }

    /// No step taken, but those that broke an assertion are known.
    #[must_use]
    pub fn anew(&self) -> Steps {
        Steps { notes: self.notes.clone(), ..Steps::default() }
    }

    /// How many steps were found to break an assertion.
    pub fn assertions_broken(&self) -> usize {
        self.notes.len()
    }

    /// How many different steps were taken.
    pub fn len(&self) -> usize {
        self.entries.len() + self.both.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
