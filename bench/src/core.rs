//! The consensus core alone: three replicas in memory on one thread, no disk, no network, no encoding. What is left of a
//! put when all that surrounds consensus costs nothing.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Args;
use paxos::Replica;
use paxos::durable::Durable;
use paxos::ids::{Moment, NodeId};
use paxos::io::{Input, Output, Timer};
use paxos::limits::Limits;
use paxos::message::{Envelope, Payload};
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Recovered};

use crate::report::{Figures, Report};

const NODES: u32 = 3;
const ENTRY_BYTES: usize = 16;
const BATCHES: [usize; 3] = [1, 128, 1024];
/// Slots in flight.
const PIPELINE: usize = 64;

/// Arguments of `core`.
#[derive(Args)]
pub(crate) struct CoreArgs {
    /// Rounds, each of all sizes of batches
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each is measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

struct Group {
    replicas: Vec<Replica<Payload>>,
    under_way: VecDeque<Envelope<Payload>>,
    clock_us: u64,
    /// Slots that the leader handed out to apply.
    decided: u64,
    messages: u64,
}

impl Group {
    /// A group of which the first replica leads.
    fn new() -> Result<Group> {
        let voters = Voters::new((1..=NODES).map(NodeId));
        // What every voter has applied isn't kept: there are no checkpoints here to cut the log.
        let limits = Limits { keep_bytes_min: 0, ..Limits::default() };
        let replica = |me| {
            let config = Arc::new(Config { me: NodeId(me), voters: voters.clone(), limits: limits.clone() });
            let recovered = Recovered {
                durable: Durable::default(),
                state_end: FIRST_SLOT,
                trimmed_end: FIRST_SLOT,
                restarted: false,
            };
            Replica::recover(config, recovered)
        };
        let replicas = (1..=NODES).map(replica).collect();
        let mut group =
            Group { replicas, under_way: VecDeque::new(), clock_us: 1_000_000, decided: 0, messages: 0 };
        for at in 0..NODES as usize {
            group.step(at, Input::Start);
        }
        group.step(0, Input::Expired(Timer::Election));
        group.settle();
        ensure!(group.replicas[0].leading().is_some(), "the first replica doesn't lead");
        Ok(group)
    }

    /// What is written is durable at once.
    fn step(&mut self, at: usize, input: Input<Payload>) {
        let Output { sends, after_sync, chosen, .. } = self.replicas[at].step(Moment(self.clock_us), input);
        if at == 0 {
            self.decided += chosen.len() as u64;
        }
        self.under_way.extend(sends);
        self.under_way.extend(after_sync);
    }

    fn settle(&mut self) {
        while let Some(envelope) = self.under_way.pop_front() {
            let to = envelope.to.0 as usize - 1;
            self.messages += u64::from(envelope.from != envelope.to);
            self.step(to, Input::Receive(envelope));
        }
    }

    /// Time passes: followers hear of what is chosen with the heartbeat at the latest.
    fn beat(&mut self) {
        self.clock_us += 100_000;
        self.step(0, Input::Expired(Timer::Heartbeat));
        self.settle();
    }
}

pub(crate) fn run(args: &CoreArgs, out: &Path) -> Result<()> {
    let mut report = Report::new(vec!["synod".to_owned()]);
    for _ in 0..args.rounds {
        for batch in BATCHES {
            let (entries_per_s, messages) = measure(batch, Duration::from_secs(args.seconds))?;
            eprintln!("batches of {batch}: {entries_per_s:.0} entries/s, {messages:.2} messages a batch");
            let figures = Figures { ops_per_s: entries_per_s, ..Figures::default() };
            report.add(&format!("core in memory, entries in batches of {batch}"), "synod", figures);
        }
    }
    report.write(out, "core")
}

fn measure(batch: usize, time: Duration) -> Result<(f64, f64)> {
    let mut group = Group::new()?;
    let payload = Payload(Bytes::from(vec![7; batch * ENTRY_BYTES]));
    let (decided, messages) = (group.decided, group.messages);
    let began = Instant::now();
    while began.elapsed() < time {
        for _ in 0..100 {
            for _ in 0..PIPELINE {
                if !group.replicas[0].can_propose() {
                    break;
                }
                group.step(0, Input::Propose(payload.clone()));
            }
            group.settle();
        }
        group.beat();
    }
    let seconds = began.elapsed().as_secs_f64();
    let slots = (group.decided - decided) as f64;
    ensure!(slots > 0.0, "nothing was decided");
    Ok((slots * batch as f64 / seconds, (group.messages - messages) as f64 / slots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Spread;

    #[test]
    fn all_replicas_decide() {
        let mut group = Group::new().unwrap();
        let before = group.replicas[0].applied_end();
        for _ in 0..10 {
            group.step(0, Input::Propose(Payload(Bytes::from_static(b"entry"))));
        }
        group.settle();
        group.beat();
        for replica in &group.replicas {
            assert_eq!(replica.applied_end().0, before.0 + 10);
        }
        let spread = Spread::of([measure(1, Duration::from_millis(100)).unwrap().1]).unwrap();
        assert!((3.0..5.0).contains(&spread.median), "{spread:?}");
    }
}
