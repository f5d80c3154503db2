//! The calling side of a link: connects, says who it is, and sends what its outbox holds, for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use paxos::ids::{Ballot, Generation, GroupId, NodeId};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::transport::Endpoint;
use wire::channel::Channel;
use wire::v1;
use wire::v1::peer_client::PeerClient;

use crate::env::Env;
use crate::peers::{Network, Outbox};

/// Short: the first packet of a connection may have met a partition, and TCP itself sends it again only after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_millis(200);

/// The frames of one stream: first the hello, then what the outbox holds.
struct Frames {
    hello: Option<v1::PeerHello>,
    outbox: Arc<Outbox>,
}

impl Stream for Frames {
    type Item = v1::PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::PeerFrame>> {
        match self.hello.take() {
            Some(hello) => Poll::Ready(Some(v1::PeerFrame { hello: Some(hello), envelopes: Vec::new() })),
            None => self.outbox.poll_frame(context),
        }
    }
}

/// A connection to a peer port, tuned for frames of a megabyte.
pub(crate) async fn connect(env: &Env, address: &str) -> Result<PeerClient<Channel>, String> {
    let channel = env.connect(address, tuned).await.map_err(|e| e.to_string())?;
    let client = PeerClient::new(channel);
    Ok(client
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
}

/// Keeps one stream to `peer` alive until the outbox is closed; a new one when its address changes.
pub(crate) async fn keep_sending(
    network: Arc<Network>,
    peer: NodeId,
    mut address: watch::Receiver<String>,
    outbox: Arc<Outbox>,
) {
    let mut pause = RETRY_FIRST;
    while !outbox.is_closed() {
        let began = tokio::time::Instant::now();
        let present = address.borrow_and_update().clone();
        tokio::select! {
            biased;
            ended = send_once(&network, peer, &present, &outbox) => {
                if let Err(reason) = ended {
                    tracing::debug!(%peer, %reason, "link ended");
                }
            }
            Ok(()) = address.changed() => tracing::info!(%peer, "the peer has another address"),
        }
        outbox.set_connected(false);
        if began.elapsed() > Duration::from_secs(1) {
            pause = RETRY_FIRST;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

async fn send_once(
    network: &Network,
    peer: NodeId,
    address: &str,
    outbox: &Arc<Outbox>,
) -> Result<(), String> {
    let mut client = connect(&network.env, address).await?;
    outbox.set_connected(true);
    let frames = Frames { hello: Some(network.hello(Some(peer))), outbox: outbox.clone() };
    let mut answers = client.connect(frames).await.map_err(|e| e.message().to_string())?.into_inner();
    while let Some(hello) = answers.message().await.map_err(|e| e.message().to_string())? {
        if hello.node != peer.0 {
            return Err(format!("{address} is n{}, not {peer}", hello.node));
        }
        if network.incarnation_of(peer).is_some_and(|known| known.0 != hello.incarnation) {
            return Err(format!("{peer} has another data directory than the one known under this id"));
        }
        check_memory(network, &hello);
    }
    Ok(())
}

/// A peer that remembers more of this node than the node itself proves that its directory is an older copy.
pub(crate) fn check_memory(network: &Network, hello: &v1::PeerHello) {
    let peer = NodeId(hello.node);
    if hello.heard_boot > network.myself.boot {
        let mine = network.myself.boot;
        let reason = format!("{peer} heard boot {} of this node, which is at boot {mine}", hello.heard_boot);
        *network.forgot.lock() = Some(reason);
        network.changed.notify_one();
    }
    let promises = hello.heard.iter().map(|h| {
        let ballot = Ballot { round: h.round, node: NodeId(h.node) };
        crate::peers::Arrival::Remembered {
            from: peer,
            life: (GroupId(h.group), Generation(h.generation)),
            ballot,
        }
    });
    network.arrivals.extend(promises.collect(), 0);
}
