//! Stores in turn: every round gives each a new cluster and the same cells, one after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::load::{self, Load};
use crate::outage;
use crate::report::{Figures, Report};
use crate::store::{Cluster, Kind, Place, Read, Via};

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;

/// Arguments of `compare`.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// The stores beside synod
    #[arg(long, value_delimiter = ',', default_value = "etcd,etcd-tuned,zookeeper", value_parser = Kind::parse)]
    with: Vec<Kind>,
    /// Rounds; the ratio of a cell is the median of the rounds' ratios
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a cell is measured
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only cells whose name holds one of these, which semicolons part
    #[arg(long, value_delimiter = ';')]
    cells: Vec<String>,
    /// Leave out killing leaders and starting again
    #[arg(long)]
    no_outages: bool,
    /// Connections that the callers share, at most
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
}

/// One line of the table.
struct Cell {
    name: &'static str,
    callers: usize,
    reads: f64,
    read: Read,
    via: Via,
}

/// All that is compared.
const CELLS: [Cell; 13] = [
    cell("put, 1 caller", 1, 0.0, Read::Lease, Via::Best),
    cell("put, 64", 64, 0.0, Read::Lease, Via::Best),
    cell("put, 256", 256, 0.0, Read::Lease, Via::Best),
    cell("put, 1000", 1000, 0.0, Read::Lease, Via::Best),
    cell("put, 256, unary", 256, 0.0, Read::Lease, Via::Unary),
    cell("get by lease, 1 caller", 1, 1.0, Read::Lease, Via::Best),
    cell("get by quorum, 1 caller", 1, 1.0, Read::Quorum, Via::Best),
    cell("get by lease, 256", 256, 1.0, Read::Lease, Via::Best),
    cell("get by quorum, 256", 256, 1.0, Read::Quorum, Via::Best),
    cell("get by lease, 256, unary", 256, 1.0, Read::Lease, Via::Unary),
    cell("half put, half get by lease, 256", 256, 0.5, Read::Lease, Via::Best),
    cell("half put, half get by quorum, 256", 256, 0.5, Read::Quorum, Via::Best),
    cell("put, 4096", 4096, 0.0, Read::Lease, Via::Best),
];

const fn cell(name: &'static str, callers: usize, reads: f64, read: Read, via: Via) -> Cell {
    Cell { name, callers, reads, read, via }
}

pub(crate) async fn run(args: &CompareArgs, place: &Place, out: &Path) -> Result<()> {
    let is_meant =
        |cell: &&Cell| args.cells.is_empty() || args.cells.iter().any(|part| cell.name.contains(part));
    let cells: Vec<&Cell> = CELLS.iter().filter(is_meant).collect();
    ensure!(!cells.is_empty(), "--cells names none of: {}", CELLS.map(|cell| cell.name).join("; "));
    let mut kinds = vec![Kind::SYNOD];
    kinds.extend(args.with.iter().filter(|kind| **kind != Kind::SYNOD));
    let mut report = Report::new(kinds.iter().map(|kind| kind.name()).collect());
    for round in 1..=args.rounds {
        // Who goes first changes, so that no store always finds the disk as the same other left it.
        let first = (round as usize - 1) % kinds.len();
        for kind in kinds.iter().cycle().skip(first).take(kinds.len()) {
            eprintln!("round {round} of {}: {}", args.rounds, kind.name());
            measure(args, &cells, *kind, place, &mut report).await?;
        }
    }
    report.write(out, "compare")
}

async fn measure(
    args: &CompareArgs,
    cells: &[&Cell],
    kind: Kind,
    place: &Place,
    report: &mut Report,
) -> Result<()> {
    let mut cluster = Cluster::start(kind, place, &[]).await?;
    load::fill(&cluster, KEYS, VALUE_BYTES).await?;
    for cell in cells {
        let load = Load {
            callers: cell.callers,
            connections: connections(kind, cell, usize::from(args.connections)),
            via: cell.via,
            read: cell.read,
            reads: cell.reads,
            keys: KEYS,
            value_bytes: VALUE_BYTES,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(args.seconds),
        };
        let figures = Figures::of(load::run(&cluster, &load).await?)?;
        eprintln!("  {:36} {figures}", cell.name);
        report.add(cell.name, &kind.name(), figures);
    }
    if !args.no_outages {
        let gap = outage::gap_ms(&mut cluster).await?;
        let restart = outage::restart_ms(&mut cluster).await?;
        eprintln!(
            "  writes stand still for {gap:.0} ms when the leader is killed; {restart:.0} ms from the start of all nodes to a write"
        );
        report.add("gap in writes when the leader is killed", &kind.name(), Figures::of_time(gap));
        report.add("from the start of all nodes to a write", &kind.name(), Figures::of_time(restart));
    }
    Ok(())
}

/// One connection carries all of Synod's frames; others do better with some more, ZooKeeper with as many sessions as it
/// would have clients.
fn connections(kind: Kind, cell: &Cell, most: usize) -> usize {
    match (kind, cell.via) {
        (Kind::Synod { .. }, Via::Best) => 1,
        (Kind::ZooKeeper, _) => cell.callers.min(8 * most),
        _ => cell.callers.min(most),
    }
}
