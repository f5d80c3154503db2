//! Synod alone, while one thing grows: what an operation costs then.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::load::{self, Load};
use crate::plot;
use crate::report::{Figures, Report};
use crate::store::{Cluster, Kind, Place, Read, Via};

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;
const CALLERS: usize = 256;
/// How long idle nodes are watched.
const IDLE: Duration = Duration::from_secs(10);

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// 10^4 to --most keys: throughput, memory, and how long a restart takes
    Keys,
    /// 16 B to 1 MiB
    Value,
    /// 1 to 4,096
    Callers,
    /// 1 to 8 on three nodes, also idle
    Groups,
    /// 3, 5, 7
    Replicas,
}

/// Arguments of `grow`.
#[derive(Args)]
pub(crate) struct GrowArgs {
    /// What grows
    what: What,
    /// How long each point is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The greatest number of keys
    #[arg(long, default_value_t = 10_000_000)]
    most: u64,
}

/// A point: what it is at, the cluster, and the load.
struct Point {
    at: u64,
    kind: Kind,
    keys: u64,
    value_bytes: usize,
    callers: usize,
}

const BASE: Point =
    Point { at: 0, kind: Kind::SYNOD, keys: KEYS, value_bytes: VALUE_BYTES, callers: CALLERS };

fn points(args: &GrowArgs) -> Vec<Point> {
    let synod = |groups, nodes| Kind::Synod { groups, nodes };
    match args.what {
        What::Keys => {
            let tens = std::iter::successors(Some(KEYS), |keys| keys.checked_mul(10));
            tens.take_while(|keys| *keys <= args.most).map(|keys| Point { at: keys, keys, ..BASE }).collect()
        }
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
    }
}

pub(crate) async fn run(args: &GrowArgs, place: &Place, out: &Path) -> Result<()> {
    let points = points(args);
    ensure!(!points.is_empty(), "--most is less than {KEYS}");
    let what = args.what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut report = Report::new(vec!["synod".to_owned()]);
    let mut series: Vec<(&str, Vec<(f64, f64)>)> = vec![("put", Vec::new()), ("get by lease", Vec::new())];
    for point in &points {
        let mut cluster = Cluster::start(point.kind, place, &[]).await?;
        let began = Instant::now();
        load::fill(&cluster, point.keys, point.value_bytes).await?;
        eprintln!("{what} {}: filled in {:.1} s", point.at, began.elapsed().as_secs_f64());
        for (at, reads) in [(0, 0.0), (1, 1.0)] {
            let name = series[at].0;
            let load = Load {
                callers: point.callers,
                connections: 1,
                via: Via::Best,
                read: Read::Lease,
                reads,
                keys: point.keys,
                value_bytes: point.value_bytes,
                warm_up: Duration::from_secs(1),
                time: Duration::from_secs(args.seconds),
            };
            let figures = Figures::of(&load::run(&cluster, &load).await?);
            eprintln!("  {name:14} {figures}");
            report.add(&format!("{name}, {what} {}", point.at), "synod", figures);
            series[at].1.push((point.at as f64, 1e6 / figures.ops_per_s.max(1.0)));
        }
        if args.what == What::Groups {
            let before = cluster.sample()?;
            tokio::time::sleep(IDLE).await;
            let used = cluster.sample()?.since(&before).cpu_s / IDLE.as_secs_f64();
            eprintln!("  idle: {:.2} % of a core a node", used / cluster.nodes.len() as f64 * 1e2);
        }
        if args.what == What::Keys {
            let restart = crate::outage::restart_ms(&mut cluster).await?;
            eprintln!("  from the start of all nodes to a write: {restart:.0} ms");
            report.add(&format!("restart, {what} {}", point.at), "synod", Figures::of_time(restart));
        }
    }
    let name = format!("grow-{what}");
    plot::growth(&out.join(&name).with_extension("svg"), &what, "us per operation", &series)?;
    report.write(out, &name)
}
