//! What people and tools ask of a node, and how it stops.

use std::time::Duration;

use paxos::ids::{GroupId, NodeId, Slot};
use paxos::io::Input;
use paxos::rsm::state_machine::StateMachine;

use crate::api::{LogView, NodeStatus, Order, RefusedReason};
use crate::env::Env;
use crate::node::links::Link;
use crate::node::{Node, SlotHappening};
use crate::peers::outbound;
use crate::record::Life;
use crate::snapshot;

/// How long a stopping node waits for its successor, in µs.
const STOP_US: u64 = 1_000_000;

impl<S: StateMachine> Node<S> {
    pub(crate) fn take_orders(&mut self) {
        loop {
            let order = self.inbox.orders.lock().as_mut().and_then(std::collections::VecDeque::pop_front);
            let Some(order) = order else { return };
            self.take_order(order);
        }
    }

    fn take_order(&mut self, order: Order<S>) {
        match order {
            Order::Status(answer) => {
                // Whoever asked may have gone.
                let _gone = answer.send(self.status());
            }
            Order::Log { group, from, to, with_batches, answer } => {
                let _gone = answer.send(self.log_view(group, from, to, with_batches));
            }
            Order::Transfer { group, to, answer } => {
                let _gone = answer.send(self.transfer(group, to));
            }
            Order::SetFaults(faults) => {
                self.faulty = faults != Default::default();
                *self.network.faults.lock() = faults;
            }
            Order::Stop(answer) => self.begin_stop(answer),
            Order::Genesis(genesis) => self.on_genesis(genesis),
            Order::Stranger(reason) => self.stop_voting(reason),
            Order::Checkpointed(outcome) => self.on_checkpointed(outcome),
            Order::Fetched { life, outcome } => self.on_fetched(life, outcome),
            Order::Snapshot { life, at_least, answer } => {
                let _gone = answer.send(self.snapshot_of(life, at_least));
            }
            Order::Host(spec, answer) => self.host(spec, answer),
            Order::Unhost(group, generation, answer) => self.unhost((group, generation), answer),
            Order::SetPeers(peers) => self.set_peers(peers),
        }
    }

    fn status(&self) -> NodeStatus {
        let stopped = self.condition.is_some();
        let waiting = self.genesis.is_none().then(|| "waiting for the first start of all nodes".to_string());
        NodeStatus {
            node: self.options.node,
            incarnation: self.identity.incarnation(),
            cluster: self.genesis.as_ref().map(|g| g.cluster),
            boot: self.identity.boot(),
            uptime_ms: self.env().now().0.saturating_sub(self.started.0) / 1000,
            replicas: self.hosted.iter().map(|h| h.status(stopped)).collect(),
            log_disk_bytes: self.log.disk_bytes(),
            condition: self
                .condition
                .clone()
                .or(waiting)
                .or_else(|| self.trouble())
                .unwrap_or("ok".to_string()),
        }
    }

    fn trouble(&self) -> Option<String> {
        let lost = self.hosted.iter().find(|h| h.replica.state_lost());
        let lost = lost.map(|h| format!("{} lost its state and waits for a snapshot", h.life.0));
        lost.or_else(|| self.log.disk_full().then(|| "the disk is full: writes are refused".to_string()))
    }

    fn log_view(&self, group: GroupId, from: Slot, to: Slot, with_batches: bool) -> Option<LogView> {
        let index = self.index_of(group)?;
        let events = match to.0.saturating_sub(from.0) {
            1 => self.events_of(group, from),
            _ => Vec::new(),
        };
        Some(self.hosted[index].view(from, to, with_batches, events))
    }

    fn events_of(&self, group: GroupId, slot: Slot) -> Vec<String> {
        let events = self.events.iter().filter(|e| e.group == group && e.slot == slot);
        let me = self.options.node;
        let words = events.map(|event| {
            let what = match &event.what {
                SlotHappening::Accepted(ballot) => format!("accepted at {ballot}"),
                SlotHappening::Learnt => "learnt as chosen".to_string(),
                SlotHappening::Applied => "applied".to_string(),
            };
            format!("{}.{:03} {me} {what}", event.unix_ms / 1000, event.unix_ms % 1000)
        });
        words.collect()
    }

    fn transfer(&mut self, group: GroupId, to: Option<NodeId>) -> Result<(), String> {
        let index = self.index_of(group).ok_or_else(|| format!("no replica of {group} here"))?;
        let replica = &self.hosted[index].replica;
        if replica.leading().is_none() {
            let leader = replica.leader_hint().map_or("unknown".to_string(), |n| n.to_string());
            return Err(format!("{} doesn't lead {group}; its leader is {leader}", self.options.node));
        }
        if let Some(to) = to
            && (to == self.options.node || !replica.voters().contains(to))
        {
            return Err(format!("{to} is no other voter of {group}"));
        }
        self.step(index, Input::Transfer(to));
        Ok(())
    }

    fn snapshot_of(&self, life: Life, at_least: Slot) -> Option<(Slot, S)> {
        let hosted = &self.hosted[self.index_of_life(life)?];
        let end = hosted.replica.applied_end();
        (end >= at_least && !hosted.replica.state_lost()).then(|| (end, hosted.machine.clone()))
    }

    pub(crate) fn fetch_snapshot(&mut self, index: usize, from: NodeId, at_least: Slot) {
        let Some(genesis) = &self.genesis else { return };
        let Some(address) = self.link_to(from).map(Link::address) else { return };
        let life = self.hosted[index].life;
        let fresh = self.newborn(genesis, life);
        if std::mem::replace(&mut self.hosted[index].fetching, true) {
            return;
        }
        tracing::info!(group = %life.0, %from, %at_least, "fetching a snapshot");
        let (network, inbox) = (self.network.clone(), self.inbox.clone());
        self.env().spawn(async move {
            let outcome = snapshot::fetch(&network, &address, from, life, at_least, fresh).await;
            inbox.order(Order::Fetched { life, outcome });
        });
    }

    fn on_fetched(&mut self, life: Life, outcome: Result<(Slot, S), String>) {
        // Dropping a large state takes long; not here.
        let Some(index) = self.index_of_life(life) else { return self.env().drop_elsewhere(outcome) };
        let (group, now) = (life.0, self.env().now());
        let hosted = &mut self.hosted[index];
        hosted.fetching = false;
        let (end, machine) = match outcome {
            Ok(fetched) => fetched,
            Err(reason) => return tracing::warn!(%group, %reason, "no snapshot"),
        };
        let needed = hosted.replica.applied_end().max(hosted.replica.log().compacted_end());
        if end < needed {
            return tracing::info!(%group, %end, %needed, "a snapshot came too late");
        }
        let old = hosted.install(machine, now);
        self.env().drop_elsewhere(old);
        crate::api::Counters::add(&self.shared.counters.snapshots, 1);
        self.step(index, Input::Installed(end));
        self.begin_checkpoint();
    }

    fn begin_stop(&mut self, answer: tokio::sync::oneshot::Sender<()>) {
        match &mut self.stopping {
            Some((_, waiting)) => waiting.push(answer),
            None => {
                self.stopping = Some((self.env().now().plus(STOP_US), vec![answer]));
                for index in 0..self.hosted.len() {
                    if self.hosted[index].can_hand_over() {
                        self.step(index, Input::Transfer(None));
                    }
                }
            }
        }
    }

    /// Whether all is handed over and on disk, or patience is at its end.
    pub(crate) fn has_stopped(&self) -> bool {
        let Some((until, _)) = &self.stopping else { return false };
        let leads = self.hosted.iter().any(Hosted::can_hand_over);
        let waits = !self.after_sync.is_empty() || !self.settling.is_empty();
        let busy = leads || waits || self.hosted.iter().any(Hosted::has_callers);
        !busy || self.env().now() >= *until
    }

    /// The last words: who still waits is told, streams end, and the log is closed.
    pub(crate) fn end(mut self) {
        for hosted in &mut self.hosted {
            hosted.dismiss(RefusedReason::Stopping);
        }
        self.network.stopping.send_replace(true);
        for link in &self.links {
            link.control.close();
            link.bulk.close();
        }
        let waiting = self.stopping.take().map_or(Vec::new(), |(_, waiting)| waiting);
        let inbox = self.inbox.clone();
        // The log and the lock of the directory are free once everything is dropped, and a checkpoint has ended.
        drop(self);
        drop(inbox.orders.lock().take());
        for answer in waiting {
            let _gone = answer.send(());
        }
    }
}

use crate::node::hosted::Hosted;

/// Time between looks for Genesis at a first start.
pub(crate) const GENESIS_POLL: Duration = Duration::from_millis(20);

/// Asks a peer who it is.
pub(crate) async fn identify(env: &Env, address: &str) -> Result<wire::v1::PeerHello, String> {
    let mut client = outbound::connect(env, address).await?;
    let asked = tokio::time::timeout(Duration::from_secs(1), client.identify(wire::v1::IdentifyRequest {}));
    let hello = asked.await.map_err(|_| "no answer".to_string())?;
    Ok(hello.map_err(|e| e.message().to_string())?.into_inner())
}
