//! kill -9 of one node, of a leader, of a minority, of a majority and of all at the same moment, again and again, under load.
//!
//! `KILLS_SECONDS` sets the dose: a kill every 5 s. By default each kind comes once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tests::load::{Load, dose};
use tests::nodes::{Nodes, Plan, SOON, bound, until};

const EVERY: Duration = Duration::from_secs(5);
const KINDS: [&str; 5] = ["one", "leader", "minority", "majority", "all"];

/// Whom to kill, of five.
fn victims(nodes: &Nodes, turn: usize) -> Vec<u32> {
    let leader = nodes.await_leader(1 + turn as u32 / 5 % 2);
    let of_one =
        |first: u32, count: usize| -> Vec<u32> { (first..).take(count).map(|n| n % 5 + 1).collect() };
    match KINDS[turn % 5] {
        "one" => of_one(turn as u32, 1),
        "leader" => vec![leader],
        // A leader is among them.
        "minority" => of_one(leader - 1, 2),
        "majority" => of_one(leader - 1, 3),
        _ => nodes.ids(),
    }
}

#[test]
fn kills_of_one_some_and_all_lose_nothing() {
    let mut nodes = Nodes::start(Plan::new(5).with("--limits.checkpoint_log=4MiB"));
    let load = Load { clients: 8, keys: 128, pause: Duration::from_millis(50), lost_percent: 0 };
    let running = load.start(nodes.endpoints());
    let seconds = dose("KILLS_SECONDS", 0);
    let (began, mut turn) = (Instant::now(), 0);
    let mut back: Vec<(Duration, &str)> = Vec::new();
    while turn < KINDS.len() || began.elapsed().as_secs() < seconds {
        let before = running.acked();
        until("some writes", SOON, || (running.acked() > before + 20).then_some(()));
        let victims = victims(&nodes, turn);
        nodes.kill(&victims);
        std::thread::sleep(Duration::from_millis(turn as u64 * 137 % 700));
        for id in victims {
            nodes.start_node(id);
        }
        back.push((nodes.await_serving(bound(10)), KINDS[turn % 5]));
        turn += 1;
        if seconds > 0 {
            std::thread::sleep((EVERY * turn as u32).saturating_sub(began.elapsed()));
        }
    }
    let seen = running.finish();
    let worst = |kind| back.iter().filter(|(_, of)| *of == kind).map(|(time, _)| *time).max();
    println!("{turn} kills; {}", seen.summary());
    println!("longest until all groups served again: {:?}", KINDS.map(|kind| (kind, worst(kind))));
    let kinds: BTreeSet<_> = back.iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds.len(), KINDS.len(), "a fault that never fired proves nothing");
    seen.assert_right();
    nodes.await_agreement(&nodes.ids());
}
