//! Links between nodes: per peer one stream for control messages and one for bulk, so that a heartbeat never waits behind
//! a large batch. Each outbox is bounded: over it bulk is dropped, and catch-up repairs.

pub(crate) mod inbound;
pub(crate) mod outbound;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use paxos::ids::{Ballot, GroupId, Incarnation, NodeId};
use paxos::message::{Envelope, Payload};
use tokio::sync::Notify;
use wire::v1;

use crate::record::Life;

/// What arrived from peers and waits for the node's next turn.
pub(crate) struct Arrivals {
    queue: Mutex<VecDeque<Arrival>>,
    bytes: std::sync::atomic::AtomicUsize,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// One thing that a peer said, of one life of a group: the node's turn drops it if another one, or none, is here.
pub(crate) enum Arrival {
    Envelope {
        life: Life,
        envelope: Envelope<Payload>,
    },
    Digest {
        from: NodeId,
        life: Life,
        applied_end: u64,
        hash: u128,
    },
    /// The highest promise that a peer ever heard from this node.
    Remembered {
        from: NodeId,
        life: Life,
        ballot: Ballot,
    },
}

impl Arrivals {
    pub(crate) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Arrivals {
        Arrivals { queue: Mutex::new(VecDeque::new()), bytes: std::sync::atomic::AtomicUsize::new(0), wake }
    }

    pub(crate) fn extend(&self, arrivals: Vec<Arrival>, bytes: usize) {
        self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        self.queue.lock().extend(arrivals);
        (self.wake)();
    }

    pub(crate) fn take(&self) -> VecDeque<Arrival> {
        self.bytes.store(0, std::sync::atomic::Ordering::Relaxed);
        std::mem::take(&mut *self.queue.lock())
    }

    /// Bytes that wait, about: readers of links pause above a bound.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// What waits to be sent on one stream.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
}

#[derive(Default)]
struct OutboxState {
    envelopes: VecDeque<v1::PeerEnvelope>,
    bytes: usize,
    waker: Option<Waker>,
    connected: bool,
    closed: bool,
}

/// A frame is cut at this size, in bytes; one envelope is always allowed.
const FRAME_BYTES: usize = 1 << 20;

impl Outbox {
    /// Queues an envelope unless `bytes_max` would be passed or nobody listens; whether it was queued.
    pub(crate) fn push(&self, envelope: v1::PeerEnvelope, bytes_max: usize) -> bool {
        let mut state = self.state.lock();
        let size = envelope.message.len();
        if !state.connected || (state.bytes > 0 && state.bytes + size > bytes_max) {
            return false;
        }
        state.bytes += size;
        state.envelopes.push_back(envelope);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    /// A stream begins or ends: nothing of before it is sent.
    pub(crate) fn set_connected(&self, connected: bool) {
        let mut state = self.state.lock();
        state.connected = connected;
        state.envelopes.clear();
        state.bytes = 0;
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.connected = false;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    fn poll_frame(&self, context: &mut std::task::Context<'_>) -> Poll<Option<v1::PeerFrame>> {
        let mut state = self.state.lock();
        if state.closed || !state.connected {
            return Poll::Ready(None);
        }
        if state.envelopes.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut frame = v1::PeerFrame::default();
        let mut bytes = 0;
        while let Some(envelope) = state.envelopes.front() {
            let size = envelope.message.len();
            if bytes > 0 && bytes + size > FRAME_BYTES {
                break;
            }
            bytes += size;
            frame.envelopes.extend(state.envelopes.pop_front());
        }
        state.bytes -= bytes;
        Poll::Ready(Some(frame))
    }
}

/// Who this node is, in words for its peers.
#[derive(Clone, Debug)]
pub(crate) struct Myself {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: u64,
}

/// What all links of a node share.
pub(crate) struct Network {
    pub(crate) env: crate::env::Env,
    pub(crate) myself: Myself,
    pub(crate) genesis: Mutex<Option<crate::genesis::Genesis>>,
    /// Nodes that Genesis doesn't name and that this one was told of. An id never changes its data directory.
    pub(crate) later: Mutex<BTreeMap<NodeId, Incarnation>>,
    pub(crate) arrivals: Arrivals,
    pub(crate) faults: Mutex<crate::api::LinkFaults>,
    /// What each peer said of itself on the wire, per peer: highest boot, highest promise per replica here.
    pub(crate) heard: Mutex<Vec<Heard>>,
    /// Why this node must not vote, if a peer remembers more of it than it does itself.
    pub(crate) forgot: Mutex<Option<String>>,
    /// Set once, when the node stops: all streams end.
    pub(crate) stopping: tokio::sync::watch::Sender<bool>,
    pub(crate) changed: Notify,
}

/// The most that one peer ever told.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) promised: BTreeMap<Life, Ballot>,
}

impl Network {
    /// The words that begin a stream from or to `peer`.
    pub(crate) fn hello(&self, peer: Option<NodeId>) -> v1::PeerHello {
        let genesis = self.genesis.lock();
        let heard = self.heard.lock();
        let heard = peer.and_then(|peer| heard.iter().find(|h| h.node == peer));
        v1::PeerHello {
            protocol: wire::PEER_PROTOCOL,
            cluster: genesis.as_ref().map_or(Vec::new(), |g| g.cluster.to_be_bytes().to_vec()).into(),
            node: self.myself.node.0,
            incarnation: self.myself.incarnation.0,
            boot: self.myself.boot,
            genesis: bytes::Bytes::new(),
            heard_boot: heard.map_or(0, |h| h.boot),
            heard: heard.map_or(Vec::new(), |h| {
                let word = |((group, generation), ballot): (&Life, &Ballot)| v1::HeardPromise {
                    group: group.0,
                    generation: generation.0,
                    round: ballot.round,
                    node: ballot.node.0,
                };
                h.promised.iter().map(word).collect()
            }),
        }
    }

    /// The incarnation of a node that Genesis names or that this one was told of.
    pub(crate) fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        let founder = self.genesis.lock().as_ref().and_then(|genesis| genesis.incarnation_of(node));
        founder.or_else(|| self.later.lock().get(&node).copied())
    }

    /// Whether `hello` comes from a node of this cluster, by the name its data directory bears.
    pub(crate) fn admit(&self, hello: &v1::PeerHello) -> Result<NodeId, String> {
        let node = NodeId(hello.node);
        if hello.protocol != wire::PEER_PROTOCOL {
            return Err(format!(
                "{node} speaks peer protocol {}, not {}",
                hello.protocol,
                wire::PEER_PROTOCOL
            ));
        }
        let cluster = self.genesis.lock().as_ref().map(|genesis| genesis.cluster);
        let Some(cluster) = cluster else { return Err("no Genesis yet".to_string()) };
        if hello.cluster.as_ref() != cluster.to_be_bytes() {
            return Err(format!("{node} belongs to another cluster"));
        }
        if node == self.myself.node {
            // What a node says to itself never comes by a link, and is believed.
            return Err(format!("{node} is this node"));
        }
        match self.incarnation_of(node) {
            None => return Err(format!("{node} isn't known here")),
            Some(known) if known.0 != hello.incarnation => {
                return Err(format!(
                    "{node} has another data directory than the one that votes under this id"
                ));
            }
            Some(_) => {}
        }
        let mut heard = self.heard.lock();
        match heard.iter_mut().find(|h| h.node == node) {
            Some(known) if known.boot > hello.boot => {
                return Err(format!("{node} says boot {}, but boot {} was here", hello.boot, known.boot));
            }
            Some(known) => known.boot = hello.boot,
            None => heard.push(Heard { node, boot: hello.boot, promised: BTreeMap::new() }),
        }
        Ok(node)
    }

    /// Remembers that `node` vouched for `ballot` in a replica that is here.
    pub(crate) fn heard_promise(&self, node: NodeId, life: Life, ballot: Ballot) {
        let mut heard = self.heard.lock();
        let Some(known) = heard.iter_mut().find(|h| h.node == node) else { return };
        let highest = known.promised.entry(life).or_insert(ballot);
        *highest = ballot.max(*highest);
    }

    /// There is no replica of `group` here any more.
    pub(crate) fn forget_promises(&self, group: GroupId) {
        for heard in self.heard.lock().iter_mut() {
            heard.promised.retain(|life, _| life.0 != group);
        }
    }
}
