//! Runs one command, whether it came from the command line or from a shell.

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};
use crate::reshard::{config, group, migration, rebalance, shard};
use crate::{bench, check, export, fault, import, inspect, keys, member, multi, scan, status, txn};

/// Runs a command until it's done or Ctrl-C comes.
pub(crate) async fn run_until_interrupted(command: &Command, context: &Context) -> Result<(), Failure> {
    if matches!(command, Command::Import(_) | Command::Check(_)) {
        // Ends in order by itself: what is in flight is waited for and noted, what was broken is mended.
        return run(command, context).await;
    }
    tokio::select! {
        done = run(command, context) => done,
        _ = tokio::signal::ctrl_c() => Err(interrupted(command)),
    }
}

fn interrupted(command: &Command) -> Failure {
    match command {
        Command::Put(_)
        | Command::Append(_)
        | Command::Del(_)
        | Command::Cas(_)
        | Command::Incr(_)
        | Command::Mput(_)
        | Command::Swap(_) => stopped(),
        Command::Txn(args) if args.may_write() => stopped(),
        _ => Failure::silent(Exit::Interrupted),
    }
}

fn stopped() -> Failure {
    Failure::new(Exit::Interrupted, "INTERRUPTED", "stopped before the answer came").unknown()
}

async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Get(args) => keys::get(args, context).await,
        Command::Put(args) => keys::put(args, context).await,
        Command::Append(args) => keys::append(args, context).await,
        Command::Del(args) => keys::del(args, context).await,
        Command::Cas(args) => keys::cas(args, context).await,
        Command::Incr(args) => keys::incr(args, context).await,
        Command::Mget(args) => multi::mget(args, context).await,
        Command::Mput(args) => multi::mput(args, context).await,
        Command::Swap(args) => multi::swap(args, context).await,
        Command::Txn(args) => txn::run(args, context).await,
        Command::Scan(args) => scan::run(args, context).await,
        Command::Import(args) => import::run(args, context).await,
        Command::Export(args) => export::run(args, context).await,
        Command::Locate(args) => keys::locate(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Log(command) => inspect::log(command, context).await,
        Command::Explain(args) => inspect::explain(args, context).await,
        Command::Trace(args) => inspect::trace(args, context).await,
        Command::Member(command) => member::run(command, context).await,
        Command::Group(command) => group::run(command, context).await,
        Command::Shard(command) => shard::run(command, context).await,
        Command::Config(command) => config::run(command, context).await,
        Command::Migration(command) => migration::run(command, context).await,
        Command::Rebalance(command) => rebalance::run(command, context).await,
        Command::Bench(args) => bench::run(args, context).await,
        Command::Check(command) => check::run(command, context).await,
        Command::Fault(command) => fault::run(command, context).await,
        Command::Completion { shell } => completion(*shell),
        Command::Version => version(context),
        Command::Demo(_) | Command::Shell => Err(Failure::usage("this is a shell already")),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kvctl", &mut script);
    output::data(&script)
}

fn version(context: &Context) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match context.settings.output {
        Format::Json => output::object(json!({ "version": version })),
        Format::Text | Format::Raw => output::line(format!("kvctl {version}")),
    }
}
