//! A cluster of nodes in this process, each with a directory of its own, and a state machine to look into.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{ClientId, GroupId, LogTime, NodeId, Sequence, Slot};
use paxos::limits::Limits;
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Page, RequestId, RestoreError, StateMachine};
use runtime::api::{Call, CallResult, Handle, NodeStatus, ReadConsistency, ReplicaStatus, Sink};
use runtime::env::Env;
use runtime::hosting::Birth;
use runtime::options::{Bounds, NodeAddress, NodeOptions};
use tokio::sync::mpsc;

/// The group that most tests write to.
pub(crate) const GROUP: GroupId = GroupId(1);
/// The groups of Genesis.
const GROUPS: [GroupId; 2] = [GroupId(0), GROUP];
/// How many nodes begin.
const FOUNDERS: u32 = 3;

/// Remembers every request once, in order. One marked [`HOLD`] is owed and answered later, by one marked [`RELEASE`];
/// until then reads are blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Journal {
    entries: Vec<u64>,
    time: u64,
    held: VecDeque<u64>,
    due: Vec<u64>,
}

/// Mark of a request that is answered when it is released.
pub(crate) const HOLD: u8 = 1;
/// Mark of a request that releases the one that is held the longest.
pub(crate) const RELEASE: u8 = 2;

/// What `write` sends, with a mark.
pub(crate) fn marked(number: u64, mark: u8) -> Call<Journal> {
    let mut request = number.to_le_bytes().to_vec();
    request.push(mark);
    Call::Write { id: id_of(number), request: request.into(), sent_at: 0 }
}

impl StateMachine for Journal {
    type Reply = usize;
    type Query = ();
    type Answer = Vec<u64>;
    type Due = u64;

    fn apply(&mut self, _: Slot, batch: &[u8], replies: &mut Vec<(RequestId, usize)>) {
        let view = BatchView::new(batch).unwrap();
        self.time = self.time.max(view.time.0);
        for request in view {
            let (number, rest) = request.unwrap().split_at(8);
            let number = u64::from_le_bytes(number.try_into().unwrap());
            if !self.entries.contains(&number) {
                self.entries.push(number);
            }
            if rest.first() == Some(&HOLD) {
                self.held.push_back(number);
                self.due.push(number);
                continue;
            }
            if rest.first() == Some(&RELEASE) {
                let released = self.held.pop_front().unwrap();
                replies.push((id_of(released), self.entries.len()));
            }
            replies.push((id_of(number), self.entries.len()));
        }
    }

    fn query(&self, (): &()) -> Vec<u64> {
        self.entries.clone()
    }

    fn is_blocked(&self, (): &()) -> bool {
        !self.held.is_empty()
    }

    fn due(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.due)
    }

    fn log_time(&self) -> LogTime {
        LogTime(self.time)
    }

    fn state_hash(&self) -> u128 {
        self.entries
            .iter()
            .chain(&self.held)
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
        let held = self.held.iter().enumerate().map(|(i, n)| {
            let mut key = vec![2];
            key.extend_from_slice(&(i as u64).to_be_bytes());
            Page { key, body: n.to_le_bytes().to_vec() }
        });
        Box::new(head.chain(rest).chain(held))
    }

    fn restore(mut self, pages: &mut dyn Iterator<Item = Page>) -> Result<Self, RestoreError> {
        for page in pages {
            let number = u64::from_le_bytes(page.body.try_into().map_err(|_| RestoreError("length".into()))?);
            match page.key[0] {
                0 => self.time = number,
                1 => self.entries.push(number),
                _ => self.held.push_back(number),
            }
        }
        Ok(self)
    }
}

pub(crate) fn id_of(number: u64) -> RequestId {
    RequestId { client: ClientId(7), sequence: Sequence(number) }
}

struct Answers(mpsc::UnboundedSender<(u64, CallResult<Journal>)>);

impl Sink<Journal> for Answers {
    fn answer(&self, call: u64, result: CallResult<Journal>, _: u64) {
        let _test_may_be_over = self.0.send((call, result));
    }
}

pub(crate) struct Cluster {
    root: tempfile::TempDir,
    pub(crate) nodes: Vec<NodeAddress>,
    pub(crate) handles: Vec<Option<Handle<Journal>>>,
    bounds: Bounds,
}

impl Cluster {
    pub(crate) async fn start(bounds: Bounds) -> Cluster {
        let root = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { root, nodes: Vec::new(), handles: Vec::new(), bounds };
        for _ in 1..=FOUNDERS {
            cluster.add_node();
        }
        for id in 1..=FOUNDERS {
            cluster.start_node(id).await;
        }
        cluster
    }

    /// A node that isn't started yet.
    pub(crate) fn add_node(&mut self) -> u32 {
        let id = self.nodes.len() as u32 + 1;
        self.nodes.push(NodeAddress { id: NodeId(id), peer: format!("127.0.0.1:{}", free_port()) });
        self.handles.push(None);
        id
    }

    pub(crate) fn dir(&self, id: u32) -> std::path::PathBuf {
        self.root.path().join(format!("n{id}"))
    }

    pub(crate) async fn start_node(&mut self, id: u32) {
        let known = |node: &&NodeAddress| node.id.0 <= FOUNDERS || node.id.0 == id;
        let options = NodeOptions {
            node: NodeId(id),
            data_dir: self.dir(id),
            listen_peer: self.nodes[id as usize - 1].peer.clone(),
            nodes: self.nodes.iter().filter(known).cloned().collect(),
            founders: (1..=FOUNDERS).map(NodeId).collect(),
            // Who joins later goes by Genesis, whatever it is configured with.
            groups: if id <= FOUNDERS { GROUPS.to_vec() } else { Vec::new() },
            genesis: if id <= FOUNDERS { b"config".to_vec() } else { Vec::new() },
            limits: Limits { keep_bytes_min: 1 << 10, keep_bytes_max: 64 << 10, ..Limits::default() },
            bounds: self.bounds.clone(),
            env: Env::default(),
        };
        let machine = |birth: &Birth<'_>| {
            assert_eq!((birth.config, birth.founders.len()), (&b"config"[..], FOUNDERS as usize));
            Journal::default()
        };
        // A stopped node's port may take a moment to be free, and a checkpoint under way, which gets what time is left
        // over, keeps the directory until it is done.
        for attempt in 0.. {
            match runtime::node::start(options.clone(), machine).await {
                Ok(handle) => {
                    self.handles[id as usize - 1] = Some(handle);
                    return;
                }
                Err(error) if attempt < 1_500 => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(error);
                }
                Err(error) => panic!("n{id} doesn't start: {error}"),
            }
        }
    }

    pub(crate) async fn stop_node(&mut self, id: u32) {
        self.handles[id as usize - 1].take().unwrap().stop().await;
    }

    pub(crate) async fn restart_all(&mut self) {
        for id in 1..=self.nodes.len() as u32 {
            self.stop_node(id).await;
        }
        for id in 1..=self.nodes.len() as u32 {
            self.start_node(id).await;
        }
    }

    pub(crate) fn handle(&self, id: u32) -> &Handle<Journal> {
        self.handles[id as usize - 1].as_ref().unwrap()
    }

    /// A replica's status.
    pub(crate) async fn replica(&self, id: u32, group: GroupId) -> Option<ReplicaStatus> {
        let status = self.handle(id).status().await.unwrap();
        status.replicas.into_iter().find(|replica| replica.group == group)
    }

    /// Waits until `holds` says so.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..1000 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:#?}", self.statuses().await);
    }

    pub(crate) async fn leader(&self) -> u32 {
        self.leader_of(GROUP).await
    }

    pub(crate) async fn leader_of(&self, group: GroupId) -> u32 {
        for _ in 0..500 {
            for (i, handle) in self.handles.iter().enumerate() {
                let Some(handle) = handle else { continue };
                let status = handle.status().await.unwrap();
                if status.replicas.iter().any(|r| r.group == group && r.role == "leader") {
                    return i as u32 + 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader of {group}: {:#?}", self.statuses().await);
    }

    pub(crate) async fn statuses(&self) -> Vec<NodeStatus> {
        let mut statuses = Vec::new();
        for handle in self.handles.iter().flatten() {
            statuses.push(handle.status().await.unwrap());
        }
        statuses
    }

    pub(crate) async fn write(&self, number: u64, bytes: usize) {
        self.write_to(GROUP, number, bytes).await;
    }

    /// Writes a number, following leaders, until it is answered.
    pub(crate) async fn write_to(&self, group: GroupId, number: u64, bytes: usize) {
        for _ in 0..500 {
            let leader = self.leader_of(group).await;
            let mut request = number.to_le_bytes().to_vec();
            request.resize(8 + bytes, 0);
            let call = Call::Write { id: id_of(number), request: request.into(), sent_at: 0 };
            match ask(self.handle(leader), group, call).await {
                CallResult::Reply(_) => return,
                CallResult::Refused(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                CallResult::Found(_) => panic!("a write was answered like a read"),
            }
        }
        panic!("{number} isn't written: {:#?}", self.statuses().await);
    }

    pub(crate) async fn read(&self, consistency: ReadConsistency) -> Vec<u64> {
        self.read_of(GROUP, consistency).await
    }

    pub(crate) async fn read_of(&self, group: GroupId, consistency: ReadConsistency) -> Vec<u64> {
        for _ in 0..500 {
            let leader = self.leader_of(group).await;
            let call = Call::Read { query: (), consistency };
            if let CallResult::Found(entries) = ask(self.handle(leader), group, call).await {
                return entries;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no read: {:#?}", self.statuses().await);
    }

    /// Stops what runs, before its files go.
    pub(crate) async fn finish(mut self) {
        for handle in self.handles.iter_mut().filter_map(Option::take) {
            handle.stop().await;
        }
    }

    pub(crate) async fn settle(&self) {
        self.settle_in(GROUP).await;
    }

    /// All running replicas of a group have applied the same.
    pub(crate) async fn settle_in(&self, group: GroupId) {
        let equal = async || {
            let statuses = self.statuses().await;
            let replicas = statuses.iter().flat_map(|s| &s.replicas).filter(|r| r.group == group);
            let mut states = replicas.map(|r| (r.applied_end, r.state_hash));
            let first = states.next().unwrap();
            states.all(|s| s == first)
        };
        self.until("states differ", equal).await;
    }
}

pub(crate) async fn ask(
    handle: &Handle<Journal>,
    group: GroupId,
    call: Call<Journal>,
) -> CallResult<Journal> {
    begin(handle, group, call).recv().await.unwrap().1
}

/// Hands over a call; its answer comes later.
pub(crate) fn begin(
    handle: &Handle<Journal>,
    group: GroupId,
    call: Call<Journal>,
) -> mpsc::UnboundedReceiver<(u64, CallResult<Journal>)> {
    let (send, answers) = mpsc::unbounded_channel();
    let sink: Arc<dyn Sink<Journal>> = Arc::new(Answers(send));
    handle.call(group, call, 1, &sink);
    answers
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
