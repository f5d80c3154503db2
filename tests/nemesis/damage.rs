//! Data directories of a minority that are damaged, cut, mixed up or old: noticed and named at the start, nothing lost.
//!
//! A damaged node is started while the others are down, so nothing that it says is heard before it is judged. `CUTS` sets how
//! many lengths of the last frame are tried, `FLIPS` how often each kind of file is damaged in each way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use client::Consistency;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON, until};
use wire::v1::ReplicaStatus;

const SECTOR: usize = 512;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn replace(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(from, to);
}

/// All files below, by their paths from there.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// What a node's disk remembers, in its own words: promises, ends, states, and the newest votes.
fn memory(nodes: &Nodes, id: u32) -> Option<Vec<String>> {
    let told = |replica: ReplicaStatus| {
        let slots = nodes.slots(id, replica.group)?;
        let slots = slots.iter().filter(|slot| slot.state != "EMPTY");
        let slots = slots.map(|slot| format!("{} {} {}", slot.slot, slot.state, slot.entry));
        Some(format!(
            "g{} b{}.n{} checkpoint {} applied {} {} {:?}",
            replica.group,
            replica.promised_round,
            replica.promised_node,
            replica.durable_end,
            replica.applied_end,
            replica.state_hash,
            slots.collect::<Vec<_>>()
        ))
    };
    nodes.status(id)?.replicas.into_iter().map(told).collect()
}

/// Starts a node while the others are down: what it remembers, or with what words it refused.
fn alone(nodes: &mut Nodes, id: u32) -> Result<Vec<String>, String> {
    let before = nodes.node(id).words().len();
    nodes.start_node(id);
    let told = until("it starts or ends", SOON, || {
        let told = nodes.status(id).map(|status| status.condition).filter(|condition| condition != "ok");
        if let Some(memory) = told.map_or_else(|| memory(nodes, id).map(Ok), |condition| Some(Err(condition)))
        {
            return Some(memory);
        }
        let status = nodes.ended(id)?;
        let words = nodes.node(id).words()[before..].to_string();
        assert!(!status.success(), "node {id} ended in good order:\n{words}");
        Some(Err(words.lines().rev().find(|line| line.starts_with("error")).unwrap_or(&words).to_string()))
    });
    nodes.kill(&[id]);
    told
}

/// Where the last data frame of a log begins, how many bytes it takes, and the segment it is in.
fn last_frame(log: &Path) -> (PathBuf, usize, usize) {
    let mut last = BTreeMap::new();
    for segment in files(log) {
        let bytes = fs::read(&segment).unwrap();
        for at in (SECTOR..bytes.len()).step_by(SECTOR) {
            let is_data = bytes[at..].starts_with(b"SynF") && bytes[at + 4] == 1;
            if is_data {
                // A file that was a segment before holds frames of that time, too; their numbers are lower.
                let number = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
                let payload = u32::from_le_bytes(bytes[at + 24..at + 28].try_into().unwrap());
                let sectors = (28 + payload as usize).div_ceil(SECTOR - 4);
                last.insert(number, (segment.clone(), at, sectors * SECTOR));
            }
        }
    }
    last.into_values().next_back().unwrap()
}

#[test]
fn the_last_frame_cut_at_any_byte_is_dropped_and_no_more() {
    let mut plan = Plan::new(3).with("--limits.segment=1MiB").proxied();
    plan.groups = 1;
    let mut nodes = Nodes::start(plan);
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let put = |n: u32| runtime.block_on(client.put(b"cut", n.to_string().as_bytes())).unwrap();
    put(1);
    nodes.await_agreement(&nodes.ids());
    // From now on nobody hears what this one votes, so nothing of it is ever acknowledged.
    let mute = crate::a_follower(&nodes);
    for id in nodes.ids().into_iter().filter(|id| *id != mute) {
        nodes.links().cut(mute, id);
    }
    put(2);
    nodes.await_agreement(&nodes.ids());
    nodes.kill(&nodes.ids());

    let (data, base) = (nodes.node(mute).data(), nodes.dir().join("base"));
    copy(&data, &base);
    let whole = alone(&mut nodes, mute).unwrap();
    let (segment, at, length) = last_frame(&base.join("log"));
    let segment = data.join(segment.strip_prefix(&base).unwrap());
    let cuts = usize::try_from(dose("CUTS", 8)).unwrap().min(length);
    let mut remembered = BTreeMap::new();
    for cut in (0..cuts).map(|n| n * (length - 1) / (cuts - 1).max(1)) {
        replace(&base, &data);
        fs::File::options().write(true).open(&segment).unwrap().set_len((at + cut) as u64).unwrap();
        let memory = alone(&mut nodes, mute).unwrap_or_else(|why| panic!("cut at {cut} of {length}: {why}"));
        assert_ne!(memory, whole, "cut at {cut} of {length}: the frame is still there");
        *remembered.entry(memory).or_insert(0) += 1;
    }
    println!("{cuts} of {length} lengths of the last frame");
    assert_eq!(remembered.len(), 1, "what is left depends on where it was cut: {remembered:#?}");
    nodes.links().heal();
    nodes.start_all();
    let found = runtime.block_on(client.get(b"cut", Consistency::Linearizable)).unwrap();
    assert_eq!(found.unwrap().value, b"2", "P6: what was acknowledged is lost");
    nodes.await_agreement(&nodes.ids());
}

/// A cluster with a checkpoint on each node, at rest; copies of the data directories are in `base`.
fn at_rest(settings: &[&str]) -> (Nodes, PathBuf) {
    let plan = Plan::new(3).with("--limits.segment=1MiB").with("--limits.checkpoint_log=1MiB");
    let mut nodes = Nodes::start(settings.iter().fold(plan, |plan, setting| plan.with(setting)));
    let runtime = crate::runtime();
    runtime.block_on(async {
        let client = crate::connect(&nodes).await;
        // Several times, since a checkpoint is due when the log is larger than the state.
        for n in (0..48).cycle().take(4 * 48) {
            client.put(format!("kept-{n}").as_bytes(), &vec![n; 40_000]).await.unwrap();
        }
    });
    let has_checkpoint = |id: &u32| nodes.node(*id).data().join("CURRENT").exists();
    // They get what time others leave over.
    until("checkpoints", 3 * SOON, || nodes.ids().iter().all(has_checkpoint).then_some(()));
    nodes.await_agreement(&nodes.ids());
    nodes.kill(&nodes.ids());
    let base = nodes.dir().join("base");
    for id in nodes.ids() {
        copy(&nodes.node(id).data(), &base.join(id.to_string()));
    }
    (nodes, base)
}

/// All that was acknowledged is there.
fn assert_kept(nodes: &Nodes) {
    let runtime = crate::runtime();
    runtime.block_on(async {
        let client = crate::connect(nodes).await;
        for n in 0..48 {
            let found = client.get(format!("kept-{n}").as_bytes(), Consistency::Linearizable).await.unwrap();
            assert!(found.is_some_and(|found| found.value == vec![n; 40_000]), "P6: kept-{n} is lost");
        }
    });
}

/// How a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    OneBit,
    /// One byte in so many, at least one.
    OneIn(usize),
}

fn damage(file: &Path, how: Damage, random: &mut SmallRng) {
    let mut bytes = fs::read(file).unwrap();
    let count = match how {
        Damage::OneBit => 1,
        Damage::OneIn(bytes_each) => bytes.len().div_ceil(bytes_each),
    };
    for _ in 0..count {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
    }
    fs::write(file, bytes).unwrap();
}

/// The kind of file that a path in a data directory is.
fn kind_of(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    let folder = file.parent()?.file_name()?.to_str()?;
    let is_empty = fs::metadata(file).ok()?.len() == 0;
    match (folder, name) {
        _ if is_empty => None,
        ("log", _) => Some("log"),
        (_, "CURRENT") => Some("CURRENT"),
        (_, "identity") => Some("identity"),
        (_, "lock") => None,
        _ => Some("checkpoint"),
    }
}

#[test]
fn flipped_bits_in_any_file_of_a_minority_are_noticed() {
    let (mut nodes, base) = at_rest(&[]);
    let (hurt, data) = (3, nodes.node(3).data());
    let (whole, base) = (alone(&mut nodes, hurt).unwrap(), base.join("3"));
    // Only files that count: a checkpoint that was under way when its node was killed goes at the next start. The number of the
    // one that counts comes after magic and version, in one byte below 251.
    let current = format!("checkpoint-{}", fs::read(base.join("CURRENT")).unwrap()[10]);
    for entry in fs::read_dir(&base).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("checkpoint-") && name != current {
            fs::remove_dir_all(base.join(name)).unwrap();
        }
    }
    let mut random = SmallRng::seed_from_u64(dose("FLIP_SEED", 1));
    let mut kinds: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    for file in files(&base) {
        if let Some(kind) = kind_of(&file) {
            kinds.entry(kind).or_default().push(file.strip_prefix(&base).unwrap().to_path_buf());
        }
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    let mut seen: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    for (kind, files) in &kinds {
        for how in [Damage::OneBit, Damage::OneIn(100_000), Damage::OneIn(10_000), Damage::OneIn(1_000)] {
            for _ in 0..dose("FLIPS", 1) {
                replace(&base, &data);
                let file = &files[random.random_range(0..files.len())];
                damage(&data.join(file), how, &mut random);
                let counts = seen.entry((*kind, how)).or_default();
                match alone(&mut nodes, hurt) {
                    // It hit what holds nothing: a spare, a segment that isn't needed, the end of one.
                    Ok(memory) => {
                        assert_eq!(memory, whole, "{how:?} in {} went unnoticed", file.display());
                        assert_eq!(*kind, "log", "{how:?} in {} went unnoticed", file.display());
                        counts.1 += 1;
                    }
                    Err(why) => {
                        let is_named =
                            ["log", "checkpoint", "identity"].iter().any(|word| why.contains(word));
                        assert!(
                            why.starts_with("error: ") && is_named,
                            "{how:?} in {}: {why}",
                            file.display()
                        );
                        counts.0 += 1;
                    }
                }
            }
        }
    }
    println!("refused, or as if nothing had happened: {seen:#?}");
    assert!(
        seen.values().map(|(refused, _)| refused).sum::<u32>() > 8,
        "nearly nothing was noticed: {seen:?}"
    );
    // With the last damage in place: it ends, the others serve.
    replace(&base, &data);
    damage(&data.join("identity"), Damage::OneBit, &mut random);
    nodes.start_all();
    nodes.await_serving(SOON);
    until("the damaged node ends", SOON, || nodes.ended(hurt));
    assert_kept(&nodes);
}

#[test]
fn stale_swapped_and_foreign_directories_are_refused_by_name() {
    let (mut nodes, base) = at_rest(&[]);
    let of = |id: u32| base.join(id.to_string());
    // Swapped.
    for (id, other) in [(2, 3), (3, 2)] {
        replace(&of(other), &nodes.node(id).data());
        let why = alone(&mut nodes, id).unwrap_err();
        assert!(why.contains(&format!("belongs to node n{other}, not to node n{id}")), "{why}");
        replace(&of(id), &nodes.node(id).data());
    }
    // The same twice, at the same time.
    nodes.start_all();
    nodes.await_serving(SOON);
    let twice = std::process::Command::new(tests::binaries().join("kvserver"))
        .arg("--config")
        .arg(nodes.node(2).data().with_file_name("node.toml"))
        .args(["--listen.client=127.0.0.1:0", "--listen.peer=127.0.0.1:0", "--listen.http=127.0.0.1:0"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&twice.stderr);
    assert!(!twice.status.success() && words.contains("is in use"), "{words}");
    // Stale: others have heard of later starts and votes.
    nodes.kill(&[3]);
    nodes.start_node(3);
    nodes.await_condition(3, "ok");
    nodes.await_agreement(&nodes.ids());
    nodes.kill(&[3]);
    replace(&of(3), &nodes.node(3).data());
    nodes.start_node(3);
    let condition = nodes.await_condition(3, "heard").condition;
    println!("stale: {condition}");
    nodes.await_serving(SOON);
    assert_kept(&nodes);
    // Foreign: of the same node of another cluster.
    nodes.kill(&[3]);
    let (other, theirs) = at_rest(&[]);
    replace(&theirs.join("3"), &nodes.node(3).data());
    drop(other);
    nodes.start_node(3);
    let refused = until("it is refused", SOON, || {
        let words = nodes.node(3).words();
        words.lines().find(|line| line.contains("the shardmaster doesn't take this node")).map(str::to_string)
    });
    assert!(refused.contains("with another data directory"), "{refused}");
    println!("foreign: {refused}");
    nodes.await_serving(SOON);
    assert_kept(&nodes);
    // What it has of its own cluster has no quorum: nobody here votes with it.
    let role = nodes.replica(3, 1).map(|replica| replica.role);
    assert_ne!(role.as_deref(), Some("leader"), "a stranger leads");
}
