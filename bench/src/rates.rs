//! How fast a whole state moves: into a checkpoint, to a replica that fell behind, and in shards to another group. Each by itself, with
//! nothing else to do on the machine and no bound on its pace.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::load::{self, Load};
use crate::report::{Spread, machine};
use crate::store::{Cluster, KEY_BYTES, Kind, Place, Read, Via};

const VALUE_BYTES: usize = 100;
/// Everything must have happened within so long.
const WITHIN: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);
/// No pace but the machine's.
const UNBOUNDED: &str = "64GiB";

/// Arguments of `rates`.
#[derive(Args)]
pub(crate) struct RatesArgs {
    /// Keys in the state
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    keys: u64,
    /// How often each is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// What moved, and how long it took each time.
struct Moved {
    what: &'static str,
    bytes: u64,
    seconds: Vec<f64>,
}

pub(crate) async fn run(args: &RatesArgs, place: &Place, out: &Path) -> Result<()> {
    let bytes = args.keys * (KEY_BYTES + VALUE_BYTES) as u64;
    let moved = [
        Moved { what: "checkpoint", bytes, seconds: checkpoints(args, place).await? },
        Moved { what: "snapshot", bytes, seconds: snapshots(args, place).await? },
        // Of two groups, one gives all it has.
        Moved { what: "handoff", bytes: bytes / 2, seconds: handoffs(args, place).await? },
    ];
    let table = table(&moved)?;
    std::fs::write(out.join("rates.md"), &table)?;
    let json = moved.map(|Moved { what, bytes, seconds }| {
        serde_json::json!({ "what": what, "bytes": bytes, "seconds": seconds })
    });
    let report = serde_json::json!({ "v": 1, "machine": machine(), "rates": json });
    std::fs::write(out.join("rates.json"), serde_json::to_string_pretty(&report)?)?;
    print!("{table}");
    Ok(())
}

fn table(moved: &[Moved]) -> Result<String> {
    let mut table = format!("{}\n\n| | keys and values, MB | s | MB/s |\n|---|---|---|---|\n", machine());
    for Moved { what, bytes, seconds } in moved {
        let mb = *bytes as f64 / 1e6;
        let took = Spread::of(seconds.iter().copied()).context("no rounds")?;
        let rate = Spread::of(seconds.iter().map(|seconds| mb / seconds)).context("no rounds")?;
        let Spread { median, least, greatest } = rate;
        writeln!(
            table,
            "| {what} | {mb:.0} | {:.2} | {median:.0} ({least:.0} to {greatest:.0}) |",
            took.median
        )?;
    }
    Ok(table)
}

async fn filled(args: &RatesArgs, place: &Place, groups: u32, settings: &[(&str, &str)]) -> Result<Cluster> {
    let cluster = Cluster::start(Kind::Synod { groups, nodes: 3 }, place, settings).await?;
    load::fill(&cluster, args.keys, VALUE_BYTES).await?;
    Ok(cluster)
}

/// Puts, until they are no longer wanted.
fn puts(args: &RatesArgs) -> Load {
    Load {
        callers: 256,
        connections: 1,
        via: Via::Best,
        read: Read::Lease,
        reads: 0.0,
        keys: args.keys,
        value_bytes: VALUE_BYTES,
        warm_up: Duration::ZERO,
        time: WITHIN,
    }
}

/// Looks again and again until something is found.
async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    while began.elapsed() < WITHIN {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("{what}: not within {} s", WITHIN.as_secs())
}

/// Returns when no node writes a checkpoint.
async fn quiet(cluster: &Cluster) -> Result<()> {
    found("a moment without a checkpoint", async || {
        Ok(cluster.writing_checkpoints()?.is_empty().then_some(()))
    })
    .await
}

/// From the directory's appearance to when it is the checkpoint and the one before is gone. Nodes write theirs one after the other, since
/// each begins with a little more log than the one before.
async fn checkpoints(args: &RatesArgs, place: &Place) -> Result<Vec<f64>> {
    let cluster = filled(args, place, 1, &[("limits.checkpoint_rate", UNBOUNDED)]).await?;
    let (mut took, load) = (Vec::new(), puts(args));
    while took.len() < args.rounds as usize {
        quiet(&cluster).await?;
        let begins = found("a checkpoint", async || {
            Ok(cluster.writing_checkpoints()?.first().map(|node| (*node, Instant::now())))
        });
        let (node, began) = tokio::select! {
            begun = begins => begun?,
            ended = load::run(&cluster, &load) => { ended?; bail!("no checkpoint under load") }
        };
        let is_alone = cluster.writing_checkpoints()? == [node];
        found("its end", async || Ok((!cluster.writing_checkpoints()?.contains(&node)).then_some(())))
            .await?;
        if is_alone {
            took.push(began.elapsed().as_secs_f64());
            eprintln!("  checkpoint of node {}: {:.2} s", node + 1, began.elapsed().as_secs_f64());
        }
    }
    Ok(took)
}

/// From the start of the process to when it has applied what the leader has; its log is too old to go on from.
async fn snapshots(args: &RatesArgs, place: &Place) -> Result<Vec<f64>> {
    let keep = [("limits.keep_min", "0KiB"), ("limits.keep_max", "1MiB")];
    let mut cluster = filled(args, place, 1, &keep).await?;
    let leader = cluster.leader().await?;
    let laggard = (0..cluster.nodes.len()).find(|node| *node != leader).context("three nodes")?;
    let mut took = Vec::new();
    for _ in 0..args.rounds {
        let had = cluster.replica(laggard, 1).await?;
        // One that is killed while it writes leaves the directory behind.
        quiet(&cluster).await?;
        cluster.nodes[laggard].kill();
        let seconds = Duration::from_secs(2);
        load::run(&cluster, &Load { time: seconds, ..puts(args) }).await?;
        quiet(&cluster).await?;
        let behind = cluster.replica(leader, 1).await?;
        ensure!(behind.compacted_end > had.applied_end, "the log would do to catch up");
        let began = Instant::now();
        cluster.nodes[laggard].start()?;
        found("the laggard", async || {
            // It doesn't answer at first.
            let replica = cluster.replica(laggard, 1).await.ok();
            Ok(replica.filter(|replica| replica.applied_end >= behind.applied_end))
        })
        .await?;
        took.push(began.elapsed().as_secs_f64());
        eprintln!("  snapshot: {:.2} s", began.elapsed().as_secs_f64());
    }
    Ok(took)
}

/// From the order to when the last of the group's shards serves in the other one.
async fn handoffs(args: &RatesArgs, place: &Place) -> Result<Vec<f64>> {
    let cluster = filled(args, place, 2, &[("limits.copy_rate", UNBOUNDED)]).await?;
    let shardmaster = cluster.client().await?.shardmaster();
    let mut took = Vec::new();
    let map = shardmaster.query(0).await?;
    let shards: Vec<u32> =
        (0..).zip(&map.desired).filter(|(_, group)| **group == 1).map(|(id, _)| id).collect();
    for round in 0..args.rounds {
        let began = Instant::now();
        let ordered = shardmaster.move_shards(&shards, if round % 2 == 0 { 2 } else { 1 }, false).await?;
        found("the shards", async || {
            let now = shardmaster.migrations().await?;
            Ok((now.config >= ordered.config && now.migrations.is_empty()).then_some(()))
        })
        .await?;
        took.push(began.elapsed().as_secs_f64());
        eprintln!("  handoff of {} shards: {:.2} s", shards.len(), began.elapsed().as_secs_f64());
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_median_round() {
        let moved = Moved { what: "snapshot", bytes: 100_000_000, seconds: vec![4.0, 1.0, 2.0] };
        let table = table(&[moved]).unwrap();
        assert!(table.contains("| snapshot | 100 | 2.00 | 50 (25 to 100) |"), "{table}");
    }
}
