//! What the shardmaster's leader tells groups: orders derived from applied state alone, without memory (rule B1). A new
//! leader owes the same; an order is repeated until the report that answers it was applied.

use bincode::{Decode, Encode};
use paxos::mutants::{self, Mutant};

use crate::group::GroupState;
use crate::ids::GroupRef;
use crate::master::Master;
use crate::moves::{Move, Phase, Remnant, RemnantKind};
use crate::orders::Order;

/// An order, and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Duty {
    /// The group whose log is to take it.
    pub to: GroupRef,
    /// The order.
    pub order: Order,
}

impl Master {
    /// All orders that haven't been answered: one for each move in progress, each copy left behind, and each group that
    /// joins or retires. In time linear in those and in the groups.
    pub fn duties(&self) -> Vec<Duty> {
        let groups = self.groups.values().filter_map(|group| match group.state {
            GroupState::Joining => Some(Duty { to: group.at, order: Order::Greet }),
            GroupState::Retiring => Some(Duty { to: group.at, order: Order::Retire }),
            GroupState::Active | GroupState::Leaving => None,
        });
        let moves = self.moves.values().map(Move::duty);
        let too_early = self.moves.values().filter(|_| mutants::is_on(Mutant::ReleasedBeforeMoved));
        let too_early = too_early.map(|moving| {
            let Move { shard, epoch, from, .. } = *moving;
            Duty { to: from, order: Order::Release { shard, epoch } }
        });
        let remnants = self.remnants.values().map(Remnant::duty);
        groups.chain(moves).chain(too_early).chain(remnants).collect()
    }
}

impl Move {
    fn duty(&self) -> Duty {
        let Move { shard, epoch, from, to, phase } = *self;
        match phase {
            Phase::Ordered => Duty { to, order: Order::Stage { shard, epoch, from } },
            Phase::Cancelling | Phase::Recalling => Duty { to: from, order: Order::Cancel { shard, epoch } },
            Phase::Abandoning => Duty { to, order: Order::Abandon { shard, epoch } },
            Phase::Thawing => Duty { to: from, order: Order::Thaw { shard, epoch } },
        }
    }
}

impl Remnant {
    fn duty(&self) -> Duty {
        let Remnant { shard, at, epoch, kind } = *self;
        match kind {
            RemnantKind::Frozen => Duty { to: at, order: Order::Release { shard, epoch } },
            RemnantKind::Staged => Duty { to: at, order: Order::Abandon { shard, epoch } },
        }
    }
}
