//! `migration`: shards on their way, and what they wait for.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};
use wire::v1::{Migration, MigrationsResponse};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

const POLL: Duration = Duration::from_millis(250);

/// How to look at migrations.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum MigrationCommand {
    /// Lists the shards that aren't where they are to be, and why
    #[command(after_help = "Example:\n  kvctl migration list")]
    List,
    /// Follows them, until Ctrl-C
    #[command(after_help = "Examples:\n  kvctl migration watch\n  kvctl migration watch --until-done")]
    Watch {
        /// Ends when no shard is on its way
        #[arg(long)]
        until_done: bool,
    },
}

pub(crate) async fn run(command: &MigrationCommand, context: &Context) -> Result<(), Failure> {
    match command {
        MigrationCommand::List => {
            let migrations = context.client().await?.shardmaster().migrations().await?;
            list(&migrations, context)
        }
        MigrationCommand::Watch { until_done } => watch(*until_done, context).await,
    }
}

/// A migration in JSON.
pub(crate) fn migration_json(migration: &Migration) -> Json {
    json!({
        "shard": migration.shard,
        "from": migration.from,
        "to": migration.to,
        "epoch": migration.epoch,
        "state": migration.state,
        "reason": migration.reason,
        "copied": migration.copied,
        "total": migration.total,
    })
}

fn all_json(migrations: &MigrationsResponse) -> Json {
    let told: Vec<_> = migrations.migrations.iter().map(migration_json).collect();
    json!({ "config": migrations.config, "paused": migrations.paused, "migrations": told })
}

fn list(migrations: &MigrationsResponse, context: &Context) -> Result<(), Failure> {
    if context.is_json() {
        return output::object(all_json(migrations));
    }
    if migrations.migrations.is_empty() {
        return output::line("no shard is on its way");
    }
    let mut table = output::table(["shard", "from", "to", "epoch", "state", "copied", "reason"]);
    for migration in &migrations.migrations {
        table.add_row([
            migration.shard.to_string(),
            migration.from.to_string(),
            migration.to.to_string(),
            if migration.epoch == 0 { "-".to_owned() } else { migration.epoch.to_string() },
            migration.state.clone(),
            copied(migration),
            migration.reason.clone(),
        ]);
    }
    output::line(table.to_string())
}

fn copied(migration: &Migration) -> String {
    match migration.total {
        0 => "-".to_owned(),
        total => format!("{}/{total}", migration.copied),
    }
}

fn line(migration: &Migration) -> String {
    let Migration { shard, from, to, state, reason, .. } = migration;
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("shard {shard}, {from} -> {to}: {state} {}{why}", copied(migration))
}

async fn watch(until_done: bool, context: &Context) -> Result<(), Failure> {
    let shardmaster = context.client().await?.shardmaster();
    let on_bars = !context.is_json() && output::progress_is_seen();
    let mut bars = Bars::default();
    let mut before: Option<MigrationsResponse> = None;
    loop {
        let now = shardmaster.migrations().await?;
        if on_bars {
            bars.show(&now);
        } else if before.as_ref() != Some(&now) {
            news(before.as_ref(), &now, context)?;
        }
        if until_done && now.migrations.is_empty() {
            bars.show(&now);
            return Ok(());
        }
        before = Some(now);
        tokio::time::sleep(POLL).await;
    }
}

/// What changed, line by line.
fn news(
    before: Option<&MigrationsResponse>,
    now: &MigrationsResponse,
    context: &Context,
) -> Result<(), Failure> {
    if context.is_json() {
        return output::object(all_json(now));
    }
    let earlier = before.map(|before| before.migrations.as_slice()).unwrap_or_default();
    for migration in now.migrations.iter().filter(|migration| !earlier.contains(migration)) {
        output::line(line(migration))?;
    }
    for gone in earlier.iter().filter(|was| now.migrations.iter().all(|is| is.shard != was.shard)) {
        output::line(format!("shard {}, {} -> {}: done", gone.shard, gone.from, gone.to))?;
    }
    if now.migrations.is_empty() {
        output::line("no shard is on its way")?;
    }
    Ok(())
}

/// A progress bar a shard.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    by_shard: BTreeMap<u32, ProgressBar>,
}

impl Bars {
    fn show(&mut self, now: &MigrationsResponse) {
        for migration in &now.migrations {
            let bar = self.by_shard.entry(migration.shard).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(1));
                if let Ok(style) = ProgressStyle::with_template("{bar:20} {msg}") {
                    bar.set_style(style);
                }
                bar
            });
            bar.set_length(migration.total.max(1));
            bar.set_position(migration.copied.min(migration.total));
            bar.set_message(line(migration));
        }
        let is_on = |shard: &u32| now.migrations.iter().any(|migration| migration.shard == *shard);
        for (shard, bar) in &self.by_shard {
            if !is_on(shard) {
                bar.finish_and_clear();
            }
        }
        self.by_shard.retain(|shard, _| is_on(shard));
    }
}
