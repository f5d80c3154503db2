//! A move of a shard to the other group, with the shipped commands of the handoff, in one step: the model of the handoff
//! shows what may happen between them. It goes as far as it can: where transactions keep the shard from freezing it
//! stops, and goes on in a later step.

use kvserver::command::ShardId;
use kvserver::handoff::HandoffCommand;
use kvserver::store::Store;
use paxos::rsm::state_machine::StateMachine;
use shardmaster::ids::Epoch;
use shardmaster::orders::Order;

use crate::groups::{GROUPS, apply, group};
use crate::txn::bounds::first_owner;

/// Epoch of the only move.
pub const EPOCH: Epoch = Epoch(2);
/// More messages than a move takes.
const MESSAGES_MAX: usize = 100;

/// Moves a shard away from its first owner, as far as it goes.
pub(crate) fn go_on(stores: &mut [Store; GROUPS], shard: ShardId) {
    let from = first_owner(shard);
    let to = 1 - from;
    let order = |order| HandoffCommand::Order(order);
    apply(&mut stores[to], order(Order::Stage { shard, epoch: EPOCH, from: group(from) }));
    for _ in 0..MESSAGES_MAX {
        let Some(duty) = stores[to].duties().into_iter().find(|duty| duty.shard == shard) else { break };
        let before = [stores[0].state_hash(), stores[1].state_hash()];
        for command in duty.messages(group(to)) {
            apply(&mut stores[from], command);
        }
        if let Some(chunk) = duty.take(stores[from].query(&duty.pull())) {
            apply(&mut stores[to], chunk);
        }
        if before == [stores[0].state_hash(), stores[1].state_hash()] {
            break;
        }
    }
    if stores[to].shards().any(|served| served == shard) {
        apply(&mut stores[from], order(Order::Release { shard, epoch: EPOCH }));
    }
}

/// Cancels the move, unless the shard is frozen already.
pub(crate) fn cancel(stores: &mut [Store; GROUPS], shard: ShardId) {
    let from = first_owner(shard);
    let cancelled = apply(&mut stores[from], HandoffCommand::Order(Order::Cancel { shard, epoch: EPOCH }));
    if cancelled.applied {
        apply(&mut stores[1 - from], HandoffCommand::Order(Order::Abandon { shard, epoch: EPOCH }));
    }
}
