//! What goes wrong with groups and their leaders.

use kvserver::store::Store;
use paxos::ids::GroupId;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::GroupRef;
use shardmaster::master::Master;

use crate::shard::message::Place;
use crate::shard::text;
use crate::shard::world::World;

impl World {
    /// A place loses its majority, or has it again.
    pub fn set_up(&mut self, place: Place, up: bool) {
        match place {
            Place::Master => self.master_up = up,
            Place::Group(at) => {
                if let Some(group) = self.groups.get_mut(&at) {
                    group.up = up;
                }
            }
        }
    }

    /// The leader of a place dies: what it had under way is lost, to it and from it. The next one has what the log gives,
    /// here a snapshot.
    ///
    /// # Errors
    /// A property that doesn't hold, or a snapshot that isn't the state.
    pub fn leader_dies(&mut self, place: Place) -> Result<(), String> {
        for message in self.take(|message| message.from == place || message.to == place) {
            self.note(format!("  lost {} {message}", message.link()));
        }
        match place {
            Place::Master => {
                self.given.clear();
                let (shards, group) = (self.master.shard_count(), GroupId(1));
                let owners = vec![group; usize::from(shards)];
                let empty = Master::with_limits(self.master.limits().clone(), shards, &[group], &[], owners);
                let restored = empty.restore(&mut self.master.pages()).map_err(|e| format!("P5: {e}"))?;
                if restored != self.master {
                    return Err("P5: the shardmaster restored isn't what it was".to_string());
                }
                self.master = restored;
            }
            Place::Group(at) => {
                let Some(group) = self.groups.get_mut(&at) else { return Ok(()) };
                let empty = Store::new(self.limits.clone(), self.master.shard_count(), &[]);
                let restored = empty.restore(&mut group.store.pages()).map_err(|e| format!("P5: {e}"))?;
                let owes = |store: &Store| (store.duties(), store.txn_duties());
                if restored != group.store || owes(&restored) != owes(&group.store) {
                    return Err(format!("P5: {at} restored isn't what it was"));
                }
                group.store = restored;
                self.clients_leave(at);
            }
        }
        self.check()
    }

    /// Who waited at a leader hears nothing.
    fn clients_leave(&mut self, at: GroupRef) {
        for (client, sequence) in self.clients.leave(at) {
            self.note(format!("  {} {sequence} hears nothing", text::client(client)));
        }
        self.reads.retain(|(there, _)| *there != at);
    }

    /// The leader of a group stops, and another one leads. What it has under way stays so.
    pub fn pause(&mut self, at: GroupRef) {
        let under_way = self.take(|message| message.from == Place::Group(at));
        if let Some(group) = self.groups.get_mut(&at) {
            group.paused = Some((group.store.clone(), under_way));
        }
        self.clients_leave(at);
    }

    /// It goes on: what it had under way leaves, and what its old state owes.
    pub fn resume(&mut self, at: GroupRef) {
        let Some((old, under_way)) = self.groups.get_mut(&at).and_then(|group| group.paused.take()) else {
            return;
        };
        self.put(under_way);
        self.put(self.duties_of(at, &old));
    }

    /// Time passes.
    pub fn tick(&mut self, ms: u64) {
        self.clock_ms += ms;
    }

    /// Sets how far the clock of a group is behind.
    pub fn set_behind(&mut self, at: GroupRef, ms: u64) {
        if let Some(group) = self.groups.get_mut(&at) {
            group.behind_ms = ms;
        }
    }
}
