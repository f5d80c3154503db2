//! What a group of a cluster replicates: group 0 the shardmaster, every other one a store. Both are hosted by the same
//! nodes, in the same log.

use std::ops::ControlFlow;

use paxos::codec;
use paxos::ids::{GroupId, LogTime, Slot};
use paxos::rsm::state_machine::{Counts, Page, RequestId, RestoreError, StateMachine};
use shardmaster::ids::SHARDMASTER;
use shardmaster::master::Master;

use crate::entry::GroupRequest;
use crate::store::Store;
use crate::txn::TxnDuty;
use crate::{command, query};

/// The state of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    /// Of group 0.
    Master(Box<Master>),
    /// Of a group that serves shards.
    Store(Box<Store>),
}

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// By the shardmaster.
    Master(shardmaster::command::Reply),
    /// By a store.
    Store(command::Reply),
}

/// A read of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// For the shardmaster.
    Master(shardmaster::query::Query),
    /// For a store.
    Store(query::Query),
}

/// What a query is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// By the shardmaster.
    Master(shardmaster::query::Answer),
    /// By a store.
    Store(query::Answer),
}

/// The name of a request between groups, by which its reply is matched; `None` if the bytes are none.
pub fn id_of_request(group: GroupId, request: &[u8]) -> Option<RequestId> {
    match group {
        SHARDMASTER => shardmaster::command::Request::decode(request).ok().map(|request| request.id),
        _ => GroupRequest::decode(request).ok().map(|request| request.id()),
    }
}

impl Query {
    /// As it is sent between nodes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Query::Master(query) => codec::encode(query),
            Query::Store(query) => codec::encode(query),
        }
    }

    /// What [`Query::encode`] made for this group; `None` for anything else.
    pub fn decode(group: GroupId, bytes: &[u8]) -> Option<Query> {
        match group {
            SHARDMASTER => codec::decode(bytes).ok().map(Query::Master),
            _ => codec::decode(bytes).ok().map(Query::Store),
        }
    }
}

impl Reply {
    /// As it is sent between nodes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Reply::Master(reply) => codec::encode(reply),
            Reply::Store(reply) => codec::encode(reply),
        }
    }

    /// What [`Reply::encode`] made in this group; `None` for anything else.
    pub fn decode(group: GroupId, bytes: &[u8]) -> Option<Reply> {
        match group {
            SHARDMASTER => codec::decode(bytes).ok().map(Reply::Master),
            _ => codec::decode(bytes).ok().map(Reply::Store),
        }
    }
}

impl Answer {
    /// As it is sent between nodes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Master(answer) => codec::encode(answer),
            Answer::Store(answer) => codec::encode(answer),
        }
    }

    /// What [`Answer::encode`] made in this group; `None` for anything else.
    pub fn decode(group: GroupId, bytes: &[u8]) -> Option<Answer> {
        match group {
            SHARDMASTER => codec::decode(bytes).ok().map(Answer::Master),
            _ => codec::decode(bytes).ok().map(Answer::Store),
        }
    }
}

impl Machine {
    /// The store, if this is one.
    pub fn store(&self) -> Option<&Store> {
        match self {
            Machine::Store(store) => Some(store),
            Machine::Master(_) => None,
        }
    }

    /// The shardmaster, if this is it.
    pub fn master(&self) -> Option<&Master> {
        match self {
            Machine::Master(master) => Some(master),
            Machine::Store(_) => None,
        }
    }
}

impl StateMachine for Machine {
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Due = TxnDuty;

    fn apply(&mut self, slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Reply)>) {
        match self {
            Machine::Master(master) => {
                let mut own = Vec::new();
                master.apply(slot, batch, &mut own);
                replies.extend(own.into_iter().map(|(id, reply)| (id, Reply::Master(reply))));
            }
            Machine::Store(store) => {
                store.apply_each(batch, |id, reply| replies.push((id, Reply::Store(reply))));
            }
        }
    }

    fn is_blocked(&self, query: &Query) -> bool {
        match (self, query) {
            (Machine::Store(store), Query::Store(query)) => store.is_blocked(query),
            _ => false,
        }
    }

    fn due(&mut self) -> Vec<TxnDuty> {
        match self {
            Machine::Master(_) => Vec::new(),
            Machine::Store(store) => store.due(),
        }
    }

    fn is_long(query: &Query) -> bool {
        match query {
            Query::Master(query) => Master::is_long(query),
            Query::Store(query) => Store::is_long(query),
        }
    }

    fn query(&self, query: &Query) -> Answer {
        match (self, query) {
            (Machine::Master(master), Query::Master(query)) => Answer::Master(master.query(query)),
            (Machine::Store(store), Query::Store(query)) => Answer::Store(store.query(query)),
            // A query names its group, so none comes here.
            (Machine::Master(_), Query::Store(_)) => Answer::Store(query::Answer::Invalid),
            (Machine::Store(_), Query::Master(_)) => Answer::Store(query::Answer::Invalid),
        }
    }

    fn log_time(&self) -> LogTime {
        match self {
            Machine::Master(master) => master.log_time(),
            Machine::Store(store) => store.log_time(),
        }
    }

    fn state_hash(&self) -> u128 {
        match self {
            Machine::Master(master) => master.state_hash(),
            Machine::Store(store) => store.state_hash(),
        }
    }

    fn trouble(&self) -> Option<String> {
        match self {
            Machine::Master(master) => master.trouble(),
            Machine::Store(store) => store.trouble(),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Machine::Master(master) => master.counts(),
            Machine::Store(store) => store.counts(),
        }
    }

    fn state_bytes(&self) -> u64 {
        match self {
            Machine::Master(master) => master.state_bytes(),
            Machine::Store(store) => store.state_bytes(),
        }
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        match self {
            Machine::Master(master) => master.pages(),
            Machine::Store(store) => store.pages(),
        }
    }

    fn into_pages(self, put: &mut dyn FnMut(Page) -> ControlFlow<()>) {
        match self {
            Machine::Master(master) => master.into_pages(put),
            Machine::Store(store) => store.into_pages(put),
        }
    }

    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Machine, RestoreError> {
        match self {
            Machine::Master(master) => Ok(Machine::Master(Box::new(master.restore(pages)?))),
            Machine::Store(store) => Ok(Machine::Store(Box::new(store.restore(pages)?))),
        }
    }

    fn discarded(&mut self) -> Option<Box<dyn Send>> {
        match self {
            Machine::Master(master) => master.discarded(),
            Machine::Store(store) => store.discarded(),
        }
    }
}
