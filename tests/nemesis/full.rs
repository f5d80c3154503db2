//! Disks without room, and a disk that stands still: small file systems of a test's own. Needs root.
//!
//! `STALL_SECONDS` sets how long the disk of a leader stands still at most.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use client::{Client, ClientOptions, Consistency, ErrorKind, Outcome};
use tests::load::{Load, dose};
use tests::nodes::{Nodes, Plan, SOON, bound, until};
use tests::root::Mount;

use crate::links::gap;

const MIB: u64 = 1 << 20;

/// Takes room on the file system of a node's data directory; gives it back when this is dropped.
struct Ballast(PathBuf);

impl Ballast {
    /// Takes all room but so many bytes.
    fn leave(nodes: &Nodes, id: u32, left: u64) -> Ballast {
        let data = nodes.node(id).data();
        let path = data.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let zeros = vec![0; 64 << 10];
        let free = || {
            let found = rustix::fs::statvfs(&data).unwrap();
            found.f_bavail * found.f_frsize
        };
        while free() > left && file.write_all(&zeros).is_ok() {}
        Ballast(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// Each of these nodes on a file system of its own, in memory.
fn on_small_disks(plan: Plan, ids: &[u32], mib: u64) -> (Nodes, Vec<Mount>) {
    let mut nodes = Nodes::plan(plan);
    let mount = |id: &u32| Mount::in_memory(&nodes.node(*id).data(), mib).unwrap();
    let mounts: Vec<Mount> = ids.iter().map(mount).collect();
    nodes.start_all();
    nodes.await_serving(SOON);
    (nodes, mounts)
}

fn value(n: u32) -> Vec<u8> {
    vec![n as u8; 100_000]
}

async fn impatient(nodes: &Nodes) -> Client {
    let (endpoints, timeout) = (nodes.endpoints(), Duration::from_secs(3));
    Client::connect(ClientOptions { endpoints, timeout, ..ClientOptions::default() }).await.unwrap()
}

async fn assert_there(client: &Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let found = client.get(format!("large-{n}").as_bytes(), Consistency::Linearizable).await.unwrap();
        assert!(found.is_some_and(|found| found.value == value(n)), "P6: large-{n} is lost");
    }
}

#[test]
#[ignore = "needs root and mount"]
fn a_full_disk_refuses_writes_and_goes_on_once_there_is_room() {
    let plan = Plan::new(3).with("--limits.segment=1MiB");
    let (mut nodes, _mounts) = on_small_disks(plan, &[1, 2, 3], 32);
    let runtime = crate::runtime();
    let client = runtime.block_on(impatient(&nodes));
    let put = |n: u32| runtime.block_on(client.put(format!("large-{n}").as_bytes(), &value(n)));
    let ballast: Vec<Ballast> = nodes.ids().iter().map(|id| Ballast::leave(&nodes, *id, 0)).collect();
    let mut written = 0;
    let refused = loop {
        match put(written) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "no end of room");
    };
    println!("{written} writes of 100 kB, then: {refused} ({})", refused.outcome);
    assert_eq!((refused.kind, refused.outcome), (ErrorKind::DiskFull, Outcome::NotExecuted));
    let condition = nodes.await_condition(nodes.await_leader(1), "disk is full").condition;
    assert!(condition.contains("writes are refused"), "{condition}");
    runtime.block_on(assert_there(&client, 0..written));
    // Leaders can change.
    let leader = nodes.await_leader(1);
    nodes.kill(&[leader]);
    until("another leader, on full disks", SOON, || nodes.leader(1).filter(|now| *now != leader));
    // It can't even raise the number of its starts, and says so.
    nodes.start_node(leader);
    until("it ends", SOON, || nodes.ended(leader));
    let words = nodes.node(leader).words();
    assert!(words.contains("No space left on device"), "{words}");
    runtime.block_on(assert_there(&client, 0..written));
    drop(ballast);
    nodes.start_node(leader);
    until("writes once there is room", SOON, || put(written).ok());
    runtime.block_on(assert_there(&client, 0..written + 1));
    nodes.await_agreement(&nodes.ids());
}

#[test]
#[ignore = "needs root and mount"]
fn a_checkpoint_without_room_is_given_up_and_made_once_there_is() {
    const KEYS: u32 = 13;
    // Checkpoints get what time others leave over.
    const LATER: Duration = SOON.saturating_mul(3);
    let plan = Plan::new(3).with("--limits.segment=1MiB").with("--limits.checkpoint_log=1MiB");
    let (mut nodes, _mounts) = on_small_disks(plan, &[3], 40);
    let runtime = crate::runtime();
    let client = runtime.block_on(impatient(&nodes));
    let put = |n: u32| runtime.block_on(client.put(format!("large-{n}").as_bytes(), &value(n)));
    for n in 0..KEYS {
        until("a write", SOON, || put(n).ok());
    }
    assert!(!nodes.node(3).data().join("CURRENT").exists(), "a checkpoint before it is due");
    // It is due when the log is larger than the state. There is room for the log until then, and not for the state.
    let ballast = Ballast::leave(&nodes, 3, 6 * MIB / 5);
    let mut written = 0;
    until("a checkpoint is given up", LATER, || {
        // The same value again. Where this node leads, its log may have no room either for a moment.
        let _may_fail = put(written % KEYS);
        written += 1;
        nodes.node(3).words().contains("a checkpoint was given up").then_some(())
    });
    assert!(!nodes.node(3).data().join("CURRENT").exists());
    drop(ballast);
    until("a checkpoint once there is room", LATER, || {
        // The same value again. Where this node leads, its log may have no room either for a moment.
        let _may_fail = put(written % KEYS);
        written += 1;
        nodes.node(3).data().join("CURRENT").exists().then_some(())
    });
    nodes.kill(&[3]);
    nodes.start_node(3);
    nodes.await_agreement(&nodes.ids());
    runtime.block_on(assert_there(&client, 0..KEYS));
}

#[test]
#[ignore = "needs root and mount"]
fn a_snapshot_without_room_is_fetched_again_once_there_is() {
    let small = ["--limits.segment=1MiB", "--limits.checkpoint_log=1MiB", "--limits.keep_max=1MiB"];
    let plan = small.iter().fold(Plan::new(3), |plan, setting| plan.with(setting));
    let (mut nodes, _mounts) = on_small_disks(plan, &[3], 32);
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    nodes.kill(&[3]);
    for n in 0..60 {
        runtime.block_on(client.put(format!("large-{n}").as_bytes(), &value(n))).unwrap();
    }
    let ballast = Ballast::leave(&nodes, 3, 3 * MIB);
    nodes.start_node(3);
    let words = |nodes: &Nodes| nodes.node(3).words();
    until("the snapshot has no room", SOON, || {
        words(&nodes).contains("a checkpoint was given up").then_some(())
    });
    assert!(words(&nodes).contains("fetching a snapshot"), "{}", words(&nodes));
    assert!(nodes.status(3).is_some(), "it lives");
    // With what it has on its disk, which isn't the snapshot, and still without room.
    nodes.kill(&[3]);
    nodes.start_node(3);
    until("it is up again", SOON, || nodes.status(3));
    drop(ballast);
    nodes.await_agreement(&nodes.ids());
    nodes.kill(&[3]);
    nodes.start_node(3);
    nodes.await_agreement(&nodes.ids());
    runtime.block_on(assert_there(&client, 0..60));
}

#[test]
#[ignore = "needs root, mount, mkfs.ext4 and fsfreeze"]
fn leadership_moves_when_the_disk_of_the_leader_stands_still() {
    let mut plan = Plan::new(3).with("--limits.segment=1MiB");
    plan.groups = 1;
    let mut nodes = Nodes::plan(plan);
    let mount = |id: &u32| Mount::in_a_file(&nodes.node(*id).data(), 64).unwrap();
    let mut mounts: Vec<Mount> = nodes.ids().iter().map(mount).collect();
    nodes.start_all();
    nodes.await_serving(SOON);
    let load = Load { clients: 8, keys: 32, pause: Duration::from_millis(10), lost_percent: 0 };
    let running = load.start(nodes.endpoints());
    let most = dose("STALL_SECONDS", 3);
    let mut times = Vec::new();
    for stall in [most.div_ceil(4), most] {
        let leader = nodes.await_leader(1);
        let (began, acked) = (running.now(), running.acked());
        mounts[leader as usize - 1].freeze().unwrap();
        std::thread::sleep(Duration::from_secs(stall));
        until("writes beside a disk that stands still", SOON, || {
            (running.acked() > acked + 40).then_some(())
        });
        times.push((stall, began, running.now(), leader, nodes.leader(1)));
        mounts[leader as usize - 1].thaw().unwrap();
    }
    let seen = running.finish();
    println!("{}", seen.summary());
    seen.assert_right();
    for (stall, from, to, before, after) in times {
        let gap = gap(&seen, from, to);
        println!(
            "disk of node {before} stood still for {stall} s: no write for {gap:?}; led by {after:?} then"
        );
        assert!(gap < bound(10), "no write for {gap:?}");
    }
    nodes.await_agreement(&nodes.ids());
}
