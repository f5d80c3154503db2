//! Snapshots between nodes: the pages of a clone of the state, on a connection of their own.

use std::collections::VecDeque;

use paxos::ids::{NodeId, Slot};
use paxos::rsm::state_machine::{Page, StateMachine};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::v1;

use crate::env::Env;
use crate::peers::{Network, outbound};
use crate::record::Life;

/// A chunk is cut at this size, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks made before the network takes them.
const CHUNKS_AHEAD: usize = 4;

/// Where the peer port gets snapshots from.
#[tonic::async_trait]
pub(crate) trait SnapshotSource: Send + Sync {
    /// A stream of chunks of the state of this life of a group at `at_least` or above.
    async fn stream(
        &self,
        life: Life,
        at_least: u64,
    ) -> Result<mpsc::Receiver<Result<v1::SnapshotChunk, Status>>, Status>;
}

/// Streams a clone of a state, made beside the node.
pub(crate) fn send_state<S: StateMachine>(
    env: &Env,
    state: S,
    applied_end: Slot,
) -> mpsc::Receiver<Result<v1::SnapshotChunk, Status>> {
    if env.machine().is_some() {
        // Nothing there may block, and states are small.
        let mut made = Vec::new();
        make_chunks(&state, applied_end, |chunk| {
            made.push(chunk);
            true
        });
        let (send, chunks) = mpsc::channel(made.len());
        // There is room for all of them.
        made.into_iter().for_each(|chunk| drop(send.try_send(Ok(chunk))));
        return chunks;
    }
    let (send, chunks) = mpsc::channel(CHUNKS_AHEAD);
    // A receiver that went away needs no more chunks.
    let work = move || make_chunks(&state, applied_end, |chunk| send.blocking_send(Ok(chunk)).is_ok());
    if let Err(error) = env.beside("snapshot", work) {
        tracing::error!(%error, "no thread for a snapshot");
    }
    chunks
}

/// The pages of a state, in chunks, until `take` doesn't want more.
fn make_chunks<S: StateMachine>(
    state: &S,
    applied_end: Slot,
    mut take: impl FnMut(v1::SnapshotChunk) -> bool,
) {
    let header = v1::SnapshotChunk {
        applied_end: applied_end.0,
        state_hash: state.state_hash().to_be_bytes().to_vec().into(),
        pages: Vec::new(),
        last: false,
    };
    let mut chunk = header.clone();
    let mut bytes = 0;
    for page in state.pages() {
        bytes += page.key.len() + page.body.len();
        chunk.pages.push(v1::Page { key: page.key.into(), body: page.body.into() });
        if bytes >= CHUNK_BYTES {
            bytes = 0;
            if !take(std::mem::replace(&mut chunk, header.clone())) {
                return;
            }
        }
    }
    chunk.last = true;
    take(chunk);
}

/// Fetches and restores the state of one life of a group from a peer.
pub(crate) async fn fetch<S: StateMachine>(
    network: &Network,
    address: &str,
    peer: NodeId,
    life: Life,
    at_least: Slot,
    fresh: S,
) -> Result<(Slot, S), String> {
    let mut client = outbound::connect(&network.env, address).await?;
    let request = v1::SnapshotRequest {
        hello: Some(network.hello(Some(peer))),
        group: life.0.0,
        generation: life.1.0,
        at_least: at_least.0,
    };
    let chunks = client.snapshot(request).await.map_err(|e| e.message().to_string())?.into_inner();
    let (applied_end, hash, pages) = collect(chunks).await?;
    let restored = network.env.compute(move || fresh.restore(&mut pages.into_iter())).await?;
    let restored = restored.map_err(|e| e.to_string())?;
    if restored.state_hash() != hash {
        return Err("the snapshot's hash isn't that of its state".to_string());
    }
    Ok((applied_end, restored))
}

async fn collect(mut chunks: Streaming<v1::SnapshotChunk>) -> Result<(Slot, u128, VecDeque<Page>), String> {
    let mut pages = VecDeque::new();
    loop {
        let chunk = chunks.message().await.map_err(|e| e.message().to_string())?;
        let chunk = chunk.ok_or("the snapshot was cut short")?;
        pages.extend(chunk.pages.into_iter().map(|p| Page { key: p.key.to_vec(), body: p.body.to_vec() }));
        if chunk.last {
            let hash = <[u8; 16]>::try_from(chunk.state_hash.as_ref()).map_err(|_| "hash of wrong length")?;
            return Ok((Slot(chunk.applied_end), u128::from_be_bytes(hash), pages));
        }
    }
}
