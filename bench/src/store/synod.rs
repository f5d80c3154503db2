//! Synod: `kvserver` processes, its client library, and its unary service.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use client::{Client, ClientOptions, Consistency};
use tonic::transport::{Channel, Endpoint};
use wire::v1;
use wire::v1::admin_client::AdminClient;
use wire::v1::kv_client::KvClient;

use super::nodes::{Node, addresses};
use super::{KEY_BYTES, Place, Read};

pub(super) fn nodes(
    place: &Place,
    dir: &Path,
    groups: u32,
    count: u32,
    settings: &[(&str, &str)],
) -> Result<Vec<Node>> {
    let ports = addresses(3 * count as usize)?;
    let entries: String = ports
        .chunks(3)
        .zip(1..)
        .map(|(ports, id)| {
            format!(
                "[[nodes]]\nid = {id}\nclient = \"{}\"\npeer = \"{}\"\nhttp = \"{}\"\n",
                ports[0], ports[1], ports[2]
            )
        })
        .collect();
    let node = |(ports, id): (&[String], u32)| {
        let file = dir.join(format!("{id}.toml"));
        let data = dir.join(id.to_string());
        let head = format!("node = {id}\ndata_dir = \"{}\"\ngroups = {groups}\n", data.display());
        std::fs::write(&file, head + &entries)?;
        let mut arguments = vec!["--config".to_owned(), file.display().to_string()];
        arguments.extend(settings.iter().map(|(key, value)| format!("--{key}={value}")));
        let log = dir.join(format!("{id}.log"));
        Ok(Node::new(place.kvserver.clone(), arguments, log, ports[0].clone()))
    };
    ports.chunks(3).zip(1..).map(node).collect()
}

pub(super) async fn connect(nodes: &[Node]) -> Result<Client> {
    let endpoints = nodes.iter().map(|node| node.client.clone()).collect();
    Ok(Client::connect(ClientOptions { endpoints, ..ClientOptions::default() }).await?)
}

pub(super) fn consistency(read: Read) -> Consistency {
    match read {
        Read::Lease => Consistency::Lease,
        Read::Quorum => Consistency::Linearizable,
    }
}

/// A caller of the unary service, at the node that leads.
#[derive(Clone)]
pub(crate) struct Unary(KvClient<Channel>);

pub(super) async fn connect_unary(nodes: &[Node]) -> Result<Unary> {
    let leader = leader(nodes).await?;
    Ok(Unary(KvClient::new(channel(&nodes[leader].client).await?)))
}

pub(super) async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(endpoint.connect_timeout(Duration::from_secs(1)).connect().await?)
}

/// Writes go through at the leader only.
pub(super) async fn leader(nodes: &[Node]) -> Result<usize> {
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()) {
        let unary = Unary(KvClient::new(channel(&node.client).await?));
        if unary.put([b'0'; KEY_BYTES], &Bytes::from_static(b"who leads")).await.is_ok() {
            return Ok(at);
        }
    }
    bail!("no node leads")
}

/// What a node says of its replica of a group.
pub(super) async fn replica(node: &Node, group: u32) -> Result<v1::ReplicaStatus> {
    let mut admin = AdminClient::new(channel(&node.client).await?);
    let status = admin.status(v1::StatusRequest {}).await?.into_inner();
    let replica = status.replicas.into_iter().find(|replica| replica.group == group);
    replica.with_context(|| format!("no replica of group {group}"))
}

impl Unary {
    pub(super) async fn put(&self, key: [u8; KEY_BYTES], value: &Bytes) -> Result<()> {
        let key = Bytes::copy_from_slice(&key);
        self.0.clone().put(v1::PutRequest { key, value: value.clone(), session: None }).await?;
        Ok(())
    }

    pub(super) async fn get(&self, key: [u8; KEY_BYTES], read: Read) -> Result<bool> {
        let consistency = match read {
            Read::Lease => v1::Consistency::Lease,
            Read::Quorum => v1::Consistency::Linearizable,
        };
        let key = Bytes::copy_from_slice(&key);
        let request = v1::GetRequest { key, consistency: consistency.into() };
        Ok(self.0.clone().get(request).await?.into_inner().found)
    }
}
