//! Links that are cut, in one direction or both, in every shape; and links that are slow, lose packets and break. All that
//! nodes say to each other goes through a proxy: consensus, snapshots, moves, two-phase commit.
//!
//! `LINKS_SECONDS` sets the dose of partitions, which flip every 2 to 10 s then; by default each kind comes once.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use scripted::history::Outcome;
use tests::load::{Load, dose};
use tests::nodes::{Nodes, Plan, SOON, bound, until};
use tests::proxy::Link;
use tests::work::{Running, Seen};

const NODES: u32 = 5;
const QUORUM: usize = 3;

fn cluster(settings: &[&str]) -> Nodes {
    // One group, so that a pause of its writes is a pause of all.
    let mut plan = Plan::new(NODES).proxied();
    plan.groups = 1;
    Nodes::start(settings.iter().fold(plan, |plan, setting| plan.with(setting)))
}

fn work(nodes: &Nodes) -> Running {
    let load = Load { clients: 8, keys: 64, pause: Duration::from_millis(10), lost_percent: 0 };
    load.start(nodes.endpoints())
}

/// Waits for so many more writes.
fn await_writes(running: &Running, count: u64, what: &str) {
    let before = running.acked();
    until(what, SOON, || (running.acked() >= before + count).then_some(()));
}

/// The longest time without an answered write between two moments, both in µs.
pub(crate) fn gap(seen: &Seen, from: u64, to: u64) -> Duration {
    let answered = seen.history.operations.iter().filter(|operation| {
        let is_answered = matches!(operation.outcome, Outcome::Replied(_));
        is_answered && !operation.txn.is_read_only() && (from..to).contains(&operation.returned)
    });
    let mut times: Vec<u64> = answered.map(|operation| operation.returned).chain([from, to]).collect();
    times.sort_unstable();
    Duration::from_micros(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
}

/// Waits until each client has two more answers: what it waited for at this moment, and what it asked after it.
pub(crate) fn await_everybody(running: &Running, what: &str) {
    let before = running.answered();
    let all = || running.answered().iter().zip(&before).all(|(now, before)| *now >= before + 2);
    until(what, SOON, || all().then_some(()));
}

/// How long an operation took at most, of what lies between two moments, both in µs: a heal and the next fault.
pub(crate) fn longest_within(seen: &Seen, healed: u64, spoilt: u64) -> Duration {
    let within = |at: u64| at.clamp(healed, spoilt);
    let waits = seen.history.operations.iter().map(|it| within(it.returned) - within(it.invoked));
    Duration::from_micros(waits.max().unwrap_or(0))
}

/// Who hears whom; a side with fewer than a quorum may acknowledge nothing.
fn sides(kind: &str, leader: u32, random: &mut SmallRng) -> Vec<Vec<u32>> {
    let mut nodes: Vec<u32> = (1..=NODES).collect();
    nodes.shuffle(random);
    let split = |nodes: &[u32], ends: &[usize]| -> Vec<Vec<u32>> {
        let mut begin = 0;
        ends.iter().map(|end| nodes[std::mem::replace(&mut begin, *end)..*end].to_vec()).collect()
    };
    match kind {
        "one" => split(&nodes, &[1, 5]),
        "leader" => {
            nodes.retain(|node| *node != leader);
            vec![vec![leader], nodes]
        }
        "majority" => split(&nodes, &[2, 5]),
        "thirds" => split(&nodes, &[2, 4, 5]),
        _ => split(&nodes, &[random.random_range(1..5), 5]),
    }
}

/// Puts to a node until told to stop; how many it acknowledged.
async fn probe(address: String, stop: tokio::sync::watch::Receiver<bool>) -> u64 {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut node = wire::v1::kv_client::KvClient::new(channel.connect().await.unwrap());
    let mut acknowledged = 0;
    while !*stop.borrow() {
        let put = wire::v1::PutRequest { key: "probe".into(), value: address.clone().into(), session: None };
        let answer = tokio::time::timeout(Duration::from_millis(500), node.put(put)).await;
        acknowledged += u64::from(matches!(answer, Ok(Ok(_))));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    acknowledged
}

#[test]
fn partitions_that_flip_lose_nothing_and_no_minority_acknowledges() {
    let nodes = cluster(&[]);
    let runtime = crate::runtime();
    let mut random = SmallRng::seed_from_u64(dose("LINKS_SEED", 1));
    let running = work(&nodes);
    let seconds = dose("LINKS_SECONDS", 0);
    let (began, mut turn, mut whole, mut probes) = (Instant::now(), 0, Vec::new(), 0);
    const KINDS: [&str; 5] = ["one", "leader", "majority", "thirds", "random"];
    while turn < KINDS.len() || began.elapsed().as_secs() < seconds {
        let sides = sides(KINDS[turn % 5], nodes.await_leader(1), &mut random);
        println!("{:>6.1} s: {sides:?}", began.elapsed().as_secs_f64());
        nodes.links().partition(&nodes.ids(), &sides);
        // Beside what the proxy does: messages that nodes drop as they arrive.
        nodes.lose(20);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let minorities = sides.iter().filter(|side| side.len() < QUORUM).flatten();
        let probing: Vec<_> =
            minorities.map(|node| runtime.spawn(probe(nodes.endpoint(*node), stopped.clone()))).collect();
        probes += probing.len();
        let longest = if seconds > 0 { 10_000 } else { 2_100 };
        std::thread::sleep(Duration::from_millis(random.random_range(2_000..longest)));
        stop.send_replace(true);
        for probing in probing {
            let acknowledged = runtime.block_on(probing).unwrap();
            assert_eq!(acknowledged, 0, "a side without a quorum acknowledged writes: {sides:?}");
        }
        nodes.lose(0);
        nodes.links().heal();
        let healed = running.now();
        if turn % 2 == 0 {
            nodes.links().reset();
        }
        await_writes(&running, 30, "writes after the heal");
        await_everybody(&running, "an answer for each client after the heal");
        whole.push((healed, running.now()));
        turn += 1;
    }
    let seen = running.finish();
    let longest = whole.iter().map(|(from, to)| longest_within(&seen, *from, *to)).max().unwrap();
    println!(
        "{turn} partitions, {probes} nodes probed; longest wait after a heal {longest:?}; {}",
        seen.summary()
    );
    seen.assert_right();
    assert!(probes > 0, "a probe that never was proves nothing");
    assert!(longest < bound(2), "a client waited for {longest:?} after a heal");
    nodes.await_agreement(&nodes.ids());
}

#[test]
fn writes_resume_wherever_a_node_reaches_a_quorum() {
    let nodes = cluster(&[]);
    let running = work(&nodes);
    let pairs = |pairs: &[(u32, u32)]| pairs.iter().map(|(a, b)| vec![*a, *b]).collect::<Vec<_>>();
    let shapes = [
        ("bridge", vec![vec![1, 2, 3], vec![3, 4, 5]]),
        ("ring of majorities", pairs(&[(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)])),
        ("star", pairs(&[(4, 1), (4, 2), (4, 3), (4, 5)])),
        ("chain", pairs(&[(1, 2), (2, 3), (3, 4), (4, 5)])),
        ("one good node", pairs(&[(1, 2), (1, 3)])),
    ];
    let mut times = Vec::new();
    for (shape, sides) in shapes {
        let began = running.now();
        nodes.links().partition(&nodes.ids(), &sides);
        await_writes(&running, 40, shape);
        times.push((shape, began, running.now()));
        nodes.links().heal();
        await_writes(&running, 20, "writes after the heal");
    }
    judge(&nodes, running, &times);
}

/// In each of these times writes went on after a while.
fn judge(nodes: &Nodes, running: Running, times: &[(&str, u64, u64)]) {
    let seen = running.finish();
    let gaps: Vec<_> = times.iter().map(|(what, from, to)| (what, gap(&seen, *from, *to))).collect();
    println!("longest pauses of writes: {gaps:?}; {}", seen.summary());
    seen.assert_right();
    for (what, gap) in gaps {
        assert!(gap < bound(5), "{what}: no write for {gap:?}");
    }
    nodes.await_agreement(&nodes.ids());
}

#[test]
fn writes_resume_when_one_direction_is_cut() {
    let nodes = cluster(&[]);
    let running = work(&nodes);
    let mut times = Vec::new();
    for what in ["all that the leader says", "all that the leader hears", "leader to one", "one to leader"] {
        let leader = nodes.await_leader(1);
        let others: Vec<u32> = nodes.ids().into_iter().filter(|id| *id != leader).collect();
        let began = running.now();
        match what {
            "all that the leader says" => others.iter().for_each(|id| nodes.links().cut(leader, *id)),
            "all that the leader hears" => others.iter().for_each(|id| nodes.links().cut(*id, leader)),
            "leader to one" => nodes.links().cut(leader, others[0]),
            _ => nodes.links().cut(others[0], leader),
        }
        await_writes(&running, 60, what);
        times.push((what, began, running.now()));
        nodes.links().heal();
        await_writes(&running, 20, "writes after the heal");
    }
    judge(&nodes, running, &times);
}

#[test]
fn slow_lossy_and_broken_links_lose_nothing() {
    // Patience for what such links do: a lost packet alone takes 200 ms.
    let patient = ["check_quorum=1s", "lease=1s", "election_min=1s", "election_max=1500ms"];
    let nodes = cluster(&patient.map(|timing| format!("--timing.{timing}")).each_ref().map(String::as_str));
    let running = work(&nodes);
    let ms = Duration::from_millis;
    let bad = Link { cut: false, delay: ms(2), jitter: ms(20), loss_percent: 1 };
    let worse = Link { cut: false, delay: ms(10), jitter: ms(60), loss_percent: 2 };
    let began = nodes.links().pieces();
    for link in [bad, worse] {
        nodes.links().set_all(&nodes.ids(), link);
        for _ in 0..3 {
            std::thread::sleep(ms(400));
            nodes.links().reset();
        }
        await_writes(&running, 10, "writes over bad links");
    }
    let through = nodes.links().pieces() - began;
    nodes.links().heal();
    let healed = running.now();
    await_writes(&running, 50, "writes after the heal");
    await_everybody(&running, "an answer for each client after the heal");
    let whole = running.now();
    let seen = running.finish();
    let longest = longest_within(&seen, healed, whole);
    println!("{through} pieces over bad links, longest wait after the heal {longest:?}; {}", seen.summary());
    assert!(through > 100, "a fault where nothing goes proves nothing");
    seen.assert_right();
    assert!(longest < bound(2), "a client waited for {longest:?} after the heal");
    nodes.await_agreement(&nodes.ids());
}
