//! Random scripts of shards: groups that join and leave, moves, writes, and a net that loses, repeats and delays. The world
//! judges P8 and P9 after every step; when the faults are over, all must come to rest (P10).

use crate::golden::Language;
use crate::prng::Prng;
use crate::shard::script::Script;

const STEPS: u64 = 150;

/// A command drawn. Some mean nothing where they are drawn: the script says so, and goes on.
fn draw(prng: &mut Prng) -> String {
    let mut one = |count: u64| prng.below(count);
    let (shard, group, client) = (one(4), one(4) + 1, one(3) + 1);
    let key = format!("{shard}/{}", ["a", "b", "c"][one(3) as usize]);
    let place = [format!("g{group}"), "m".to_string()][usize::from(one(5) == 0)].clone();
    match one(40) {
        0..=5 => format!("append c{client} {key} x at g{group}"),
        6..=8 => format!("append c{client} {key} y"),
        9 => format!("delete c{client} {key}"),
        10..=12 => format!("retry c{client} at g{group}"),
        13..=14 => format!("move {shard} to {group}"),
        15 => format!("join {group} 1 2 3"),
        16 => format!("leave {group}"),
        17 => ["pause moves", "resume moves"][one(2) as usize].to_string(),
        18 => format!("down {place}"),
        19..=20 => format!("up {place}"),
        21 => format!("leader {place} dies"),
        22 => format!("pause g{group}"),
        23 => format!("resume g{group}"),
        24 => format!("tick {}", one(40)),
        25 => format!("drop first={}", one(3) + 1),
        26 => format!("copy first={}", one(3) + 1),
        27 => format!("hold {shard} first=1"),
        28 => "release".to_string(),
        29..=31 => format!("send {place}"),
        32..=34 => "send".to_string(),
        35..=36 => format!("deliver {shard}"),
        37..=38 => "deliver first=2".to_string(),
        _ => "round".to_string(),
    }
}

/// Runs the script of a seed.
///
/// # Errors
/// The first property that didn't hold, with the commands that led there.
pub fn run(seed: u64) -> Result<(), String> {
    let mut prng = Prng::new(seed);
    let chunk = [1, 60, 65_536][prng.below(3) as usize];
    let (lag, rounds) = (prng.below(3), prng.below(3) + 1);
    let mut commands =
        vec![format!("cluster shards=4 groups=2 chunk={chunk} lag={lag} rounds={rounds} ttl=1000")];
    commands.extend((0..STEPS).map(|_| draw(&mut prng)));
    commands.extend((1..5).flat_map(|id| [format!("up g{id}"), format!("resume g{id}")]));
    commands.extend(["up m", "resume moves", "release", "settle", "settle"].map(String::from));
    let (mut script, mut last) = (Script::default(), Vec::new());
    for (number, command) in commands.iter().enumerate() {
        last = script.run(command);
        if let Some(line) = last.iter().find(|line| line.starts_with("violated ")) {
            return Err(format!("seed {seed}: {line}, after\n> {}", commands[..=number].join("\n> ")));
        }
    }
    match last.last() {
        Some(line) if line == "at rest" => Ok(()),
        _ => Err(format!("seed {seed}: P10: {}, after\n> {}", last.join("; "), commands.join("\n> "))),
    }
}
