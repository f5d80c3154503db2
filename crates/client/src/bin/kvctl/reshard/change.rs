//! A change of the desired assignment: shown, and waited for until its shards are where they are to be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::Shardmaster;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wire::v1::{ChangeResponse, Migration, MigrationsResponse, ShardChange, ShardMap};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::settings::duration;

const POLL: Duration = Duration::from_millis(100);

/// Flags of every change.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ChangeArgs {
    /// Returns when the shards of this change are where they are to be, or a later change wants them elsewhere
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration, requires = "wait")]
    wait_timeout: Duration,
    /// Changes nothing, and shows which shards would go where
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which migrations belong to a change that was made before, and so lists no shards.
#[derive(Clone, Debug)]
pub(crate) enum Of {
    /// Those to a group that joined.
    To(u32),
    /// Those from a group that left.
    From(u32),
    /// Those of these shards to a group.
    Shards(Vec<u32>, u32),
}

impl Of {
    fn holds(&self, migration: &Migration) -> bool {
        match self {
            Of::To(group) => migration.to == *group,
            Of::From(group) => migration.from == *group,
            Of::Shards(shards, to) => migration.to == *to && shards.contains(&migration.shard),
        }
    }
}

/// Waits for a change if that is wanted, and shows it.
pub(crate) async fn done(
    what: &str,
    change: ChangeResponse,
    of: &Of,
    args: &ChangeArgs,
    context: &Context,
    shardmaster: &Shardmaster,
) -> Result<(), Failure> {
    if args.wait {
        wait(&change, of, args.wait_timeout, shardmaster).await?;
    }
    if context.is_json() {
        let changes: Vec<_> = change.changes.iter().map(change_json).collect();
        return output::object(json!({
            "config": change.config,
            "already": change.already,
            "dry_run": args.dry_run,
            "waited": args.wait,
            "changes": changes,
        }));
    }
    output::data(text(what, &change, args).as_bytes())
}

/// One shard of a change.
pub(crate) fn change_json(change: &ShardChange) -> serde_json::Value {
    json!({ "shard": change.shard, "from": change.from, "to": change.to })
}

fn text(what: &str, change: &ChangeResponse, args: &ChangeArgs) -> String {
    let count = change.changes.len();
    if args.dry_run {
        let mut text = format!("{what} would move {count} shards; nothing was changed\n");
        if count > 0 {
            text += &format!("{}\n", table(&change.changes));
        }
        return text;
    }
    let config = change.config;
    if change.already {
        return format!("{what}: it was so already (config {config})\n");
    }
    match args.wait {
        true => format!("{what}: config {config}, {count} shards moved\n"),
        false if count == 0 => format!("{what}: config {config}, no shard moves\n"),
        false => format!("{what}: config {config}, {count} shards are to move (`kvctl migration watch`)\n"),
    }
}

/// Shards with where they are and where they go.
pub(crate) fn table(changes: &[ShardChange]) -> comfy_table::Table {
    let mut table = output::table(["shard", "from", "to"]);
    for change in changes {
        table.add_row([change.shard.to_string(), change.from.to_string(), change.to.to_string()]);
    }
    table
}

async fn wait(
    change: &ChangeResponse,
    of: &Of,
    within: Duration,
    shardmaster: &Shardmaster,
) -> Result<(), Failure> {
    let end = Instant::now() + within;
    let mut wanted: BTreeMap<u32, u32> = change.changes.iter().map(|c| (c.shard, c.to)).collect();
    let mut bar: Option<ProgressBar> = None;
    loop {
        // Who leads the shardmaster may change meanwhile: only the time ends the waiting.
        if let Some((migrations, newest)) = look(change.config, shardmaster).await? {
            let known = !wanted.is_empty() || bar.is_some();
            if change.already && !known {
                let mine = migrations.migrations.iter().filter(|migration| of.holds(migration));
                wanted = mine.map(|migration| (migration.shard, migration.to)).collect();
            }
            let left = pending(&wanted, &migrations, newest.as_ref());
            let bar = bar.get_or_insert_with(|| progress(wanted.len()));
            bar.set_position(wanted.len().saturating_sub(left) as u64);
            if left == 0 {
                bar.finish_and_clear();
                return Ok(());
            }
        }
        if Instant::now() >= end {
            let message =
                format!("the change is made (config {}), but not all its shards moved yet", change.config);
            return Err(Failure::new(Exit::Failed, "TIMEOUT", message)
                .hint("`kvctl migration list` says what they wait for")
                .executed());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The migrations, and the newest map if it is a later one; `None` if nobody can say just now.
async fn look(
    config: u64,
    shardmaster: &Shardmaster,
) -> Result<Option<(MigrationsResponse, Option<ShardMap>)>, Failure> {
    let Some(migrations) = later(shardmaster.migrations().await)? else { return Ok(None) };
    if migrations.config <= config {
        return Ok(Some((migrations, None)));
    }
    Ok(later(shardmaster.query(0).await)?.map(|map| (migrations, Some(map))))
}

fn later<T>(answer: Result<T, client::Error>) -> Result<Option<T>, Failure> {
    use client::ErrorKind::{Busy, NoLeader, Timeout, Unavailable};
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.kind, Busy | NoLeader | Timeout | Unavailable) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How many of the shards are still to move, and wanted where this change wants them.
fn pending(wanted: &BTreeMap<u32, u32>, migrations: &MigrationsResponse, newest: Option<&ShardMap>) -> usize {
    let moves = |shard: u32| migrations.migrations.iter().any(|migration| migration.shard == shard);
    let superseded = |shard: u32, to: u32| {
        newest.is_some_and(|map| map.desired.get(shard as usize).is_some_and(|group| *group != to))
    };
    wanted.iter().filter(|(shard, to)| moves(**shard) && !superseded(**shard, **to)).count()
}

fn progress(shards: usize) -> ProgressBar {
    if !output::progress_is_seen() || shards == 0 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(shards as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} shards moved  {elapsed}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_is_wanted_elsewhere_is_not_waited_for() {
        let wanted = BTreeMap::from([(0, 2), (1, 2), (2, 2)]);
        let moving = |shard| Migration { shard, from: 1, to: 2, ..Migration::default() };
        let migrations =
            MigrationsResponse { migrations: vec![moving(0), moving(1)], ..MigrationsResponse::default() };
        assert_eq!(pending(&wanted, &migrations, None), 2);
        let newest = ShardMap { desired: vec![1, 2, 2], ..ShardMap::default() };
        assert_eq!(pending(&wanted, &migrations, Some(&newest)), 1);
        assert_eq!(pending(&wanted, &MigrationsResponse::default(), None), 0);
    }
}
