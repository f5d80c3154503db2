//! What a node does now and then: checkpoints and trimming, state hashes, and why it stops voting.

use paxos::ids::{GroupId, NodeId, Slot};
use paxos::io::Write;
use paxos::message::{Entry, Payload};
use paxos::rsm::state_machine::StateMachine;
use wire::v1;

use crate::api::{Counters, Order, RefusedReason};
use crate::checkpoint::GroupState;
use crate::genesis::Genesis;
use crate::node::bootstrap::StartError;
use crate::node::hosted::DIGEST_SLOTS;
use crate::node::{Node, SlotEvent, SlotHappening};
use crate::options::Bounds;
use crate::record::{Life, LogRecord};

/// Happenings remembered for `explain`.
const EVENTS_MAX: usize = 16_384;
/// Segments that a group at rest may hold back before its live records are written again.
const PINNED_SEGMENTS: usize = 8;
/// A state this much larger than the live log is worth a checkpoint. A restart holds the live log in memory and applies it, which
/// costs several times as much a byte as reading the state; a checkpoint costs this many bytes of writing for one of log.
const STATE_PER_LOG: u64 = 3;

/// The live log, in bytes, with which a node begins a checkpoint of so large a state.
fn due_at(bounds: &Bounds, state_bytes: u64, node: NodeId) -> u64 {
    // Nodes take turns: the same log on all of them would start all at once.
    let stagger = bounds.checkpoint_log_bytes / 8 * u64::from(node.0 % 4);
    bounds.checkpoint_log_bytes.max(state_bytes / STATE_PER_LOG) + stagger
}

impl<S: StateMachine> Node<S> {
    /// Takes note of a write before it goes to the log.
    pub(crate) fn note_write(&mut self, index: usize, write: &Write<Payload>) {
        let group = self.hosted[index].life.0;
        match write {
            Write::Accepted { slot, ballot, .. } => self.note(group, *slot, SlotHappening::Accepted(*ballot)),
            Write::Chosen { slot, .. } => self.note(group, *slot, SlotHappening::Learnt),
            Write::ChosenEnd(end) => self.hosted[index].written_chosen_end = *end,
            Write::Promised(_) | Write::Installed(_) => {}
        }
    }

    pub(crate) fn note_applied(&mut self, group: GroupId, chosen: &[(Slot, Entry<Payload>)]) {
        for (slot, _) in chosen {
            self.note(group, *slot, SlotHappening::Applied);
        }
    }

    fn note(&mut self, group: GroupId, slot: Slot, what: SlotHappening) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        let unix_ms = self.env().unix_ms();
        self.events.push_back(SlotEvent { group, slot, what, unix_ms });
    }

    /// From here on this node neither votes nor serves; it says why in its status.
    pub(crate) fn stop_voting(&mut self, reason: String) {
        tracing::error!(%reason, "this node stops voting");
        for hosted in &mut self.hosted {
            hosted.dismiss(RefusedReason::Stopping);
        }
        self.condition.get_or_insert(reason);
    }

    pub(crate) fn look_for_stop(&mut self) {
        let forgot = self.network.forgot.lock().take();
        if let Some(reason) = forgot {
            self.stop_voting(reason);
        }
    }

    /// A checkpoint when the live log has outgrown its share of the state, and new records for what holds an old segment back.
    pub(crate) fn mind_the_log(&mut self) {
        let live = self.log_bytes - self.log_bytes_at_checkpoint;
        let bounds = &self.options.bounds;
        if live >= bounds.checkpoint_log_bytes {
            let state: u64 = self.hosted.iter().map(|h| h.machine.state_bytes()).sum();
            if live >= due_at(bounds, state, self.options.node) {
                self.begin_checkpoint();
            }
        }
    }

    /// Begins a checkpoint, or one more after that which is being written: it may hold what is gone by now.
    pub(crate) fn begin_checkpoint(&mut self) {
        if self.checkpointing {
            self.checkpoint_again = true;
            return;
        }
        self.checkpoint_again = false;
        self.checkpointing = true;
        self.log_bytes_at_checkpoint = self.log_bytes;
        let states: Vec<GroupState<S>> = self
            .hosted
            .iter()
            // A replica that lost its state has nothing to keep.
            .filter(|h| !h.replica.state_lost())
            .map(|h| GroupState {
                group: h.life.0,
                generation: h.life.1,
                applied_end: h.replica.applied_end(),
                state: h.machine.clone(),
            })
            .collect();
        let ends: Vec<(Life, Slot)> =
            states.iter().map(|s| ((s.group, s.generation), s.applied_end)).collect();
        let dir = self.options.data_dir.clone();
        let pace = self.options.bounds.checkpoint_bytes_per_s;
        let inbox = self.inbox.clone();
        let (lock, env) = (self.identity.lock(), self.env().clone());
        let work = move || {
            // Also if the node ends meanwhile, and another one is to begin in this directory.
            let _held = lock;
            let outcome = env.write_checkpoint(&dir, states, pace).map_err(|e| e.to_string());
            inbox.order(Order::Checkpointed(outcome.map(|()| ends)));
        };
        if let Err(error) = self.env().behind("checkpoint", work) {
            tracing::error!(%error, "no thread for a checkpoint");
            self.checkpointing = false;
        }
    }

    pub(crate) fn on_checkpointed(&mut self, outcome: Result<Vec<(Life, Slot)>, String>) {
        self.checkpointing = false;
        if self.checkpoint_again {
            self.begin_checkpoint();
        }
        let ends = match outcome {
            Ok(ends) => ends,
            Err(reason) => return tracing::error!(%reason, "a checkpoint was given up"),
        };
        Counters::add(&self.shared.counters.checkpoints, 1);
        for (life, end) in ends {
            if let Some(index) = self.index_of_life(life) {
                self.hosted[index].durable_end = end;
                self.log.release(life.0, life.1, end);
            }
        }
        self.write_again();
    }

    /// A replica at rest may hold back an old segment with a few live records: they go to the end of the log, from memory.
    fn write_again(&mut self) {
        let Some(pinned) = self.log.pinned(PINNED_SEGMENTS) else { return };
        for life in pinned.groups {
            let Some(index) = self.index_of_life(life) else { continue };
            let hosted = &self.hosted[index];
            if hosted.replica.log().compacted_end() > hosted.durable_end {
                // What memory has dropped lives in those segments alone, until the next checkpoint.
                return;
            }
            let live: Vec<_> =
                hosted.replica.log().from(hosted.durable_end).map(|(s, h)| (s, h.clone())).collect();
            for (slot, held) in live {
                if let Some((ballot, entry)) = held.vote {
                    let write = LogRecord::Write(Write::Accepted { slot, ballot, entry });
                    self.append(life, Some(slot), &write, false);
                }
                if let Some(entry) = held.chosen {
                    let write = LogRecord::Write(Write::Chosen { slot, entry });
                    self.append(life, Some(slot), &write, false);
                }
            }
            self.commit();
            self.log.reappended(life.0, life.1, pinned.since);
        }
    }

    pub(crate) fn load_checkpoint(
        &self,
        genesis: &Genesis,
    ) -> Result<std::collections::BTreeMap<GroupId, (Slot, S)>, StartError> {
        let fresh = |group, generation| {
            let life = (group, generation);
            self.lives.is_hosted(life).then(|| self.newborn(genesis, life))
        };
        let found = self.env().load_checkpoint(&self.options.data_dir, fresh)?;
        Ok(found.into_iter().map(|s| (s.group, (s.applied_end, s.state))).collect())
    }

    /// The leader tells its state hash at certain slots; a follower that has another one has diverged (P5).
    pub(crate) fn send_digest(&mut self, index: usize, applied: u64) {
        let hosted = &self.hosted[index];
        let end = hosted.replica.applied_end().0;
        let crossed = end / DIGEST_SLOTS != end.saturating_sub(applied) / DIGEST_SLOTS;
        if !crossed {
            return;
        }
        if let Some((from, applied_end, hash)) = hosted.expected {
            let life = hosted.life;
            self.hosted[index].expected = None;
            self.compare_digest(from, life, applied_end, hash);
            return;
        }
        if hosted.replica.leading().is_none() {
            return;
        }
        let Some((applied_end, hash)) = hosted.digests.back().copied() else { return };
        let digest = v1::StateDigest { applied_end, hash: hash.to_be_bytes().to_vec().into() };
        let me = self.options.node;
        let peers: Vec<NodeId> = hosted.replica.voters().iter().filter(|node| *node != me).collect();
        for peer in peers {
            // Behind the entries it covers, or it would come before they are applied.
            self.push(index, peer, true, bytes::Bytes::new(), Some(digest.clone()));
        }
    }

    pub(crate) fn compare_digest(&mut self, from: NodeId, life: Life, applied_end: u64, hash: u128) {
        let Some(index) = self.index_of_life(life) else { return };
        let group = life.0;
        let hosted = &mut self.hosted[index];
        if hosted.replica.applied_end().0 < applied_end {
            // It isn't there yet; the next slots bring it.
            hosted.expected = Some((from, applied_end, hash));
            return;
        }
        let own = hosted.digests.iter().find(|(end, _)| *end == applied_end);
        if own.is_some_and(|(_, own)| *own != hash) {
            self.stop_voting(format!("P5: the state of {group} at s{applied_end} isn't that of {from}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_waits_for_a_third_of_its_size_in_log_and_nodes_take_turns() {
        const MIB: u64 = 1 << 20;
        let bounds = Bounds { checkpoint_log_bytes: 64 * MIB, ..Bounds::default() };
        let due = |state, node| due_at(&bounds, state, NodeId(node));
        assert_eq!(due(0, 4), 64 * MIB);
        assert_eq!(due(192 * MIB, 4), 64 * MIB);
        assert_eq!(due(1536 * MIB, 4), 512 * MIB);
        assert_eq!([1, 2, 3].map(|node| due(1536 * MIB, node)), [520, 528, 536].map(|mib| mib * MIB));
    }
}
