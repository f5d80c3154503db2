//! Three processes: the coordinator or a participant of a transaction is killed at each of its steps, and the same
//! request, sent again, has taken effect once in both groups.

#![cfg(feature = "server")]
// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

mod nodes;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvserver::server::config::NodeEntry;
use nodes::{GROUPS, PATIENCE, SHARDS, free_entries, group_of_key};
use paxos::ids::GroupId;
use tonic::transport::{Channel, Endpoint};
use wire::v1;
use wire::v1::admin_client::AdminClient;
use wire::v1::kv_client::KvClient;
use wire::v1::txn_op::Op;
use wire::v1::txn_result::Result as Found;

const ONE: GroupId = GroupId(1);
const TWO: GroupId = GroupId(2);

/// Nodes as processes; they end with the test.
struct Processes {
    entries: Vec<NodeEntry>,
    dir: tempfile::TempDir,
    children: Vec<Option<Child>>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Processes {
    async fn start() -> Processes {
        let entries = free_entries().await;
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes { entries, dir, children: vec![None, None, None] };
        (0..3).for_each(|index| processes.start_node(index));
        processes
    }

    fn start_node(&mut self, index: usize) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
        let data_dir: PathBuf = self.dir.path().join(format!("n{index}"));
        command.env_clear().args(["--exit-with-stdin", "--faults.enabled", "true"]);
        command.args(["--node", &(index + 1).to_string(), "--data-dir", data_dir.to_str().unwrap()]);
        command.args(["--shards", &SHARDS.to_string(), "--groups", &GROUPS.to_string()]);
        for (at, entry) in self.entries.iter().enumerate() {
            let addresses = [("client", &entry.client), ("peer", &entry.peer), ("http", &entry.http)];
            command.args([format!("--nodes.{at}.id"), entry.id.to_string()]);
            for (name, address) in addresses {
                command.args([format!("--nodes.{at}.{name}"), address.clone()]);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children[index] = Some(command.spawn().unwrap());
    }

    async fn channel(&self, index: usize) -> Option<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.entries[index].client)).unwrap();
        endpoint.connect().await.ok()
    }

    /// The node that says that it leads `group`.
    async fn leader_of(&self, group: GroupId) -> usize {
        let started = Instant::now();
        loop {
            for index in 0..3 {
                let Some(channel) = self.channel(index).await else { continue };
                let Ok(status) = AdminClient::new(channel).status(v1::StatusRequest {}).await else {
                    continue;
                };
                let replicas = status.into_inner().replicas;
                if replicas.iter().any(|replica| replica.group == group.0 && replica.role == "leader") {
                    return index;
                }
            }
            assert!(started.elapsed() < PATIENCE, "no leader of {group}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn admin(&self, index: usize) -> AdminClient<Channel> {
        AdminClient::new(self.channel(index).await.unwrap())
    }

    /// The groups are led by two nodes.
    async fn spread(&self) {
        let started = Instant::now();
        loop {
            let (one, two) = (self.leader_of(ONE).await, self.leader_of(TWO).await);
            if one != two {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "both are led by one node");
            let to = (two as u32 + 1) % 3 + 1;
            let _may_lead_no_more =
                self.admin(two).await.transfer_leader(v1::TransferLeaderRequest { group: TWO.0, to }).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sends the request until it is answered.
    async fn txn(&self, request: &v1::TxnRequest) -> v1::TxnResponse {
        let started = Instant::now();
        loop {
            let leader = self.leader_of(ONE).await;
            if let Some(channel) = self.channel(leader).await
                && let Ok(response) = KvClient::new(channel).txn(request.clone()).await
            {
                return response.into_inner();
            }
            assert!(started.elapsed() < PATIENCE, "never answered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a node has been killed, and starts it again.
    async fn again(&mut self, index: usize, point: &str) {
        let started = Instant::now();
        let status = loop {
            match self.children[index].as_mut().unwrap().try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(started.elapsed() < PATIENCE, "it never came to {point}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(status.signal(), Some(9), "at {point}");
        self.start_node(index);
    }

    async fn under_way(&self) -> usize {
        let mut count = 0;
        for group in [ONE, TWO] {
            let leader = self.leader_of(group).await;
            let told = self.admin(leader).await.transactions(v1::TransactionsRequest {}).await;
            count += told.map_or(1, |told| told.into_inner().transactions.len());
        }
        count
    }
}

fn key_of(group: GroupId) -> Bytes {
    (0..).map(|n| format!("k{n}").into_bytes()).find(|key| group_of_key(key) == group).unwrap().into()
}

fn txn(ops: Vec<Op>, session: Option<v1::Session>) -> v1::TxnRequest {
    let then = ops.into_iter().map(|op| v1::TxnOp { op: Some(op) }).collect();
    v1::TxnRequest { then, session, ..v1::TxnRequest::default() }
}

async fn every_step_may_be_the_last() {
    let mut processes = Processes::start().await;
    let (a, b) = (key_of(ONE), key_of(TWO));
    let incr = |key: &Bytes| Op::Incr(v1::TxnIncr { key: key.clone(), by: 1 });
    let points = [
        ("begun", ONE),
        ("prepared", ONE),
        ("decided", ONE),
        ("told", ONE),
        ("prepare-received", TWO),
        ("prepare-logged", TWO),
        ("decide-received", TWO),
        ("decide-logged", TWO),
    ];
    for (round, (point, group)) in (1_i64..).zip(points) {
        processes.spread().await;
        let dies = processes.leader_of(group).await;
        let crash_at = v1::Faults { crash_at: point.to_string(), ..v1::Faults::default() };
        processes.admin(dies).await.set_faults(crash_at).await.unwrap();
        let sequence = u64::try_from(round).unwrap();
        let session =
            v1::Session { client: vec![7; 16].into(), sequence, ack_through: sequence - 1, sent_at: 0 };
        let request = txn(vec![incr(&a), incr(&b)], Some(session));
        // Answered or not, before the process ends or after it.
        let first = processes.channel(processes.leader_of(ONE).await).await;
        let _first_try = KvClient::new(first.unwrap()).txn(request.clone()).await;
        processes.again(dies, point).await;
        let told = processes.txn(&request).await;
        let numbers: Vec<_> = told.results.into_iter().filter_map(|result| result.result).collect();
        assert_eq!(numbers, [Found::Number(round), Found::Number(round)], "once, at {point}");
        let read = processes.txn(&txn(vec![Op::Get(a.clone()), Op::Get(b.clone())], None)).await;
        for result in read.results {
            let Some(Found::Value(found)) = result.result else { panic!("no value") };
            assert_eq!(found.value, round.to_string(), "in both, at {point}");
        }
        let started = Instant::now();
        while processes.under_way().await > 0 {
            assert!(started.elapsed() < PATIENCE, "never over, at {point}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[test]
fn a_process_may_end_at_any_step_of_a_transaction() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(every_step_may_be_the_last());
}
