//! The load: callers that each wait for their answer before they go on, on this one thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::sample::Sample;
use crate::store::{Caller, Cluster, KEY_BYTES, Read, Via};

/// Longest latency told apart, in µs.
const LATENCY_US_MAX: u64 = 60_000_000;
/// A caller whose operation failed waits this long.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Callers that fill a store.
const FILLERS: usize = 256;

/// What callers do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) callers: usize,
    pub(crate) connections: usize,
    pub(crate) via: Via,
    pub(crate) read: Read,
    /// Reads among the operations, from 0 to 1.
    pub(crate) reads: f64,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

/// What came of it.
pub(crate) struct Measured {
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) seconds: f64,
    /// Of all nodes, while it ran.
    pub(crate) used: Sample,
}

impl Measured {
    pub(crate) fn ops(&self) -> f64 {
        self.latency_us.len() as f64
    }
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)?)
}

/// The latencies of all of them.
pub(crate) fn together(all: &[Measured]) -> Result<Histogram<u64>> {
    let mut sum = histogram()?;
    all.iter().try_for_each(|measured| sum.add(&measured.latency_us))?;
    Ok(sum)
}

/// The number in decimal, with leading zeros.
pub(crate) fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    for digit in key.iter_mut().rev() {
        // A digit fits a byte.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// Values that no store can make smaller.
pub(crate) fn value(bytes: usize) -> Bytes {
    let mut random = SmallRng::seed_from_u64(7);
    (0..bytes).map(|_| random.random::<u8>()).collect()
}

/// Writes every key once.
pub(crate) async fn fill(cluster: &Cluster, keys: u64, value_bytes: usize) -> Result<()> {
    let value = value(value_bytes);
    let mut fillers = JoinSet::new();
    for (first, caller) in (0..).zip(cluster.callers(FILLERS, 4, Via::Best).await?) {
        let value = value.clone();
        fillers.spawn(async move {
            for number in (first..keys).step_by(FILLERS) {
                caller.put(key(number), &value).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

struct Tally {
    latency_us: Histogram<u64>,
    errors: u64,
    first: Option<anyhow::Error>,
}

/// Lets a load run on a cluster. An operation is counted if it ends between the warm-up and the end.
pub(crate) async fn run(cluster: &Cluster, load: &Load) -> Result<Measured> {
    let callers = cluster.callers(load.callers, load.connections, load.via).await?;
    let tally = Rc::new(RefCell::new(Tally { latency_us: histogram()?, errors: 0, first: None }));
    let value = value(load.value_bytes);
    let start = Instant::now() + load.warm_up;
    let end = start + load.time;
    let local = tokio::task::LocalSet::new();
    for (seed, caller) in (0..).zip(callers) {
        local.spawn_local(call(
            caller,
            *load,
            value.clone(),
            SmallRng::seed_from_u64(seed),
            start,
            end,
            tally.clone(),
        ));
    }
    let sampling = async {
        tokio::time::sleep_until(start.into()).await;
        let before = cluster.sample();
        tokio::time::sleep_until(end.into()).await;
        anyhow::Ok(cluster.sample()?.since(&before?))
    };
    let (used, ()) =
        local.run_until(async { tokio::join!(sampling, tokio::time::sleep_until(end.into())) }).await;
    local.await;
    let tally = Rc::try_unwrap(tally).ok().context("a caller lives on")?.into_inner();
    if let Some(error) = tally.first {
        eprintln!("{} operations failed, the first: {error:#}", tally.errors);
    }
    let seconds = load.time.as_secs_f64();
    Ok(Measured { latency_us: tally.latency_us, errors: tally.errors, seconds, used: used? })
}

async fn call(
    caller: Caller,
    load: Load,
    value: Bytes,
    mut random: SmallRng,
    start: Instant,
    end: Instant,
    tally: Rc<RefCell<Tally>>,
) {
    let mut before = Instant::now();
    while before < end {
        let key = key(random.random_range(0..load.keys));
        let done = match random.random_bool(load.reads) {
            true => caller.get(key, load.read).await,
            false => caller.put(key, &value).await,
        };
        let now = Instant::now();
        let failed = done.is_err();
        if now >= start && now < end {
            let mut tally = tally.borrow_mut();
            match done {
                Ok(()) => {
                    let us = u64::try_from((now - before).as_micros()).unwrap_or(u64::MAX);
                    tally.latency_us.saturating_record(us);
                }
                Err(error) => {
                    tally.errors += 1;
                    tally.first.get_or_insert(error);
                }
            }
        }
        before = now;
        if failed {
            tokio::time::sleep(AFTER_ERROR).await;
            before = Instant::now();
        }
    }
}
