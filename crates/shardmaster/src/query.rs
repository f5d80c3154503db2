//! What can be asked of the shardmaster, and the answers. Any replica can answer from its applied state.

use bincode::{Decode, Encode};
use paxos::ids::GroupId;

use crate::command::{Command, Policy, Reply};
use crate::duties::Duty;
use crate::group::{Group, NodeInfo};
use crate::history::{MapChange, ShardMap};
use crate::ids::{ConfigNum, Epoch, Owner, ShardId};
use crate::master::Master;
use crate::moves::{Move, Phase, Remnant, RemnantKind};
use crate::rebalance::View;

/// Most lines of the history in one answer.
pub const HISTORY_LINES_MAX: u32 = 1_000;

/// A read of the shardmaster's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Query {
    /// A ShardMap; the latest if none is named.
    Map(Option<ConfigNum>),
    /// Who changed what, in order.
    History {
        /// The first ShardMap wanted.
        from: ConfigNum,
        /// How many; at most [`HISTORY_LINES_MAX`] are given.
        limit: u32,
    },
    /// Who serves what now.
    Routing {
        /// The version that the asker has; 0 for none.
        newer_than: u64,
    },
    /// What isn't at rest, and why.
    Migrations,
    /// The nodes that registered.
    Nodes,
    /// What the leader owes groups.
    Duties,
    /// How the leader rebalances.
    Policy,
    /// What rebalancing goes by.
    Rebalance,
    /// What a command would be answered with. Nothing is changed.
    DryRun(Command),
}

/// The answer to a query of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Answer {
    /// `None` if there is no ShardMap of that number.
    Map(Option<ShardMap>),
    /// By ascending number.
    History(Vec<MapChange>),
    /// To Routing, if the asker has it already.
    Unchanged,
    /// To Routing.
    Routing(RoutingTable),
    /// By ascending shard.
    Migrations(Vec<Migration>),
    /// By ascending id.
    Nodes(Vec<NodeInfo>),
    /// In no order that matters.
    Duties(Vec<Duty>),
    /// As set.
    Policy {
        /// No move starts.
        paused: bool,
        /// The rest.
        policy: Policy,
    },
    /// To Rebalance.
    Rebalance {
        /// Where shards are, and are to be.
        view: View,
        /// As set.
        policy: Policy,
    },
    /// What it would be.
    DryRun(Reply),
}

/// Who serves what now, and where they are reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RoutingTable {
    /// Only grows, with each change of anything in here.
    pub version: u64,
    /// The latest ShardMap.
    pub config: ConfigNum,
    /// How many shards there are.
    pub shards: u16,
    /// By shard.
    pub owners: Vec<Owner>,
    /// The groups there are, by ascending id: nodes host these and no others.
    pub groups: Vec<Group>,
    /// The nodes that registered, by ascending id.
    pub nodes: Vec<NodeInfo>,
}

/// A shard that isn't at rest. One that moves on while an older copy is being dropped has several.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Migration {
    /// The shard.
    pub shard: ShardId,
    /// Serves it, or did when the move began.
    pub from: GroupId,
    /// Gets it. The group that drops its copy, for `dropping` and `releasing`.
    pub to: GroupId,
    /// Of the move; 0 if it waits to begin.
    pub epoch: Epoch,
    /// What it does.
    pub state: MigrationState,
    /// Why it does that, or what it waits for, as text.
    pub reason: String,
}

/// What a shard that isn't at rest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum MigrationState {
    /// No move yet.
    Waiting,
    /// The destination copies.
    Copying,
    /// The source is asked not to take part.
    Cancelling,
    /// The destination is asked to give up.
    Abandoning,
    /// The source is told to serve again.
    Thawing,
    /// The destination of a cancelled move drops its copy.
    Dropping,
    /// The source of a completed move drops its copy.
    Releasing,
}

impl MigrationState {
    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            MigrationState::Waiting => "waiting",
            MigrationState::Copying => "copying",
            MigrationState::Cancelling => "cancelling",
            MigrationState::Abandoning => "abandoning",
            MigrationState::Thawing => "thawing",
            MigrationState::Dropping => "dropping",
            MigrationState::Releasing => "releasing",
        }
    }
}

impl Master {
    pub(crate) fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Map(config) => {
                Answer::Map(self.history.map(config.unwrap_or_else(|| self.history.latest())))
            }
            Query::History { from, limit } => Answer::History(self.history_lines(*from, *limit)),
            Query::Routing { newer_than } if self.routing_version <= *newer_than => Answer::Unchanged,
            Query::Routing { newer_than: _ } => Answer::Routing(self.routing()),
            Query::Migrations => Answer::Migrations(self.migrations()),
            Query::Nodes => Answer::Nodes(self.nodes.values().cloned().collect()),
            Query::Duties => Answer::Duties(self.duties()),
            Query::Rebalance => {
                let (view, policy) = self.rebalance_view();
                Answer::Rebalance { view, policy }
            }
            Query::Policy => Answer::Policy { paused: self.paused, policy: self.policy },
            Query::DryRun(command) => Answer::DryRun(self.clone().execute(command)),
        }
    }

    fn history_lines(&self, from: ConfigNum, limit: u32) -> Vec<MapChange> {
        let lines = (from.0.max(1)..=self.history.latest().0).map(|n| self.history.change(ConfigNum(n)));
        let most = limit.min(HISTORY_LINES_MAX) as usize;
        lines.flatten().take(most).cloned().collect()
    }

    /// Who serves what now.
    pub fn routing(&self) -> RoutingTable {
        RoutingTable {
            version: self.routing_version,
            config: self.history.latest(),
            shards: self.shard_count(),
            owners: self.rows.iter().map(|row| row.owner).collect(),
            groups: self.groups.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
        }
    }

    /// What isn't at rest, by ascending shard.
    pub fn migrations(&self) -> Vec<Migration> {
        let pairs = self.pairs();
        let waiting = self.astray().into_iter().map(|(shard, row)| Migration {
            shard,
            from: row.owner.group.group,
            to: row.desired,
            epoch: Epoch(0),
            state: MigrationState::Waiting,
            reason: self
                .waits(shard, &row, &pairs)
                .map_or_else(|| "begins with the next command".to_string(), |wait| wait.to_string()),
        });
        let moving = self.moves.values().map(Move::migration);
        let left = self.remnants.values().map(|remnant| self.dropping(remnant));
        let mut all: Vec<Migration> = waiting.chain(moving).chain(left).collect();
        all.sort_by_key(|migration| (migration.shard, migration.epoch));
        all
    }

    fn dropping(&self, remnant: &Remnant) -> Migration {
        let owner = self.owner(remnant.shard).map_or(remnant.at.group, |owner| owner.group.group);
        let group = remnant.at.group.0;
        let (state, reason) = match remnant.kind {
            RemnantKind::Frozen => {
                (MigrationState::Releasing, format!("group {group} is to drop the copy that moved away"))
            }
            RemnantKind::Staged => (
                MigrationState::Dropping,
                format!("group {group} is to drop what it copied: the move was cancelled"),
            ),
        };
        let (from, to) = (owner, remnant.at.group);
        Migration { shard: remnant.shard, from, to, epoch: remnant.epoch, state, reason }
    }
}

impl Move {
    fn migration(&self) -> Migration {
        let (from, to) = (self.from.group, self.to.group);
        let (state, reason) = match self.phase {
            Phase::Ordered => {
                (MigrationState::Copying, format!("group {} copies from group {}", to.0, from.0))
            }
            Phase::Cancelling => (
                MigrationState::Cancelling,
                format!("no longer wanted at group {}: waits for group {}", to.0, from.0),
            ),
            Phase::Recalling => {
                (MigrationState::Cancelling, format!("group {} gave up: waits for group {}", to.0, from.0))
            }
            Phase::Abandoning => (
                MigrationState::Abandoning,
                format!("frozen at group {}: only group {} can end it", from.0, to.0),
            ),
            Phase::Thawing => (MigrationState::Thawing, format!("group {} is to serve it again", from.0)),
        };
        Migration { shard: self.shard, from, to, epoch: self.epoch, state, reason }
    }
}
