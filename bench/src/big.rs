//! Loads that need a large state or large values: what a checkpoint costs those who wait, memory, a restart, and large puts beside
//! small ones.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::load::{self, Load, key, value};
use crate::outage;
use crate::report::{Figures, Report};
use crate::store::{Cluster, Via};

/// Latencies are told apart by what happened within so long.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_WARM_UP: Duration = Duration::from_millis(200);
/// Within so long checkpoints of all nodes must have come up.
const CHECKPOINTS_WITHIN: Duration = Duration::from_secs(900);
/// How large the large values are.
const LARGE_BYTES: usize = 1 << 20;
const LARGE_PER_S: u32 = 20;

/// Memory, puts beside a checkpoint, and restarts of a cluster with `raw_bytes` of keys and values.
pub(crate) async fn keys(
    cluster: &mut Cluster,
    load: &Load,
    raw_bytes: u64,
    rounds: u32,
    report: &mut Report,
) -> Result<()> {
    memory(cluster, raw_bytes, "after the loads")?;
    beside_checkpoints(cluster, load, rounds, report).await?;
    memory(cluster, raw_bytes, "after checkpoints")?;
    for _ in 0..rounds {
        let log_mb = cluster.log_bytes()? as f64 / 1e6;
        let restart = outage::restart_ms(cluster).await?;
        eprintln!(
            "  from the start of all nodes to a write: {restart:.0} ms, with {log_mb:.0} MB of log in all"
        );
        report.add(&format!("restart, {} keys", load.keys), "synod", Figures::of_time(restart));
        memory(cluster, raw_bytes, "after a restart")?;
    }
    Ok(())
}

fn memory(cluster: &Cluster, raw_bytes: u64, when: &str) -> Result<()> {
    let used = cluster.sample()?;
    let (nodes, raw) = (cluster.nodes.len() as f64, raw_bytes as f64);
    eprintln!(
        "  memory of a node {when}: {:.0} MB, {:.2} times keys and values; at most {:.0} MB, {:.2} times",
        used.resident_bytes as f64 / nodes / 1e6,
        used.resident_bytes as f64 / nodes / raw,
        used.peak_bytes as f64 / nodes / 1e6,
        used.peak_bytes as f64 / nodes / raw,
    );
    Ok(())
}

/// Puts, second by second: those while any node writes a checkpoint, and those while none does.
async fn beside_checkpoints(cluster: &Cluster, load: &Load, rounds: u32, report: &mut Report) -> Result<()> {
    let load = Load { warm_up: WINDOW_WARM_UP, time: WINDOW, ..*load };
    let name = format!("put beside a checkpoint, {} keys", load.keys);
    let began = Instant::now();
    let wanted = rounds as usize * 5;
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    while beside.len().min(alone.len()) < wanted {
        ensure!(began.elapsed() < CHECKPOINTS_WITHIN, "{} seconds with a checkpoint", beside.len());
        let before = !cluster.writing_checkpoints()?.is_empty();
        let measured = load::run(cluster, &load).await?;
        let after = !cluster.writing_checkpoints()?.is_empty();
        // A second in which one began or ended is neither.
        if before == after {
            if after { &mut beside } else { &mut alone }.push(measured);
        }
    }
    for (store, seconds) in [("synod", beside), ("alone", alone)] {
        let figures = Figures::of_all(&seconds)?;
        eprintln!("  {store:6} {name}, {} s: {figures}", seconds.len());
        report.add(&name, store, figures);
    }
    Ok(())
}

/// Small puts alone, and beside large ones.
pub(crate) async fn beside(cluster: &Cluster, load: &Load, rounds: u32, report: &mut Report) -> Result<()> {
    let name = format!("put, {} callers, beside {LARGE_PER_S} values of 1 MiB a second", load.callers);
    for round in 0..rounds {
        let mut both = [("synod", true), ("alone", false)];
        both.rotate_left(round as usize % 2);
        for (store, with_large) in both {
            let large = if with_large { LARGE_PER_S } else { 0 };
            let put = Cell::new(0);
            let measured = tokio::select! {
                measured = load::run(cluster, load) => measured?,
                ended = put_large(cluster, large, &put) => { ended?; continue }
            };
            let figures = Figures::of(measured)?;
            eprintln!("  {store:6} {figures}, {} large", put.get());
            report.add(&name, store, figures);
        }
    }
    Ok(())
}

/// So many large values every second, for ever; each begins when it is due, whether or not those before are done.
async fn put_large(cluster: &Cluster, per_s: u32, put: &Cell<u32>) -> Result<()> {
    if per_s == 0 {
        return std::future::pending().await;
    }
    let value = value(LARGE_BYTES);
    let caller = cluster.callers(1, 1, Via::Best).await?.remove(0);
    let mut due = tokio::time::interval(Duration::from_secs(1) / per_s);
    let mut under_way = JoinSet::new();
    for number in 0.. {
        due.tick().await;
        let (caller, value) = (caller.clone(), value.clone());
        // Other keys than the small ones.
        let key = key(u64::from(u32::MAX) + number % u64::from(per_s));
        under_way.spawn(async move { caller.put(key, &value).await });
        while let Some(done) = under_way.try_join_next() {
            done??;
            put.set(put.get() + 1);
        }
    }
    Ok(())
}
