//! The numbers of a node in the format of Prometheus, from a registry of its own: several nodes can live in one process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use runtime::api::{NodeStatus, ReplicaStatus};

use super::admin::memory_bytes;
use super::context::Context;

/// A registry of one node.
pub(crate) struct Metrics {
    registry: Registry,
    status: Arc<Mutex<Option<NodeStatus>>>,
}

struct NodeCollector {
    context: Arc<Context>,
    /// As asked for right before; `None` if the node didn't answer.
    status: Arc<Mutex<Option<NodeStatus>>>,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

impl Metrics {
    pub(crate) fn new(context: Arc<Context>) -> Metrics {
        let status = Arc::new(Mutex::new(None));
        let mut registry = Registry::with_prefix("synod");
        registry.register_collector(Box::new(NodeCollector { context, status: status.clone() }));
        Metrics { registry, status }
    }

    /// The text of all metrics; those of replicas are left out without a status.
    ///
    /// # Errors
    /// Never in practice: the text goes to memory.
    pub(crate) fn encode(&self, status: Option<NodeStatus>) -> Result<String, fmt::Error> {
        *self.status.lock() = status;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A gauge of each replica.
type OfReplica = fn(&ReplicaStatus) -> u64;

const REPLICA_GAUGES: &[(&str, &str, OfReplica)] = &[
    ("replica_leads", "Whether this replica leads its group", |r| u64::from(r.role == "leader")),
    ("replica_has_leader", "Whether this replica knows a leader", |r| u64::from(r.leader.is_some())),
    ("replica_promised_round", "Round of its promise", |r| r.promised.round),
    ("replica_chosen_end", "End of the chosen prefix", |r| r.chosen_end.0),
    ("replica_applied_end", "End of the applied prefix", |r| r.applied_end.0),
    ("replica_compacted_end", "Start of the log in memory", |r| r.compacted_end.0),
    ("replica_durable_end", "Applied end of the checkpoint on disk", |r| r.durable_end.0),
    ("replica_log_bytes", "Entries held in memory", |r| r.log_bytes),
    ("replica_state_bytes", "Size of the state", |r| r.state_bytes),
    ("replica_log_time_ms", "Log time", |r| r.log_time),
];

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, counter) in self.counters().into_iter().chain(self.context.outcomes.all()) {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let status = self.status.lock();
        let streams = &self.context.traffic;
        let open = streams.streams_opened.load(Ordering::Relaxed);
        let open = open.saturating_sub(streams.streams_closed.load(Ordering::Relaxed));
        gauge(&mut encoder, "streams_open", "Client streams", open)?;
        gauge(&mut encoder, "memory_bytes", "Memory of the process", memory_bytes())?;
        let Some(status) = status.as_ref() else { return Ok(()) };
        gauge(
            &mut encoder,
            "node_ok",
            "Whether the node votes and serves",
            u64::from(status.condition == "ok"),
        )?;
        gauge(&mut encoder, "boot", "How often the data directory was started", status.boot)?;
        gauge(&mut encoder, "uptime_ms", "Time since the start", status.uptime_ms)?;
        gauge(&mut encoder, "log_disk_bytes", "Log on disk", status.log_disk_bytes)?;
        for (name, help, value) in REPLICA_GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for replica in &status.replicas {
                let labels = [("group", replica.group.0)];
                as_gauge(value(replica)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn as_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    as_gauge(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

impl NodeCollector {
    fn counters(&self) -> [(&'static str, &'static str, &AtomicU64); 27] {
        let node = self.context.node.counters();
        let port = &self.context.traffic;
        [
            ("batches", "Batches proposed", &node.batches),
            ("requests", "Requests proposed", &node.requests),
            ("applied", "Slots applied", &node.applied),
            ("lease_reads", "Reads answered under a lease", &node.lease_reads),
            ("quorum_reads", "Reads answered by a round of heartbeats", &node.quorum_reads),
            ("stale_reads", "Reads answered from whatever was applied", &node.stale_reads),
            ("refused", "Calls refused by the node", &node.refused),
            ("syncs", "Frames of the log synced", &node.syncs),
            ("log_written_bytes", "Bytes written to the log", &node.log_bytes),
            ("sent", "Envelopes sent to peers", &node.sent),
            ("received", "Envelopes received from peers", &node.received),
            ("dropped", "Envelopes dropped since an outbox was full", &node.dropped),
            ("elected", "Times a replica here became leader", &node.elected),
            ("checkpoints", "Checkpoints completed", &node.checkpoints),
            ("snapshots", "Snapshots installed from a peer", &node.snapshots),
            ("streams_opened", "Client streams opened", &port.streams_opened),
            ("streams_closed", "Client streams closed", &port.streams_closed),
            (
                "streams_too_slow",
                "Client streams ended since their answers weren't read",
                &port.streams_too_slow,
            ),
            ("frames_received", "Frames of calls received", &port.frames_received),
            ("frames_sent", "Frames of answers sent", &port.frames_sent),
            ("calls", "Calls on streams", &port.calls),
            ("calls_rejected", "Calls on streams that were never handed to the node", &port.calls_rejected),
            ("unary_calls", "Unary calls", &port.unary_calls),
            ("group_calls", "Calls to other groups about transactions", &port.group_calls),
            ("group_entries", "What was asked in them", &port.group_entries),
            ("connections_refused", "Connections over the limit", &port.connections_refused),
            ("connections_silent", "Connections closed since nothing came", &port.connections_silent),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeNode;
    use super::*;

    #[test]
    fn counters_and_gauges_of_each_group_are_told() {
        let node = Arc::new(FakeNode::default());
        let context = Arc::new(FakeNode::context(&node, |_| {}));
        super::super::context::count(&context.traffic.calls, 3);
        let metrics = Metrics::new(context.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = metrics.encode(runtime.block_on(context.status())).unwrap();
        let lines =
            ["synod_calls_total 3", "synod_replica_applied_end{group=\"2\"} 9", "synod_node_ok 1", "# EOF"];
        lines.iter().for_each(|line| assert!(text.contains(line), "{line} isn't in\n{text}"));
        let without = metrics.encode(None).unwrap();
        assert!(without.contains("synod_calls_total 3") && !without.contains("replica_applied_end"));
    }
}
