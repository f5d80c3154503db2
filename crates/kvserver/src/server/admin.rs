//! The admin service: what this node knows of itself and of its log, its live trace, and orders to it. Never needs a
//! quorum.

use std::sync::Arc;

use paxos::ids::{GroupId, NodeId, Slot};
use runtime::api::{LinkFaults, LogView, ReplicaStatus, SlotView};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::admin_server::Admin;

use super::ask::read_here;
use super::context::{Context, cluster_bytes};
use super::crash::Point;
use super::explain;
use super::trace::Tracing;
use crate::machine;
use crate::query::{Answer, Query};
use crate::txn::TxnStatus;
use shardmaster::ids::SHARDMASTER;

/// Most slots of one answer.
const LOG_SLOTS_MAX: u64 = 1000;
/// Trace lines on their way to one reader.
const TRACE_LINES: usize = 256;
/// Longest delay that may be injected, in ms.
const SLOW_MS_MAX: u32 = 60_000;

/// The service.
pub(crate) struct Administration {
    context: Arc<Context>,
}

impl Administration {
    pub(crate) fn new(context: Arc<Context>) -> Administration {
        Administration { context }
    }

    fn group(&self, number: u32) -> Result<GroupId, Status> {
        let group = GroupId(number);
        let known = group == SHARDMASTER || self.context.directory.table().groups.contains_key(&group);
        known.then_some(group).ok_or_else(|| Status::not_found(format!("there is no group {number}")))
    }

    fn node(&self, number: u32) -> Result<NodeId, Status> {
        let node = NodeId(number);
        let known = self.context.directory.table().nodes.contains_key(&node);
        known.then_some(node).ok_or_else(|| Status::not_found(format!("there is no node {number}")))
    }

    async fn view(&self, group: GroupId, from: u64, to: u64, with_batches: bool) -> Result<LogView, Status> {
        let view = self.context.node.log(group, Slot(from), Slot(to), with_batches).await;
        view.ok_or_else(|| Status::unavailable(format!("no replica of {group} is here now")))
    }

    fn replica(&self, replica: &ReplicaStatus) -> v1::ReplicaStatus {
        v1::ReplicaStatus {
            group: replica.group.0,
            generation: replica.generation.0,
            role: replica.role.to_string(),
            leader: replica.leader.map_or(0, |leader| leader.0),
            promised_round: replica.promised.round,
            promised_node: replica.promised.node.0,
            chosen_end: replica.chosen_end.0,
            applied_end: replica.applied_end.0,
            compacted_end: replica.compacted_end.0,
            durable_end: replica.durable_end.0,
            log_bytes: replica.log_bytes,
            shards: u32::try_from(replica.counts.shards).unwrap_or(u32::MAX),
            keys: replica.counts.keys,
            state_bytes: replica.state_bytes,
            log_time: replica.log_time,
            voters: replica.voters.iter().map(|voter| voter.0).collect(),
            state_hash: format!("{:032x}", replica.state_hash),
        }
    }

    fn faults(&self) -> v1::Faults {
        let faults = self.context.node.faults();
        let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let slow =
            faults.slow.iter().map(|(node, delay_ms)| v1::SlowLink { node: node.0, delay_ms: *delay_ms });
        v1::Faults {
            deaf_to: numbers(&faults.deaf_to),
            mute_to: numbers(&faults.mute_to),
            loss_percent: faults.loss_percent,
            doubled_percent: faults.doubled_percent,
            shuffled_percent: faults.shuffled_percent,
            slow: slow.collect(),
            enabled: self.context.faults_enabled,
            crash_at: self.context.crash.get().map_or("", Point::name).to_string(),
        }
    }

    fn checked_faults(&self, faults: v1::Faults) -> Result<LinkFaults, Status> {
        let nodes = |numbers: Vec<u32>| {
            numbers.into_iter().map(|number| self.node(number)).collect::<Result<Vec<_>, Status>>()
        };
        let percent = [faults.loss_percent, faults.doubled_percent, faults.shuffled_percent];
        if let Some(percent) = percent.iter().find(|percent| **percent > 100) {
            return Err(Status::invalid_argument(format!("{percent} percent of all messages")));
        }
        if let Some(slow) = faults.slow.iter().find(|slow| slow.delay_ms > SLOW_MS_MAX) {
            return Err(Status::invalid_argument(format!(
                "a delay of {} ms is over a minute",
                slow.delay_ms
            )));
        }
        let slow = faults.slow.iter().map(|slow| Ok((self.node(slow.node)?, slow.delay_ms)));
        Ok(LinkFaults {
            deaf_to: nodes(faults.deaf_to)?,
            mute_to: nodes(faults.mute_to)?,
            loss_percent: faults.loss_percent,
            doubled_percent: faults.doubled_percent,
            shuffled_percent: faults.shuffled_percent,
            slow: slow.collect::<Result<_, Status>>()?,
        })
    }
}

fn slot_view(view: &SlotView) -> v1::SlotView {
    v1::SlotView {
        slot: view.slot.0,
        state: view.state.to_string(),
        ballot_round: view.ballot.map_or(0, |ballot| ballot.round),
        ballot_node: view.ballot.map_or(0, |ballot| ballot.node.0),
        has_ballot: view.ballot.is_some(),
        entry: view.entry.clone(),
        bytes: view.bytes,
    }
}

fn transaction(group: GroupId, txn: TxnStatus) -> v1::Transaction {
    let TxnStatus { attempt, shard, state, since_ms, waits_for, keys } = txn;
    v1::Transaction {
        group: group.0,
        shard: u32::from(shard.0),
        client: cluster_bytes(Some(attempt.age.client.0)),
        sequence: attempt.age.sequence.0,
        home: u32::from(attempt.home.0),
        attempt: attempt.number,
        state: state.word().to_string(),
        since_ms,
        waits_for: waits_for.into_iter().map(|shard| u32::from(shard.0)).collect(),
        keys: keys.into_iter().map(Into::into).collect(),
    }
}

/// Memory of this process, in bytes; 0 where the system doesn't tell.
pub(crate) fn memory_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident: Option<u64> = pages.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    resident.unwrap_or(0) * 4096
}

/// Of a copy that serves.
fn shard_load(copy: &v1::CopyLoad) -> Option<v1::ShardLoad> {
    let serves = copy.phase == "serving" || copy.phase == "moving";
    let v1::CopyLoad { shard, group, keys, bytes, writes, reads, .. } = *copy;
    serves.then_some(v1::ShardLoad { shard, group, keys, bytes, writes, reads })
}

#[tonic::async_trait]
impl Admin for Administration {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let status = self.context.status_or_unavailable().await?;
        let load = super::groups::load(&self.context).await;
        Ok(Response::new(v1::StatusResponse {
            shard_loads: load.map_or(Vec::new(), |load| load.copies.iter().filter_map(shard_load).collect()),
            node: status.node.0,
            cluster: cluster_bytes(status.cluster),
            boot: status.boot,
            version: env!("CARGO_PKG_VERSION").to_string(),
            uptime_ms: status.uptime_ms,
            replicas: status.replicas.iter().map(|replica| self.replica(replica)).collect(),
            memory_bytes: memory_bytes(),
            log_disk_bytes: status.log_disk_bytes,
            condition: status.condition,
        }))
    }

    async fn get_routing(&self, _: Request<v1::RoutingRequest>) -> Result<Response<v1::Routing>, Status> {
        Ok(Response::new(self.context.directory.table().routing(&self.context.node.leaders())))
    }

    /// The slots `from..to`; without a `to`, the last `limit` (or all that fit) before the chosen end.
    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::LogResponse>, Status> {
        let v1::LogRequest { group, from, to, limit } = request.into_inner();
        let group = self.group(group)?;
        let limit = if limit == 0 { LOG_SLOTS_MAX } else { u64::from(limit).min(LOG_SLOTS_MAX) };
        let (from, to) = if to == 0 {
            let end = self.view(group, 0, 0, false).await?.chosen_end.0;
            (from.max(end.saturating_sub(limit)), end)
        } else {
            (from, to.min(from.saturating_add(limit)))
        };
        let view = self.view(group, from, to, false).await?;
        Ok(Response::new(v1::LogResponse {
            chosen_end: view.chosen_end.0,
            applied_end: view.applied_end.0,
            compacted_end: view.compacted_end.0,
            slots: view.slots.iter().map(slot_view).collect(),
        }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let v1::ExplainRequest { group, slot } = request.into_inner();
        let group = self.group(group)?;
        let view = self.view(group, slot, slot.saturating_add(1), true).await?;
        let found = view.slots.into_iter().find(|view| view.slot == Slot(slot));
        let found = found.ok_or_else(|| Status::not_found(format!("there is no slot {slot} in {group}")))?;
        Ok(Response::new(v1::ExplainResponse {
            view: Some(slot_view(&found)),
            commands: found.batch.as_ref().map(|batch| explain::lines(group, batch)).unwrap_or_default(),
            events: view.events,
        }))
    }

    type TraceStream = ReceiverStream<Result<v1::TraceLine, Status>>;

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let group = match request.into_inner().group {
            0 => None,
            number => Some(self.group(number)?),
        };
        let mut tracing = Tracing::new(self.context.clone(), group);
        let (lines, stream) = mpsc::channel(TRACE_LINES);
        self.context.env.spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    () = lines.closed() => None,
                    next = tracing.next() => next,
                };
                let Some(traced) = next else { return };
                let line = v1::TraceLine { line: traced.line.to_string(), lost_before: traced.lost_before };
                if lines.send(Ok(line)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let v1::TransferLeaderRequest { group, to } = request.into_inner();
        let group = self.group(group)?;
        let to = if to == 0 { None } else { Some(self.node(to)?) };
        let (started, message) = match self.context.node.transfer(group, to).await {
            Ok(()) => (true, String::new()),
            Err(reason) => (false, reason),
        };
        Ok(Response::new(v1::TransferLeaderResponse { started, message }))
    }

    async fn set_faults(&self, request: Request<v1::Faults>) -> Result<Response<v1::Faults>, Status> {
        if !self.context.faults_enabled {
            return Err(Status::permission_denied("this node was started without faults.enabled"));
        }
        let faults = request.into_inner();
        let crash_at = match faults.crash_at.as_str() {
            "" => None,
            name => Some(Point::named(name).ok_or_else(|| {
                Status::invalid_argument(format!("no step of a transaction is called {name}"))
            })?),
        };
        let faults = self.checked_faults(faults)?;
        self.context.node.set_faults(faults);
        self.context.crash.set(crash_at);
        Ok(Response::new(self.faults()))
    }

    /// Those of the groups that are led here: each group is told by its leader.
    async fn transactions(
        &self,
        _: Request<v1::TransactionsRequest>,
    ) -> Result<Response<v1::TransactionsResponse>, Status> {
        let me = Some(self.context.directory.node);
        let mut told = v1::TransactionsResponse::default();
        let status = self.context.status_or_unavailable().await?;
        for replica in status.replicas {
            let group = replica.group;
            if replica.leader != me || group == SHARDMASTER {
                continue;
            }
            let found = read_here(&self.context, group, machine::Query::Store(Query::Txns)).await;
            let Some(machine::Answer::Store(Answer::Txns(txns))) = found else { continue };
            told.groups.push(group.0);
            // The group counts in its log time, which stands still while nothing is logged.
            let age = |txn: TxnStatus| TxnStatus { since_ms: txn.since_ms + replica.idle_ms, ..txn };
            told.transactions.extend(txns.into_iter().map(|txn| transaction(group, age(txn))));
        }
        Ok(Response::new(told))
    }

    async fn get_faults(&self, _: Request<v1::FaultsRequest>) -> Result<Response<v1::Faults>, Status> {
        Ok(Response::new(self.faults()))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::super::fake::FakeNode;
    use super::super::node::Node;
    use super::*;
    use crate::command::ShardId;
    use crate::txn::{Age, Attempt, TxnState};
    use paxos::ids::{ClientId, LogTime, Sequence};
    use runtime::api::CallResult;

    fn service(faults: bool) -> (Arc<FakeNode>, Administration) {
        let node = Arc::new(FakeNode::default());
        let context = FakeNode::context(&node, |config| config.faults = faults);
        (node.clone(), Administration::new(Arc::new(context)))
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn the_status_tells_what_the_node_knows() {
        let (_, admin) = service(false);
        let status = run(admin.status(Request::new(v1::StatusRequest {}))).unwrap().into_inner();
        assert_eq!((status.node, status.boot, status.condition.as_str()), (1, 7, "ok"));
        assert_eq!(status.cluster.as_ref(), 0x0102_u128.to_be_bytes());
        assert_eq!((status.replicas[1].group, status.replicas[1].shards), (2, 128));
        assert!(status.memory_bytes > 0 && status.replicas[0].state_hash.ends_with("0abc"));
    }

    #[test]
    fn routing_owns_every_shard() {
        let (_, admin) = service(false);
        let routing = run(admin.get_routing(Request::new(v1::RoutingRequest {}))).unwrap().into_inner();
        assert_eq!((routing.owners.len(), routing.owners[0], routing.owners[255]), (256, 1, 2));
        assert_eq!((routing.groups[0].leader, routing.groups[0].members.len()), (2, 3));
    }

    #[test]
    fn faults_are_only_set_where_they_are_enabled() {
        let faults = || v1::Faults { deaf_to: vec![2], loss_percent: 10, ..v1::Faults::default() };
        let (_, refused) = service(false);
        let status = run(refused.set_faults(Request::new(faults()))).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let told = run(refused.get_faults(Request::new(v1::FaultsRequest {}))).unwrap().into_inner();
        assert!(!told.enabled);

        let (node, admin) = service(true);
        let told = run(admin.set_faults(Request::new(faults()))).unwrap().into_inner();
        assert!(told.enabled && told.deaf_to == [2] && told.crash_at.is_empty());
        let crashing = v1::Faults { crash_at: "prepare-logged".to_string(), ..faults() };
        let told = run(admin.set_faults(Request::new(crashing))).unwrap().into_inner();
        assert_eq!(told.crash_at, "prepare-logged");
        let told = run(admin.set_faults(Request::new(faults()))).unwrap().into_inner();
        assert!(told.crash_at.is_empty(), "it is set anew, like the others");
        assert_eq!(Node::faults(&*node).loss_percent, 10);
        for wrong in [
            v1::Faults { loss_percent: 101, ..faults() },
            v1::Faults { mute_to: vec![9], ..faults() },
            v1::Faults { crash_at: "somewhere".to_string(), ..faults() },
            v1::Faults { slow: vec![v1::SlowLink { node: 2, delay_ms: 70_000 }], ..faults() },
        ] {
            assert!(run(admin.set_faults(Request::new(wrong))).is_err());
        }
    }

    #[test]
    fn transactions_of_the_groups_led_here_are_told() {
        let (node, admin) = service(false);
        let age = Age { sent_at: LogTime(1), client: ClientId(0xab), sequence: Sequence(9) };
        let attempt = Attempt { home: ShardId(3), number: 5, age };
        let status = TxnStatus {
            attempt,
            shard: ShardId(200),
            state: TxnState::Prepared,
            since_ms: 70,
            waits_for: Vec::new(),
            keys: vec![b"k".to_vec()],
        };
        *node.respond.lock() = Some(Box::new(move |(group, _, _)| {
            let txns = if *group == GroupId(2) { vec![status.clone()] } else { Vec::new() };
            CallResult::Found(machine::Answer::Store(Answer::Txns(txns)))
        }));
        let ask = || run(admin.transactions(Request::new(v1::TransactionsRequest {}))).unwrap().into_inner();
        assert_eq!(ask(), v1::TransactionsResponse::default(), "another node leads");
        *node.leader.lock() = Some(NodeId(1));
        let told = ask();
        assert_eq!((told.groups, told.transactions.len()), (vec![1, 2], 1));
        let txn = &told.transactions[0];
        assert_eq!((txn.group, txn.shard, txn.home, txn.attempt), (2, 200, 3, 5));
        assert_eq!((txn.state.as_str(), txn.since_ms, txn.sequence), ("prepared", 100, 9));
        assert_eq!((txn.client.as_ref(), &*txn.keys), (&0xab_u128.to_be_bytes()[..], &["k".into()][..]));
    }

    #[test]
    fn a_slot_is_explained_with_its_commands_and_events() {
        let (node, admin) = service(false);
        let mut batch = paxos::rsm::batch::BatchBuilder::default();
        batch.push(b"?");
        let batch = Some(batch.finish(paxos::ids::LogTime(3)).into());
        let slot =
            SlotView { slot: Slot(5), state: "CHOSEN", ballot: None, entry: String::new(), bytes: 1, batch };
        let (chosen_end, applied_end, compacted_end) = (Slot(6), Slot(5), Slot(0));
        let events = vec!["accepted".to_string()];
        *node.log.lock() =
            Some(LogView { chosen_end, applied_end, compacted_end, slots: vec![slot], events });
        let explain = |group, slot| run(admin.explain(Request::new(v1::ExplainRequest { group, slot })));
        let explained = explain(1, 5).unwrap().into_inner();
        assert_eq!(explained.commands, ["batch at t3", "unreadable request (1 B)"]);
        assert_eq!((explained.events.len(), explained.view.unwrap().state.as_str()), (1, "CHOSEN"));
        assert_eq!(explain(1, 9).unwrap_err().code(), Code::NotFound);
        assert_eq!(explain(7, 5).unwrap_err().code(), Code::NotFound);
    }
}
