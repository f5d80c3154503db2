//! Steps of the group, each taken once.

use std::sync::Arc;

use kvserver::command::Reply;
use kvserver::query::{Answer, Query};
use kvserver::status::ShardStatus;
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::LogTime;
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;

use crate::groups::{enter, hash_of_store, store_fault};
use crate::memo::Memo;
use crate::network::hash_of;
use crate::notes::{Key, Notes};
use crate::once::bounds::{Bounds, ClientOp, KEY, SHARD, Stamp, log_time};

/// The group's state, with what is read off it worked out once.
#[derive(Debug)]
pub struct Held {
    /// The shipped state machine.
    pub store: Store,
    /// Stands for the state.
    pub hash: u64,
    /// What is at the key.
    pub value: Vec<u8>,
    /// Rows and changes of the shard.
    pub status: Option<ShardStatus>,
    /// A rule of its own that it breaks.
    pub fault: Option<Arc<str>>,
}

/// What a request came to.
#[derive(Debug)]
pub struct Done {
    /// The group after it.
    pub held: Arc<Held>,
    /// What the client is answered.
    pub reply: Reply,
}

/// A step, or what an assertion that it broke said.
pub type Taken<T> = Result<Arc<T>, Arc<str>>;

/// All steps of one search.
#[derive(Debug, Default)]
pub struct Steps {
    requests: Memo<Key, Taken<Done>>,
    others: Memo<Key, Taken<Held>>,
    notes: Arc<Notes>,
}

/// What is at the key.
pub(crate) fn value(store: &Store) -> Vec<u8> {
    match store.query(&Query::Get { shard: SHARD, key: KEY.to_vec() }) {
        Answer::Value(Some((value, _))) => value,
        _ => Vec::new(),
    }
}

impl Held {
    /// Works out what there is to know of a state.
    pub fn new(bounds: &Bounds, store: Store) -> Arc<Held> {
        Arc::new(Held {
            hash: hash_of_store(0, &store),
            value: value(&store),
            status: store.shard_status(SHARD),
            fault: store_fault(bounds.store(), &store).err().map(Into::into),
            store,
        })
    }
}

impl Steps {
    /// A request is chosen and applied.
    pub fn request(&self, bounds: &Bounds, held: &Held, n: usize, stamp: Stamp) -> Taken<Done> {
        let key = (held.hash, hash_of(&(n, stamp)));
        self.enter(bounds, held, key, || bounds.encode(n, stamp, log_time(&held.store)))
    }

    /// An acknowledgement beside the requests of the model.
    pub fn acknowledge(&self, bounds: &Bounds, held: &Held, op: &ClientOp, stamp: Stamp) -> Taken<Done> {
        let key = (held.hash, hash_of(&(op.client, stamp)));
        self.enter(bounds, held, key, || codec::encode(&op.request(stamp)))
    }

    fn enter(
        &self,
        bounds: &Bounds,
        held: &Held,
        key: Key,
        request: impl FnOnce() -> Vec<u8>,
    ) -> Taken<Done> {
        self.requests.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut store = held.store.clone();
                let reply = enter(&mut store, &request()).pop().map_or(Reply::Acked, |(_, reply)| reply);
                Arc::new(Done { held: Held::new(bounds, store), reply })
            })
        })
    }

    /// An entry without a request, a millisecond later.
    pub fn tick(&self, bounds: &Bounds, held: &Held) -> Taken<Held> {
        self.other(bounds, held, "tick", |store| {
            let time = LogTime(log_time(store).0 + 1);
            store.apply_each(&BatchBuilder::default().finish(time), |_, _| {});
        })
    }

    /// The next leader had to fetch a snapshot.
    pub fn restore(&self, bounds: &Bounds, held: &Held) -> Taken<Held> {
        self.other(bounds, held, "restore", |store| {
            let restored = bounds.store().restore(&mut store.pages());
            // One that is refused is a fault of the state itself.
            *store = restored.unwrap_or_else(|_| store.clone());
            if let Some(bug) = bounds.sabotage {
                bug.restores(bounds, store);
            }
        })
    }

    fn other(&self, bounds: &Bounds, held: &Held, name: &str, step: impl FnOnce(&mut Store)) -> Taken<Held> {
        let key = (held.hash, hash_of(&name));
        self.others.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut store = held.store.clone();
                step(&mut store);
                Held::new(bounds, store)
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
        self.requests.len() + self.others.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
