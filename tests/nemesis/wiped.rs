//! Disks that are wiped, two of five in turn: who comes back with an empty directory never votes under its old identity, and
//! nothing is lost, whichever of the others lead afterwards.
//!
//! `WIPES` sets how many clusters this is done to.

use client::Consistency;
use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON};

fn one_round(round: u64) {
    let mut nodes = Nodes::start(Plan::new(5));
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let mut number = 0_u64;
    let mut put = |count: u64| {
        for _ in 0..count {
            number += 1;
            let key = format!("wiped-{number}");
            runtime.block_on(client.put(key.as_bytes(), number.to_string().as_bytes())).unwrap();
        }
        number
    };
    put(20);
    let mut gone = Vec::new();
    for turn in 0..2 {
        // A leader in one of two cases, any other node in the other.
        let leader = nodes.await_leader(1 + turn);
        let victim = match (round + u64::from(turn)) % 2 {
            0 => leader,
            _ => nodes.ids().into_iter().find(|id| *id != leader && !gone.contains(id)).unwrap(),
        };
        nodes.kill(&[victim]);
        std::fs::remove_dir_all(nodes.node(victim).data()).unwrap();
        put(5);
        nodes.start_node(victim);
        let status = nodes.await_condition(victim, "data directory");
        gone.push(victim);
        put(5);
        assert!(status.replicas.is_empty(), "a wiped node hosts replicas: {status:?}");
    }
    // Three of five are left: each is needed for every quorum, and the wiped ones are no help.
    let left: Vec<u32> = nodes.ids().into_iter().filter(|id| !gone.contains(id)).collect();
    let leader = nodes.await_leader(1);
    assert!(left.contains(&leader), "P1: node {leader} leads with a wiped disk");
    nodes.kill(&[leader]);
    for id in &gone {
        let status = nodes.await_condition(*id, "data directory");
        assert!(status.replicas.is_empty(), "a wiped node hosts replicas: {status:?}");
    }
    assert!(left.iter().all(|id| nodes.replica(*id, 1).is_none_or(|replica| replica.role != "leader")));
    nodes.start_node(leader);
    nodes.await_serving(SOON);
    let last = put(5);
    for number in 1..=last {
        let key = format!("wiped-{number}");
        let found = runtime.block_on(client.get(key.as_bytes(), Consistency::Linearizable)).unwrap();
        let found = found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
        assert_eq!(found, Some(number.to_string()), "P6: {key} is lost");
    }
    nodes.await_agreement(&left);
}

#[test]
fn two_wiped_disks_in_turn_never_vote_and_lose_nothing() {
    let rounds = dose("WIPES", 2);
    for round in 0..rounds {
        one_round(round);
    }
    println!("{rounds} clusters, two disks wiped in each");
}
