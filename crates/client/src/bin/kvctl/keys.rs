//! Commands on single keys: get, put, append, del, cas, incr, locate.

use client::Written;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, json_bytes, quoted};
use crate::values::{Key, Value};

/// Arguments of `get`.
#[derive(clap::Args, Debug)]
pub(crate) struct GetArgs {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: Key,
}

/// Arguments of `put` and `append`.
#[derive(clap::Args, Debug)]
pub(crate) struct WriteArgs {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: Key,
    /// The value: - reads stdin, @FILE reads a file (a value that itself begins with @ goes through stdin)
    #[arg(allow_negative_numbers = true)]
    value: Value,
}

/// Arguments of `del`.
#[derive(clap::Args, Debug)]
pub(crate) struct DelArgs {
    /// The keys
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true)]
    keys: Vec<Key>,
}

/// Arguments of `cas`.
#[derive(clap::Args, Debug)]
pub(crate) struct CasArgs {
    /// Expect the key to be absent
    #[arg(long)]
    absent: bool,
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: Key,
    /// With --absent the new value, else the expected one; - and @FILE as in put
    #[arg(value_name = "OLD", allow_negative_numbers = true)]
    first: Value,
    /// The new value
    #[arg(
        value_name = "NEW",
        allow_negative_numbers = true,
        required_unless_present = "absent",
        conflicts_with = "absent"
    )]
    second: Option<Value>,
}

/// Arguments of `incr`.
#[derive(clap::Args, Debug)]
pub(crate) struct IncrArgs {
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: Key,
    /// What to add
    #[arg(value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
}

/// Arguments of `locate`.
#[derive(clap::Args, Debug)]
pub(crate) struct LocateArgs {
    /// The keys
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true)]
    keys: Vec<Key>,
}

pub(crate) async fn get(args: &GetArgs, context: &Context) -> Result<(), Failure> {
    let key = &args.key.0;
    let found = context.client().await?.get(key, context.consistency()).await?;
    let Some(found) = found else {
        if context.is_json() {
            output::object(json!({ "key": json_bytes(key), "found": false }))?;
        }
        return Err(Failure::new(Exit::NotFound, "NOT_FOUND", format!("{} is absent", quoted(key))));
    };
    match context.settings.output {
        Format::Raw => output::data(&found.value),
        Format::Text => {
            let mut line = found.value;
            line.push(b'\n');
            output::data(&line)
        }
        Format::Json => output::object(json!({
            "key": json_bytes(key),
            "found": true,
            "value": json_bytes(&found.value),
            "version": found.version,
        })),
    }
}

pub(crate) async fn put(args: &WriteArgs, context: &Context) -> Result<(), Failure> {
    let value = args.value.read(context).await?;
    written(context.client().await?.put(&args.key.0, &value).await?, context)
}

pub(crate) async fn append(args: &WriteArgs, context: &Context) -> Result<(), Failure> {
    let value = args.value.read(context).await?;
    written(context.client().await?.append(&args.key.0, &value).await?, context)
}

pub(crate) async fn cas(args: &CasArgs, context: &Context) -> Result<(), Failure> {
    let first = args.first.read(context).await?;
    let (expected, value) = match &args.second {
        Some(second) => (Some(first), second.read(context).await?),
        None => (None, first),
    };
    written(context.client().await?.cas(&args.key.0, expected.as_deref(), &value).await?, context)
}

fn written(written: Written, context: &Context) -> Result<(), Failure> {
    let Written { length, version } = written;
    match context.settings.output {
        Format::Json => output::object(json!({ "length": length, "version": version })),
        Format::Text | Format::Raw => output::line(format!("{length} bytes, version {version}")),
    }
}

pub(crate) async fn del(args: &DelArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client().await?;
    let mut told: Vec<Json> = Vec::new();
    for Key(key) in &args.keys {
        // Each is shown when it's done: if a later one fails, it's clear which were removed.
        let existed = client.delete(key).await.map_err(|e| Failure::from(e).at(quoted(key)))?;
        if context.is_json() {
            told.push(json!({ "key": json_bytes(key), "existed": existed }));
        } else {
            output::line(format!("{} {}", quoted(key), if existed { "removed" } else { "was absent" }))?;
        }
    }
    if context.is_json() { output::object(json!({ "keys": told })) } else { Ok(()) }
}

pub(crate) async fn incr(args: &IncrArgs, context: &Context) -> Result<(), Failure> {
    let number = context.client().await?.incr(&args.key.0, args.by).await?;
    match context.settings.output {
        Format::Json => output::object(json!({ "value": number.value, "version": number.version })),
        Format::Text | Format::Raw => output::line(number.value.to_string()),
    }
}

pub(crate) async fn locate(args: &LocateArgs, context: &Context) -> Result<(), Failure> {
    let routing = context.client().await?.routing().await;
    let mut table = output::table(["key", "shard", "group", "leader", "address", "epoch", "config"]);
    let mut told: Vec<Json> = Vec::new();
    for Key(key) in &args.keys {
        let Some(place) = routing.locate(key) else {
            let message = format!("{}: no group serves its shard", quoted(key));
            return Err(Failure::new(Exit::Unavailable, "NO_GROUP", message));
        };
        let leader = place.leader.as_ref();
        // Of a node that doesn't tell the number of the ShardMap, the number of its table is all there is.
        let config = if place.config.0 == 0 { place.version } else { place.config.0 };
        told.push(json!({
            "key": json_bytes(key),
            "shard": place.shard.0,
            "group": place.group.0,
            "leader": leader.map(|member| member.node.0),
            "address": leader.map(|member| &member.address),
            "config": config,
            "generation": place.generation.0,
            "epoch": place.epoch.0,
            "version": place.version,
        }));
        table.add_row([
            quoted(key),
            place.shard.0.to_string(),
            place.group.to_string(),
            leader.map_or_else(|| "unknown".to_owned(), |member| member.node.to_string()),
            leader.map_or_else(String::new, |member| member.address.clone()),
            place.epoch.0.to_string(),
            config.to_string(),
        ]);
    }
    if context.is_json() { output::object(json!({ "keys": told })) } else { output::line(table.to_string()) }
}
