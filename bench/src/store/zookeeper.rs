//! ZooKeeper: its processes, and sessions of its protocol. A key is a child of the root; a linearizable read is `sync` and
//! `get`, as its documentation says.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::nodes::{Node, addresses};
use super::{KEY_BYTES, Place};

const NODES: usize = 3;

pub(super) fn nodes(place: &Place, dir: &Path) -> Result<Vec<Node>> {
    let classpath = std::fs::read_to_string(place.peers.join("zookeeper/classpath"))
        .context("zookeeper: bench/install.sh fetches it")?;
    let ports = addresses(3 * NODES)?;
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let servers: String = ports
        .chunks(3)
        .zip(1..)
        .map(|(ports, id)| format!("server.{id}={}:{}\n", ports[1], port(&ports[2])))
        .collect();
    let node = |(ports, id): (&[String], usize)| {
        let data = dir.join(id.to_string());
        std::fs::create_dir(&data)?;
        std::fs::write(data.join("myid"), id.to_string())?;
        let file = dir.join(format!("{id}.cfg"));
        let head = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={}\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr\n",
            data.display(),
            port(&ports[0])
        );
        std::fs::write(&file, head + &servers)?;
        let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
        let arguments = ["-cp", classpath.trim(), main, &file.display().to_string()].map(str::to_owned);
        let log = dir.join(format!("{id}.log"));
        Ok(Node::new("java".into(), arguments.into(), log, ports[0].clone()))
    };
    ports.chunks(3).zip(1..).map(node).collect()
}

/// A session.
#[derive(Clone)]
pub(crate) struct Caller(Client);

/// Sessions are spread over the nodes, as ZooKeeper's own clients do.
pub(super) async fn connect(nodes: &[Node], number: usize) -> Result<Caller> {
    let mut live: Vec<&str> = nodes.iter().filter(|n| n.pid().is_some()).map(|n| n.client.as_str()).collect();
    let first = number % live.len().max(1);
    live.rotate_left(first);
    let timeout = Duration::from_secs(10);
    Ok(Caller(Client::connector().with_session_timeout(timeout).connect(&live.join(",")).await?))
}

pub(super) async fn leader(nodes: &[Node]) -> Result<usize> {
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()) {
        let Ok(mut stream) = TcpStream::connect(&node.client).await else { continue };
        stream.write_all(b"srvr").await?;
        let mut told = String::new();
        stream.read_to_string(&mut told).await?;
        if told.contains("Mode: leader") {
            return Ok(at);
        }
    }
    bail!("no node leads")
}

impl Caller {
    pub(super) async fn put(&self, key: [u8; KEY_BYTES], value: &Bytes) -> Result<()> {
        let path = path(key);
        match self.0.set_data(&path, value, None).await {
            Err(Error::NoNode) => {
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                match self.0.create(&path, value, &options).await {
                    Ok(_) | Err(Error::NodeExists) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            written => Ok(written.map(drop)?),
        }
    }

    pub(super) async fn get(&self, key: [u8; KEY_BYTES]) -> Result<bool> {
        let path = path(key);
        // Both are on their way at once; the session answers them in order.
        let (synced, found) = tokio::join!(self.0.sync(&path), self.0.get_data(&path));
        synced?;
        match found {
            Ok(_) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn path(key: [u8; KEY_BYTES]) -> String {
    let mut path = String::with_capacity(KEY_BYTES + 1);
    path.push('/');
    path.extend(key.iter().map(|byte| char::from(*byte)));
    path
}
