//! Answers that come with a later batch, reads of what is locked, and what a group owes.

use std::time::Duration;

use paxos::ids::NodeId;
use runtime::api::{Call, CallResult, ReadConsistency, RefusedReason};
use runtime::options::Bounds;

use crate::cluster::{Cluster, GROUP, HOLD, Journal, RELEASE, ask, begin, marked};

fn read(consistency: ReadConsistency) -> Call<Journal> {
    Call::Read { query: (), consistency }
}

fn replied(result: CallResult<Journal>) -> usize {
    match result {
        CallResult::Reply(reply) => reply,
        CallResult::Found(_) | CallResult::Refused(_) => panic!("not a reply"),
    }
}

fn found(result: CallResult<Journal>) -> Vec<u64> {
    match result {
        CallResult::Found(entries) => entries,
        CallResult::Reply(_) | CallResult::Refused(_) => panic!("not found"),
    }
}

fn refused(result: CallResult<Journal>) -> RefusedReason {
    match result {
        CallResult::Refused(refused) => refused.reason,
        CallResult::Found(_) | CallResult::Reply(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn each_caller_of_a_request_gets_the_reply_of_its_own_entry() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 0).await;
    let leader = cluster.handle(cluster.leader().await);
    let mut first = begin(leader, GROUP, marked(5, HOLD));
    let mut second = begin(leader, GROUP, marked(5, HOLD));
    assert_eq!(replied(ask(leader, GROUP, marked(6, RELEASE)).await), 3);
    assert_eq!(replied(first.recv().await.unwrap().1), 3);
    assert!(second.try_recv().is_err(), "its entry isn't answered yet");
    assert_eq!(replied(ask(leader, GROUP, marked(7, RELEASE)).await), 4);
    assert_eq!(replied(second.recv().await.unwrap().1), 4);
    cluster.finish().await;
}

#[tokio::test]
async fn reads_of_what_is_locked_are_answered_once_it_is_not() {
    let cluster = Cluster::start(Bounds { queue_requests: 3, ..Bounds::default() }).await;
    cluster.write(1, 0).await;
    let leader = cluster.handle(cluster.leader().await);
    let mut held = begin(leader, GROUP, marked(2, HOLD));
    leader.due().await;
    let mut by_round = begin(leader, GROUP, read(ReadConsistency::Quorum));
    let mut by_lease = begin(leader, GROUP, read(ReadConsistency::Lease));
    assert_eq!(found(ask(leader, GROUP, read(ReadConsistency::Stale)).await), [1, 2], "never waits");
    // Applied, but it unlocks nothing.
    assert_eq!(replied(ask(leader, GROUP, marked(3, 0)).await), 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(by_round.try_recv().is_err() && by_lease.try_recv().is_err(), "it is locked");
    let mut third = begin(leader, GROUP, read(ReadConsistency::Quorum));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let over = ask(leader, GROUP, read(ReadConsistency::Quorum)).await;
    assert_eq!(refused(over), RefusedReason::Busy, "as many wait as may");
    assert_eq!(replied(ask(leader, GROUP, marked(4, RELEASE)).await), 4);
    for answer in [&mut by_round, &mut by_lease, &mut third] {
        assert_eq!(found(answer.recv().await.unwrap().1), [1, 2, 3, 4]);
    }
    assert_eq!(replied(held.recv().await.unwrap().1), 4);
    cluster.finish().await;
}

#[tokio::test]
async fn who_waits_for_a_lock_hears_that_another_node_leads_or_that_this_one_stops() {
    let mut cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 0).await;
    let id = cluster.leader().await;
    let leader = cluster.handle(id);
    let mut held = begin(leader, GROUP, marked(2, HOLD));
    leader.due().await;
    let mut blocked = begin(leader, GROUP, read(ReadConsistency::Quorum));
    assert_eq!(replied(ask(leader, GROUP, marked(3, 0)).await), 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(blocked.try_recv().is_err());
    // A transfer may come to nothing, on a machine too busy for heartbeats.
    while cluster.leader().await == id {
        let _refused_if_deposed = leader.transfer(GROUP, Some(NodeId(id % 3 + 1))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused(blocked.recv().await.unwrap().1), RefusedReason::NotLeader);
    match held.recv().await.unwrap().1 {
        CallResult::Refused(refused) => assert!(refused.outcome_unknown),
        CallResult::Found(_) | CallResult::Reply(_) => panic!("nobody released it"),
    }
    let id = cluster.leader().await;
    let mut blocked = begin(cluster.handle(id), GROUP, read(ReadConsistency::Quorum));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(blocked.try_recv().is_err());
    cluster.stop_node(id).await;
    refused(blocked.recv().await.unwrap().1);
    cluster.finish().await;
}

#[tokio::test]
async fn what_a_group_owes_is_told_where_it_is_led() {
    let cluster = Cluster::start(Bounds::default()).await;
    cluster.write(1, 0).await;
    let leader = cluster.leader().await;
    let handle = cluster.handle(leader);
    for number in 2..5 {
        let _answered_later = begin(handle, GROUP, marked(number, HOLD));
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        handle.due().await;
        told.extend(handle.take_due());
    }
    assert_eq!(told, [(GROUP, 2), (GROUP, 3), (GROUP, 4)]);
    cluster.settle().await;
    for id in 1..=3 {
        assert!(cluster.handle(id).take_due().is_empty(), "told once, by the leader");
    }
    cluster.finish().await;
}
