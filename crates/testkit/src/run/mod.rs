//! Runs a plan: the shipped nodes in a simulated world, the shipped client, all checkers. One thread, virtual time, no luck but
//! the seed's.

mod clients;
mod cluster;
mod ending;
mod faults;
mod panics;

use std::sync::Arc;
use std::time::Duration;

use kvserver::genesis::{Genesis, Limits};
use kvserver::routing;
use paxos::invariants::Violation;
use paxos::mutants;
use simulated::{World, WorldOptions};

pub use panics::note as note_panics;

use crate::checkers::{Canary, Checkers};
use crate::figures::Figures;
use crate::observation::Observation;
use crate::plan::Plan;
use crate::watch::{Trace, Watch};
use clients::Clients;
use cluster::Cluster;
use faults::Faults;

/// How a run is made again, from the workspace, and seen.
pub fn replay(which: &str) -> String {
    let bug = mutants::present().map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
    format!("cargo run --release -p testkit --bin sim -- {which}{bug} --trace")
}

/// How a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// With one more property, which never holds.
    pub canary: bool,
    /// What becomes of its trace.
    pub trace: Trace,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first property that didn't hold.
    pub violation: Option<Violation>,
    /// What it did.
    pub figures: Figures,
    /// Of all that replicas did, in its order: the same plan gives the same.
    pub hash: u64,
    /// The lines of the trace that were to be kept.
    pub trace: Vec<String>,
}

/// Runs a plan to its end, or to the first violation.
///
/// # Panics
/// If the operating system doesn't let a runtime of tokio begin.
pub fn run(plan: &Plan, options: &Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without sockets needs nothing");
    let (watch, panicked) = panics::during(plan.seed, || {
        runtime.block_on(async {
            let watch = Arc::new(Watch::new(checkers(plan, options), options.trace));
            through(plan, &watch).await;
            watch
        })
    });
    let Some(watch) = watch else {
        let violation = panicked.into_iter().next();
        return Report { violation, figures: Figures::default(), hash: 0, trace: Vec::new() };
    };
    // What a node asserts comes before what follows from its silence.
    let violation = panicked.into_iter().next().or_else(|| watch.violation());
    let (mut figures, hash, trace) = watch.finish();
    (figures.runs, figures.violations) = (1, u64::from(violation.is_some()));
    Report { violation, figures, hash, trace }
}

fn checkers(plan: &Plan, options: &Options) -> Checkers {
    let groups: Vec<_> = routing::groups(plan.shape.groups).collect();
    let genesis = Genesis::spread(Limits::default(), plan.shape.shards, &groups);
    let mut checkers = Checkers::new(genesis.expect("a plan has at least one shard a group"));
    if options.canary {
        checkers.push(Box::new(Canary));
    }
    checkers
}

async fn through(plan: &Plan, watch: &Arc<Watch>) {
    let (min, max) = plan.network.delay_us;
    let delay = (Duration::from_micros(min), Duration::from_micros(max));
    let options = WorldOptions { delay, observer: Some(watch.clone()), ..WorldOptions::new(plan.seed) };
    let world = match World::new(options).await {
        Ok(world) => world,
        Err(not_here) => unreachable!("the runtime was made for it: {not_here}"),
    };
    let cluster = Arc::new(Cluster::new(world.clone(), plan, watch.clone()));
    if cluster.begin().await {
        let clients = Clients::begin(plan, &cluster).await;
        let healed_us = Faults::new(plan, &cluster).run().await;
        if watch.violation().is_none() {
            let ending = ending::reach(&cluster, clients, healed_us).await;
            watch.observe(&Observation::Ended(&ending));
            ending::count(&ending, watch);
        }
    }
    watch.count(|figures| {
        figures.simulated_ms = u64::try_from(world.elapsed().as_millis()).unwrap_or(u64::MAX)
    });
    world.end();
}
