//! Random histories of transactions over groups, with moves of shards, messages lost, doubled and astray, snapshots and
//! expiry: sums are conserved, everything is answered once, and all comes to rest.

#[path = "transactions/world.rs"]
mod world;

use kvserver::command::{Op, Reply};
use kvserver::genesis::Limits;
use world::{GROUPS, SHARDS, World, number_of, read_all, sum, transfer};

const ACCOUNTS: usize = 8;

fn run(seed: u64) -> (usize, usize, usize) {
    let limits =
        Limits { handoff_chunk_bytes: 60, handoff_freeze_lag: 2, handoff_rounds: 2, ..Limits::default() };
    let mut world = World::new(seed, &limits);
    let accounts: Vec<Vec<u8>> = (0..ACCOUNTS).map(|n| World::key(n as u16 % SHARDS, n)).collect();
    let list = World::key(2, 99);
    let mut appended = 0;
    let mut reads = Vec::new();
    let (astray, loss) = (world.dice.below(25), world.dice.below(30));
    for _ in 0..world.dice.below(400) + 50 {
        world.tick();
        match world.dice.below(20) {
            0..4 if world.open.len() < 6 => {
                let client = world.dice.below(5) as u128 + 1;
                let (from, to) = (world.dice.below(ACCOUNTS), world.dice.below(ACCOUNTS));
                let op = match world.dice.below(6) {
                    0 => read_all(&accounts),
                    1 => {
                        appended += 1;
                        Op::Append { key: list.clone(), value: format!("{appended},").into_bytes() }
                    }
                    2 => Op::Incr { key: accounts[from].clone(), by: 0 },
                    _ => transfer(&accounts[from], &accounts[to], 1 + world.dice.below(9) as i64),
                };
                let is_read = matches!(&op, Op::Txn(txn) if txn.is_read_only());
                let id = world.ask(client, op);
                if is_read {
                    reads.push(id);
                }
            }
            4 => world.owe(),
            5 => world.begin_move(),
            6..9 => world.step_move(),
            9 if world.dice.chance(20) => world.expire(),
            10 if world.dice.chance(20) => {
                let at = world.dice.below(GROUPS);
                world.restore(at, &limits);
            }
            _ if world.net.is_empty() => {}
            _ => {
                let n = world.dice.below(world.net.len());
                let message = world.net[n].clone();
                // Some are delivered again later.
                if !world.dice.chance(10) {
                    world.net.swap_remove(n);
                }
                if !world.dice.chance(loss) {
                    world.deliver(message, astray);
                }
                if world.net.len() > 200 {
                    world.net.truncate(100);
                }
            }
        }
    }
    world.come_to_rest();
    for id in reads {
        let Some(Reply::Txn(reply)) = world.answers.get(&id) else { panic!("a read has no answer") };
        assert_eq!(sum(reply), 0, "seed {seed}: a transaction saw half of another one");
    }
    let total: i64 = accounts.iter().filter_map(|key| world.value(key)).map(|value| number_of(&value)).sum();
    assert_eq!(total, 0, "seed {seed}: a transfer was done by half, or twice");
    let list = world.value(&list).unwrap_or_default();
    let mut numbers: Vec<i64> =
        list.split(|byte| *byte == b',').filter(|n| !n.is_empty()).map(number_of).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=appended).collect::<Vec<i64>>(), "seed {seed}: every append once");
    (world.answers.len(), world.conflicts, world.moved)
}

#[test]
fn sums_are_conserved_and_everything_is_answered() {
    let seeds = std::env::var("TXN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let (mut answers, mut conflicts, mut moved) = (0, 0, 0);
    for seed in 1..=seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let Ok((a, c, m)) = result else { panic!("seed {seed}") };
        (answers, conflicts, moved) = (answers + a, conflicts + c, moved + m);
    }
    println!("{seeds} seeds: {answers} answers, {conflicts} attempts given up, {moved} moves");
    assert!(answers > 10 * seeds as usize && conflicts > 0 && moved > 0, "the histories are worth something");
}
