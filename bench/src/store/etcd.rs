//! etcd: its processes, and calls of its gRPC service.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tonic::transport::Channel;

use super::nodes::{Node, addresses};
use super::{KEY_BYTES, Place};
use proto::kv_client::KvClient;
use proto::maintenance_client::MaintenanceClient;

#[allow(missing_docs, unreachable_pub)]
mod proto {
    tonic::include_proto!("etcdserverpb");
}

const NODES: usize = 3;
const TUNED: [(&str, &str); 2] = [("GOMAXPROCS", "1"), ("GOGC", "400")];
/// For a call during an outage; no call takes so long else.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn nodes(place: &Place, dir: &Path, is_tuned: bool) -> Result<Vec<Node>> {
    let program =
        place.peers.join("etcd/etcd").canonicalize().context("etcd: bench/install.sh fetches it")?;
    let ports = addresses(2 * NODES)?;
    let member = |(ports, id): (&[String], usize)| format!("n{id}=http://{}", ports[1]);
    let cluster = ports.chunks(2).zip(1..).map(member).collect::<Vec<_>>().join(",");
    let node = |(ports, id): (&[String], usize)| {
        let (client, peer) = (format!("http://{}", ports[0]), format!("http://{}", ports[1]));
        let data = dir.join(format!("n{id}"));
        let arguments = [
            format!("--name=n{id}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=new".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let log = dir.join(format!("n{id}.log"));
        let node = Node::new(program.clone(), arguments.into(), log, ports[0].clone());
        if is_tuned { node.with_environment(&TUNED) } else { node }
    };
    Ok(ports.chunks(2).zip(1..).map(node).collect())
}

/// A caller at the leader: a follower would only pass its calls on.
#[derive(Clone)]
pub(crate) struct Caller(KvClient<Channel>);

pub(super) async fn connect(nodes: &[Node]) -> Result<Caller> {
    let leader = leader(nodes).await?;
    Ok(Caller(KvClient::new(super::synod::channel(&nodes[leader].client).await?)))
}

pub(super) async fn leader(nodes: &[Node]) -> Result<usize> {
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()) {
        let Ok(channel) = super::synod::channel(&node.client).await else { continue };
        let Ok(status) = MaintenanceClient::new(channel).status(proto::StatusRequest {}).await else {
            continue;
        };
        let status = status.into_inner();
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            return Ok(at);
        }
    }
    bail!("no node leads")
}

impl Caller {
    pub(super) async fn put(&self, key: [u8; KEY_BYTES], value: &Bytes) -> Result<()> {
        let request = proto::PutRequest { key: Bytes::copy_from_slice(&key), value: value.clone() };
        let mut request = tonic::Request::new(request);
        request.set_timeout(CALL_TIMEOUT);
        self.0.clone().put(request).await?;
        Ok(())
    }

    pub(super) async fn get(&self, key: [u8; KEY_BYTES]) -> Result<bool> {
        let request = proto::RangeRequest { key: Bytes::copy_from_slice(&key) };
        Ok(!self.0.clone().range(request).await?.into_inner().kvs.is_empty())
    }
}
