//! Nodes that join a running cluster, and nodes that move.

use paxos::ids::{GroupId, NodeId};
use runtime::api::ReadConsistency;
use runtime::hosting::{HostError, HostSpec, Peer};
use runtime::options::Bounds;

use crate::cluster::{Cluster, GROUP, free_port};

const MIXED: GroupId = GroupId(9);

impl Cluster {
    fn peers(&self) -> Vec<Peer> {
        let peer = |(i, address): (usize, &runtime::options::NodeAddress)| Peer {
            node: address.id,
            incarnation: self.handle(i as u32 + 1).identity().1,
            address: address.peer.clone(),
        };
        self.nodes.iter().enumerate().map(peer).collect()
    }

    /// All nodes are told of all.
    fn introduce(&self) {
        for handle in self.handles.iter().flatten() {
            handle.set_peers(self.peers());
        }
    }

    /// A cluster with a node that joined it, in a group with two founders.
    async fn with_guest() -> (Cluster, u32) {
        let mut cluster = Cluster::start(Bounds::default()).await;
        cluster.write(1, 10).await;
        let guest = cluster.add_node();
        cluster.start_node(guest).await;
        let genesis = cluster.handle(guest).known_genesis().await;
        assert_eq!(genesis.config, b"config");
        assert_eq!(cluster.handle(1).genesis(), Some(genesis));
        cluster.introduce();
        cluster.host(MIXED, 2, &[1, 2, guest]).await;
        (cluster, guest)
    }
}

#[tokio::test]
async fn a_guest_votes_in_groups_that_were_made_with_it() {
    let (mut cluster, guest) = Cluster::with_guest().await;
    cluster.write_to(MIXED, 10, 10).await;
    cluster.settle_in(MIXED).await;
    let status = cluster.handle(guest).status().await.unwrap();
    assert_eq!(status.condition, "ok");
    assert_eq!(status.replicas.iter().map(|r| r.group).collect::<Vec<_>>(), [MIXED]);
    cluster.stop_node(guest).await;
    cluster.write_to(MIXED, 11, 10).await;
    cluster.start_node(guest).await;
    cluster.settle_in(MIXED).await;
    cluster.stop_node(1).await;
    cluster.write_to(MIXED, 12, 10).await;
    assert_eq!(cluster.read_of(MIXED, ReadConsistency::Quorum).await, [10, 11, 12]);
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, [1]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_guest_with_a_wiped_directory_is_nobody() {
    let (mut cluster, guest) = Cluster::with_guest().await;
    cluster.write_to(MIXED, 10, 10).await;
    let member = cluster.handle(guest).identity().1;
    cluster.stop_node(guest).await;
    std::fs::remove_dir_all(cluster.dir(guest)).unwrap();
    cluster.start_node(guest).await;
    let handle = cluster.handle(guest);
    handle.known_genesis().await;
    let spec = HostSpec { incarnation: member, ..cluster.spec(guest, MIXED, 2, &[1, 2, guest]) };
    let own = handle.identity().1;
    assert_eq!(handle.host(spec).await, Err(HostError::WrongIncarnation { named: member, own }));
    // Nor is it taken for the one it was by those who knew that.
    cluster.introduce();
    cluster.handle(guest).host(cluster.spec(guest, GroupId(10), 1, &[1, guest])).await.unwrap();
    cluster.handle(1).host(cluster.spec(1, GroupId(10), 1, &[1, guest])).await.unwrap();
    cluster.write_to(MIXED, 11, 10).await;
    cluster.write(2, 10).await;
    let replica = cluster.replica(1, GroupId(10)).await.unwrap();
    assert_ne!(replica.role, "leader", "the other one isn't admitted");
    cluster.finish().await;
}

#[tokio::test]
async fn peers_may_move() {
    let (mut cluster, guest) = Cluster::with_guest().await;
    cluster.write_to(MIXED, 10, 10).await;
    for moved in [guest, 2] {
        cluster.stop_node(moved).await;
        cluster.nodes[moved as usize - 1].peer = format!("127.0.0.1:{}", free_port());
        cluster.start_node(moved).await;
        cluster.handle(moved).known_genesis().await;
        cluster.introduce();
    }
    // Both are needed now.
    cluster.stop_node(1).await;
    cluster.write_to(MIXED, 11, 10).await;
    assert_eq!(cluster.read_of(MIXED, ReadConsistency::Quorum).await, [10, 11]);
    cluster.write_to(GROUP, 2, 10).await;
    assert!(cluster.nodes.iter().any(|node| node.id == NodeId(guest)));
    cluster.finish().await;
}
