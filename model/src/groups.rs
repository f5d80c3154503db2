//! Two groups, A and B, each its applied state, the shipped `Store`: what is proposed is chosen and applied in one step.

use kvserver::command::Reply;
use kvserver::entry::{GroupCommand, GroupRequest};
use kvserver::handoff::{HandoffCommand, HandoffReply};
use kvserver::store::Store;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, Sequence};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::ids::GroupRef;

use crate::network::hash_of;

/// How many groups there are: A and B.
pub const GROUPS: usize = 2;
/// Who asks in the name of a group.
pub const ASKER: RequestId = RequestId { client: ClientId(1), sequence: Sequence(1) };

/// The group of that index: A is 0, B is 1.
pub fn group(at: usize) -> GroupRef {
    GroupRef { group: group_id(at), generation: Generation(1) }
}

/// The index of a group.
pub fn index(of: GroupRef) -> Option<usize> {
    (0..GROUPS).find(|at| group(*at) == of)
}

/// The id of the group of that index.
pub fn group_id(at: usize) -> GroupId {
    GroupId(u32::try_from(at + 1).unwrap_or(u32::MAX))
}

/// The name of the group of that index.
pub fn name(at: usize) -> &'static str {
    ["A", "B"].get(at).copied().unwrap_or("?")
}

/// The entry of one request, stamped with the log time that everything begins with.
pub fn batch(request: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::default();
    batch.push(request);
    batch.finish(LogTime(0))
}

/// Applies an entry of one request. All that is answered in this step, also to requests that waited.
pub(crate) fn enter(store: &mut Store, request: &[u8]) -> Vec<(RequestId, Reply)> {
    let mut said = Vec::new();
    store.apply_each(&batch(request), |id, reply| said.push((id, reply)));
    drop(store.discarded());
    said
}

/// Applies an entry of what another group, or the own leader, says. All that is answered in this step.
pub(crate) fn enter_command(store: &mut Store, command: GroupCommand) -> Vec<(RequestId, Reply)> {
    let RequestId { client, sequence } = ASKER;
    enter(store, &GroupRequest { client, sequence, command }.encode())
}

/// Applies a handoff command.
pub(crate) fn apply(store: &mut Store, command: HandoffCommand) -> HandoffReply {
    let said = enter_command(store, command.into());
    let own = said.into_iter().find_map(|(id, reply)| match reply {
        Reply::Handoff(reply) if id == ASKER => Some(reply),
        _ => None,
    });
    own.unwrap_or_default()
}

/// Stands for a group and its state.
pub(crate) fn hash_of_store(at: usize, store: &Store) -> u64 {
    hash_of(&(at, store.state_hash()))
}

/// What is wrong with a group's state by its own rules. `empty`: a group with the same bounds.
pub(crate) fn store_fault(empty: Store, store: &Store) -> Result<(), String> {
    if store.recomputed_hash() != store.state_hash() {
        return Err("P5: the incremental hash of a store isn't that of its state".to_string());
    }
    let restored = empty.restore(&mut store.pages()).map_err(|error| error.to_string())?;
    let owes = |store: &Store| (store.duties(), store.txn_duties());
    match restored == *store && owes(&restored) == owes(store) {
        true => Ok(()),
        false => Err("a store that is restored from its snapshot is another one".to_string()),
    }
}
