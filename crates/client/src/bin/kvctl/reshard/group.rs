//! `group`: groups that come and go, and what there is.

use serde_json::json;

use super::change::{self, ChangeArgs, Of};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// What to do with groups.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum GroupCommand {
    /// Makes a group on these nodes; it gets its part of the shards
    #[command(
        after_help = "Examples:\n  kvctl group join 3 1 2 3 --wait\n  kvctl group join 3 1 2 3 --dry-run"
    )]
    Join {
        /// The group, from 1
        #[arg(value_name = "G", value_parser = clap::value_parser!(u32).range(1..))]
        group: u32,
        /// The nodes that hold its replicas
        #[arg(required = true, value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
        nodes: Vec<u32>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Ends a group; its shards go to the others first
    #[command(after_help = "Example:\n  kvctl group leave 3 --wait")]
    Leave {
        /// The group
        #[arg(value_name = "G", value_parser = clap::value_parser!(u32).range(1..))]
        group: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Lists the groups: their state, their nodes, how many shards they have and are to have
    #[command(after_help = "Example:\n  kvctl group list")]
    List,
}

pub(crate) async fn run(command: &GroupCommand, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let shardmaster = client.shardmaster();
    match command {
        GroupCommand::Join { group, nodes, change: args } => {
            let change = shardmaster.join(*group, nodes, args.dry_run).await?;
            let what = format!("join of group {group}");
            change::done(&what, change, &Of::To(*group), args, context, &shardmaster).await
        }
        GroupCommand::Leave { group, change: args } => {
            let change = shardmaster.leave(*group, args.dry_run).await?;
            let what = format!("leave of group {group}");
            change::done(&what, change, &Of::From(*group), args, context, &shardmaster).await
        }
        GroupCommand::List => list(context).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let map = client.shardmaster().query(0).await?;
    let routing = client.routing().await;
    let desired = |id: u32| map.desired.iter().filter(|group| **group == id).count();
    let actual = |id: u32| routing.owners.iter().filter(|group| group.0 == id).count();
    let leader = |id: u32| {
        let known = routing.groups.iter().find(|group| group.id.0 == id);
        known.and_then(|group| group.leader).map(|node| node.0)
    };
    if context.is_json() {
        let groups: Vec<_> = map
            .groups
            .iter()
            .map(|group| {
                json!({
                    "id": group.id,
                    "generation": group.generation,
                    "state": group.state,
                    "nodes": group.nodes,
                    "leader": leader(group.id),
                    "shards": actual(group.id),
                    "desired": desired(group.id),
                })
            })
            .collect();
        return output::object(json!({ "config": map.config, "groups": groups }));
    }
    let mut table = output::table(["group", "generation", "state", "nodes", "leader", "shards", "desired"]);
    for group in &map.groups {
        let nodes: Vec<String> = group.nodes.iter().map(|node| format!("n{node}")).collect();
        table.add_row([
            group.id.to_string(),
            group.generation.to_string(),
            group.state.clone(),
            nodes.join(" "),
            leader(group.id).map_or_else(|| "unknown".to_owned(), |node| format!("n{node}")),
            actual(group.id).to_string(),
            desired(group.id).to_string(),
        ]);
    }
    output::line(table.to_string())
}
