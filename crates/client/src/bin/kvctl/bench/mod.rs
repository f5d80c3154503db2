//! `bench`: callers that each wait for their answer, over a few connections, on one thread.
//!
//! The generator shares the machine with the servers, so an operation costs it as little as can be: keys are digits
//! written in place, values the same bytes, callers long-lived tasks, and latencies go into one histogram.

mod transfers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, Consistency};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, message};
use transfers::Transfers;

/// Digits of a key.
const KEY_BYTES: usize = 16;
/// A caller whose operation failed waits this long, so that a cluster that is down isn't asked in a tight loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Longest latency told apart, in µs.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What callers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Overwrite keys
    Put,
    /// Read keys, which are written before the clock starts
    Get,
    /// Reads and writes
    Mixed,
    /// Append to keys
    Append,
    /// Move 1 from a key to others, all in one transaction
    Txn,
}

/// Arguments of `bench`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// What callers do; the --consistency of reads is the usual flag
    #[arg(long, value_enum, default_value = "put")]
    workload: Workload,
    /// Callers; each waits for its answer before it goes on
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Connections (to each node) that the callers share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    conns: u32,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Bytes of a value
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Keys, chosen evenly
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Reads among the operations of `mixed`, from 0 to 1
    #[arg(long, value_name = "R", default_value_t = 0.5, value_parser = ratio)]
    read_ratio: f64,
    /// Keys of a transaction of `txn`
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=128))]
    txn_keys: u8,
    /// The keys of a transaction of `txn` are all in one shard
    #[arg(long)]
    local: bool,
    /// The keys of a transaction of `txn` are in different groups, as far as there are so many
    #[arg(long, conflicts_with = "local")]
    across: bool,
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("\"{text}\" isn't a number from 0 to 1")),
    }
}

pub(crate) async fn run(args: &BenchArgs, context: &Context) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..args.conns {
        clients.push(Client::connect(context.client_options()?).await?);
    }
    let transfers = Arc::new(transfers(args, &clients).await?);
    let value: Arc<[u8]> = vec![b'x'; args.value_bytes].into();
    if matches!(args.workload, Workload::Get | Workload::Mixed) {
        fill(args, &clients, &value).await?;
    }
    let stats = Arc::new(Mutex::new(Stats::new()?));
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let mut callers = JoinSet::new();
    for (number, client) in (0..args.clients).zip(clients.iter().cycle()) {
        let caller = Caller {
            client: client.clone(),
            workload: args.workload,
            consistency: context.consistency(),
            read_ratio: args.read_ratio,
            keys: args.keys,
            transfers: Arc::clone(&transfers),
            value: Arc::clone(&value),
            random: SmallRng::seed_from_u64(u64::from(number)),
            stats: Arc::clone(&stats),
        };
        callers.spawn(caller.work(end));
    }
    callers.join_all().await;
    let seconds = began.elapsed().as_secs_f64();
    let stats = stats.lock();
    stats.tell(seconds, context)
}

/// What `txn` draws from.
async fn transfers(args: &BenchArgs, clients: &[Client]) -> Result<Transfers, Failure> {
    let keys = usize::try_from(args.keys).unwrap_or(usize::MAX);
    let at_once = usize::from(args.txn_keys);
    if args.workload == Workload::Txn && keys < at_once {
        return Err(Failure::usage("--keys is less than --txn-keys"));
    }
    Ok(match clients.first() {
        Some(client) if args.across && args.workload == Workload::Txn => {
            Transfers::across(&client.routing().await, keys, at_once)
        }
        _ if args.local => Transfers::local(keys, at_once),
        _ => Transfers::anywhere(keys, at_once),
    })
}

/// Writes every key once.
async fn fill(args: &BenchArgs, clients: &[Client], value: &Arc<[u8]>) -> Result<(), Failure> {
    let mut writers = JoinSet::new();
    let count = u64::from(args.clients);
    for (first, client) in (0..count).zip(clients.iter().cycle()) {
        let (client, value, keys) = (client.clone(), Arc::clone(value), args.keys);
        let mine = (first..keys).step_by(usize::try_from(count).unwrap_or(usize::MAX));
        writers.spawn(async move {
            for number in mine {
                client.put(&key(number), &value).await?;
            }
            Ok::<(), client::Error>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.map_err(|e| Failure::new(Exit::Failed, "FAILED", e.to_string()))??;
    }
    Ok(())
}

/// One after the other until the end.
struct Caller {
    client: Client,
    workload: Workload,
    consistency: Consistency,
    read_ratio: f64,
    keys: u64,
    transfers: Arc<Transfers>,
    value: Arc<[u8]>,
    random: SmallRng,
    stats: Arc<Mutex<Stats>>,
}

impl Caller {
    async fn work(mut self, end: Instant) {
        let mut before = Instant::now();
        while before < end {
            let result = self.once().await;
            let now = Instant::now();
            let failed = result.is_err();
            self.stats.lock().count(now - before, result);
            if failed {
                tokio::time::sleep(AFTER_ERROR).await;
            }
            before = if failed { Instant::now() } else { now };
        }
    }

    async fn once(&mut self) -> Result<(), client::Error> {
        if self.workload == Workload::Txn {
            let transfer = self.transfers.draw(&mut self.random);
            return self.client.transact(transfer).await.map(|_| ());
        }
        let key = key(self.random.random_range(0..self.keys));
        let reads = match self.workload {
            Workload::Get => true,
            Workload::Mixed => self.random.random_bool(self.read_ratio),
            Workload::Put | Workload::Append | Workload::Txn => false,
        };
        if reads {
            return self.client.get(&key, self.consistency).await.map(|_| ());
        }
        if self.workload == Workload::Append {
            return self.client.append(&key, &self.value).await.map(|_| ());
        }
        self.client.put(&key, &self.value).await.map(|_| ())
    }
}

/// The number in decimal, with leading zeros.
fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    for digit in key.iter_mut().rev() {
        // A digit fits a byte.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// What came out.
struct Stats {
    latency_us: Histogram<u64>,
    errors: u64,
    /// The first failure, for people.
    first: Option<client::Error>,
}

impl Stats {
    fn new() -> Result<Stats, Failure> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .map_err(|e| Failure::new(Exit::Failed, "FAILED", e.to_string()))?;
        Ok(Stats { latency_us, errors: 0, first: None })
    }

    fn count(&mut self, latency: Duration, result: Result<(), client::Error>) {
        match result {
            Ok(()) => {
                self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX))
            }
            Err(error) => {
                self.errors += 1;
                self.first.get_or_insert(error);
            }
        }
    }

    fn tell(&self, seconds: f64, context: &Context) -> Result<(), Failure> {
        if let Some(error) = &self.first {
            message(format!("{} operations failed, the first: [{}] {error}", self.errors, error.code()));
        }
        let ops = self.latency_us.len();
        let per_s = if seconds > 0.0 { (ops as f64 / seconds).round() } else { 0.0 };
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), self.latency_us.max());
        if context.is_json() {
            output::object(json!({
                "ops_per_s": per_s,
                "p50_us": p50,
                "p99_us": p99,
                "p999_us": p999,
                "max_us": max,
                "errors": self.errors,
            }))?;
        } else {
            output::line(format!(
                "{per_s} ops/s   p50 {p50} µs   p99 {p99} µs   p999 {p999} µs   max {max} µs   errors {}",
                self.errors
            ))?;
        }
        match &self.first {
            // Nothing was measured.
            Some(error) if ops == 0 => Err(Failure::from(error.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_digits() {
        assert_eq!(&key(0), b"0000000000000000");
        assert_eq!(&key(9_070), b"0000000000009070");
        assert_eq!(&key(9_999_999_999_999_999), b"9999999999999999");
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio("0.5"), Ok(0.5));
        assert!(ratio("1.1").is_err());
        assert!(ratio("NaN").is_err());
        assert!(ratio("half").is_err());
    }

    #[test]
    fn errors_are_counted_apart() {
        let mut stats = Stats::new().unwrap();
        stats.count(Duration::from_micros(10), Ok(()));
        stats.count(Duration::from_secs(3600), Ok(()));
        let error = client::Error {
            kind: client::ErrorKind::Timeout,
            outcome: client::Outcome::Unknown,
            message: "late".to_owned(),
        };
        stats.count(Duration::from_secs(5), Err(error));
        assert_eq!((stats.latency_us.len(), stats.errors), (2, 1));
    }
}
