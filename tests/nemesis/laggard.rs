//! A replica that was away for longer than logs are kept: it dies between the steps of its snapshot, and large values leave no
//! long logs behind.
//!
//! `LAGGARD_KILLS` sets how often it is killed on its way back.

use std::time::{Duration, Instant};

use client::Consistency;
use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON, until};

fn value(n: u32, bytes: usize) -> Vec<u8> {
    vec![n as u8; bytes]
}

#[test]
fn a_laggard_that_dies_between_the_steps_of_a_snapshot_catches_up() {
    let small = ["--limits.segment=1MiB", "--limits.checkpoint_log=1MiB", "--limits.keep_max=1MiB"];
    let mut nodes = Nodes::start(small.iter().fold(Plan::new(3), |plan, setting| plan.with(setting)));
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let mut written = 0_u32;
    let mut write_past_the_log = || {
        for _ in 0..60 {
            let key = format!("lag-{}", written % 90);
            runtime.block_on(client.put(key.as_bytes(), &value(written, 50_000))).unwrap();
            written += 1;
        }
    };
    let (kills, mut ends) = (dose("LAGGARD_KILLS", 6), [0, 0, 0]);
    let took = {
        nodes.kill(&[3]);
        write_past_the_log();
        nodes.start_node(3);
        let began = Instant::now();
        nodes.await_agreement(&nodes.ids());
        began.elapsed()
    };
    for kill in 0..kills {
        if kill % 3 == 0 {
            nodes.kill(&[3]);
            write_past_the_log();
            nodes.start_node(3);
        }
        // Each time a little later on its way.
        std::thread::sleep(took.mul_f64((kill % 12) as f64 / 10.0));
        nodes.kill(&[3]);
        nodes.start_node(3);
        let status = until("it answers", SOON, || nodes.status(3));
        assert!(status.condition == "ok" || status.condition.contains("snapshot"), "{}", status.condition);
        // What its disk is known to hold is never less than in an earlier life.
        for replica in status.replicas {
            let end = &mut ends[replica.group as usize];
            assert!(replica.durable_end >= *end, "P0: {replica:?} after {end}");
            *end = replica.durable_end;
        }
    }
    nodes.await_agreement(&nodes.ids());
    let snapshots = nodes.node(3).words().matches("fetching a snapshot").count();
    println!("{kills} kills on the way back, which takes {took:?}; {snapshots} snapshots begun");
    assert!(snapshots > 1, "a snapshot that never was proves nothing");
    for n in 0..90 {
        let found = runtime.block_on(client.get(format!("lag-{n}").as_bytes(), Consistency::Linearizable));
        let last = (0..written).rev().find(|m| m % 90 == n);
        let found = found.unwrap().map(|found| found.value);
        assert!(found == last.map(|last| value(last, 50_000)), "P6: lag-{n} is lost");
    }
}

#[test]
fn large_values_beside_a_replica_that_is_cut_off_leave_short_logs() {
    const MOST: u64 = 2_000_000;
    // Each group keeps up to 1 MiB (`limits.keep_min`) even when nobody lags.
    let mut plan = Plan::new(3).proxied();
    plan.groups = 1;
    let nodes = Nodes::start(plan);
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let away = crate::a_follower(&nodes);
    let others: Vec<u32> = nodes.ids().into_iter().filter(|id| *id != away).collect();
    nodes.links().partition(&nodes.ids(), &[vec![away], others]);
    let key = |n: u32| format!("large-{n}");
    for n in 0..20 {
        runtime.block_on(client.put(key(n).as_bytes(), &value(n, 1_000_000))).unwrap();
    }
    let logs = |nodes: &Nodes| -> Option<Vec<u64>> {
        let of = |id: u32| Some(nodes.status(id)?.replicas.iter().map(|replica| replica.log_bytes).sum());
        nodes.ids().into_iter().map(of).collect()
    };
    let before = logs(&nodes).unwrap();
    let began = Instant::now();
    nodes.links().heal();
    nodes.links().reset();
    nodes.await_agreement(&nodes.ids());
    let caught_up = began.elapsed();
    let within = Duration::from_secs(30);
    let after = until("short logs", within, || logs(&nodes).filter(|all| all.iter().all(|log| *log < MOST)));
    println!(
        "live log of the nodes, in bytes: {before:?} while one is cut off, {after:?} {caught_up:?} after that"
    );
    assert!(before.iter().max() > Some(&MOST), "nobody lagged: {before:?}");
    for n in 0..20 {
        let found = runtime.block_on(client.get(key(n).as_bytes(), Consistency::Linearizable)).unwrap();
        assert!(found.is_some_and(|found| found.value == value(n, 1_000_000)), "P6: large-{n} is lost");
    }
}
