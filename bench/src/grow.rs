//! Synod alone, while one thing grows: what an operation costs then, beside a small cluster that is measured in turn.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::big;
use crate::load::{self, Load};
use crate::plot;
use crate::report::{Figures, Report};
use crate::store::{Cluster, KEY_BYTES, Kind, Place, Read, Via};

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;
const CALLERS: usize = 256;
/// How long idle nodes are watched.
const IDLE: Duration = Duration::from_secs(10);

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// 10^4 to 10^7 keys: throughput, memory, what a checkpoint costs, and how long a restart takes
    Keys,
    /// 16 B to 1 MiB
    Value,
    /// 1 to 4,096
    Callers,
    /// 1 to 8 on three nodes, also idle
    Groups,
    /// 3, 5, 7
    Replicas,
    /// Small puts of 64 callers, alone and beside 20 values of 1 MiB a second
    Beside,
}

/// Arguments of `grow`.
#[derive(Args)]
pub(crate) struct GrowArgs {
    /// What grows
    what: What,
    /// How long each point is measured, in each round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds; the ratio to the small cluster is the median of the rounds' ratios
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these points
    #[arg(long, value_delimiter = ',')]
    at: Vec<u64>,
}

/// A point: what it is at, the cluster, and the load.
struct Point {
    at: u64,
    kind: Kind,
    keys: u64,
    value_bytes: usize,
    callers: usize,
}

/// What every point is compared with.
const BASE: Point =
    Point { at: 0, kind: Kind::SYNOD, keys: KEYS, value_bytes: VALUE_BYTES, callers: CALLERS };

fn points(what: What) -> Vec<Point> {
    let synod = |groups, nodes| Kind::Synod { groups, nodes };
    match what {
        What::Keys => [KEYS, 100_000, 1_000_000, 10_000_000].map(|n| Point { at: n, keys: n, ..BASE }).into(),
        What::Value => [16, 128, 1 << 10, 8 << 10, 64 << 10, 1 << 20]
            .map(|bytes| Point {
                at: bytes,
                value_bytes: bytes as usize,
                keys: (1 << 30 >> 2) / bytes.max(1 << 14),
                ..BASE
            })
            .into(),
        What::Callers => {
            [1, 4, 16, 64, 256, 1024, 4096].map(|n| Point { at: n, callers: n as usize, ..BASE }).into()
        }
        What::Groups => [1, 2, 4, 8].map(|n| Point { at: n.into(), kind: synod(n, 3), ..BASE }).into(),
        What::Replicas => [3, 5, 7].map(|n| Point { at: n.into(), kind: synod(1, n), ..BASE }).into(),
        What::Beside => vec![Point { at: 20, callers: 64, ..BASE }],
    }
}

impl Point {
    async fn start(&self, place: &Place) -> Result<Cluster> {
        let cluster = Cluster::start(self.kind, place, &[]).await?;
        let began = Instant::now();
        load::fill(&cluster, self.keys, self.value_bytes).await?;
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("  {} keys of {} B filled in {seconds:.1} s", self.keys, self.value_bytes);
        Ok(cluster)
    }

    fn load(&self, reads: f64, seconds: u64) -> Load {
        Load {
            callers: self.callers,
            connections: 1,
            via: Via::Best,
            read: Read::Lease,
            reads,
            keys: self.keys,
            value_bytes: self.value_bytes,
            warm_up: Duration::from_secs(1),
            time: Duration::from_secs(seconds),
        }
    }

    /// Bytes of keys and values.
    fn raw_bytes(&self) -> u64 {
        self.keys * (KEY_BYTES + self.value_bytes) as u64
    }
}

pub(crate) async fn run(args: &GrowArgs, place: &Place, out: &Path) -> Result<()> {
    let mut points = points(args.what);
    points.retain(|point| args.at.is_empty() || args.at.contains(&point.at));
    ensure!(!points.is_empty(), "--at names no point");
    let what = args.what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut report = Report::new(["synod", "small", "alone"].map(str::to_owned).into());
    let mut series: Vec<(&str, Vec<(f64, f64)>)> = vec![("put", Vec::new()), ("get by lease", Vec::new())];
    let small = BASE.start(place).await?;
    for point in &points {
        eprintln!("{what} {}", point.at);
        let mut cluster = point.start(place).await?;
        if args.what == What::Beside {
            big::beside(&cluster, &point.load(0.0, args.seconds), args.rounds, &mut report).await?;
            continue;
        }
        for round in 0..args.rounds {
            for (at, reads) in [(0, 0.0), (1, 1.0)] {
                let name = format!("{}, {what} {}", series[at].0, point.at);
                let mut both = [("synod", point, &cluster), ("small", &BASE, &small)];
                // Who goes first changes from round to round.
                both.rotate_left(round as usize % 2);
                for (store, point, cluster) in both {
                    let figures = Figures::of(load::run(cluster, &point.load(reads, args.seconds)).await?)?;
                    eprintln!("  {store:6} {name:24} {figures}");
                    report.add(&name, store, figures);
                    if store == "synod" {
                        series[at].1.push((point.at as f64, 1e6 / figures.ops_per_s.max(1.0)));
                    }
                }
            }
        }
        if args.what == What::Groups {
            let before = cluster.sample()?;
            tokio::time::sleep(IDLE).await;
            let used = cluster.sample()?.since(&before).cpu_s / IDLE.as_secs_f64();
            eprintln!("  idle: {:.2} % of a core a node", used / cluster.nodes.len() as f64 * 1e2);
        }
        if args.what == What::Keys {
            let load = point.load(0.0, args.seconds);
            big::keys(&mut cluster, &load, point.raw_bytes(), args.rounds, &mut report).await?;
        }
    }
    let name = format!("grow-{what}");
    plot::growth(&out.join(&name).with_extension("svg"), &what, "us per operation", &series)?;
    report.write(out, &name)
}
