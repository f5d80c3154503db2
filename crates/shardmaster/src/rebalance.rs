//! What the leader proposes when shards or load are uneven. A pure function of measurements, run outside of `apply`:
//! what it proposes is an ordinary command (rule B6).
//!
//! It is paced by health: nothing while anything is amiss, one small change at a time. By load, the busiest group gives
//! to another what brings the two closest together: two shards change places, or one goes to a group that has fewer.
//! So counts that are within one stay so, and as each step lowers the sum of squares of the groups' loads, steps end.

use std::collections::BTreeMap;
use std::fmt;

use bincode::{Decode, Encode};
use paxos::ids::GroupId;

use crate::balance::{self, Place};
use crate::command::{Command, Measure, Policy, ShardChange};
use crate::group::GroupState;
use crate::ids::ShardId;
use crate::master::Master;

/// Most shards in one proposal.
pub const SHARDS_PER_PLAN_MAX: usize = 4;

/// What was measured of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardLoad {
    /// The shard. One without a measurement has no load.
    pub shard: ShardId,
    /// Operations per second.
    pub ops_per_s: u64,
    /// Size, in bytes: among equal choices the smaller one moves.
    pub bytes: u64,
}

/// How the cluster is, as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Groups without a leader.
    pub leaderless: Vec<GroupId>,
    /// Replicas that lag behind their leader, or don't answer.
    pub lagging_replicas: u64,
    /// 99th percentile that clients see, in microseconds.
    pub p99_us: u64,
    /// Now, in ms of any clock.
    pub now_ms: u64,
    /// When the last change was proposed, by the same clock; `None` if there was none.
    pub last_change_ms: Option<u64>,
}

/// What rebalancing knows of the shardmaster's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct View {
    /// By shard.
    pub places: Vec<Place>,
    /// Groups that shards may be given to, ascending.
    pub active: Vec<GroupId>,
    /// A group that joins or leaves, if there is one.
    pub changing: Option<GroupId>,
    /// Shards that aren't where they are desired, or are moving.
    pub moving: u64,
    /// No move starts.
    pub paused: bool,
}

/// Why nothing is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The policy says so.
    Off,
    /// Moves are paused.
    Paused,
    /// Fewer than two groups could exchange anything.
    FewGroups,
    /// A group joins or leaves.
    GroupChanging(GroupId),
    /// Shards are on their way.
    Moving(u64),
    /// A group has no leader.
    Leaderless(GroupId),
    /// Replicas lag.
    Lagging(u64),
    /// Clients wait too long already.
    Slow {
        /// Measured, in microseconds.
        p99_us: u64,
        /// Bound, in microseconds.
        max_us: u64,
    },
    /// The last change was just now.
    Cooldown {
        /// How long it still lasts.
        left_ms: u64,
    },
    /// Counts are within one.
    CountsEven,
    /// No group is above the mean by more than the tolerance.
    LoadEven {
        /// How far the busiest is above the mean, in percent.
        above_percent: u64,
    },
    /// It is uneven, and no exchange of two shards makes it noticeably better.
    NoBetter {
        /// The busiest group.
        busiest: GroupId,
    },
}

/// What to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Two shards change places.
    Swap(ShardId, ShardId),
    /// Shards go to a group; at most [`SHARDS_PER_PLAN_MAX`].
    Move {
        /// The shards.
        shards: Vec<ShardId>,
        /// The group.
        to: GroupId,
    },
    /// Nothing, and why.
    Nothing(Idle),
}

impl Plan {
    /// The command to propose, if any.
    pub fn command(&self) -> Option<Command> {
        match self {
            Plan::Swap(a, b) => Some(Command::Swap { a: *a, b: *b }),
            Plan::Move { shards, to } => Some(Command::Move { shards: shards.clone(), to: *to }),
            Plan::Nothing(_) => None,
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Idle::Off => write!(f, "rebalancing is off"),
            Idle::Paused => write!(f, "moves are paused"),
            Idle::FewGroups => write!(f, "fewer than two groups are active"),
            Idle::GroupChanging(group) => write!(f, "group {} is joining or leaving", group.0),
            Idle::Moving(shards) => write!(f, "{shards} shards are on their way"),
            Idle::Leaderless(group) => write!(f, "group {} has no leader", group.0),
            Idle::Lagging(replicas) => write!(f, "{replicas} replicas lag"),
            Idle::Slow { p99_us, max_us } => write!(f, "p99 is {p99_us} us, above {max_us} us"),
            Idle::Cooldown { left_ms } => write!(f, "the last change was just now: {left_ms} ms left"),
            Idle::CountsEven => write!(f, "counts are within one"),
            Idle::LoadEven { above_percent } => {
                write!(f, "the busiest group is {above_percent}% above the mean, within tolerance")
            }
            Idle::NoBetter { busiest } => {
                write!(f, "group {} is the busiest, and no exchange makes it noticeably better", busiest.0)
            }
        }
    }
}

impl Master {
    /// What [`plan`] needs of this state, with the policy.
    pub fn rebalance_view(&self) -> (View, Policy) {
        let place = |(_, row): (ShardId, crate::master::Row)| Place {
            desired: row.desired,
            actual: row.owner.group.group,
        };
        let is_active = |group: &&crate::group::Group| group.state == GroupState::Active;
        let view = View {
            places: self.shard_rows().map(place).collect(),
            active: self.groups.values().filter(is_active).map(|group| group.at.group).collect(),
            changing: self.groups.values().find(|group| !is_active(group)).map(|group| group.at.group),
            moving: (self.moves.len() + self.astray().len()) as u64,
            paused: self.paused,
        };
        (view, self.policy)
    }
}

/// What to propose now, or why nothing.
pub fn plan(view: &View, loads: &[ShardLoad], health: &Health, policy: &Policy) -> Plan {
    if let Some(idle) = amiss(view, health, policy) {
        return Plan::Nothing(idle);
    }
    match policy.measure {
        Measure::Off => Plan::Nothing(Idle::Off),
        Measure::Count => by_count(view),
        Measure::Load => by_load(view, loads, policy),
    }
}

fn amiss(view: &View, health: &Health, policy: &Policy) -> Option<Idle> {
    if policy.measure == Measure::Off {
        return Some(Idle::Off);
    }
    if view.paused {
        return Some(Idle::Paused);
    }
    if let Some(group) = view.changing {
        return Some(Idle::GroupChanging(group));
    }
    if view.active.len() < 2 {
        return Some(Idle::FewGroups);
    }
    if view.moving > 0 {
        return Some(Idle::Moving(view.moving));
    }
    if let Some(group) = health.leaderless.iter().min() {
        return Some(Idle::Leaderless(*group));
    }
    if health.lagging_replicas > 0 {
        return Some(Idle::Lagging(health.lagging_replicas));
    }
    if health.p99_us > policy.p99_max_us {
        return Some(Idle::Slow { p99_us: health.p99_us, max_us: policy.p99_max_us });
    }
    let left_ms = health
        .last_change_ms
        .map_or(0, |last| last.saturating_add(policy.cooldown_ms).saturating_sub(health.now_ms));
    (left_ms > 0).then_some(Idle::Cooldown { left_ms })
}

fn by_count(view: &View) -> Plan {
    let changes = balance::even(&view.places, &view.active);
    let Some(ShardChange { to, .. }) = changes.first().copied() else {
        return Plan::Nothing(Idle::CountsEven);
    };
    let there = changes.iter().filter(|change| change.to == to).map(|change| change.shard);
    Plan::Move { shards: there.take(SHARDS_PER_PLAN_MAX).collect(), to }
}

/// A group with its shards and what they were measured at.
#[derive(Debug)]
struct Loaded {
    group: GroupId,
    total: u64,
    shards: Vec<ShardLoad>,
}

fn loaded(view: &View, loads: &[ShardLoad]) -> Vec<Loaded> {
    let measured: BTreeMap<ShardId, ShardLoad> = loads.iter().map(|load| (load.shard, *load)).collect();
    let mut groups: BTreeMap<GroupId, Vec<ShardLoad>> =
        view.active.iter().map(|group| (*group, Vec::new())).collect();
    for (place, shard) in view.places.iter().zip((0..).map(ShardId)) {
        let load = measured.get(&shard).copied().unwrap_or(ShardLoad { shard, ops_per_s: 0, bytes: 0 });
        if let Some(shards) = groups.get_mut(&place.desired) {
            shards.push(load);
        }
    }
    let group = |(group, mut shards): (GroupId, Vec<ShardLoad>)| {
        shards.sort_by_key(|load| (load.ops_per_s, load.bytes, load.shard));
        let total = shards.iter().fold(0_u64, |sum, load| sum.saturating_add(load.ops_per_s));
        Loaded { group, total, shards }
    };
    groups.into_iter().map(group).collect()
}

fn by_load(view: &View, loads: &[ShardLoad], policy: &Policy) -> Plan {
    let mut groups = loaded(view, loads);
    groups.sort_by_key(|loaded| (loaded.total, std::cmp::Reverse(loaded.group)));
    let sum: u128 = groups.iter().map(|loaded| u128::from(loaded.total)).sum();
    let mean = u64::try_from(sum / groups.len().max(1) as u128).unwrap_or(u64::MAX);
    let Some(busiest) = groups.pop() else { return Plan::Nothing(Idle::FewGroups) };
    let above = u128::from(busiest.total.saturating_sub(mean)) * 100 / u128::from(mean.max(1));
    let above_percent = u64::try_from(above).unwrap_or(u64::MAX);
    if above_percent <= u64::from(policy.tolerance_percent) {
        return Plan::Nothing(Idle::LoadEven { above_percent });
    }
    let found = groups.iter().find_map(|idler| relief(&busiest, idler, mean));
    found.unwrap_or(Plan::Nothing(Idle::NoBetter { busiest: busiest.group }))
}

/// The change between two groups that brings them closest together, if it is worth a hundredth of the mean.
fn relief(busiest: &Loaded, idler: &Loaded, mean: u64) -> Option<Plan> {
    let gap = busiest.total.checked_sub(idler.total)?;
    let noticeable = (mean / 100).max(1);
    // What goes over, and how far from half the gap that is: the nearer, the more even the two become.
    let candidate = |over: u64, bytes: u64, plan: Plan| {
        let gain = over.min(gap.checked_sub(over)?);
        (gain >= noticeable).then_some((std::cmp::Reverse(gain), bytes, plan))
    };
    let swaps = busiest.shards.iter().flat_map(|given| {
        let least = given.ops_per_s.saturating_sub(gap / 2);
        let at = idler.shards.partition_point(|taken| taken.ops_per_s < least);
        let near = at.saturating_sub(1)..(at + 2).min(idler.shards.len());
        idler.shards[near].iter().filter_map(move |taken| {
            let over = given.ops_per_s.checked_sub(taken.ops_per_s)?;
            candidate(over, given.bytes.saturating_add(taken.bytes), Plan::Swap(given.shard, taken.shard))
        })
    });
    let may_give = busiest.shards.len() > idler.shards.len();
    let moves = busiest.shards.iter().filter(|_| may_give).filter_map(|given| {
        let plan = Plan::Move { shards: vec![given.shard], to: idler.group };
        candidate(given.ops_per_s, given.bytes, plan)
    });
    moves.chain(swaps).min_by_key(|(gain, bytes, _)| (*gain, *bytes)).map(|(_, _, plan)| plan)
}
