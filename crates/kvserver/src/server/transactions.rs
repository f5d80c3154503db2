//! Acts on what the groups that are led here owe others because of transactions: sends it, and puts what the answers say
//! into their own logs.
//!
//! What has just become due is told by the node, and goes out at once: between an entry that is applied and the message
//! that it calls for stands no timer. Beside that, all that is owed is looked at in short intervals, so that nothing is
//! lost with a message, an answer or a leader. What is remembered here saves messages and measures how long something
//! is owed, no more: every step may be done twice.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use paxos::ids::GroupId;
use runtime::api::{Call, CallResult, ReadConsistency, Sink};
use runtime::env::Env;
use shardmaster::ids::{GroupRef, SHARDMASTER, ShardId};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::agent::Agent;
use super::ask::{Asker, ask_all_here};
use super::context::{Context, Phase};
use super::courier::{Courier, Parcel, answer_of};
use super::crash::Point;
use super::node::Numbered;
use crate::entry::GroupRequest;
use crate::machine::{self, Machine};
use crate::query::{Answer, Query};
use crate::txn::{TxnAnswer, TxnCommand, TxnDuty};

/// How often what a group owes is looked at, if it owes nothing or something is to be sent again. Else looking is put
/// off: it copies all that is owed.
const LOOK: Duration = Duration::from_millis(20);
/// What wasn't answered, or not by the right group, is sent again after this time; the longer in vain, the later, up to
/// [`QUERY`].
const RETRY: Duration = Duration::from_millis(60);
/// What was answered is under way through the own log; if it is still owed after this time, it got lost there.
const LOGGED: Duration = Duration::from_millis(250);
/// `query_ms`: what isn't urgent is due after this time, and who was told to wait asks again.
const QUERY: Duration = Duration::from_millis(500);

/// One thing that a group led here owes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    by: GroupId,
    step: Step,
    home: ShardId,
    number: u64,
    /// The participant.
    shard: ShardId,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Prepare,
    /// What the coordinator waits for.
    Vote,
    /// What became of it.
    Question,
    Decide,
}

/// What is known of it here.
struct Care {
    since: Instant,
    seen: Instant,
    /// When it is to be sent; `None` while it is under way.
    due: Option<Instant>,
    /// How often it was sent in vain since it was answered.
    in_vain: u32,
    /// When its attempt was last given up.
    expired: Option<Instant>,
}

/// See the module.
pub(crate) struct TxnAgent {
    context: Arc<Context>,
    agent: Arc<Agent>,
    cares: Mutex<HashMap<Name, Care>>,
    couriers: Mutex<HashMap<GroupRef, Arc<Courier>>>,
    nobody: Arc<dyn Sink<Machine>>,
}

/// Nobody waits for what goes into the own log: if it is lost, it is owed again.
struct Nobody;

impl Sink<Machine> for Nobody {
    fn answer(&self, _call: u64, _result: CallResult<Machine>, _log_time: u64) {}
}

/// Takes the answers of groups that are led here, too: what they call for is in the own log at once.
struct Here {
    agent: Arc<TxnAgent>,
    parcels: Mutex<Vec<Option<Parcel>>>,
}

impl Sink<Machine> for Here {
    fn answer(&self, call: u64, result: CallResult<Machine>, _log_time: u64) {
        let place = usize::try_from(call).ok();
        let parcel = place.and_then(|at| self.parcels.lock().get_mut(at).and_then(Option::take));
        let Some(parcel) = parcel else { return };
        let answer = match result {
            CallResult::Reply(reply) => answer_of(reply),
            CallResult::Found(_) | CallResult::Refused(_) => None,
        };
        if answer.is_some() {
            self.agent.context.crash.reached(Point::logged(&parcel.duty.command));
        }
        self.agent.came_back([(parcel, answer)]);
    }
}

impl TxnAgent {
    pub(crate) fn new(context: Arc<Context>, agent: Arc<Agent>) -> Arc<TxnAgent> {
        let (cares, couriers) = Default::default();
        Arc::new(TxnAgent { context, agent, cares, couriers, nobody: Arc::new(Nobody) })
    }

    pub(crate) fn env(&self) -> &Env {
        &self.context.env
    }

    pub(crate) fn asker(&self) -> &Asker {
        &self.agent.asker
    }

    /// Does what has just become due, until the process stops.
    pub(crate) async fn act(self: Arc<TxnAgent>) {
        while self.context.phase() == Phase::Serving {
            self.context.node.due().await;
            let now = Instant::now();
            self.do_what_is_due(self.context.node.take_due(), now);
        }
    }

    /// Looks for what is owed and not under way, until the process stops.
    pub(crate) async fn look(self: Arc<TxnAgent>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = HashMap::new();
        // Nothing was owed at this mark.
        let mut quiet = None;
        while self.context.phase() == Phase::Serving {
            looks.tick().await;
            let mark = self.context.mark();
            if quiet.as_ref() == Some(&mark) && self.cares.lock().is_empty() {
                continue;
            }
            let now = Instant::now();
            let led: Vec<GroupId> = self.led().into_iter().filter(|group| *group != SHARDMASTER).collect();
            next.retain(|group, _| led.contains(group));
            self.let_go(&led);
            let due = |group: &GroupId| next.get(group).is_none_or(|next| *next <= now);
            let (all, groups) = (led.len(), led.into_iter().filter(due).collect::<Vec<_>>());
            let looked = if groups.is_empty() { Vec::new() } else { self.look_at(groups).await };
            quiet = (looked.len() == all && self.cares.lock().is_empty()).then_some(mark);
            next.extend(looked);
        }
    }

    /// When each of the groups is to be looked at next.
    async fn look_at(self: &Arc<TxnAgent>, groups: Vec<GroupId>) -> Vec<(GroupId, Instant)> {
        let began = Instant::now();
        let query = || machine::Query::Store(Query::TxnDuties);
        let read =
            |group: &GroupId| (*group, Call::Read { query: query(), consistency: ReadConsistency::Stale });
        let Some(found) = ask_all_here(&self.context, groups.iter().map(read).collect()).await else {
            return Vec::new();
        };
        let mut owed = Vec::new();
        for (group, found) in groups.iter().zip(found) {
            if let CallResult::Found(machine::Answer::Store(Answer::TxnDuties(duties))) = found {
                owed.extend(duties.into_iter().map(|duty| (*group, duty)));
            }
        }
        let now = Instant::now();
        let expired = self.expired(&owed, now);
        self.do_what_is_due(owed, now);
        self.log(expired);
        self.forget(&groups, began)
    }

    /// The groups that are led here.
    fn led(&self) -> Vec<GroupId> {
        let me = Some(self.context.directory.node);
        let leaders = self.context.node.leaders().into_iter();
        leaders.filter(|(_, leader)| *leader == me).map(|(group, _)| group).collect()
    }

    /// Sends of what is owed all that isn't under way.
    fn do_what_is_due(self: &Arc<TxnAgent>, owed: Vec<(GroupId, TxnDuty)>, now: Instant) {
        let mut cares = self.cares.lock();
        let mut parcels = Vec::new();
        for (by, duty) in owed {
            let due = if duty.urgent { now } else { now + QUERY };
            let new = Care { since: now, seen: now, due: Some(due), in_vain: 0, expired: None };
            let care = cares.entry(name_of(by, &duty)).or_insert(new);
            care.seen = now;
            if care.due.is_some_and(|due| due <= now) {
                care.due = None;
                parcels.push(Parcel { by, duty });
            }
        }
        drop(cares);
        self.send(parcels);
    }

    /// What the attempts are told whose votes take too long.
    fn expired(&self, owed: &[(GroupId, TxnDuty)], now: Instant) -> Vec<(GroupId, TxnCommand)> {
        let timeout = Duration::from_micros(self.context.serving.prepare_timeout_us);
        let mut cares = self.cares.lock();
        let mut told = BTreeSet::new();
        let mut expired = Vec::new();
        for (by, duty) in owed {
            let Some(care) = cares.get_mut(&name_of(*by, duty)) else { continue };
            let lately = care.expired.is_some_and(|last| now - last < LOGGED);
            if now - care.since < timeout || lately {
                continue;
            }
            if let Some(command) = duty.expire() {
                care.expired = Some(now);
                // One for all its participants.
                if told.insert((*by, command.attempt())) {
                    expired.push((*by, command));
                }
            }
        }
        expired
    }

    fn send(self: &Arc<TxnAgent>, parcels: Vec<Parcel>) {
        if parcels.is_empty() {
            return;
        }
        parcels.iter().for_each(|parcel| self.context.crash.reached(Point::owed(&parcel.duty.command)));
        let table = self.context.directory.table();
        let led = self.led();
        let (mut here, mut on_the_way, mut left) = (Vec::new(), BTreeSet::new(), Vec::new());
        for parcel in parcels {
            let to = table.owner(parcel.duty.to).map(|owner| owner.group);
            match to {
                Some(to)
                    if led.contains(&to.group)
                        && self.context.node.generation(to.group) == Some(to.generation) =>
                {
                    here.push((to.group, parcel));
                }
                Some(to) => {
                    let request = self.request(parcel.duty.command.clone()).encode().into();
                    match self.courier(to).take(parcel, request) {
                        None => drop(on_the_way.insert(to)),
                        Some(parcel) => left.push((parcel, None)),
                    }
                }
                None => left.push((parcel, None)),
            }
        }
        for to in on_the_way {
            self.courier(to).go(self);
        }
        self.give(here);
        self.came_back(left);
    }

    fn courier(&self, to: GroupRef) -> Arc<Courier> {
        self.couriers.lock().entry(to).or_insert_with(|| Courier::new(to)).clone()
    }

    fn request(&self, command: TxnCommand) -> GroupRequest {
        let id = self.asker().next_id();
        GroupRequest { client: id.client, sequence: id.sequence, command: command.into() }
    }

    fn call(&self, command: TxnCommand) -> Call<Machine> {
        let request = self.request(command);
        Call::Write { id: request.id(), request: Bytes::from(request.encode()), sent_at: 0 }
    }

    /// Into the logs of groups that are led here.
    fn give(self: &Arc<TxnAgent>, parcels: Vec<(GroupId, Parcel)>) {
        if parcels.is_empty() {
            return;
        }
        let mut calls: Vec<Numbered> = Vec::new();
        let mut kept = Vec::new();
        for ((to, parcel), number) in parcels.into_iter().zip(0..) {
            self.context.crash.reached(Point::received(&parcel.duty.command));
            calls.push((to, self.call(parcel.duty.command.clone()), number));
            kept.push(Some(parcel));
        }
        let sink: Arc<dyn Sink<Machine>> = Arc::new(Here { agent: self.clone(), parcels: Mutex::new(kept) });
        self.context.node.submit(&mut calls, &sink);
    }

    /// Puts what answers say into the logs of those who asked; what has none is due again soon.
    pub(crate) fn came_back(&self, parcels: impl IntoIterator<Item = (Parcel, Option<TxnAnswer>)>) {
        let now = Instant::now();
        let mut commands = Vec::new();
        let mut cares = self.cares.lock();
        for (parcel, answer) in parcels {
            if let Some(care) = cares.get_mut(&name_of(parcel.by, &parcel.duty)) {
                let pause = care.pause_after(answer.as_ref());
                care.due = Some(now + pause);
            }
            let Some(answer) = answer else { continue };
            self.context.crash.reached(Point::heard(&parcel.duty.command, &answer));
            commands.extend(parcel.duty.take(answer).map(|command| (parcel.by, command)));
        }
        drop(cares);
        self.log(commands);
    }

    /// Into the groups' own logs. Nobody waits for it.
    fn log(&self, commands: Vec<(GroupId, TxnCommand)>) {
        if commands.is_empty() {
            return;
        }
        let call = |(by, command)| (by, self.call(command), 0);
        self.context.node.submit(&mut commands.into_iter().map(call).collect(), &self.nobody);
    }

    /// Forgets what these groups don't owe any more, and says when each of them is to be looked at next.
    fn forget(&self, groups: &[GroupId], look_began: Instant) -> Vec<(GroupId, Instant)> {
        let (soon, late) = (look_began + LOOK, look_began + LOGGED);
        let mut next: HashMap<GroupId, Instant> = HashMap::new();
        self.cares.lock().retain(|name, care| {
            if !groups.contains(&name.by) {
                return true;
            }
            let owed = care.seen >= look_began;
            if owed {
                let next = next.entry(name.by).or_insert(late);
                *next = (*next).min(care.due.unwrap_or(late));
            }
            owed || care.due.is_none()
        });
        groups.iter().map(|group| (*group, next.get(group).map_or(soon, |next| (*next).max(soon)))).collect()
    }

    /// Forgets what groups owe that aren't led here any more, and the ways to groups that are gone.
    fn let_go(&self, led: &[GroupId]) {
        self.cares.lock().retain(|name, care| care.due.is_none() || led.contains(&name.by));
        let table = self.context.directory.table();
        let known = |to: &GroupRef| {
            table.groups.get(&to.group).is_some_and(|group| group.generation == to.generation)
        };
        self.couriers.lock().retain(|to, courier| known(to) || !courier.rests());
    }
}

impl Care {
    /// When it is sent again if it is still owed after this answer.
    fn pause_after(&mut self, answer: Option<&TxnAnswer>) -> Duration {
        let in_vain = std::mem::take(&mut self.in_vain);
        match answer {
            None | Some(TxnAnswer::WrongGroup(_) | TxnAnswer::Later) => {
                self.in_vain = in_vain.saturating_add(1);
                RETRY.saturating_mul(1 << in_vain.min(4)).min(QUERY)
            }
            Some(TxnAnswer::Waiting | TxnAnswer::Undecided) => QUERY,
            Some(TxnAnswer::Granted(_) | TxnAnswer::Refused(_) | TxnAnswer::Decided(_) | TxnAnswer::Done) => {
                LOGGED
            }
        }
    }
}

fn name_of(by: GroupId, duty: &TxnDuty) -> Name {
    let attempt = duty.command.attempt();
    let (step, shard) = match &duty.command {
        TxnCommand::Prepare { shard, .. } | TxnCommand::Refuse { shard, .. } => (Step::Prepare, *shard),
        TxnCommand::Vote { shard, .. } if duty.urgent => (Step::Vote, *shard),
        TxnCommand::Vote { shard, .. } => (Step::Question, *shard),
        TxnCommand::Decide { shard, .. } | TxnCommand::Acked { shard, .. } => (Step::Decide, *shard),
        TxnCommand::Expire { .. } => (Step::Prepare, attempt.home),
    };
    Name { by, step, home: attempt.home, number: attempt.number, shard }
}

#[cfg(test)]
#[path = "transactions_tests.rs"]
mod tests;
