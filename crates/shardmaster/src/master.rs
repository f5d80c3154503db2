//! The state of the shardmaster, and how a log entry changes it.
//!
//! `apply` is total and deterministic (P5): any bytes give the same typed result on every replica. A clone is O(1): what
//! is large shares its structure. What is left to do is never remembered, but follows from this state: see `duties`.

use imbl::{OrdMap, Vector};
use paxos::ids::{Generation, GroupId, LogTime, NodeId, Slot};
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Counts, Page, RequestId, RestoreError, StateMachine};
use xxhash_rust::xxh3::xxh3_64;

use bincode::{Decode, Encode};

use crate::command::{Command, NOBODY, Policy, Reply, Request};
use crate::group::{Group, GroupState, Member, NodeInfo};
use crate::history::History;
use crate::ids::{Epoch, GroupRef, Owner, SHARDMASTER, ShardId};
use crate::limits::Limits;
use crate::memory::Memory;
use crate::moves::{Move, Remnant};
use crate::query::{Answer, Query};
use crate::refusal::Refusal;
use crate::snapshot;

/// Bytes of memory that a shard, a move or another small entry takes, about.
const ENTRY_BYTES: u64 = 128;

/// Replicated state of the shardmaster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Master {
    pub(crate) limits: Limits,
    pub(crate) log_time: LogTime,
    /// Batches that this code couldn't read.
    pub(crate) unreadable: u64,
    pub(crate) history: History,
    /// By shard.
    pub(crate) rows: Vector<Row>,
    pub(crate) groups: OrdMap<GroupId, Group>,
    pub(crate) nodes: OrdMap<NodeId, NodeInfo>,
    pub(crate) moves: OrdMap<ShardId, Move>,
    pub(crate) remnants: OrdMap<(ShardId, GroupRef), Remnant>,
    /// Grows with each change of a ShardMap, an owner, a group or a node.
    pub(crate) routing_version: u64,
    pub(crate) paused: bool,
    pub(crate) policy: Policy,
    pub(crate) memory: Memory,
}

/// A shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(crate) struct Row {
    /// Is to serve it, by the latest ShardMap.
    pub(crate) desired: GroupId,
    /// Serves it.
    pub(crate) owner: Owner,
    /// Of the next move: above every epoch that was ever given.
    pub(crate) next_epoch: Epoch,
}

impl Master {
    /// The state that a cluster begins with: ShardMap 1, each group active in generation 1 on all `members`, each shard
    /// served at epoch 1 by its group in `owners`. No node has registered yet.
    ///
    /// # Panics
    /// If these don't fit each other, which a validated Genesis excludes: an owner for each of at least one shard, each
    /// owner among the groups, no group 0.
    pub fn new(shards: u16, groups: &[GroupId], members: &[Member], owners: Vec<GroupId>) -> Master {
        Master::with_limits(Limits::default(), shards, groups, members, owners)
    }

    /// As [`Master::new`], under other bounds.
    ///
    /// # Panics
    /// As [`Master::new`].
    pub fn with_limits(
        limits: Limits,
        shards: u16,
        groups: &[GroupId],
        members: &[Member],
        owners: Vec<GroupId>,
    ) -> Master {
        assert!(shards > 0 && owners.len() == usize::from(shards), "a Genesis names an owner for each shard");
        assert!(owners.iter().all(|owner| groups.contains(owner)), "a Genesis names each owner as a group");
        assert!(!groups.contains(&SHARDMASTER), "group 0 is the shardmaster's own");
        let at = |group: GroupId| GroupRef { group, generation: Generation(1) };
        let mut members = members.to_vec();
        members.sort_unstable();
        let group =
            |id: &GroupId| (*id, Group { at: at(*id), state: GroupState::Active, members: members.clone() });
        let row = |id: GroupId| Row {
            desired: id,
            owner: Owner { group: at(id), epoch: Epoch(1) },
            next_epoch: Epoch(2),
        };
        let mut master = Master {
            limits,
            log_time: LogTime(0),
            unreadable: 0,
            history: History::new(),
            rows: owners.iter().copied().map(row).collect(),
            groups: groups.iter().map(group).collect(),
            nodes: OrdMap::new(),
            moves: OrdMap::new(),
            remnants: OrdMap::new(),
            routing_version: 1,
            paused: false,
            policy: Policy::default(),
            memory: Memory::default(),
        };
        let groups = master.groups.values();
        master.history.push("genesis".to_string(), LogTime(0), Vec::new(), groups, owners.into_iter());
        master
    }

    /// How many shards the key space of the cluster is cut into.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.rows.len()).unwrap_or(u16::MAX)
    }

    /// The replicated bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who serves a shard; `None` if the cluster has fewer.
    pub fn owner(&self, shard: ShardId) -> Option<Owner> {
        self.row(shard).map(|row| row.owner)
    }

    /// Who is to serve a shard, by the latest ShardMap; `None` if the cluster has fewer.
    pub fn desired(&self, shard: ShardId) -> Option<GroupId> {
        self.row(shard).map(|row| row.desired)
    }

    /// The groups there are, by ascending id.
    pub fn groups(&self) -> impl Iterator<Item = &Group> + '_ {
        self.groups.values()
    }

    /// The moves in progress, by ascending shard; at most one a shard.
    pub fn moves(&self) -> impl Iterator<Item = &Move> + '_ {
        self.moves.values()
    }

    /// The copies that groups are told to drop, by ascending shard.
    pub fn remnants(&self) -> impl Iterator<Item = &Remnant> + '_ {
        self.remnants.values()
    }

    /// Whether every shard is where it is desired, no copy is left behind, and no group is joining or leaving.
    pub fn is_at_rest(&self) -> bool {
        self.moves.is_empty()
            && self.remnants.is_empty()
            && self.groups.values().all(|group| group.state == GroupState::Active)
            && self.rows.iter().all(|row| row.desired == row.owner.group.group)
    }

    pub(crate) fn row(&self, shard: ShardId) -> Option<&Row> {
        self.rows.get(usize::from(shard.0))
    }

    pub(crate) fn shard_rows(&self) -> impl Iterator<Item = (ShardId, Row)> + '_ {
        self.rows.iter().copied().zip(0..).map(|(row, shard)| (ShardId(shard), row))
    }

    fn apply_request(&mut self, bytes: &[u8]) -> (RequestId, Reply) {
        let Ok(request) = Request::decode(bytes) else {
            return (Request::id_of(bytes), Reply::Refused(Refusal::Invalid));
        };
        let request_hash = xxh3_64(bytes);
        if let Some(reply) = self.memory.reply(request.id, request_hash, &self.history) {
            return (request.id, reply);
        }
        let is_remembered = !self.is_repeated_by_itself(&request.command);
        let reply = self.execute(&request.command);
        if is_remembered {
            self.memory.remember(request.id, request_hash, &reply, self.limits.requests_remembered);
        }
        (request.id, reply)
    }

    /// Reports, and registrations that are known, come again and again and never mean another thing: remembering them
    /// would only push out the changes.
    fn is_repeated_by_itself(&self, command: &Command) -> bool {
        match command {
            Command::Report { .. } => true,
            Command::Register(info) => self.nodes.get(&info.node) == Some(info),
            Command::Join { .. }
            | Command::Leave { .. }
            | Command::Move { .. }
            | Command::Swap { .. }
            | Command::SetPaused(_)
            | Command::SetPolicy(_) => false,
        }
    }

    /// Executes a command that is no duplicate.
    pub(crate) fn execute(&mut self, command: &Command) -> Reply {
        let result = match command {
            Command::Join { group, nodes } => self.join(*group, nodes),
            Command::Leave { group } => self.leave(*group),
            Command::Move { shards, to } => self.move_shards(shards, *to),
            Command::Swap { a, b } => self.swap(*a, *b),
            Command::Register(info) => self.register(info),
            Command::Report { from, report } => {
                self.on_report(*from, report);
                Ok(Reply::Done)
            }
            Command::SetPaused(paused) => {
                self.paused = *paused;
                Ok(Reply::Done)
            }
            Command::SetPolicy(policy) => self.set_policy(policy),
        };
        match result {
            Ok(reply) => {
                self.settle();
                reply
            }
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn set_policy(&mut self, policy: &Policy) -> Result<Reply, Refusal> {
        if !(1..=1_000).contains(&policy.tolerance_percent) {
            return Err(Refusal::Tolerance);
        }
        self.policy = *policy;
        Ok(Reply::Done)
    }
}

impl StateMachine for Master {
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Due = ();

    fn apply(&mut self, _slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Reply)>) {
        let Ok(view) = BatchView::new(batch) else {
            self.unreadable = self.unreadable.saturating_add(1);
            replies.push((NOBODY, Reply::Refused(Refusal::Invalid)));
            return;
        };
        self.log_time = self.log_time.max(view.time);
        for request in view {
            replies.push(match request {
                Ok(bytes) => self.apply_request(bytes),
                Err(_) => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    (NOBODY, Reply::Refused(Refusal::Invalid))
                }
            });
        }
    }

    fn query(&self, query: &Query) -> Answer {
        self.answer(query)
    }

    fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Made on demand, in time linear in the shards; the history keeps its own.
    fn state_hash(&self) -> u128 {
        snapshot::state_hash(self)
    }

    fn trouble(&self) -> Option<String> {
        (self.unreadable > 0)
            .then(|| format!("{} batches of the log are of a version this code can't read", self.unreadable))
    }

    /// Keys are ShardMaps, sessions are requests remembered.
    fn counts(&self) -> Counts {
        Counts {
            keys: self.history.latest().0,
            sessions: self.memory.len(),
            shards: u64::from(self.shard_count()),
        }
    }

    fn state_bytes(&self) -> u64 {
        let entries = self.rows.len() + self.groups.len() + self.nodes.len() + self.moves.len();
        let entries = (entries + self.remnants.len()) as u64 + self.memory.len();
        self.history.bytes() + entries * ENTRY_BYTES
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        Box::new(snapshot::pages(self))
    }

    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Master, RestoreError> {
        snapshot::restore(self, pages)
    }
}
