//! Groups that are made and dropped while their nodes run: what a life of a group leaves, and to whom.

use std::path::Path;

use paxos::ids::{Generation, GroupId, Incarnation, NodeId};
use runtime::api::{Call, CallResult, ReadConsistency, RefusedReason};
use runtime::hosting::{HostError, HostSpec};
use runtime::options::Bounds;

use crate::cluster::{Cluster, GROUP, ask, id_of};

const LATER: GroupId = GroupId(5);

impl Cluster {
    /// An order for `id` to host a group of `voters`.
    pub(crate) fn spec(&self, id: u32, group: GroupId, generation: u64, voters: &[u32]) -> HostSpec {
        HostSpec {
            group,
            generation: Generation(generation),
            voters: voters.iter().copied().map(NodeId).collect(),
            incarnation: self.handle(id).identity().1,
        }
    }

    pub(crate) async fn host(&self, group: GroupId, generation: u64, voters: &[u32]) {
        for id in voters {
            self.handle(*id).known_genesis().await;
            self.handle(*id).host(self.spec(*id, group, generation, voters)).await.unwrap();
        }
    }

    async fn unhost(&self, group: GroupId, generation: u64, nodes: &[u32]) {
        for id in nodes {
            self.handle(*id).unhost(group, Generation(generation)).await.unwrap();
        }
    }
}

fn small() -> Bounds {
    Bounds { segment_bytes: 64 << 10, ..Bounds::default() }
}

/// Bytes of the files in use as segments; what isn't needed any more is kept as spares.
fn segment_bytes(log: &Path) -> u64 {
    let files = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    // One may get another name meanwhile.
    let contents = files.filter_map(|file| std::fs::read(file).ok());
    contents.filter(|bytes| bytes.starts_with(b"SynodLog")).map(|bytes| bytes.len() as u64).sum()
}

#[tokio::test]
async fn a_group_made_on_running_nodes_takes_writes_and_survives_restarts() {
    // So small that all of it comes back from checkpoints and the log together.
    let mut cluster = Cluster::start(Bounds { checkpoint_log_bytes: 128 << 10, ..small() }).await;
    cluster.write(1, 10).await;
    cluster.host(LATER, 3, &[1, 2, 3]).await;
    for number in 100..120 {
        cluster.write_to(LATER, number, 20_000).await;
    }
    cluster.settle_in(LATER).await;
    for _ in 0..2 {
        cluster.restart_all().await;
        cluster.host(LATER, 3, &[1, 2, 3]).await;
        let entries = cluster.read_of(LATER, ReadConsistency::Quorum).await;
        assert_eq!(entries, (100..120).collect::<Vec<_>>());
        assert_eq!(cluster.replica(2, LATER).await.unwrap().generation, Generation(3));
    }
    cluster.write_to(LATER, 120, 10).await;
    assert_eq!(cluster.read(ReadConsistency::Quorum).await, [1], "groups don't mix");
    assert_eq!(cluster.replica(2, GROUP).await.unwrap().generation, Generation(1));
    cluster.finish().await;
}

#[tokio::test]
async fn a_dropped_group_gives_its_log_back_and_stays_away() {
    let mut cluster = Cluster::start(small()).await;
    cluster.write(1, 10).await;
    cluster.host(LATER, 1, &[1, 2, 3]).await;
    for number in 100..160 {
        cluster.write_to(LATER, number, 20_000).await;
    }
    // A quorum has it all in the log; the third may have been behind, and got a snapshot.
    let largest = || (1..=3).map(|id| segment_bytes(&cluster.dir(id).join("log"))).max().unwrap();
    let full = largest();
    assert!(full > 1 << 20, "{full} B are the log of 60 times 20 kB");
    cluster.unhost(LATER, 1, &[1, 2, 3]).await;
    let call = Call::Read { query: (), consistency: ReadConsistency::Stale };
    match ask(cluster.handle(1), LATER, call).await {
        CallResult::Refused(refused) => assert_eq!(refused.reason, RefusedReason::UnknownGroup),
        CallResult::Reply(_) | CallResult::Found(_) => panic!("answered by a replica that is gone"),
    }
    cluster.until("its segments stay", async || largest() < 512 << 10).await;
    // Whatever checkpoints and segments hold.
    for _ in 0..2 {
        cluster.restart_all().await;
        cluster.write(2, 10).await;
        assert_eq!(cluster.replica(1, LATER).await.map(|r| r.group), None);
        let spec = cluster.spec(1, LATER, 1, &[1, 2, 3]);
        let dropped = HostError::Dropped { group: LATER, dropped: Generation(1) };
        assert_eq!(cluster.handle(1).host(spec).await, Err(dropped));
    }
    cluster.host(LATER, 2, &[1, 2, 3]).await;
    cluster.write_to(LATER, 200, 10).await;
    assert_eq!(cluster.read_of(LATER, ReadConsistency::Quorum).await, [200]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_restart_before_the_next_checkpoint_does_not_bring_a_dropped_group_back() {
    let mut cluster = Cluster::start(small()).await;
    cluster.host(LATER, 1, &[1, 2, 3]).await;
    cluster.write_to(LATER, 100, 30_000).await;
    cluster.unhost(LATER, 1, &[1, 2, 3]).await;
    cluster.host(LATER, 2, &[1, 2, 3]).await;
    cluster.restart_all().await;
    cluster.write_to(LATER, 101, 10).await;
    assert_eq!(cluster.read_of(LATER, ReadConsistency::Quorum).await, [101]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_node_that_was_away_while_its_group_was_made_again_brings_no_old_votes() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.host(LATER, 1, &[1, 2, 3]).await;
    for number in 100..130 {
        cluster.write_to(LATER, number, 10).await;
    }
    cluster.settle_in(LATER).await;
    cluster.stop_node(3).await;
    cluster.unhost(LATER, 1, &[1, 2]).await;
    // Its voters are all three, so the first life's replica on n3 is asked, and asks, in vain.
    let voters = [1, 2, 3];
    for id in [1, 2] {
        cluster.handle(id).host(cluster.spec(id, LATER, 2, &voters)).await.unwrap();
    }
    cluster.start_node(3).await;
    let linked = async || cluster.replica(3, GROUP).await.is_some_and(|r| r.leader.is_some());
    cluster.until("n3 hears nobody", linked).await;
    // Beyond the slots of the first life, so that its replica would take them.
    for number in 500..550 {
        cluster.write_to(LATER, number, 10).await;
    }
    cluster.write(1, 10).await;
    cluster.settle().await;
    let old = cluster.replica(3, LATER).await.unwrap();
    assert_eq!((old.generation, old.leader), (Generation(1), None), "it hears nobody of the other life");
    let call = Call::Read { query: (), consistency: ReadConsistency::Stale };
    let CallResult::Found(entries) = ask(cluster.handle(3), LATER, call).await else { panic!("refused") };
    // Whether the last one was chosen only the others knew.
    assert!(
        entries.iter().all(|number| (100..130).contains(number)),
        "and learns nothing of it: {entries:?}"
    );
    let refused = cluster.handle(3).host(cluster.spec(3, LATER, 2, &voters)).await;
    assert_eq!(refused, Err(HostError::OtherGeneration { group: LATER, hosted: Generation(1) }));
    cluster.unhost(LATER, 1, &[3]).await;
    cluster.host(LATER, 2, &voters).await;
    // n3 is needed now.
    cluster.stop_node(1).await;
    cluster.write_to(LATER, 550, 10).await;
    let entries = cluster.read_of(LATER, ReadConsistency::Quorum).await;
    assert_eq!(entries, (500..=550).collect::<Vec<_>>());
    cluster.settle_in(LATER).await;
    let statuses = cluster.statuses().await;
    assert!(statuses.iter().all(|s| s.condition == "ok"), "{statuses:#?}");
    cluster.finish().await;
}

#[tokio::test]
async fn only_a_member_by_its_directory_is_hosted() {
    let cluster = Cluster::start(Bounds::default()).await;
    let node = cluster.handle(1);
    node.known_genesis().await;
    let (id, own) = node.identity();
    assert_eq!((id, node.status().await.unwrap().incarnation), (NodeId(1), own));
    let good = cluster.spec(1, LATER, 2, &[1, 2, 3]);
    let named = Incarnation(own.0 ^ 1);
    let wrong = HostSpec { incarnation: named, ..good.clone() };
    assert_eq!(node.host(wrong).await, Err(HostError::WrongIncarnation { named, own }));
    assert_eq!(node.host(cluster.spec(1, LATER, 2, &[2, 3])).await, Err(HostError::NoVoter));
    let none = HostSpec { generation: Generation(0), ..good.clone() };
    assert_eq!(node.host(none).await, Err(HostError::Dropped { group: LATER, dropped: Generation(0) }));
    assert_eq!(node.host(good.clone()).await, Ok(()));
    assert_eq!(node.host(good).await, Ok(()), "again");
    let others = node.host(cluster.spec(1, LATER, 2, &[1, 2])).await;
    assert!(matches!(others, Err(HostError::OtherVoters { .. })), "{others:?}");
    let newer = node.host(cluster.spec(1, LATER, 3, &[1, 2, 3])).await;
    assert_eq!(newer, Err(HostError::OtherGeneration { group: LATER, hosted: Generation(2) }));
    // A drop that comes first counts, too.
    node.unhost(GroupId(6), Generation(4)).await.unwrap();
    let late = node.host(cluster.spec(1, GroupId(6), 4, &[1])).await;
    assert_eq!(late, Err(HostError::Dropped { group: GroupId(6), dropped: Generation(4) }));
    assert_eq!(node.host(cluster.spec(1, GroupId(6), 5, &[1])).await, Ok(()));
    cluster.write_to(GroupId(6), 1, 10).await;
    let stopped = node.clone();
    cluster.finish().await;
    assert_eq!(stopped.unhost(LATER, Generation(2)).await, Err(HostError::Stopping));
}

#[tokio::test]
async fn a_group_of_genesis_that_was_dropped_is_not_made_again() {
    let mut cluster = Cluster::start(small()).await;
    let first = GroupId(0);
    cluster.write_to(first, 7, 10).await;
    // A caller that waits hears that the group is gone.
    let leader = cluster.leader_of(first).await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.unhost(first, 1, &[id]).await;
    }
    let handle = cluster.handle(leader).clone();
    let call = Call::Write { id: id_of(8), request: 8_u64.to_le_bytes().to_vec().into(), sent_at: 0 };
    let (answer, dropped) = tokio::join!(ask(&handle, first, call), handle.unhost(first, Generation(1)));
    assert!(matches!(answer, CallResult::Refused(_)), "no quorum has chosen it");
    assert_eq!(dropped, Ok(()));
    cluster.write(1, 10).await;
    for _ in 0..2 {
        cluster.restart_all().await;
        cluster.write(2, 70_000).await;
        for id in 1..=3 {
            assert!(cluster.replica(id, first).await.is_none(), "dropped for good");
        }
    }
    cluster.host(first, 2, &[1, 2, 3]).await;
    cluster.write_to(first, 9, 10).await;
    assert_eq!(cluster.read_of(first, ReadConsistency::Quorum).await, [9]);
    cluster.finish().await;
}
