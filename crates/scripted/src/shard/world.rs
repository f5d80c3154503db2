//! The world of the golden scripts of sharding. Every effect comes from the shipped state machines: this file only carries
//! what they owe, loses it, and writes down what changed.

use std::collections::BTreeMap;

use kvserver::command::{Reply, ShardId};
use kvserver::entry::{GroupCommand, GroupRequest};
use kvserver::genesis::Limits;
use kvserver::handoff::{HandoffCommand, Pulled};
use kvserver::query::Answer;
use kvserver::store::Store;
use paxos::ids::{ClientId, GroupId, Incarnation, LogTime, NodeId, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::command::{Command, Reply as MasterReply, Request as MasterRequest};
use shardmaster::group::{Member, NodeInfo};
use shardmaster::ids::GroupRef;
use shardmaster::master::Master;
use shardmaster::orders::Report;

use crate::shard::ask::Reading;
use crate::shard::clients::Clients;
use crate::shard::judge::Judge;
use crate::shard::message::{Body, Message, Place};
use crate::shard::{text, view};

/// Who asks, where it isn't a client.
const AGENT: ClientId = ClientId(1 << 100);
/// Nodes that have registered.
const NODES: u32 = 9;
/// Rounds after which a world that still changes is stuck.
const ROUNDS_MAX: usize = 1_000;

/// What a world begins with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shards of the cluster.
    pub shards: u16,
    /// Groups it begins with; each serves an equal part.
    pub groups: u32,
    /// Bounds of the groups.
    pub limits: Limits,
    /// Bounds of the shardmaster.
    pub master: shardmaster::limits::Limits,
}

/// A group: its applied state.
pub(super) struct Group {
    pub(super) store: Store,
    /// Of the next entry.
    pub(super) end: Slot,
    /// Whether it has a leader and a majority.
    pub(super) up: bool,
    /// How far its clock is behind, in ms.
    pub(super) behind_ms: u64,
    /// A leader that stopped and will come back: its state, and what it had under way.
    pub(super) paused: Option<(Store, Vec<Message>)>,
}

/// See the module.
pub struct World {
    pub(super) master: Master,
    master_end: Slot,
    pub(super) master_up: bool,
    pub(super) groups: BTreeMap<GroupRef, Group>,
    pub(super) limits: Limits,
    /// Under way, in the order in which they were sent.
    pub(super) net: Vec<Message>,
    /// Under way, and not delivered before they are released.
    pub(super) held: Vec<Message>,
    /// What was taken and whose report comes later, or that changes nothing yet: not repeated while anything else goes on.
    pub(super) given: Vec<Message>,
    pub(super) clients: Clients,
    /// Reads that wait for locks.
    pub(super) reads: Vec<(GroupRef, Reading)>,
    pub(super) judge: Judge,
    pub(super) clock_ms: u64,
    sequence: u64,
    /// What happened since it was read last.
    pub lines: Vec<String>,
}

impl Group {
    fn new(limits: &Limits, shards: u16, owned: &[ShardId]) -> Group {
        let store = Store::new(limits.clone(), shards, owned);
        Group { store, end: Slot(1), up: true, behind_ms: 0, paused: None }
    }
}

impl World {
    /// A world at its beginning.
    pub fn new(settings: &Settings) -> World {
        let Settings { shards, groups, limits, master } = settings;
        let ids: Vec<GroupId> = (1..=*groups).map(GroupId).collect();
        let owner = |shard: u16| ids[usize::from(shard) * ids.len() / usize::from(*shards)];
        let owners: Vec<GroupId> = (0..*shards).map(owner).collect();
        let members: Vec<Member> = (1..=NODES).map(member).collect();
        let master = Master::with_limits(master.clone(), *shards, &ids, &members[..3], owners);
        let mut world = World {
            master,
            master_end: Slot(1),
            master_up: true,
            groups: BTreeMap::new(),
            limits: limits.clone(),
            net: Vec::new(),
            held: Vec::new(),
            given: Vec::new(),
            clients: Clients::default(),
            reads: Vec::new(),
            judge: Judge::default(),
            clock_ms: 0,
            sequence: 0,
            lines: Vec::new(),
        };
        for at in world.master.groups().map(|group| group.at) {
            let owned = (0..*shards).filter(|shard| owner(*shard) == at.group).map(ShardId);
            let group = Group::new(limits, *shards, &owned.collect::<Vec<_>>());
            world.groups.insert(at, group);
        }
        for member in members {
            let info = NodeInfo {
                node: member.node,
                incarnation: member.incarnation,
                peer: String::new(),
                client: String::new(),
                http: String::new(),
            };
            world.apply_master(Command::Register(info));
        }
        world.master_end = Slot(1);
        world.lines.clear();
        world
    }

    /// The shardmaster.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// The present life of a group.
    pub fn group(&self, id: GroupId) -> Option<GroupRef> {
        self.groups.keys().copied().find(|at| at.group == id)
    }

    pub(super) fn stores(&self) -> impl Iterator<Item = (GroupRef, &Store)> {
        self.groups.iter().map(|(at, group)| (*at, &group.store))
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        let stores = self.groups.iter().map(|(at, group)| (*at, &group.store));
        self.judge.check(&self.master, stores)
    }

    pub(super) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    // ---------------------------------------------------------------------------------------- the shardmaster

    fn apply_master(&mut self, command: Command) -> Option<MasterReply> {
        self.sequence += 1;
        let id = RequestId { client: AGENT, sequence: Sequence(self.sequence) };
        let before = view::master(&self.master);
        let (mut batch, mut replies) = (BatchBuilder::default(), Vec::new());
        batch.push(&MasterRequest { id, command }.encode());
        self.master.apply(self.master_end, &batch.finish(LogTime(self.clock_ms)), &mut replies);
        self.master_end = self.master_end.next();
        self.lines.extend(view::changed(&before, &view::master(&self.master)));
        self.host();
        replies.pop().map(|(_, reply)| reply)
    }

    /// Nodes host the groups that the shardmaster names, and no others.
    fn host(&mut self) {
        let named: Vec<GroupRef> = self.master.groups().map(|group| group.at).collect();
        self.groups.retain(|at, _| named.contains(at));
        let shards = self.master.shard_count();
        for at in named {
            let limits = &self.limits;
            self.groups.entry(at).or_insert_with(|| Group::new(limits, shards, &[]));
        }
    }

    /// An administrator's command, with its words.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn govern(&mut self, command: Command, words: &str) -> Result<(), String> {
        if !self.master_up {
            self.note(format!("m <- {words}: down"));
            return Ok(());
        }
        self.note(format!("m {} <- {words}", self.master_end));
        match self.apply_master(command) {
            Some(MasterReply::Refused(refusal)) => self.note(format!("  refused: {refusal}")),
            Some(MasterReply::Changed { already: true, .. }) => self.note("  already so".to_string()),
            Some(MasterReply::Changed { config, changes, .. }) => {
                let shards: Vec<String> = changes.iter().map(|c| c.shard.0.to_string()).collect();
                self.note(format!("  map {}: shards that change: {}", config.0, shards.join(" ")));
            }
            Some(MasterReply::Done) | None => {}
        }
        self.check()
    }

    // ---------------------------------------------------------------------------------------- groups

    /// An entry is chosen and applied: all that is answered in that step, in its order.
    pub(super) fn apply(&mut self, at: GroupRef, bytes: &[u8]) -> Vec<(RequestId, Reply)> {
        let clock_ms = self.clock_ms;
        let Some(group) = self.groups.get_mut(&at) else { return Vec::new() };
        let (mut batch, mut replies) = (BatchBuilder::default(), Vec::new());
        batch.push(bytes);
        let time = LogTime(clock_ms.saturating_sub(group.behind_ms));
        group.store.apply(group.end, &batch.finish(time), &mut replies);
        group.end = group.end.next();
        replies
    }

    /// An entry of the group itself, or of another one: what it is answered, and what it brings about for clients.
    pub(super) fn log(&mut self, at: GroupRef, command: GroupCommand) -> Result<Option<Reply>, String> {
        self.sequence += 1;
        let request = GroupRequest { client: AGENT, sequence: Sequence(self.sequence), command };
        let (mut own, mut others) = (None, Vec::new());
        for (id, reply) in self.apply(at, &request.encode()) {
            match id == request.id() {
                true => own = Some(reply),
                false => others.push((id, reply)),
            }
        }
        self.hear(at, others, None)?;
        Ok(own)
    }

    /// What is owed, by the shardmaster and by each group with a leader.
    pub fn duties(&self) -> Vec<Message> {
        let orders = self.master.duties().into_iter().filter(|_| self.master_up).map(|duty| Message {
            from: Place::Master,
            to: Place::Group(duty.to),
            body: Body::Command(HandoffCommand::Order(duty.order)),
        });
        let leaders = self.groups.iter().filter(|(_, group)| group.up);
        orders.chain(leaders.flat_map(|(at, group)| self.duties_of(*at, &group.store))).collect()
    }

    /// Sends what is owed, of one place or of all, unless it is under way already. What was taken before is repeated, and
    /// what has time is sent, only for the place that is named.
    pub fn send(&mut self, only: Option<Place>) {
        let mut owed = self.duties();
        owed.retain(|message| match only {
            Some(place) => message.from == place,
            None => message.is_urgent() && !self.given.contains(message),
        });
        self.put(owed);
    }

    pub(super) fn put(&mut self, messages: Vec<Message>) {
        for message in messages {
            if !self.net.contains(&message) {
                self.lines.push(format!("{} -> {} {message}", message.from, message.to));
                self.net.push(message);
            }
        }
    }

    /// What follows from a delivery.
    pub(super) fn answer(&mut self, message: Message) {
        self.note(format!("  -> {} {message}", message.to));
        self.net.push(message);
    }

    pub(super) fn deliver_one(&mut self, message: Message) -> Result<(), String> {
        match message.to {
            Place::Master => self.on_report(&message),
            Place::Group(at) => self.on_message(at, &message)?,
        }
        self.check()
    }

    fn on_report(&mut self, message: &Message) {
        let (Place::Group(from), Body::Report(report)) = (message.from, &message.body) else { return };
        if !self.master_up {
            return self.note(format!("m <- {} {message}: down", message.from));
        }
        self.note(format!("m {} <- {} {message}", self.master_end, message.from));
        self.apply_master(Command::Report { from, report: *report });
    }

    fn on_message(&mut self, at: GroupRef, message: &Message) -> Result<(), String> {
        let (to, from) = (message.to, message.from);
        let Some(group) = self.groups.get(&at) else {
            self.note(format!("{to} <- {from} {message}: no such group any more"));
            return Ok(());
        };
        if !group.up {
            self.note(format!("{to} <- {from} {message}: down"));
            return Ok(());
        }
        match &message.body {
            Body::Command(command) => {
                self.note(format!("{to} {} <- {from} {message}", group.end));
                if self.on_command(at, command.clone())?.is_none() {
                    self.given.push(message.clone());
                }
            }
            Body::Pull(duty) => {
                let answer = group.store.query(&duty.pull());
                self.note(format!("{to} <- {from} {message}"));
                match (duty.take(answer.clone()), answer) {
                    (Some(command), _) => {
                        self.answer(Message { from: to, to: from, body: Body::Command(command) });
                    }
                    (None, Answer::Pulled(Pulled::Gone)) => self.note("  gone".to_string()),
                    (None, Answer::Pulled(Pulled::NotStarted)) => self.note("  not started".to_string()),
                    (None, _) => self.note("  nothing new".to_string()),
                }
            }
            Body::Txn(duty) => self.on_txn(at, message, duty)?,
            Body::Answered(duty, answer) => self.on_answer(at, message, duty, answer)?,
            Body::Report(_) => {}
        }
        Ok(())
    }

    fn on_command(&mut self, at: GroupRef, command: HandoffCommand) -> Result<Option<Report>, String> {
        let before = self.view(at);
        let is_freeze = matches!(command, HandoffCommand::Freeze { .. });
        let Some(Reply::Handoff(reply)) = self.log(at, command.into())? else { return Ok(None) };
        let changed = view::changed(&before, &self.view(at));
        match (reply.applied, is_freeze) {
            (false, _) if changed.is_empty() => self.note("  no effect".to_string()),
            (true, true) if changed.is_empty() => {
                self.note("  too much is left: writes have a ceiling".to_string())
            }
            (_, _) => self.lines.extend(changed),
        }
        if let Some(report) = reply.report {
            self.answer(report_of(at, report));
        }
        self.act(at)?;
        Ok(reply.report)
    }

    fn view(&self, at: GroupRef) -> view::View {
        self.groups.get(&at).map(|group| view::group(&group.store)).unwrap_or_default()
    }

    // ---------------------------------------------------------------------------------------- the end

    /// All that is owed is sent and arrives, with what follows from it.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn round(&mut self) -> Result<(), String> {
        self.send(None);
        while !self.net.is_empty() {
            self.deliver(|_| true)?;
        }
        Ok(())
    }

    /// Rounds until they change nothing, not even if all that is owed is said again. If nothing is owed then, every shard
    /// must be served.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let (before, lines) = (self.hashes(), self.lines.len());
            self.round()?;
            if self.hashes() != before {
                continue;
            }
            self.given.clear();
            self.put(self.duties());
            self.round()?;
            if self.hashes() == before {
                // Only what was said before.
                self.lines.truncate(lines);
                break;
            }
        }
        let busy = self.txns();
        if self.master.is_at_rest() && busy.is_empty() {
            self.note("at rest".to_string());
            return self.judge.check_rest(&self.master, self.stores());
        }
        let waiting = self.master.migrations();
        let moves = waiting.iter().map(|m| format!("{} {}: {}", m.shard, m.state.word(), m.reason));
        self.lines.extend(moves.chain(busy).collect::<Vec<_>>());
        self.check_stuck()
    }

    fn hashes(&self) -> (u128, Vec<u128>) {
        (self.master.state_hash(), self.groups.values().map(|group| group.store.state_hash()).collect())
    }

    /// What the shardmaster and the groups hold, of one shard or of all.
    pub fn show(&mut self, only: Option<ShardId>) {
        let views = std::iter::once(("m".to_string(), view::master(&self.master)));
        let groups = self.groups.iter().map(|(at, group)| (text::group(*at), view::group(&group.store)));
        let is_meant = |line: &String| {
            only.is_none_or(|shard| {
                let name = shard.to_string();
                line.starts_with(&format!("{name}:")) || line.starts_with(&format!("{name} "))
            })
        };
        let mut lines = Vec::new();
        for (place, view) in views.chain(groups) {
            lines.extend(view::lines(&view).filter(is_meant).map(|line| format!("{place} {line}")));
        }
        self.lines.extend(lines);
    }
}

fn member(node: u32) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(u64::from(node)) }
}

fn report_of(at: GroupRef, report: Report) -> Message {
    Message { from: Place::Group(at), to: Place::Master, body: Body::Report(report) }
}
