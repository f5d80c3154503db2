//! A group and the shardmaster as states of the model hold them: the shipped state machine, with what is read off it worked
//! out once.

use std::sync::Arc;

use kvserver::command::Reply;
use kvserver::handoff::{CopyPhase, CopyStatus, Duty, HandoffCommand};
use kvserver::store::Store;
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::{Epoch, Owner};
use shardmaster::master::Master;

use crate::groups::{enter, group, hash_of_store, index, store_fault};
use crate::handoff::bounds::{Bounds, SHARD, late};
use crate::handoff::network::{Letter, Message};
use crate::handoff::sabotage;
use crate::network::hash_of;

/// A group's state.
#[derive(Debug)]
pub struct HeldStore {
    /// The shipped state machine.
    pub store: Store,
    /// Stands for the group and its state.
    pub hash: u64,
    /// The copy of the shard that it holds.
    pub copy: Option<CopyStatus>,
    /// What the copy holds, if it serves or served.
    pub digest: Option<u128>,
    /// What it owes.
    pub duties: Vec<Duty>,
    /// What it has reason to send, but for pulls.
    pub sends: Vec<Arc<Letter>>,
    /// A rule of its own that it breaks.
    pub fault: Option<Arc<str>>,
}

/// The shardmaster's state.
#[derive(Debug)]
pub struct HeldMaster {
    /// The shipped state machine.
    pub master: Master,
    /// Stands for the state.
    pub hash: u64,
    /// Who serves the shard, as it knows.
    pub owner: Option<Owner>,
    /// What it has reason to send.
    pub sends: Vec<Arc<Letter>>,
    /// A rule of its own that it breaks.
    pub fault: Option<Arc<str>>,
}

/// Applies an entry of one request. Its reply.
pub(crate) fn ask(store: &mut Store, request: &[u8]) -> Reply {
    enter(store, request).pop().map_or(Reply::Acked, |(_, reply)| reply)
}

/// Time passes: an entry without a request, but with a later stamp.
pub(crate) fn age(store: &mut Store) {
    store.apply_each(&BatchBuilder::default().finish(late()), |_, _| {});
}

/// Stands for the shardmaster's state.
pub(crate) fn hash_of_master(master: &Master) -> u64 {
    hash_of(&master.state_hash())
}

/// The letter of a message, unless a bug keeps it from being sent.
pub(crate) fn letter(bounds: &Bounds, mut message: Message) -> Option<Arc<Letter>> {
    let sent = bounds.sabotage.is_none_or(|bug| bug.sends(&mut message));
    sent.then(|| Letter::new(message))
}

impl HeldStore {
    /// Works out what there is to know of a group's state.
    pub fn new(bounds: &Bounds, at: usize, store: Store) -> HeldStore {
        let copy = store.copies().into_iter().next();
        let thawed = sabotage::thawed(&store);
        let digest = thawed.as_ref().unwrap_or(&store).shard_status(SHARD).map(|status| status.digest);
        let duties = store.duties();
        let messages = duties.iter().filter_map(|duty| Some((index(duty.from)?, duty.messages(group(at)))));
        let commands = messages.flat_map(|(to, all)| all.into_iter().map(move |command| (to, command)));
        let sends = commands.filter_map(|(to, command)| letter(bounds, Message::Command { to, command }));
        let fault = store_fault(bounds.store(at), &store).err().map(Into::into);
        HeldStore {
            hash: hash_of_store(at, &store),
            copy,
            digest,
            sends: sends.collect(),
            duties,
            fault,
            store,
        }
    }

    /// The copy, if it serves or served.
    pub fn owned(&self) -> Option<Epoch> {
        self.copy.as_ref().filter(|copy| copy.phase != CopyPhase::Staging).map(|copy| copy.epoch)
    }

    /// Whether the copy may serve.
    pub fn serves(&self) -> bool {
        self.phase().is_some_and(|phase| matches!(phase, CopyPhase::Serving | CopyPhase::Moving))
    }

    /// Phase of the copy.
    pub fn phase(&self) -> Option<CopyPhase> {
        self.copy.as_ref().map(|copy| copy.phase)
    }
}

impl HeldMaster {
    /// Works out what there is to know of the shardmaster's state. `before`: a state from which it came.
    pub fn new(bounds: &Bounds, master: Master, before: Option<&Master>) -> HeldMaster {
        let orders = master.duties().into_iter().filter_map(|duty| Some((index(duty.to)?, duty.order)));
        let commands =
            orders.map(|(to, order)| Message::Command { to, command: HandoffCommand::Order(order) });
        let since = before.map_or(Ok(()), |before| master.check_since(before));
        HeldMaster {
            hash: hash_of_master(&master),
            owner: master.owner(SHARD),
            sends: commands.filter_map(|message| letter(bounds, message)).collect(),
            fault: master.check().and(since).err().map(Into::into),
            master,
        }
    }
}
