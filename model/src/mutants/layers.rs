//! The layers of the suite, from the cheapest on, each with its bound. A layer ends at the first thing that isn't as it must be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use paxos::ids::Slot;
use scripted::golden::{self, Language};
use scripted::shard::random::{moves, transactions};
use scripted::{random, script, shard};

use crate::bounds::Bounds;
use crate::catalog::{self, named};
use crate::check::{self, Options, Outcome};
use crate::handoff::world::Handoff;
use crate::search::Search;
use crate::txn::world::Commit;
use crate::world::World;
use crate::{handoff, txn};

/// What a layer noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The property that didn't hold, or whatever else was wrong.
    pub what: String,
    /// How much of the layer had been run, in its units.
    pub after: u64,
}

/// Told before each part of a layer: its name, and how much was run before it.
pub type At<'a> = &'a mut dyn FnMut(&str, u64);

/// A part of the suite.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// What it is called.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// What it is, and how much of it is run.
    pub about: &'static str,
    /// Runs it; how much that was.
    pub run: fn(At<'_>) -> Result<u64, Found>,
}

const DRILL_SEEDS: u64 = 300;
const MOVE_SEEDS: u64 = 100;
const TRANSACTION_SEEDS: u64 = 100;
const SCHEDULE_SEEDS: u64 = 100;
const CLUSTER_SEEDS: u64 = 40;

/// All layers, in the order in which they are run.
pub const LAYERS: &[Layer] = &[
    Layer {
        name: "scripts",
        unit: "scripts",
        about: "the golden scripts of consensus and of shards, as far as they judge properties",
        run: scripts,
    },
    Layer {
        name: "log",
        unit: "seeds",
        about: "lives of a log of two groups that crash on the simulated disk, and a bit that flips",
        run: |at| seeds(DRILL_SEEDS, at, runtime::drill::log),
    },
    Layer {
        name: "wiped",
        unit: "seeds",
        about: "one of three nodes loses its disk and is started anew",
        run: |at| seeds(DRILL_SEEDS, at, runtime::drill::wiped),
    },
    Layer {
        name: "lives",
        unit: "seeds",
        about: "a group is dropped and made again, and one node hears of it late",
        run: |at| seeds(DRILL_SEEDS, at, runtime::drill::lives),
    },
    Layer { name: "commit", unit: "states", about: "small models of transactions, exhausted", run: commits },
    Layer { name: "handoff", unit: "states", about: "small models of a move, exhausted", run: handoffs },
    Layer {
        name: "group",
        unit: "states",
        about: "small models of one group, exhausted: phase 1 and 2, learning, a crash",
        run: group,
    },
    Layer {
        name: "moves",
        unit: "seeds",
        about: "random scripts of shards that move",
        run: |at| seeds(MOVE_SEEDS, at, moves::run),
    },
    Layer {
        name: "transactions",
        unit: "seeds",
        about: "random scripts of transactions over shards that move",
        run: |at| seeds(TRANSACTION_SEEDS, at, |seed| transactions::run(seed).map(drop)),
    },
    Layer {
        name: "schedules",
        unit: "seeds",
        about: "random schedules of one group: crashes, cuts, loss, clocks, reads",
        run: |at| {
            seeds(SCHEDULE_SEEDS, at, |seed| random::run(seed).map(drop).map_err(|broken| broken.to_string()))
        },
    },
    Layer {
        name: "clusters",
        unit: "seeds",
        about: "whole clusters in virtual time: the shipped nodes and clients, on machines, disks and links that fail",
        run: |at| seeds(CLUSTER_SEEDS, at, cluster),
    },
    Layer {
        name: "traces",
        unit: "scripts",
        about: "the golden scripts again: every line is as recorded",
        run: traces,
    },
];

impl Layer {
    /// The layer of that name.
    pub fn named(name: &str) -> Option<&'static Layer> {
        LAYERS.iter().find(|layer| layer.name == name)
    }
}

fn seeds(count: u64, at: At<'_>, run: impl Fn(u64) -> Result<(), String>) -> Result<u64, Found> {
    for seed in 0..count {
        at(&format!("seed {seed}"), seed);
        run(seed).map_err(|what| Found { what: first_line(&what), after: seed + 1 })?;
    }
    Ok(count)
}

fn cluster(seed: u64) -> Result<(), String> {
    let options = testkit::run::Options { canary: false, trace: testkit::watch::Trace::Off };
    let report = testkit::run::run(&testkit::plan::draw(seed), &options);
    report.violation.map_or(Ok(()), |broken| Err(broken.to_string()))
}

/// What broke, without the way to it.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_end_matches(", after").to_string()
}

// ------------------------------------------------------------------------------------------------ scripts

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Every script, with the output that it has now: what is wrong with it, if anything.
fn each_script(at: At<'_>, judge: impl Fn(&str, &str) -> Option<String>) -> Result<u64, Found> {
    let first = each_of::<script::Script>("consensus", 0, at, &judge)?;
    each_of::<shard::script::Script>("shard", first, at, &judge)
}

fn each_of<L: Language>(
    of: &str,
    mut before: u64,
    at: At<'_>,
    judge: &impl Fn(&str, &str) -> Option<String>,
) -> Result<u64, Found> {
    let unread = |error: std::io::Error| Found { what: format!("scripts of {of}: {error}"), after: 0 };
    for path in golden::scripts(&folder(of)).map_err(unread)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        at(&name, before);
        before += 1;
        let recorded = std::fs::read_to_string(&path).map_err(unread)?;
        if let Some(wrong) = judge(&recorded, &golden::replay::<L>(&recorded)) {
            return Err(Found { what: format!("{name}: {wrong}"), after: before });
        }
    }
    Ok(before)
}

fn scripts(at: At<'_>) -> Result<u64, Found> {
    each_script(at, |_, fresh| {
        Some(fresh.lines().find_map(|line| line.strip_prefix("violated "))?.to_string())
    })
}

fn traces(at: At<'_>) -> Result<u64, Found> {
    each_script(at, |recorded, fresh| {
        golden::difference(recorded, fresh).map(|_| difference(recorded, fresh))
    })
}

/// The first line that isn't as recorded.
fn difference(recorded: &str, fresh: &str) -> String {
    let mut lines = recorded.lines().zip(fresh.lines());
    let first = lines.find(|(recorded, fresh)| recorded != fresh);
    match first {
        Some((recorded, fresh)) => format!("`{}` instead of `{}`", fresh.trim(), recorded.trim()),
        None => "another length".to_string(),
    }
}

// ------------------------------------------------------------------------------------------------ models

/// A model of the catalog, made smaller.
fn small(name: &str, change: impl FnOnce(&mut Bounds)) -> World {
    let mut bounds = named(name).and_then(|model| model.kind.replicas()).unwrap_or_else(catalog::consensus);
    change(&mut bounds);
    World::new(bounds)
}

fn group(at: At<'_>) -> Result<u64, Found> {
    let mut states = 0;
    let learning = |bounds: &mut Bounds| (bounds.campaigns, bounds.last_slot) = ([1, 0, 0], Slot(1));
    search("learning", small("learning", learning), &mut states, at)?;
    search("consensus", small("consensus", |bounds| bounds.last_slot = Slot(1)), &mut states, at)?;
    search("recovery-ballot", small("recovery-ballot", |bounds| bounds.crashes = 1), &mut states, at)?;
    let recovery = |bounds: &mut Bounds| (bounds.crashes, bounds.proposals) = (1, [1, 0, 0]);
    search("recovery", small("recovery", recovery), &mut states, at)?;
    Ok(states)
}

fn handoffs(at: At<'_>) -> Result<u64, Found> {
    let mut states = 0;
    let aging = handoff::bounds::Bounds {
        ages: true,
        ops: catalog::handoff().ops[..1].to_vec(),
        ..catalog::handoff()
    };
    search("handoff", Handoff::new(catalog::handoff_of_two()), &mut states, at)?;
    search("handoff-age", Handoff::new(aging), &mut states, at)?;
    Ok(states)
}

fn commits(at: At<'_>) -> Result<u64, Found> {
    let mut states = 0;
    let two = txn::bounds::Bounds { tries: [1; 3], ..catalog::two_phase_commit() };
    let one = txn::bounds::Bounds { expires: 1, ops: two.ops[..1].to_vec(), ..catalog::two_phase_commit() };
    let moving = txn::bounds::Bounds {
        tries: [1; 3],
        expires: 1,
        late: 1,
        cancels: false,
        ..catalog::move_during_commit()
    };
    search("move-during-commit", Commit::new(moving), &mut states, at)?;
    search("two-phase-commit of one", Commit::new(one), &mut states, at)?;
    search("two-phase-commit", Commit::new(two), &mut states, at)?;
    Ok(states)
}

/// All states of a model, on one thread: the same every time.
fn search<M: Search>(name: &str, model: M, states: &mut u64, at: At<'_>) -> Result<(), Found> {
    at(name, *states);
    let options = Options { budget: Duration::from_secs(300), threads: 1, sought: None };
    let outcome = check::run(model, options);
    *states += outcome.states as u64;
    let found = |what: &str| Found { what: format!("{name}: {what}"), after: *states };
    match outcome.failed() {
        Some(property) => Err(found(&said(&outcome, property))),
        None if !outcome.exhausted => Err(found("its states don't come to an end")),
        None => Ok(()),
    }
}

/// The property; what an assertion said, if that is how it was broken.
fn said(outcome: &Outcome, property: &str) -> String {
    let last = outcome.counterexample.as_ref().and_then(|lines| lines.last());
    let assertion = last.and_then(|line| line.split_once("!! ")).map(|(_, said)| said);
    assertion.unwrap_or(property).to_string()
}
