//! A shardmaster that knows three groups' worth of rules and moves shards only when it is told to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tonic::{Request, Response, Status};
use wire::v1::shardmaster_server::Shardmaster;
use wire::v1::{
    ChangeResponse, JoinRequest, LeaveRequest, MapGroup, Migration, MigrationsRequest, MigrationsResponse,
    MoveRequest, QueryRequest, RebalancePolicy, RebalanceRequest, RebalanceResponse, ShardChange, ShardMap,
};

use super::World;

/// What the shardmaster has in its log.
#[derive(Default)]
pub(crate) struct Master {
    pub(crate) maps: Vec<ShardMap>,
    pub(crate) paused: bool,
    pub(crate) policy: RebalancePolicy,
    /// How many questions about migrations are answered before the shards are where they are to be.
    pub(crate) slowness: usize,
}

pub(crate) struct Service {
    pub(crate) world: Arc<World>,
}

fn precondition(message: String) -> Status {
    Status::failed_precondition(message)
}

impl World {
    fn newest(&self) -> ShardMap {
        let mut master = self.master.lock();
        if master.maps.is_empty() {
            let ids: Vec<u32> = self.leaders.lock().keys().copied().collect();
            let group = |id| MapGroup { id, generation: 1, state: "active".to_owned(), nodes: vec![1, 2, 3] };
            master.maps.push(ShardMap {
                config: 1,
                newest: 1,
                change: "genesis".to_owned(),
                made_at: 5,
                desired: self.owners.lock().clone(),
                groups: ids.into_iter().map(group).collect(),
            });
        }
        master.maps.last().cloned().unwrap()
    }

    fn migrating(&self) -> Vec<ShardChange> {
        let (desired, owners) = (self.newest().desired, self.owners.lock().clone());
        let all = (0..).zip(owners.into_iter().zip(desired));
        all.filter(|(_, (from, to))| from != to)
            .map(|(shard, (from, to))| ShardChange { shard, from, to })
            .collect()
    }

    fn change(&self, word: String, mut next: ShardMap, dry_run: bool) -> ChangeResponse {
        let before = self.newest();
        let pairs = (0..).zip(before.desired.iter().zip(&next.desired));
        let changes: Vec<ShardChange> = pairs
            .filter(|(_, (from, to))| from != to)
            .map(|(shard, (from, to))| ShardChange { shard, from: *from, to: *to })
            .collect();
        let already = before.desired == next.desired && before.groups == next.groups;
        if !dry_run && !already {
            next.config += 1;
            next.newest = next.config;
            next.change = word;
            self.master.lock().maps.push(next);
        }
        ChangeResponse { config: self.newest().config, already, changes }
    }
}

#[tonic::async_trait]
impl Shardmaster for Service {
    async fn history(
        &self,
        _: tonic::Request<wire::v1::HistoryRequest>,
    ) -> Result<tonic::Response<wire::v1::HistoryResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("history"))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<ChangeResponse>, Status> {
        let JoinRequest { group, nodes, dry_run } = request.into_inner();
        let mut next = self.world.newest();
        match next.groups.iter().find(|known| known.id == group) {
            Some(known) if known.nodes != nodes => {
                return Err(precondition(format!("group {group} is there with other members")));
            }
            Some(_) => {}
            None => {
                if !dry_run {
                    self.world.leaders.lock().insert(group, 1);
                }
                let generation = next.config + 1;
                next.groups.push(MapGroup { id: group, generation, state: "active".to_owned(), nodes });
                let groups = next.groups.len();
                next.desired.iter_mut().step_by(groups).for_each(|owner| *owner = group);
            }
        }
        Ok(Response::new(self.world.change(format!("join {group}"), next, dry_run)))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<ChangeResponse>, Status> {
        let LeaveRequest { group, dry_run } = request.into_inner();
        let mut next = self.world.newest();
        if !next.groups.iter().any(|known| known.id == group) {
            return Err(precondition(format!("there is no group {group}")));
        }
        next.groups.retain(|known| known.id != group);
        let Some(heir) = next.groups.first().map(|heir| heir.id) else {
            return Err(precondition(format!("group {group} is the last one")));
        };
        next.desired.iter_mut().filter(|owner| **owner == group).for_each(|owner| *owner = heir);
        Ok(Response::new(self.world.change(format!("leave {group}"), next, dry_run)))
    }

    async fn r#move(&self, request: Request<MoveRequest>) -> Result<Response<ChangeResponse>, Status> {
        let MoveRequest { shards, to, dry_run } = request.into_inner();
        let mut next = self.world.newest();
        if !next.groups.iter().any(|known| known.id == to) {
            return Err(precondition(format!("there is no group {to}")));
        }
        for shard in shards {
            let owner = next.desired.get_mut(shard as usize);
            *owner.ok_or_else(|| precondition(format!("there is no shard {shard}")))? = to;
        }
        Ok(Response::new(self.world.change(format!("move -> {to}"), next, dry_run)))
    }

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<ShardMap>, Status> {
        let (newest, config) = (self.world.newest(), request.into_inner().config);
        let master = self.world.master.lock();
        let found = master.maps.iter().find(|map| map.config == config || (config == 0 && **map == newest));
        let mut map =
            found.cloned().ok_or_else(|| Status::not_found(format!("there is no config {config}")))?;
        map.newest = newest.config;
        Ok(Response::new(map))
    }

    async fn migrations(
        &self,
        _: Request<MigrationsRequest>,
    ) -> Result<Response<MigrationsResponse>, Status> {
        let migration = |change: ShardChange| Migration {
            shard: change.shard,
            from: change.from,
            to: change.to,
            epoch: 2,
            state: "copying".to_owned(),
            reason: String::new(),
            copied: 3,
            total: 10,
        };
        let changes = self.world.migrating();
        let slow = {
            let mut master = self.world.master.lock();
            master.slowness = master.slowness.saturating_sub(1);
            master.slowness > 0
        };
        if !slow {
            for change in &changes {
                self.world.owners.lock()[change.shard as usize] = change.to;
                self.world.epochs.lock()[change.shard as usize] += 1;
                self.world.version.fetch_add(1, Ordering::Relaxed);
            }
        }
        let left = if slow { changes } else { Vec::new() };
        let migrations = left.into_iter().map(migration).collect();
        let (config, paused) = (self.world.newest().config, self.world.master.lock().paused);
        Ok(Response::new(MigrationsResponse { config, migrations, paused }))
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        let RebalanceRequest { paused, policy, run_once: _ } = request.into_inner();
        let mut master = self.world.master.lock();
        master.paused = paused.unwrap_or(master.paused);
        if let Some(policy) = policy {
            master.policy = policy;
        }
        Ok(Response::new(RebalanceResponse {
            paused: master.paused,
            policy: Some(master.policy.clone()),
            last: String::new(),
            planned: Vec::new(),
        }))
    }
}
