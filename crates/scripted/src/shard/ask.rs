//! What clients ask of the world.

use kvserver::command::{BusyReason, Op, Refusal, Reply, Request, ShardId};
use kvserver::query::{Answer, Query, ShardCursor};
use paxos::ids::{ClientId, GroupId, LogTime, Sequence};
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::ids::GroupRef;

use crate::golden::Trouble;
use crate::shard::world::World;
use crate::shard::{text, view};

/// A read that a client asked for.
#[derive(Clone, Debug)]
pub struct Reading {
    query: Query,
    /// Its words.
    words: String,
}

impl Reading {
    /// Of one key.
    pub fn key(key: &[u8], shard: ShardId) -> Reading {
        let words = format!("{}/{}", shard.0, text::name(key));
        Reading { query: Query::Get { shard, key: key.to_vec() }, words }
    }

    /// Of all pairs of a shard.
    pub fn scan(shard: ShardId) -> Reading {
        let shards = vec![ShardCursor { shard, after: None }];
        let query = Query::Scan { shards, prefix: Vec::new(), limit: 1_000, keys_only: false };
        Reading { query, words: format!("scan of {shard}") }
    }

    fn shard(&self) -> ShardId {
        match &self.query {
            Query::Get { shard, .. } => *shard,
            Query::Scan { shards, .. } => shards.first().map_or(ShardId(0), |cursor| cursor.shard),
            _ => ShardId(0),
        }
    }
}

impl World {
    /// A client's new request, tried at a group; at the owner that the shardmaster knows if none is named.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn write(&mut self, client: ClientId, op: Op, at: Option<GroupId>) -> Result<(), Trouble> {
        let request = self.clients.request(client, op, self.master.shard_count(), LogTime(self.clock_ms));
        self.attempt(&request, at)
    }

    /// A client's last request again, or another one of it, bit for bit.
    ///
    /// # Errors
    /// A property that doesn't hold, or that there is none.
    pub fn retry(
        &mut self,
        client: ClientId,
        sequence: Option<Sequence>,
        at: Option<GroupId>,
    ) -> Result<(), Trouble> {
        let request = match sequence {
            Some(sequence) => self.clients.asked(RequestId { client, sequence }),
            None => self.clients.last(client),
        };
        self.attempt(&request.ok_or_else(|| "it never asked".to_string())?, at)
    }

    /// A client waits for none of its answers any more.
    pub fn give_up(&mut self, client: ClientId) {
        self.clients.give_up(client);
    }

    fn asked(&self, shard: ShardId, at: Option<GroupId>) -> Option<GroupRef> {
        at.map_or_else(|| self.master.owner(shard).map(|owner| owner.group), |id| self.group(id))
    }

    pub(super) fn attempt(&mut self, request: &Request, at: Option<GroupId>) -> Result<(), Trouble> {
        let at = self.asked(request.shard, at).ok_or_else(|| "no such group".to_string())?;
        let Some(group) = self.groups.get(&at) else { return Err("no such group".to_string().into()) };
        let (to, client) = (text::group(at), text::client(request.client));
        let what =
            format!("{client} {} {}", request.sequence, text::op(&request.op, self.master.shard_count()));
        if !group.up {
            self.note(format!("{to} <- {what}: down"));
            return Ok(());
        }
        let (end, before) = (group.end, group.store.clone());
        self.note(format!("{to} {end} <- {what}"));
        let id = RequestId { client: request.client, sequence: request.sequence };
        let replies = self.apply(at, &paxos::codec::encode(request));
        let own = replies.iter().find(|(of, _)| *of == id).map(|(_, reply)| reply.clone());
        if own.is_none() {
            self.note("  waits".to_string());
            self.clients.waits(id, at);
        }
        self.hear(at, replies, Some(id)).map_err(Trouble::Broken)?;
        if let Some(group) = self.groups.get(&at) {
            let changed = view::stepped(&view::group(&before), &view::group(&group.store));
            let same = group.store == before || group.store.log_time() != before.log_time();
            self.lines.extend(changed);
            if own.is_some_and(|own| leaves_no_trace(&own)) && !same {
                return Err(Trouble::Broken("P9: a refused request left a trace".to_string()));
            }
        }
        self.act(at).map_err(Trouble::Broken)?;
        self.check().map_err(Trouble::Broken)
    }

    /// Reads at a group; at the owner if none is named. Waits for transactions that are about to change what is read.
    ///
    /// # Errors
    /// That there's no such group, or a property that doesn't hold.
    pub fn read(&mut self, reading: Reading, at: Option<GroupId>) -> Result<(), Trouble> {
        let at = self.asked(reading.shard(), at).ok_or_else(|| "no such group".to_string())?;
        let Some(group) = self.groups.get(&at) else { return Err("no such group".to_string().into()) };
        if !group.up {
            self.note(format!("{} {}: down", text::group(at), reading.words));
            return Ok(());
        }
        if group.store.is_blocked(&reading.query) {
            self.note(format!("{} {}: waits", text::group(at), reading.words));
            self.reads.push((at, reading));
            return Ok(());
        }
        self.answer_read(at, &reading).map_err(Trouble::Broken)
    }

    /// Answers the reads that wait at a group no longer.
    pub(super) fn look_at_reads(&mut self, at: GroupRef) -> Result<(), String> {
        let Some(group) = self.groups.get(&at) else { return Ok(()) };
        let waits =
            |(there, reading): &(GroupRef, Reading)| *there != at || group.store.is_blocked(&reading.query);
        let (left, free) = std::mem::take(&mut self.reads).into_iter().partition(waits);
        self.reads = left;
        let free: Vec<(GroupRef, Reading)> = free;
        free.iter().try_for_each(|(at, reading)| self.answer_read(*at, reading))
    }

    fn answer_read(&mut self, at: GroupRef, reading: &Reading) -> Result<(), String> {
        let Some(group) = self.groups.get(&at) else { return Ok(()) };
        let answer = group.store.query(&reading.query);
        self.judge.on_read(&reading.query, &answer, self.master.shard_count())?;
        let pair = |key: &[u8], value: &[u8], version: u64| {
            format!("{}={} v{version}", text::name(key), String::from_utf8_lossy(value))
        };
        let answer = match answer {
            Answer::Value(Some((value, version))) => {
                format!("{} v{version}", String::from_utf8_lossy(&value))
            }
            Answer::Value(None) => "absent".to_string(),
            Answer::Page(pages) => {
                let pairs = pages.into_iter().flat_map(|page| page.pairs);
                let pairs: Vec<String> = pairs.map(|p| pair(&p.key, &p.value, p.version)).collect();
                format!("[{}]", pairs.join(", "))
            }
            Answer::WrongGroup { owner, .. } => text::wrong_group(owner),
            Answer::Awaiting { .. } => "refused: shard is on its way".to_string(),
            other => format!("{other:?}"),
        };
        self.note(format!("{} {}: {answer}", text::group(at), reading.words));
        Ok(())
    }
}

/// Refused for the phase of the shard, for a lock, or for a bound. What is refused because of its session may sweep others.
fn leaves_no_trace(reply: &Reply) -> bool {
    let Reply::Refused(refusal) = reply else { return false };
    match refusal {
        Refusal::WrongGroup { .. } | Refusal::Awaiting => true,
        Refusal::Busy(reason) => match reason {
            BusyReason::Moving | BusyReason::Locked | BusyReason::Transactions => true,
            BusyReason::Sessions | BusyReason::Window => false,
        },
        Refusal::AlreadyAcknowledged
        | Refusal::SessionExpired
        | Refusal::FromTheFuture
        | Refusal::SequenceReused
        | Refusal::Conflict(_)
        | Refusal::Invalid => false,
    }
}
