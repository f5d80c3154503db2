//! Measures Synod beside etcd and ZooKeeper: the same machine, the same load, in turn, several rounds.
//!
//! Every store gets three nodes on loopback with an empty directory each, a new one for every round. The load comes from
//! this process, on one thread: callers that each wait for their answer before they go on. What a server costs is read
//! from `/proc` while the load runs.

mod big;
mod compare;
mod core;
mod grow;
mod load;
mod outage;
mod plot;
mod rates;
mod report;
mod sample;
mod store;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::store::Place;

/// Measures Synod beside other stores.
#[derive(Parser)]
struct Arguments {
    /// Where bench/install.sh put the other stores
    #[arg(long, default_value = "target/peers", global = true)]
    peers: PathBuf,
    /// A kvserver of a release build
    #[arg(long, default_value = "target/release/kvserver", global = true)]
    kvserver: PathBuf,
    /// Where data directories are made, and removed again: on the disk that is to be measured
    #[arg(long, default_value = "target", global = true)]
    data: PathBuf,
    /// Where to write NAME.json, NAME.md and NAME.svg
    #[arg(long, default_value = "target/measured", global = true)]
    out: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Synod and other stores in turn: throughput, latency, CPU, memory, bytes written, outages
    Compare(compare::CompareArgs),
    /// Synod alone, while one thing grows
    Grow(grow::GrowArgs),
    /// How fast a whole state moves: checkpoints, snapshots, shards
    Rates(rates::RatesArgs),
    /// Consensus alone, in memory, on one thread
    Core(core::CoreArgs),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.data).context("--data")?;
    std::fs::create_dir_all(&arguments.out).context("--out")?;
    if let Command::Core(args) = &arguments.command {
        return core::run(args, &arguments.out);
    }
    let absolute = |path: PathBuf, what: &'static str| path.canonicalize().context(what);
    let place = Place {
        data: absolute(arguments.data, "--data")?,
        kvserver: absolute(arguments.kvserver, "--kvserver: cargo build --release -p kvserver makes one")?,
        peers: arguments.peers,
    };
    let work = async {
        match &arguments.command {
            Command::Compare(args) => compare::run(args, &place, &arguments.out).await,
            Command::Grow(args) => grow::run(args, &place, &arguments.out).await,
            Command::Rates(args) => rates::run(args, &place, &arguments.out).await,
            Command::Core(_) => unreachable!("it needs no nodes"),
        }
    };
    // Dropping the work ends all nodes.
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}
