//! Gathers what every node knows of its load, tells how far migrations are, and lets the shardmaster's leader rebalance by
//! itself: the plan is a pure function of what was gathered, and proposes ordinary changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use paxos::ids::{GroupId, NodeId};
use shardmaster::command::{Measure, Policy, Reply};
use shardmaster::ids::{SHARDMASTER, ShardId};
use shardmaster::query::Answer;
use shardmaster::rebalance::{Health, Plan, ShardLoad, plan};
use tokio::time::Instant;
use wire::v1;

use super::agent::Agent;
use super::context::{Context, Phase};
use super::shardmaster::change_of;

/// How often loads are gathered where the shardmaster is led.
const GATHER: Duration = Duration::from_secs(1);
/// A node that doesn't tell its load within this time is left out.
const PATIENCE: Duration = Duration::from_millis(500);
/// A replica that is so many slots behind its group's leader lags.
const LAG_SLOTS: u64 = 2_000;

/// See the module.
pub(crate) struct Balancer {
    context: Arc<Context>,
    agent: Arc<Agent>,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Counters of the last round, by node and shard.
    counted: BTreeMap<(NodeId, u32), Counted>,
    /// Operations a second, by shard.
    rates: BTreeMap<u32, u64>,
    /// What was last done, or why nothing was.
    last: String,
    planned: Vec<v1::ShardChange>,
    /// In ms since the start.
    last_change: Option<u64>,
}

#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    operations: u64,
}

/// What all nodes told.
pub(crate) struct Gathered {
    loads: Vec<(NodeId, v1::LoadResponse)>,
    silent: Vec<NodeId>,
}

impl Balancer {
    pub(crate) fn new(context: Arc<Context>, agent: Arc<Agent>) -> Arc<Balancer> {
        Arc::new(Balancer { context, agent, started: Instant::now(), state: Mutex::default() })
    }

    /// Until the process stops.
    pub(crate) async fn run(self: Arc<Balancer>) {
        while self.context.phase() == Phase::Serving {
            tokio::time::sleep(GATHER).await;
            if self.context.leader_of(SHARDMASTER) != Some(self.context.directory.node) {
                continue;
            }
            let Ok(Answer::Policy { policy, .. }) =
                self.agent.consult(shardmaster::query::Query::Policy).await
            else {
                continue;
            };
            if policy.measure != Measure::Off {
                self.round(policy, true).await;
            }
        }
    }

    /// What would be done now, or why nothing would; done at once if `run_once`.
    pub(crate) async fn plan_now(&self, policy: Policy, run_once: bool) -> (String, Vec<v1::ShardChange>) {
        if run_once {
            // Who asks for it by hand doesn't wait for the cool-down.
            self.state.lock().last_change = None;
            let measure = if policy.measure == Measure::Off { Measure::Load } else { policy.measure };
            self.round(Policy { measure, ..policy }, true).await;
        } else if policy.measure != Measure::Off {
            self.round(policy, false).await;
        }
        let state = self.state.lock();
        let last = match state.last.is_empty() {
            true => "rebalancing is off: set a policy, or run it once".to_string(),
            false => state.last.clone(),
        };
        (last, state.planned.clone())
    }

    async fn round(&self, policy: Policy, act: bool) {
        let gathered = self.gather().await;
        let asked = self.agent.consult(shardmaster::query::Query::Rebalance).await;
        let Ok(Answer::Rebalance { view, .. }) = asked else {
            self.state.lock().last = "the shardmaster doesn't answer".to_string();
            return;
        };
        let (loads, health) = (self.loads(&gathered), self.health(&gathered));
        let planned = plan(&view, &loads, &health, &policy);
        let words = match &planned {
            Plan::Nothing(idle) => {
                let mut state = self.state.lock();
                state.last = idle.to_string();
                state.planned.clear();
                return;
            }
            Plan::Swap(a, b) => format!("{a} and {b} change places"),
            Plan::Move { shards, to } => {
                let shards: Vec<String> = shards.iter().map(|shard| shard.0.to_string()).collect();
                format!("shards {} go to group {}", shards.join(", "), to.0)
            }
        };
        let Some(command) = planned.command() else { return };
        if !act {
            let tried = self.agent.consult(shardmaster::query::Query::DryRun(command)).await;
            let mut state = self.state.lock();
            state.last = format!("due: {words}");
            state.planned = match tried {
                Ok(Answer::DryRun(Reply::Changed { changes, .. })) => changes.iter().map(change_of).collect(),
                Ok(_) | Err(_) => Vec::new(),
            };
            return;
        }
        let (last, planned) = match self.agent.govern(command).await {
            Ok(Reply::Changed { changes, .. }) => (words, changes.iter().map(change_of).collect()),
            Ok(Reply::Refused(refusal)) => (format!("{words}: refused, {refusal}"), Vec::new()),
            Ok(Reply::Done) => (words, Vec::new()),
            Err(error) => (format!("{words}: {error}"), Vec::new()),
        };
        tracing::info!(what = last, "rebalance");
        let mut state = self.state.lock();
        state.last = last;
        state.planned = planned;
        state.last_change = Some(millis(self.started.elapsed()));
    }

    /// Asks every node that is known, at once.
    pub(crate) async fn gather(&self) -> Gathered {
        let table = self.context.directory.table();
        let mut asked = tokio::task::JoinSet::new();
        for node in table.nodes.keys().copied() {
            let agent = self.agent.clone();
            asked.spawn(async move {
                let load = tokio::time::timeout(PATIENCE, agent.asker.load_of(node)).await;
                (node, load.ok().flatten())
            });
        }
        let mut gathered = Gathered { loads: Vec::new(), silent: Vec::new() };
        while let Some(told) = asked.join_next().await {
            match told {
                Ok((node, Some(load))) => gathered.loads.push((node, load)),
                Ok((node, None)) => gathered.silent.push(node),
                // The task can only end early if the process does.
                Err(_) => {}
            }
        }
        gathered
    }

    /// Operations a second since the last round, and sizes, by shard.
    fn loads(&self, gathered: &Gathered) -> Vec<ShardLoad> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut loads: BTreeMap<u32, ShardLoad> = BTreeMap::new();
        for (node, load) in &gathered.loads {
            for copy in load.copies.iter().filter(|copy| copy.phase == "serving" || copy.phase == "moving") {
                let Ok(shard) = u16::try_from(copy.shard) else { continue };
                let operations = copy.writes + copy.reads;
                let before = state.counted.insert((*node, copy.shard), Counted { at: now, operations });
                let known = state.rates.get(&copy.shard).copied().unwrap_or(0);
                let ops_per_s = before.map_or(0, |before| rate(&before, operations, now, known));
                state.rates.insert(copy.shard, ops_per_s);
                loads.insert(copy.shard, ShardLoad { shard: ShardId(shard), ops_per_s, bytes: copy.bytes });
            }
        }
        loads.into_values().collect()
    }

    fn health(&self, gathered: &Gathered) -> Health {
        let table = self.context.directory.table();
        let mut leaders: BTreeSet<GroupId> = BTreeSet::new();
        let mut ends: BTreeMap<GroupId, Vec<u64>> = BTreeMap::new();
        for (node, load) in &gathered.loads {
            for group in &load.groups {
                let id = GroupId(group.group);
                if group.leader == node.0 {
                    leaders.insert(id);
                }
                ends.entry(id).or_default().push(group.applied_end);
            }
        }
        let lags = ends.values().flat_map(|ends| {
            let most = ends.iter().max().copied().unwrap_or(0);
            ends.iter().filter(move |end| most - **end > LAG_SLOTS)
        });
        Health {
            leaderless: table.groups.keys().filter(|group| !leaders.contains(*group)).copied().collect(),
            lagging_replicas: (lags.count() + gathered.silent.len()) as u64,
            p99_us: gathered.loads.iter().map(|(_, load)| load.p99_us).max().unwrap_or(0),
            now_ms: millis(self.started.elapsed()),
            last_change_ms: self.state.lock().last_change,
        }
    }

    /// How many items the destinations hold, and how many there are.
    pub(crate) async fn tell_progress(&self, migrations: &mut [v1::Migration]) {
        if !migrations.iter().any(|migration| migration.state == "copying") {
            return;
        }
        let gathered = self.gather().await;
        let copies = || gathered.loads.iter().flat_map(|(_, load)| &load.copies);
        for migration in migrations.iter_mut().filter(|migration| migration.state == "copying") {
            let staged = copies().find(|copy| {
                (copy.shard, copy.group, copy.epoch) == (migration.shard, migration.to, migration.epoch)
            });
            let Some(staged) = staged else { continue };
            migration.copied = staged.keys + staged.sessions;
            migration.total = match staged.phase.as_str() {
                "staging" => migration.copied + staged.left,
                _ => migration.copied,
            };
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Operations a second; a counter that went back belongs to another life of the node.
fn rate(before: &Counted, operations: u64, now: Instant, known: u64) -> u64 {
    let ms = u64::try_from((now - before.at).as_millis()).unwrap_or(u64::MAX);
    if ms < 100 || operations < before.operations {
        return known;
    }
    (operations - before.operations).saturating_mul(1000) / ms
}
