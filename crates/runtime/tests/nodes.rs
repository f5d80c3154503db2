//! Three nodes in one process, over loopback and real files: first start, writes, restart, catch-up, snapshot, hand-over,
//! and a wiped directory that must not vote.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{ClientId, GroupId, LogTime, NodeId, Sequence, Slot};
use paxos::limits::Limits;
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Page, RequestId, RestoreError, StateMachine};
use runtime::api::{Call, CallResult, Handle, NodeStatus, ReadConsistency, RefusedReason, Sink};
use runtime::options::{Bounds, NodeAddress, NodeOptions};
use tokio::sync::mpsc;

const GROUP: GroupId = GroupId(1);

/// Remembers every request once, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Journal {
    entries: Vec<u64>,
    time: u64,
}

impl StateMachine for Journal {
    type Reply = usize;
    type Query = ();
    type Answer = Vec<u64>;

    fn apply(&mut self, _: Slot, batch: &[u8], replies: &mut Vec<(RequestId, usize)>) {
        let view = BatchView::new(batch).unwrap();
        self.time = self.time.max(view.time.0);
        for request in view {
            let number = u64::from_le_bytes(request.unwrap()[..8].try_into().unwrap());
            if !self.entries.contains(&number) {
                self.entries.push(number);
            }
            replies.push((id_of(number), self.entries.len()));
        }
    }

    fn query(&self, (): &()) -> Vec<u64> {
        self.entries.clone()
    }

    fn log_time(&self) -> LogTime {
        LogTime(self.time)
    }

    fn state_hash(&self) -> u128 {
        self.entries
            .iter()
            .fold(u128::from(self.time), |h, n| h.wrapping_mul(31).wrapping_add(u128::from(*n)))
    }

    fn state_bytes(&self) -> u64 {
        8 * self.entries.len() as u64
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        let head = std::iter::once(Page { key: vec![0], body: self.time.to_le_bytes().to_vec() });
        let rest = self.entries.iter().enumerate().map(|(i, n)| {
            let mut key = vec![1];
            key.extend_from_slice(&(i as u64).to_be_bytes());
            Page { key, body: n.to_le_bytes().to_vec() }
        });
        Box::new(head.chain(rest))
    }

    fn restore(mut self, pages: &mut dyn Iterator<Item = Page>) -> Result<Self, RestoreError> {
        for page in pages {
            let number = u64::from_le_bytes(page.body.try_into().map_err(|_| RestoreError("length".into()))?);
            if page.key[0] == 0 { self.time = number } else { self.entries.push(number) }
        }
        Ok(self)
    }
}

fn id_of(number: u64) -> RequestId {
    RequestId { client: ClientId(7), sequence: Sequence(number) }
}

struct Answers(mpsc::UnboundedSender<(u64, CallResult<Journal>)>);

impl Sink<Journal> for Answers {
    fn answer(&self, call: u64, result: CallResult<Journal>, _: u64) {
        let _test_may_be_over = self.0.send((call, result));
    }
}

struct Cluster {
    root: tempfile::TempDir,
    nodes: Vec<NodeAddress>,
    handles: Vec<Option<Handle<Journal>>>,
    bounds: Bounds,
}

impl Cluster {
    async fn start(bounds: Bounds) -> Cluster {
        let nodes =
            (1..=3).map(|id| NodeAddress { id: NodeId(id), peer: format!("127.0.0.1:{}", free_port()) });
        let nodes: Vec<_> = nodes.collect();
        let root = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { root, nodes, handles: vec![None, None, None], bounds };
        for id in 1..=3 {
            cluster.start_node(id).await;
        }
        cluster
    }

    fn dir(&self, id: u32) -> std::path::PathBuf {
        self.root.path().join(format!("n{id}"))
    }

    async fn start_node(&mut self, id: u32) {
        let options = NodeOptions {
            node: NodeId(id),
            data_dir: self.dir(id),
            listen_peer: self.nodes[id as usize - 1].peer.clone(),
            nodes: self.nodes.clone(),
            groups: vec![GROUP],
            genesis: Vec::new(),
            limits: Limits { keep_bytes_min: 1 << 10, keep_bytes_max: 64 << 10, ..Limits::default() },
            bounds: self.bounds.clone(),
        };
        // A stopped node's port may take a moment to be free.
        for attempt in 0.. {
            match runtime::node::start(options.clone(), |_, _| Journal::default()).await {
                Ok(handle) => {
                    self.handles[id as usize - 1] = Some(handle);
                    return;
                }
                Err(error) if attempt < 100 => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(error);
                }
                Err(error) => panic!("n{id} doesn't start: {error}"),
            }
        }
    }

    async fn stop_node(&mut self, id: u32) {
        self.handles[id as usize - 1].take().unwrap().stop().await;
    }

    async fn leader(&self) -> u32 {
        for _ in 0..500 {
            for (i, handle) in self.handles.iter().enumerate() {
                let Some(handle) = handle else { continue };
                let status = handle.status().await.unwrap();
                if status.replicas.iter().any(|r| r.role == "leader") {
                    return i as u32 + 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader: {:#?}", self.statuses().await);
    }

    async fn statuses(&self) -> Vec<NodeStatus> {
        let mut statuses = Vec::new();
        for handle in self.handles.iter().flatten() {
            statuses.push(handle.status().await.unwrap());
        }
        statuses
    }

    /// Writes a number, following leaders, until it is answered.
    async fn write(&self, number: u64, bytes: usize) {
        for _ in 0..500 {
            let leader = self.leader().await;
            let Some(handle) = &self.handles[leader as usize - 1] else { continue };
            let mut request = number.to_le_bytes().to_vec();
            request.resize(8 + bytes, 0);
            let call = Call::Write { id: id_of(number), request: request.into(), sent_at: 0 };
            match ask(handle, call).await {
                CallResult::Reply(_) => return,
                CallResult::Refused(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                CallResult::Found(_) => panic!("a write was answered like a read"),
            }
        }
        panic!("{number} isn't written: {:#?}", self.statuses().await);
    }

    async fn read(&self, consistency: ReadConsistency) -> Vec<u64> {
        for _ in 0..500 {
            let leader = self.leader().await;
            let Some(handle) = &self.handles[leader as usize - 1] else { continue };
            if let CallResult::Found(entries) = ask(handle, Call::Read { query: (), consistency }).await {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no read: {:#?}", self.statuses().await);
    }

    /// Stops what runs, before its files go.
    async fn finish(mut self) {
        for handle in self.handles.iter_mut().filter_map(Option::take) {
            handle.stop().await;
        }
    }

    /// All running nodes have applied the same.
    async fn settle(&self) {
        for _ in 0..1000 {
            let statuses = self.statuses().await;
            let mut states = statuses.iter().map(|s| (s.replicas[0].applied_end, s.replicas[0].state_hash));
            let first = states.next().unwrap();
            if states.all(|s| s == first) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("states differ: {:#?}", self.statuses().await);
    }
}

async fn ask(handle: &Handle<Journal>, call: Call<Journal>) -> CallResult<Journal> {
    let (send, mut answers) = mpsc::unbounded_channel();
    let sink: Arc<dyn Sink<Journal>> = Arc::new(Answers(send));
    handle.call(GROUP, call, 1, &sink);
    answers.recv().await.unwrap().1
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn writes_survive_a_restart_of_all_nodes() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    for number in 1..=20 {
        cluster.write(number, 10).await;
    }
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, (1..=20).collect::<Vec<_>>());
    assert_eq!(cluster.read(ReadConsistency::Lease).await.len(), 20);
    cluster.settle().await;
    for id in 1..=3 {
        cluster.stop_node(id).await;
    }
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, (1..=20).collect::<Vec<_>>());
    cluster.write(21, 10).await;
    cluster.settle().await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_node_that_was_away_catches_up_from_the_log_or_by_snapshot() {
    let bounds = Bounds { segment_bytes: 64 << 10, checkpoint_log_bytes: 128 << 10, ..Bounds::default() };
    let mut cluster = Cluster::start(bounds).await;
    cluster.write(1, 10).await;
    let away = cluster.leader().await % 3 + 1;
    cluster.stop_node(away).await;
    for number in 2..=10 {
        cluster.write(number, 100).await;
    }
    cluster.start_node(away).await;
    cluster.settle().await;
    cluster.stop_node(away).await;
    // Far more than the 64 KiB of log that a replica keeps for laggards.
    for number in 11..=60 {
        cluster.write(number, 20_000).await;
    }
    cluster.start_node(away).await;
    cluster.settle().await;
    let statuses = cluster.statuses().await;
    assert!(statuses.iter().all(|s| s.condition == "ok"), "{statuses:#?}");
    assert_eq!(cluster.read(ReadConsistency::Quorum).await.len(), 60);
    let handle = cluster.handles[away as usize - 1].as_ref().unwrap();
    assert!(
        handle.counters().snapshots.load(std::sync::atomic::Ordering::Relaxed) > 0,
        "no snapshot was needed"
    );
    cluster.finish().await;
}

#[tokio::test]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let first = cluster.leader().await;
    let to = first % 3 + 1;
    // A transfer may come to nothing, on a machine too busy for heartbeats; then it is asked for again.
    for _ in 0..200 {
        let leader = cluster.leader().await;
        if leader == to {
            break;
        }
        let handle = cluster.handles[leader as usize - 1].as_ref().unwrap();
        let _refused_if_deposed = handle.transfer(GROUP, Some(NodeId(to))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.leader().await, to);
    cluster.write(2, 10).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_wiped_node_never_votes_again() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let wiped = cluster.leader().await % 3 + 1;
    cluster.stop_node(wiped).await;
    wipe(&cluster.dir(wiped));
    cluster.start_node(wiped).await;
    for _ in 0..500 {
        let status = cluster.handles[wiped as usize - 1].as_ref().unwrap().status().await.unwrap();
        if status.condition.contains("voted with another data directory") {
            assert!(status.replicas.is_empty(), "it hosts nothing");
            cluster.write(2, 10).await;
            return cluster.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the wiped node doesn't say so: {:#?}", cluster.statuses().await);
}

fn wipe(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 10).await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.stop_node(id).await;
    }
    let handle = cluster.handles[leader as usize - 1].as_ref().unwrap().clone();
    let call = Call::Write { id: id_of(2), request: 2_u64.to_le_bytes().to_vec().into(), sent_at: 0 };
    match ask(&handle, call).await {
        CallResult::Refused(refused) => assert_eq!(refused.reason, RefusedReason::NotLeader),
        CallResult::Reply(_) | CallResult::Found(_) => panic!("acknowledged by a minority"),
    }
    let read = ask(&handle, Call::Read { query: (), consistency: ReadConsistency::Quorum }).await;
    assert!(matches!(read, CallResult::Refused(_)));
    cluster.finish().await;
}
