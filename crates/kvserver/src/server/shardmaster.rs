//! The shardmaster for people and tools: changes of the desired assignment, ShardMaps, migrations, rebalancing. Any node
//! takes a call and asks the shardmaster's leader.

use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{GroupId, NodeId};
use shardmaster::command::{Command, Measure, Policy, Reply, ShardChange};
use shardmaster::history::{MapChange, ShardMap};
use shardmaster::ids::{ConfigNum, ShardId};
use shardmaster::query::{Answer, Migration, Query};
use shardmaster::refusal::Refusal;
use tonic::{Code, Request, Response, Status};
use wire::v1;
use wire::v1::shardmaster_server::Shardmaster;

use super::agent::Agent;
use super::ask::Unanswered;
use super::balance::Balancer;
use super::refusal::status;

/// The shardmaster's leader is looked for so long.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause before it is looked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// The service.
pub(crate) struct Government {
    agent: Arc<Agent>,
    balancer: Arc<Balancer>,
}

impl Government {
    pub(crate) fn new(agent: Arc<Agent>, balancer: Arc<Balancer>) -> Government {
        Government { agent, balancer }
    }

    /// Reads until somebody answers: nothing is changed by it.
    async fn consult(&self, query: Query) -> Result<Answer, Status> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.agent.consult(query.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if tokio::time::Instant::now() >= until => return Err(unanswered(&error)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Executes a command once, however often it must be sent.
    async fn govern(&self, command: Command) -> Result<Reply, Status> {
        let request = self.agent.request(command);
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut unknown = false;
        loop {
            match self.agent.govern_as(&request).await {
                Ok(Reply::Refused(refusal)) => return Err(refused(&refusal)),
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    unknown |= matches!(error, Unanswered::Unknown(_));
                    if tokio::time::Instant::now() >= until {
                        let why = error.to_string();
                        let told =
                            if unknown { Unanswered::Unknown(why) } else { Unanswered::NotExecuted(why) };
                        return Err(unanswered(&told));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn change(&self, command: Command, dry_run: bool) -> Result<Response<v1::ChangeResponse>, Status> {
        let reply = if dry_run {
            match self.consult(Query::DryRun(command)).await? {
                Answer::DryRun(Reply::Refused(refusal)) => return Err(refused(&refusal)),
                Answer::DryRun(reply) => reply,
                _ => return Err(mismatched()),
            }
        } else {
            self.govern(command).await?
        };
        let Reply::Changed { config, already, changes } = reply else { return Err(mismatched()) };
        let changes = changes.iter().map(change_of).collect();
        Ok(Response::new(v1::ChangeResponse { config: config.0, already, changes }))
    }

    /// Groups as they are now, not as they were when the map was made.
    async fn with_present_states(&self, mut map: v1::ShardMap) -> Result<v1::ShardMap, Status> {
        let Answer::Routing(routing) = self.consult(Query::Routing { newer_than: 0 }).await? else {
            return Ok(map);
        };
        map.groups.retain_mut(|group| {
            let now = routing
                .groups
                .iter()
                .find(|now| (now.at.group.0, now.at.generation.0) == (group.id, group.generation));
            if let Some(now) = now {
                group.state = now.state.word().to_string();
            }
            now.is_some()
        });
        Ok(map)
    }

    async fn policy(&self) -> Result<(bool, Policy), Status> {
        match self.consult(Query::Policy).await? {
            Answer::Policy { paused, policy } => Ok((paused, policy)),
            _ => Err(mismatched()),
        }
    }
}

pub(crate) fn change_of(change: &ShardChange) -> v1::ShardChange {
    v1::ShardChange { shard: u32::from(change.shard.0), from: change.from.0, to: change.to.0 }
}

fn mismatched() -> Status {
    Status::internal("an answer to another question")
}

/// A refusal is definite: nothing was changed.
fn refused(refusal: &Refusal) -> Status {
    let (code, word) = match refusal {
        Refusal::Invalid | Refusal::IdReused => (Code::InvalidArgument, "INVALID"),
        Refusal::ReservedGroup
        | Refusal::ReplicaCount { .. }
        | Refusal::DuplicateNode(_)
        | Refusal::NothingToMove
        | Refusal::UnknownShard { .. } => (Code::InvalidArgument, "INVALID"),
        Refusal::TooManyGroups { .. } => (Code::ResourceExhausted, "LIMIT"),
        _ => (Code::FailedPrecondition, "PRECONDITION"),
    };
    status(code, &refusal.to_string(), word, v1::Outcome::NotExecuted)
}

fn unanswered(error: &Unanswered) -> Status {
    let message = format!("the shardmaster doesn't answer: {error}");
    match error {
        Unanswered::NotExecuted(_) => {
            status(Code::Unavailable, &message, "NO_LEADER", v1::Outcome::NotExecuted)
        }
        Unanswered::Unknown(_) => status(Code::Unknown, &message, "TIMEOUT", v1::Outcome::Unknown),
    }
}

fn map_of(map: &ShardMap, newest: ConfigNum) -> v1::ShardMap {
    let groups = map.groups.iter().map(|group| v1::MapGroup {
        id: group.at.group.0,
        generation: group.at.generation.0,
        state: group.state.word().to_string(),
        nodes: group.nodes.iter().map(|node| node.0).collect(),
    });
    v1::ShardMap {
        config: map.config.0,
        newest: newest.0,
        change: map.made_by.clone(),
        made_at: map.made_at.0,
        desired: map.desired.iter().map(|group| group.0).collect(),
        groups: groups.collect(),
    }
}

fn migration_of(migration: &Migration) -> v1::Migration {
    v1::Migration {
        shard: u32::from(migration.shard.0),
        from: migration.from.0,
        to: migration.to.0,
        epoch: migration.epoch.0,
        state: migration.state.word().to_string(),
        reason: migration.reason.clone(),
        copied: 0,
        total: 0,
    }
}

fn line_of(change: &MapChange) -> v1::HistoryLine {
    v1::HistoryLine {
        config: change.config.0,
        change: change.made_by.clone(),
        made_at: change.made_at.0,
        changes: change.changes.iter().map(change_of).collect(),
    }
}

fn policy_of(policy: &Policy) -> v1::RebalancePolicy {
    let by = match policy.measure {
        Measure::Off => "none",
        Measure::Count => "count",
        Measure::Load => "load",
    };
    v1::RebalancePolicy {
        by: by.to_string(),
        tolerance_percent: policy.tolerance_percent,
        cooldown_ms: policy.cooldown_ms,
        p99_max_us: policy.p99_max_us,
    }
}

fn policy_from(policy: v1::RebalancePolicy) -> Result<Policy, Status> {
    let measure = match policy.by.as_str() {
        "none" => Measure::Off,
        "count" => Measure::Count,
        "load" => Measure::Load,
        other => {
            return Err(Status::invalid_argument(format!("rebalance by {other:?}: none, count or load")));
        }
    };
    let v1::RebalancePolicy { tolerance_percent, cooldown_ms, p99_max_us, .. } = policy;
    Ok(Policy { measure, tolerance_percent, cooldown_ms, p99_max_us })
}

fn shard(number: u32) -> Result<ShardId, Status> {
    u16::try_from(number).map(ShardId).map_err(|_| Status::invalid_argument(format!("{number} is no shard")))
}

#[tonic::async_trait]
impl Shardmaster for Government {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::JoinRequest { group, nodes, dry_run } = request.into_inner();
        let nodes = nodes.into_iter().map(NodeId).collect();
        self.change(Command::Join { group: GroupId(group), nodes }, dry_run).await
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::LeaveRequest { group, dry_run } = request.into_inner();
        self.change(Command::Leave { group: GroupId(group) }, dry_run).await
    }

    async fn r#move(
        &self,
        request: Request<v1::MoveRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let v1::MoveRequest { shards, to, dry_run } = request.into_inner();
        let shards = shards.into_iter().map(shard).collect::<Result<Vec<_>, Status>>()?;
        self.change(Command::Move { shards, to: GroupId(to) }, dry_run).await
    }

    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::ShardMap>, Status> {
        let config = request.into_inner().config;
        let latest = match self.consult(Query::Map(None)).await? {
            Answer::Map(Some(map)) => map,
            _ => return Err(mismatched()),
        };
        if config == 0 || config == latest.config.0 {
            return Ok(Response::new(self.with_present_states(map_of(&latest, latest.config)).await?));
        }
        match self.consult(Query::Map(Some(ConfigNum(config)))).await? {
            Answer::Map(Some(map)) => Ok(Response::new(map_of(&map, latest.config))),
            Answer::Map(None) => {
                let message = format!("there is no ShardMap {config}: the newest is {}", latest.config.0);
                Err(status(Code::NotFound, &message, "NOT_FOUND", v1::Outcome::NotExecuted))
            }
            _ => Err(mismatched()),
        }
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let v1::HistoryRequest { from, limit } = request.into_inner();
        match self.consult(Query::History { from: ConfigNum(from), limit }).await? {
            Answer::History(lines) => {
                Ok(Response::new(v1::HistoryResponse { lines: lines.iter().map(line_of).collect() }))
            }
            _ => Err(mismatched()),
        }
    }

    async fn migrations(
        &self,
        _: Request<v1::MigrationsRequest>,
    ) -> Result<Response<v1::MigrationsResponse>, Status> {
        let (paused, _) = self.policy().await?;
        let config = match self.consult(Query::Map(None)).await? {
            Answer::Map(Some(map)) => map.config.0,
            _ => return Err(mismatched()),
        };
        let Answer::Migrations(found) = self.consult(Query::Migrations).await? else {
            return Err(mismatched());
        };
        let mut migrations: Vec<v1::Migration> = found.iter().map(migration_of).collect();
        self.balancer.tell_progress(&mut migrations).await;
        Ok(Response::new(v1::MigrationsResponse { config, migrations, paused }))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let v1::RebalanceRequest { paused, policy, run_once } = request.into_inner();
        if let Some(paused) = paused {
            self.govern(Command::SetPaused(paused)).await?;
        }
        if let Some(policy) = policy {
            self.govern(Command::SetPolicy(policy_from(policy)?)).await?;
        }
        let (paused, policy) = self.policy().await?;
        let (last, planned) = self.balancer.plan_now(policy, run_once).await;
        let policy = Some(policy_of(&policy));
        Ok(Response::new(v1::RebalanceResponse { paused, policy, last, planned }))
    }
}
