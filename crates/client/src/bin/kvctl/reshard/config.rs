//! `config`: the numbered ShardMaps.

use serde_json::json;
use wire::v1::ShardMap;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Which ShardMaps to show.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Shows a ShardMap: which group is to serve which shard
    #[command(after_help = "Examples:\n  kvctl config query\n  kvctl -o json config query 3")]
    Query {
        /// Its number [default: the newest]
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        number: Option<u64>,
    },
    /// Lists what made the ShardMaps, the newest last
    #[command(after_help = "Example:\n  kvctl config history --limit 5")]
    History {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
}

pub(crate) async fn run(command: &ConfigCommand, context: &Context) -> Result<(), Failure> {
    let shardmaster = context.client().await?.shardmaster();
    match command {
        ConfigCommand::Query { number } => query(&shardmaster.query(number.unwrap_or(0)).await?, context),
        ConfigCommand::History { limit } => {
            let newest = shardmaster.query(0).await?;
            let first = newest.config.saturating_sub(limit - 1).max(1);
            let mut maps = Vec::new();
            for number in first..newest.config {
                maps.push(shardmaster.query(number).await?);
            }
            maps.push(newest);
            history(&maps, context)
        }
    }
}

fn query(map: &ShardMap, context: &Context) -> Result<(), Failure> {
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
                })
            })
            .collect();
        return output::object(json!({
            "config": map.config,
            "newest": map.newest,
            "change": map.change,
            "made_at_ms": map.made_at,
            "desired": map.desired,
            "groups": groups,
        }));
    }
    let mut table = output::table(["group", "generation", "state", "nodes", "shards"]);
    for group in &map.groups {
        let nodes: Vec<String> = group.nodes.iter().map(|node| format!("n{node}")).collect();
        table.add_row([
            group.id.to_string(),
            group.generation.to_string(),
            group.state.clone(),
            nodes.join(" "),
            ranges(&map.desired, group.id),
        ]);
    }
    output::line(format!("config {} of {}: {}\n\n{table}", map.config, map.newest, map.change))
}

/// The shards of a group as half open ranges.
fn ranges(desired: &[u32], group: u32) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut begin = 0;
    for end in 1..=desired.len() {
        if end < desired.len() && desired[end] == desired[begin] {
            continue;
        }
        if desired[begin] == group {
            parts.push(if end == begin + 1 { begin.to_string() } else { format!("{begin}..{end}") });
        }
        begin = end;
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(" ") }
}

fn history(maps: &[ShardMap], context: &Context) -> Result<(), Failure> {
    if context.is_json() {
        let told: Vec<_> = maps
            .iter()
            .map(|map| json!({ "config": map.config, "change": map.change, "made_at_ms": map.made_at }))
            .collect();
        return output::object(json!({ "configs": told }));
    }
    let mut table = output::table(["config", "change"]);
    for map in maps {
        table.add_row([map.config.to_string(), map.change.clone()]);
    }
    output::line(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_shown_as_half_open_ranges() {
        assert_eq!(ranges(&[1, 1, 2, 1, 2, 2], 1), "0..2 3");
        assert_eq!(ranges(&[1, 1, 2, 1, 2, 2], 2), "2 4..6");
        assert_eq!(ranges(&[], 1), "none");
    }
}
