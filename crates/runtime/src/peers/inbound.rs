//! The serving side of a link: admits nodes by name, decodes their envelopes, and hands them to the node.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use paxos::codec;
use paxos::ids::{Ballot, Generation, GroupId, NodeId};
use paxos::message::{Envelope, Message, Payload};
use rand::RngExt;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use wire::v1;
use wire::v1::peer_server::Peer;

use crate::api::LinkFaults;
use crate::peers::{Arrival, Network};
use crate::snapshot::SnapshotSource;

/// Readers of links pause while more than this waits for the node, in bytes.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// A fault that shuffles messages holds one back for this time at most.
const LATE_MAX: Duration = Duration::from_millis(50);

/// The peer port of a node.
pub(crate) struct PeerService {
    pub(crate) network: Arc<Network>,
    pub(crate) snapshots: Arc<dyn SnapshotSource>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type ConnectStream = Answers<v1::PeerHello>;
    type SnapshotStream = Answers<v1::SnapshotChunk>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::PeerFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?;
        let hello = first.and_then(|f| f.hello).ok_or_else(|| Status::invalid_argument("no hello"))?;
        let peer = self.network.admit(&hello).map_err(Status::failed_precondition)?;
        let (answer, answers) = tokio::sync::mpsc::channel(1);
        let greeting = self.network.hello(Some(peer));
        let network = self.network.clone();
        let env = self.network.env.clone();
        env.spawn(async move {
            // The answer stream stays open as long as this end reads.
            if answer.send(Ok(greeting)).await.is_ok() {
                read_frames(&network, peer, frames).await;
            }
            drop(answer);
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(answers))))
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let request = request.into_inner();
        let hello = request.hello.ok_or_else(|| Status::invalid_argument("no hello"))?;
        self.network.admit(&hello).map_err(Status::failed_precondition)?;
        let life = (GroupId(request.group), Generation(request.generation));
        let chunks = self.snapshots.stream(life, request.at_least).await?;
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(chunks))))
    }

    async fn identify(&self, _: Request<v1::IdentifyRequest>) -> Result<Response<v1::PeerHello>, Status> {
        let genesis = self.network.genesis.lock().as_ref().map(|g| g.encode()).unwrap_or_default();
        Ok(Response::new(v1::PeerHello { genesis: genesis.into(), ..self.network.hello(None) }))
    }
}

async fn read_frames(network: &Arc<Network>, peer: NodeId, mut frames: Streaming<v1::PeerFrame>) {
    let mut stopping = network.stopping.subscribe();
    loop {
        let frame = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            frame = frames.message() => frame,
        };
        match frame {
            Ok(Some(frame)) => {
                if let Err(reason) = take(network, peer, frame) {
                    tracing::warn!(%peer, %reason, "link closed");
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%peer, reason = status.message(), "link ended");
                return;
            }
        }
        while network.arrivals.waiting_bytes() > WAITING_BYTES_MAX {
            tokio::task::yield_now().await;
        }
    }
}

/// Hands a frame to the node's next turn, all of it or nothing.
pub(crate) fn take(network: &Arc<Network>, peer: NodeId, frame: v1::PeerFrame) -> Result<(), String> {
    let to = network.myself.node;
    let luck = {
        let faults = network.faults.lock();
        if faults.deaf_to.contains(&peer) {
            return Ok(());
        }
        Luck::of(&faults)
    };
    let (mut arrivals, mut late) = (Vec::with_capacity(frame.envelopes.len()), Vec::new());
    let mut bytes = 0;
    for envelope in frame.envelopes {
        if hits(network, luck.loss) {
            continue;
        }
        let life = (GroupId(envelope.group), Generation(envelope.generation));
        bytes += envelope.message.len();
        if let Some(digest) = envelope.digest {
            let hash = <[u8; 16]>::try_from(digest.hash.as_ref()).map_err(|_| "digest of wrong length")?;
            let (applied_end, hash) = (digest.applied_end, u128::from_be_bytes(hash));
            arrivals.push(Arrival::Digest { from: peer, life, applied_end, hash });
            continue;
        }
        let message: Message<Payload> = codec::decode(&envelope.message).map_err(|e| e.to_string())?;
        let envelope = Envelope { from: peer, to, message };
        if hits(network, luck.doubled) {
            arrivals.push(Arrival::Envelope { life, envelope: envelope.clone() });
        }
        if hits(network, luck.shuffled) {
            late.push(Arrival::Envelope { life, envelope });
            continue;
        }
        arrivals.push(Arrival::Envelope { life, envelope });
    }
    network.arrivals.extend(arrivals, bytes);
    late.into_iter().for_each(|arrival| arrive_late(network.clone(), arrival));
    Ok(())
}

/// What a message may meet with, in percent.
struct Luck {
    loss: u32,
    doubled: u32,
    shuffled: u32,
}

impl Luck {
    fn of(faults: &LinkFaults) -> Luck {
        let LinkFaults { loss_percent, doubled_percent, shuffled_percent, .. } = faults;
        Luck { loss: *loss_percent, doubled: *doubled_percent, shuffled: *shuffled_percent }
    }
}

fn hits(network: &Network, percent: u32) -> bool {
    percent > 0 && network.env.luck().random_range(0..100) < percent
}

fn arrive_late(network: Arc<Network>, arrival: Arrival) {
    let late = network.env.luck().random_range(Duration::ZERO..=LATE_MAX);
    network.env.clone().spawn(async move {
        tokio::time::sleep(late).await;
        network.arrivals.extend(vec![arrival], 0);
    });
}

/// The promise that a message proves to be on its sender's disk.
pub(crate) fn vouched_for(message: &Message<Payload>) -> Option<Ballot> {
    match message {
        Message::Promise { ballot, .. }
        | Message::Accepted { ballot, .. }
        | Message::Prepare { ballot, .. } => Some(*ballot),
        Message::Canvass { .. }
        | Message::Canvassed { .. }
        | Message::Accept { .. }
        | Message::Preempted { .. }
        | Message::AlreadyChosen { .. }
        | Message::Heartbeat { .. }
        | Message::HeartbeatAck { .. }
        | Message::CatchUp { .. }
        | Message::Caught { .. }
        | Message::Transfer { .. } => None,
    }
}
