//! What clients ask of the world.

use kvserver::command::{Op, Reply, Request, ShardId};
use kvserver::query::{Answer, Query};
use paxos::ids::{ClientId, GroupId, LogTime};
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::GroupRef;

use crate::shard::world::World;
use crate::shard::{Trouble, text};

impl World {
    /// A client's new request, tried at a group; at the owner that the shardmaster knows if none is named.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn write(&mut self, client: ClientId, op: Op, at: Option<GroupId>) -> Result<(), Trouble> {
        let request = self.clients.request(client, op, self.master.shard_count(), LogTime(self.clock_ms));
        self.attempt(&request, at)
    }

    /// A client's last request again, bit for bit.
    ///
    /// # Errors
    /// A property that doesn't hold, or that there is none.
    pub fn retry(&mut self, client: ClientId, at: Option<GroupId>) -> Result<(), Trouble> {
        let request = self.clients.last(client).ok_or_else(|| "it never asked".to_string())?;
        self.attempt(&request, at)
    }

    fn asked(&self, shard: ShardId, at: Option<GroupId>) -> Option<GroupRef> {
        at.map_or_else(|| self.master.owner(shard).map(|owner| owner.group), |id| self.group(id))
    }

    fn attempt(&mut self, request: &Request, at: Option<GroupId>) -> Result<(), Trouble> {
        let at = self.asked(request.shard, at).ok_or_else(|| "no such group".to_string())?;
        let Some(group) = self.groups.get(&at) else { return Err("no such group".to_string().into()) };
        let (to, client) = (text::group(at), text::client(request.client));
        let what = format!("{client} {} {}", request.sequence, text::op(&request.op, request.shard));
        if !group.up {
            self.note(format!("{to} <- {what}: down"));
            return Ok(());
        }
        let (end, before) = (group.end, group.store.clone());
        self.note(format!("{to} {end} <- {what}"));
        let Some(reply) = self.apply(at, &paxos::codec::encode(request)) else { return Ok(()) };
        self.note(format!("  -> {client} {}", text::reply(&reply)));
        self.judge.on_reply(request, &reply).map_err(Trouble::Broken)?;
        if let Some(group) = self.groups.get(&at) {
            self.clients.hear(request, &reply, group.store.log_time());
            let same = group.store == before || group.store.log_time() != before.log_time();
            if matches!(reply, Reply::Refused(_)) && !same {
                return Err(Trouble::Broken("P9: a refused request left a trace".to_string()));
            }
        }
        self.check().map_err(Trouble::Broken)
    }

    /// Reads a key at a group; at the owner if none is named.
    ///
    /// # Errors
    /// That there's no such group.
    pub fn read(&mut self, key: &[u8], shard: ShardId, at: Option<GroupId>) -> Result<(), Trouble> {
        let at = self.asked(shard, at).ok_or_else(|| "no such group".to_string())?;
        let Some(group) = self.groups.get(&at) else { return Err("no such group".to_string().into()) };
        let answer = match group.store.query(&Query::Get { shard, key: key.to_vec() }) {
            _ if !group.up => "down".to_string(),
            Answer::Value(Some((value, version))) => {
                format!("{} v{version}", String::from_utf8_lossy(&value))
            }
            Answer::Value(None) => "absent".to_string(),
            Answer::WrongGroup { owner, .. } => text::wrong_group(owner),
            Answer::Awaiting { .. } => "refused: shard is on its way".to_string(),
            other => format!("{other:?}"),
        };
        self.note(format!("{} {}/{}: {answer}", text::group(at), shard.0, text::name(key)));
        Ok(())
    }
}
