//! What one entry of the log brings about beside its own effect: replies to requests that waited, and shards in which
//! something was unlocked, so that others can go on in the same step.

use std::collections::BTreeSet;

use paxos::ids::LogTime;
use paxos::rsm::state_machine::RequestId;

use crate::command::{Reply, ShardId};

/// See the module.
pub(crate) struct Step<'a> {
    reply: &'a mut dyn FnMut(RequestId, Reply),
    agenda: BTreeSet<ShardId>,
    /// Of the request at hand, if it has waited before: since when.
    pub(crate) waited_since: Option<LogTime>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(reply: &'a mut dyn FnMut(RequestId, Reply)) -> Step<'a> {
        Step { reply, agenda: BTreeSet::new(), waited_since: None }
    }

    pub(crate) fn reply(&mut self, id: RequestId, reply: Reply) {
        (self.reply)(id, reply);
    }

    /// Something ended in this shard: others may have waited for it.
    pub(crate) fn look_at(&mut self, shard: ShardId) {
        self.agenda.insert(shard);
    }

    /// The next shard to look at.
    pub(crate) fn next(&mut self) -> Option<ShardId> {
        self.agenda.pop_first()
    }
}
