//! `group`, `shard`, `config`, `migration` and `rebalance`: which group is to serve which shard, and the way there.

pub(crate) mod change;
pub(crate) mod config;
pub(crate) mod group;
pub(crate) mod migration;
pub(crate) mod rebalance;
pub(crate) mod shard;
