//! Bugs put around the shipped code on purpose, to prove that the model sees them.

use kvserver::handoff::{CopyPhase, HandoffCommand, Item};
use kvserver::store::Store;
use paxos::ids::LogTime;
use shardmaster::ids::Epoch;
use shardmaster::orders::{Order, Report};

use crate::groups::{apply, group};
use crate::handoff::bounds::SHARD;
use crate::handoff::network::Message;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// Session rows aren't copied.
    RowsLeftOut,
    /// Release drops whatever copy of the shard there is.
    ReleasesAnyCopy,
    /// A chunk is taken wherever the staging stands.
    NoExpectedPosition,
    /// A client takes a refusal for an answer.
    RefusalsAreAnswers,
    /// The source answers writes from its frozen copy.
    FrozenAnswers,
    /// The source takes Cancel for leave to serve again.
    CancelThaws,
    /// The destination says that it serves when it begins to stage.
    MovedTooEarly,
    /// The destination never asks for the freeze.
    NeverFreezes,
    /// The log time of the source stays behind.
    TimeLeftBehind,
    /// The shardmaster forgets to have the copy released.
    NeverReleases,
}

impl Sabotage {
    /// Whether the message is sent; may spoil it.
    pub(crate) fn sends(self, message: &mut Message) -> bool {
        let Message::Command { command, .. } = message else { return true };
        match (self, command) {
            (Sabotage::RowsLeftOut, HandoffCommand::Chunk(chunk)) => {
                chunk.items.retain(|item| matches!(item, Item::Key { .. }));
                true
            }
            (Sabotage::TimeLeftBehind, HandoffCommand::Chunk(chunk)) => {
                if let Some(seal) = &mut chunk.seal {
                    seal.log_time = LogTime(0);
                }
                true
            }
            (Sabotage::NeverFreezes, HandoffCommand::Freeze { .. })
            | (Sabotage::NeverReleases, HandoffCommand::Order(Order::Release { .. })) => false,
            _ => true,
        }
    }

    /// What a group makes of a command before it applies it.
    pub(crate) fn takes(self, store: &mut Store, at: usize, command: &mut HandoffCommand) {
        let Some(copy) = store.copies().into_iter().next() else { return };
        match (self, &mut *command) {
            (Sabotage::NoExpectedPosition, HandoffCommand::Chunk(chunk)) => {
                if let Some(duty) = store.duties().into_iter().find(|duty| duty.epoch == chunk.epoch) {
                    chunk.from = duty.at;
                }
            }
            (Sabotage::ReleasesAnyCopy, HandoffCommand::Order(Order::Release { shard, epoch })) => {
                let newer = Epoch(copy.epoch.0 + 1);
                if copy.phase == CopyPhase::Serving && newer > *epoch {
                    let start = HandoffCommand::Start { shard: SHARD, epoch: newer, to: group(1 - at) };
                    apply(store, start);
                    apply(store, HandoffCommand::Freeze { shard: SHARD, epoch: newer, staged: u64::MAX });
                    *command = HandoffCommand::Order(Order::Release { shard: *shard, epoch: newer });
                }
            }
            (Sabotage::CancelThaws, HandoffCommand::Order(Order::Cancel { shard, epoch })) => {
                *command = HandoffCommand::Order(Order::Thaw { shard: *shard, epoch: *epoch });
            }
            _ => {}
        }
    }

    /// What a group says to a command after it applied it.
    pub(crate) fn says(self, command: &HandoffCommand, report: &mut Option<Report>) {
        if let (Sabotage::MovedTooEarly, HandoffCommand::Order(Order::Stage { shard, epoch, .. })) =
            (self, command)
        {
            *report = Some(Report::Moved { shard: *shard, epoch: *epoch });
        }
    }

    /// Whose state a client's request meets.
    pub(crate) fn thawed(self, store: &Store) -> Option<Store> {
        (self == Sabotage::FrozenAnswers).then(|| thawed(store)).flatten()
    }
}

/// A store like this whose frozen copy serves; `None` if it has none.
pub(crate) fn thawed(store: &Store) -> Option<Store> {
    let copy = store.copies().into_iter().next().filter(|copy| copy.phase == CopyPhase::Frozen)?;
    let (epoch, _) = copy.other?;
    let mut store = store.clone();
    apply(&mut store, HandoffCommand::Order(Order::Thaw { shard: SHARD, epoch }));
    Some(store)
}
