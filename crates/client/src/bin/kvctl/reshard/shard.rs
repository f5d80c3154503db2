//! `shard`: moves of single shards, and where each of them is.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::json;
use wire::v1::{Migration, ShardLoad, ShardMap};

use super::change::{self, ChangeArgs, Of};
use crate::context::Context;
use crate::failure::Failure;
use crate::nodes;
use crate::output::{self, human_bytes};

/// What to do with shards.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum ShardCommand {
    /// Lets a group serve these shards
    #[command(
        after_help = "Examples:\n  kvctl shard move 7 --to 2 --wait\n  kvctl shard move 0..16 40 --to 2"
    )]
    Move {
        /// Shards: one, or those from A to before B
        #[arg(required = true, value_name = "S", value_parser = shards)]
        shards: Vec<Range<u32>>,
        /// The group that is to serve them
        #[arg(long, value_name = "G", value_parser = clap::value_parser!(u32).range(1..))]
        to: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Lists the shards: who serves them, who is to, and how large and busy they are
    #[command(after_help = "Example:\n  kvctl shard list")]
    List,
}

/// `A..B`, half open, or one shard.
fn shards(text: &str) -> Result<Range<u32>, String> {
    let number = |text: &str| -> Result<u32, String> {
        let number: u16 = text.parse().map_err(|_| format!("\"{text}\" isn't a shard number"))?;
        Ok(u32::from(number))
    };
    let range = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => {
            let one = number(text)?;
            one..one + 1
        }
    };
    if range.is_empty() {
        return Err("is empty: A..B goes from A to before B".to_owned());
    }
    Ok(range)
}

pub(crate) async fn run(command: &ShardCommand, context: &Context) -> Result<(), Failure> {
    let ShardCommand::Move { shards, to, change: args } = command else { return list(context).await };
    let shardmaster = context.client().await?.shardmaster();
    let mut all: Vec<u32> = shards.iter().cloned().flatten().collect();
    all.sort_unstable();
    all.dedup();
    let change = shardmaster.move_shards(&all, *to, args.dry_run).await?;
    let what = format!("move to group {to}");
    change::done(&what, change, &Of::Shards(all, *to), args, context, &shardmaster).await
}

/// What is known of the shards.
struct Shards {
    routing: client::Routing,
    map: ShardMap,
    moving: BTreeMap<u32, Migration>,
    loads: BTreeMap<u32, ShardLoad>,
}

async fn list(context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let shardmaster = client.shardmaster();
    let map = shardmaster.query(0).await?;
    let migrations = shardmaster.migrations().await?.migrations;
    let routing = client.routing().await;
    let moving = migrations.into_iter().map(|migration| (migration.shard, migration)).collect();
    let nodes = nodes::discover(context).await?;
    let statuses = nodes::statuses(&nodes, &nodes::reach(context)).await;
    let mut loads = BTreeMap::new();
    for load in statuses.iter().flatten().flat_map(|status| &status.shard_loads) {
        let owner = usize::try_from(load.shard).ok().and_then(|shard| routing.owners.get(shard));
        // A node that led a group of the shard before tells what was then.
        if load.group == 0 || owner.is_some_and(|owner| owner.0 == load.group) {
            loads.insert(load.shard, *load);
        }
    }
    show(&Shards { routing, map, moving, loads }, context)
}

impl Shards {
    fn state(&self, shard: u32) -> &str {
        self.moving.get(&shard).map_or("serving", |migration| migration.state.as_str())
    }

    fn desired(&self, shard: usize) -> Option<u32> {
        self.map.desired.get(shard).copied()
    }
}

fn show(shards: &Shards, context: &Context) -> Result<(), Failure> {
    let routing = &shards.routing;
    let rows = (0_u32..).zip(routing.owners.iter().zip(&routing.epochs).enumerate());
    if context.is_json() {
        let told: Vec<_> = rows
            .map(|(id, (shard, (owner, epoch)))| {
                let load = shards.loads.get(&id);
                json!({
                    "shard": id,
                    "group": owner.0,
                    "epoch": epoch.0,
                    "desired": shards.desired(shard),
                    "state": shards.state(id),
                    "keys": load.map(|load| load.keys),
                    "bytes": load.map(|load| load.bytes),
                    "writes": load.map(|load| load.writes),
                    "reads": load.map(|load| load.reads),
                })
            })
            .collect();
        return output::object(json!({ "config": shards.map.config, "shards": told }));
    }
    let mut table =
        output::table(["shard", "group", "epoch", "desired", "state", "keys", "bytes", "writes", "reads"]);
    for (id, (shard, (owner, epoch))) in rows {
        let load = shards.loads.get(&id);
        let of = |pick: fn(&ShardLoad) -> String| load.map_or_else(|| "-".to_owned(), pick);
        table.add_row([
            id.to_string(),
            owner.0.to_string(),
            epoch.0.to_string(),
            shards.desired(shard).map_or_else(|| "-".to_owned(), |group| group.to_string()),
            shards.state(id).to_owned(),
            of(|load| load.keys.to_string()),
            of(|load| human_bytes(load.bytes)),
            of(|load| load.writes.to_string()),
            of(|load| load.reads.to_string()),
        ]);
    }
    output::line(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_one_or_a_half_open_range() {
        assert_eq!(shards("7"), Ok(7..8));
        assert_eq!(shards("0..16"), Ok(0..16));
        for wrong in ["3..3", "4..3", "..3", "x", "-1", "70000"] {
            assert!(shards(wrong).is_err(), "{wrong}");
        }
    }
}
