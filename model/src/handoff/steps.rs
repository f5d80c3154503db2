//! Steps of the groups and of the shardmaster, each taken once.

use std::sync::Arc;

use kvserver::command::Reply;
use kvserver::query::Query;
use paxos::ids::{ClientId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::command::{Command, Request};
use shardmaster::master::Master;

use crate::groups::{apply, group, group_id, hash_of_store};
use crate::handoff::bounds::{Bounds, SHARD};
use crate::handoff::machines::{HeldMaster, HeldStore, age, ask, hash_of_master, letter};
use crate::handoff::network::{Letter, Message};
use crate::memo::Memo;
use crate::notes::{Key, Notes};

/// What a group's entry came to.
#[derive(Debug)]
pub struct Done {
    /// The group after it.
    pub held: Arc<HeldStore>,
    /// What the client is answered.
    pub reply: Option<Reply>,
    /// What the shardmaster is told.
    pub report: Option<Arc<Letter>>,
}

/// A step, or what an assertion that it broke said.
pub type Taken<T> = Result<Arc<T>, Arc<str>>;

/// All steps of one search.
#[derive(Debug, Default)]
pub struct Steps {
    entries: Memo<Key, Taken<Done>>,
    commands: Memo<Key, Taken<HeldMaster>>,
    pulls: Memo<Key, Option<Arc<Letter>>>,
    stores: Memo<u64, Arc<HeldStore>>,
    masters: Memo<u64, Arc<HeldMaster>>,
    notes: Arc<Notes>,
}

impl Steps {
    /// A group takes a command.
    pub fn deliver(&self, bounds: &Bounds, at: usize, held: &HeldStore, letter: &Letter) -> Taken<Done> {
        let key = (held.hash, letter.hash);
        self.entry(bounds, at, held, key, |store| {
            let Message::Command { command, .. } = &letter.message else { return (None, None) };
            let mut taken = command.clone();
            if let Some(bug) = bounds.sabotage {
                bug.takes(store, at, &mut taken);
            }
            let mut report = apply(store, taken).report;
            if let Some(bug) = bounds.sabotage {
                bug.says(command, &mut report);
            }
            (None, report.map(|report| Letter::new(Message::Report { from: at, report })))
        })
    }

    /// A group takes a client's operation.
    pub fn request(&self, bounds: &Bounds, at: usize, held: &HeldStore, n: usize) -> Taken<Done> {
        let key = (held.hash, n as u64);
        self.entry(bounds, at, held, key, |store| {
            let Some(op) = bounds.ops.get(n) else { return (None, None) };
            let request = op.encode(&bounds.ops);
            let reply = match bounds.sabotage.and_then(|bug| bug.thawed(store)) {
                Some(mut thawed) => ask(&mut thawed, &request),
                None => ask(store, &request),
            };
            (Some(reply), None)
        })
    }

    /// Time passes at a group.
    pub fn age(&self, bounds: &Bounds, at: usize, held: &HeldStore) -> Taken<Done> {
        let key = (held.hash, u64::MAX);
        self.entry(bounds, at, held, key, |store| {
            age(store);
            (None, None)
        })
    }

    fn entry(
        &self,
        bounds: &Bounds,
        at: usize,
        held: &HeldStore,
        key: Key,
        step: impl FnOnce(&mut kvserver::store::Store) -> (Option<Reply>, Option<Arc<Letter>>),
    ) -> Taken<Done> {
        self.entries.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut store = held.store.clone();
                let (reply, report) = step(&mut store);
                let hash = hash_of_store(at, &store);
                let make = || Arc::new(HeldStore::new(bounds, at, store));
                Arc::new(Done { held: self.stores.get_or(hash, hash, make), reply, report })
            })
        })
    }

    /// The shardmaster hears a report.
    pub fn report(&self, bounds: &Bounds, held: &HeldMaster, letter: &Letter) -> Taken<HeldMaster> {
        self.command(bounds, held, letter.hash, || {
            let Message::Report { from, report } = &letter.message else { return None };
            Some(Command::Report { from: group(*from), report: *report })
        })
    }

    /// The shardmaster hears order number `n` of the operator.
    pub fn operate(&self, bounds: &Bounds, held: &HeldMaster, n: usize) -> Taken<HeldMaster> {
        self.command(bounds, held, n as u64, || {
            let to = bounds.moves.get(n).copied()?;
            Some(Command::Move { shards: vec![SHARD], to: group_id(to) })
        })
    }

    fn command(
        &self,
        bounds: &Bounds,
        held: &HeldMaster,
        name: u64,
        command: impl FnOnce() -> Option<Command>,
    ) -> Taken<HeldMaster> {
        let key = (held.hash, name);
        self.commands.get_or(key.0 ^ key.1, key, || {
            self.notes.guard(key, || {
                let mut master = held.master.clone();
                if let Some(command) = command() {
                    command_master(&mut master, name, command);
                }
                let hash = hash_of_master(&master);
                let make = || Arc::new(HeldMaster::new(bounds, master, Some(&held.master)));
                self.masters.get_or(hash, hash, make)
            })
        })
    }

    /// What the destination `to` gets if it pulls now.
    pub fn pulled(
        &self,
        bounds: &Bounds,
        to: usize,
        destination: &HeldStore,
        source: &HeldStore,
    ) -> Option<Arc<Letter>> {
        let duty = destination.duties.first()?;
        let key = (destination.hash, source.hash);
        self.pulls.get_or(key.0 ^ key.1, key, || {
            let pull: Query = duty.pull();
            let command = duty.take(source.store.query(&pull))?;
            letter(bounds, Message::Command { to, command })
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
        self.entries.len() + self.commands.len()
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reports are remembered by what they say; what the operator orders by its number.
fn command_master(master: &mut Master, name: u64, command: Command) {
    let id = RequestId { client: ClientId(1), sequence: Sequence(name.saturating_add(1)) };
    let mut batch = BatchBuilder::default();
    batch.push(&Request { id, command }.encode());
    master.apply(Slot::default(), &batch.finish(LogTime(0)), &mut Vec::new());
}
