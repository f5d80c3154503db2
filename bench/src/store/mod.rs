//! Stores under measurement: three nodes as processes, and callers that ask them.

mod etcd;
mod nodes;
mod synod;
mod zookeeper;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tempfile::TempDir;

use crate::sample::Sample;

pub(crate) use nodes::Node;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;

/// A store, with the settings that it is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// With so many groups on so many nodes.
    Synod { groups: u32, nodes: u32 },
    /// With its defaults.
    Etcd,
    /// With one thread of Go and a lazier collector: more throughput on two cores.
    EtcdTuned,
    /// With its defaults.
    ZooKeeper,
}

impl Kind {
    pub(crate) const SYNOD: Kind = Kind::Synod { groups: 1, nodes: 3 };

    pub(crate) fn name(self) -> String {
        match self {
            Kind::SYNOD => "synod".to_owned(),
            Kind::Synod { groups, nodes } => format!("synod-{groups}x{nodes}"),
            Kind::Etcd => "etcd".to_owned(),
            Kind::EtcdTuned => "etcd-tuned".to_owned(),
            Kind::ZooKeeper => "zookeeper".to_owned(),
        }
    }

    pub(crate) fn parse(name: &str) -> Result<Kind, String> {
        let all = [Kind::SYNOD, Kind::Etcd, Kind::EtcdTuned, Kind::ZooKeeper];
        let found = all.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("\"{name}\" is none of synod, etcd, etcd-tuned, zookeeper"))
    }
}

/// Where everything is on this machine.
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    pub(crate) kvserver: PathBuf,
    pub(crate) peers: PathBuf,
}

/// How callers reach a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The best that the store offers: for Synod its client library, which sends frames of many over one stream.
    Best,
    /// One gRPC call for each operation. For etcd and ZooKeeper the same as `Best`.
    Unary,
}

/// How fresh a read must be; both are linearizable. etcd and ZooKeeper have one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Lease,
    Quorum,
}

/// A cluster that runs. Dropping it ends its processes and removes its directories.
pub(crate) struct Cluster {
    kind: Kind,
    pub(crate) nodes: Vec<Node>,
    dir: TempDir,
}

impl Cluster {
    /// Starts a cluster with empty directories, and returns when it takes writes.
    pub(crate) async fn start(kind: Kind, place: &Place, settings: &[(&str, &str)]) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("measured-").tempdir_in(&place.data)?;
        let nodes = match kind {
            Kind::Synod { groups, nodes } => synod::nodes(place, dir.path(), groups, nodes, settings)?,
            Kind::Etcd => etcd::nodes(place, dir.path(), false)?,
            Kind::EtcdTuned => etcd::nodes(place, dir.path(), true)?,
            Kind::ZooKeeper => zookeeper::nodes(place, dir.path())?,
        };
        let mut cluster = Cluster { kind, nodes, dir };
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.await_writes().await?;
        Ok(cluster)
    }

    /// What it has used until now.
    pub(crate) fn sample(&self) -> Result<Sample> {
        Sample::of(&self.pids(), self.dir.path())
    }

    /// The nodes of Synod that write a checkpoint: there is a directory that CURRENT doesn't name yet.
    pub(crate) fn writing_checkpoints(&self) -> Result<Vec<usize>> {
        let mut writing = Vec::new();
        for (at, node) in self.data_dirs()?.iter().enumerate() {
            let names =
                std::fs::read_dir(node)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let checkpoints = names.filter(|name| name.starts_with("checkpoint-")).count();
            if checkpoints > usize::from(node.join("CURRENT").exists()) {
                writing.push(at);
            }
        }
        Ok(writing)
    }

    /// A client of Synod.
    pub(crate) async fn client(&self) -> Result<client::Client> {
        synod::connect(&self.nodes).await
    }

    /// What a node of Synod says of its replica of a group.
    pub(crate) async fn replica(&self, node: usize, group: u32) -> Result<wire::v1::ReplicaStatus> {
        synod::replica(&self.nodes[node], group).await
    }

    /// Log of all nodes of Synod on disk, with its spare segments.
    pub(crate) fn log_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for node in self.data_dirs()? {
            for entry in std::fs::read_dir(node.join("log"))? {
                bytes += entry?.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    fn data_dirs(&self) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(self.dir.path())?.map(|entry| Ok(entry?.path()));
        let mut dirs: Vec<PathBuf> =
            entries.filter(|path| path.as_ref().map_or(true, |path| path.is_dir())).collect::<Result<_>>()?;
        dirs.sort();
        Ok(dirs)
    }

    /// Returns when a write went through.
    pub(crate) async fn await_writes(&self) -> Result<()> {
        let begun = async {
            loop {
                if let Ok(callers) = self.callers(1, 1, Via::Best).await
                    && callers[0].put([b'0'; KEY_BYTES], &Bytes::from_static(b"first")).await.is_ok()
                {
                    return Ok(());
                }
                self.nodes.iter().try_for_each(Node::check)?;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let limit = std::time::Duration::from_secs(300);
        tokio::time::timeout(limit, begun)
            .await
            .with_context(|| format!("{} takes no writes", self.kind.name()))?
    }

    /// Callers that share `connections`.
    pub(crate) async fn callers(&self, callers: usize, connections: usize, via: Via) -> Result<Vec<Caller>> {
        let mut shared = Vec::new();
        for number in 0..connections.clamp(1, callers) {
            shared.push(match (self.kind, via) {
                (Kind::Synod { .. }, Via::Best) => Caller::Synod(synod::connect(&self.nodes).await?),
                (Kind::Synod { .. }, Via::Unary) => {
                    Caller::SynodUnary(synod::connect_unary(&self.nodes).await?)
                }
                (Kind::Etcd | Kind::EtcdTuned, _) => Caller::Etcd(etcd::connect(&self.nodes).await?),
                (Kind::ZooKeeper, _) => Caller::ZooKeeper(zookeeper::connect(&self.nodes, number).await?),
            });
        }
        Ok(shared.into_iter().cycle().take(callers).collect())
    }

    /// Where the leader is, of group 1 if there are several.
    pub(crate) async fn leader(&self) -> Result<usize> {
        match self.kind {
            Kind::Synod { .. } => synod::leader(&self.nodes).await,
            Kind::Etcd | Kind::EtcdTuned => etcd::leader(&self.nodes).await,
            Kind::ZooKeeper => zookeeper::leader(&self.nodes).await,
        }
    }

    /// Processes that run.
    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Node::pid).collect()
    }
}

/// One that asks, and waits for the answer. Clones share a connection.
#[derive(Clone)]
pub(crate) enum Caller {
    Synod(client::Client),
    SynodUnary(synod::Unary),
    Etcd(etcd::Caller),
    ZooKeeper(zookeeper::Caller),
}

impl Caller {
    pub(crate) async fn put(&self, key: [u8; KEY_BYTES], value: &Bytes) -> Result<()> {
        match self {
            Caller::Synod(client) => drop(client.put(&key, value).await?),
            Caller::SynodUnary(caller) => caller.put(key, value).await?,
            Caller::Etcd(caller) => caller.put(key, value).await?,
            Caller::ZooKeeper(caller) => caller.put(key, value).await?,
        }
        Ok(())
    }

    /// Reads a key that must be there.
    pub(crate) async fn get(&self, key: [u8; KEY_BYTES], read: Read) -> Result<()> {
        let is_there = match self {
            Caller::Synod(client) => client.get(&key, synod::consistency(read)).await?.is_some(),
            Caller::SynodUnary(caller) => caller.get(key, read).await?,
            Caller::Etcd(caller) => caller.get(key).await?,
            Caller::ZooKeeper(caller) => caller.get(key).await?,
        };
        if !is_there {
            bail!("a key is gone");
        }
        Ok(())
    }
}
