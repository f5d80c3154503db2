//! Random scripts of transactions over shards that move: transfers between accounts, reads of the whole bank, lists that
//! grow by transactions, swaps in opposite directions, requests of one key in between; leaders that die and groups
//! without majority; and a net that loses, repeats, delays and leads astray. The world judges P7, P8 and P9 after every
//! step; when the faults are over, everything is answered and nothing is locked (P10).

use crate::golden::Language;
use crate::prng::Prng;
use crate::shard::script::Script;

const STEPS: u64 = 150;
const SHARDS: u64 = 4;
/// Accounts are one a shard, and hold nothing when all begins.
const BANK: &str = "get 0/a, get 1/a, get 2/a, get 3/a";

fn pick<'a>(prng: &mut Prng, words: &[&'a str]) -> &'a str {
    words[prng.below(words.len() as u64) as usize]
}

/// What a client asks.
fn ask(prng: &mut Prng) -> String {
    let (one, two, three) = (prng.below(SHARDS), prng.below(SHARDS), prng.below(SHARDS));
    let (client, amount) = (prng.below(4) + 1, prng.below(9) + 1);
    match prng.below(20) {
        0..=2 => format!("txn c{client}: incr {one}/a -{amount}, incr {two}/a {amount}"),
        3..=4 => format!(
            "txn c{client}: incr {one}/a -{amount}, incr {two}/a {amount}, incr {three}/a -1, incr {one}/a 1"
        ),
        5..=6 => format!("txn c{client}: {BANK}"),
        7..=8 => format!("txn c{client}: append {one}/l {amount}, append {two}/m {amount}, get {one}/l"),
        9..=10 => format!("txn c{client}: swap {one}/s {two}/s"),
        11 => format!("txn c{client}: swap {two}/s {one}/s, delete {two}/d"),
        12 => format!(
            "txn c{client}: if {one}/s present, {two}/l != v3 then put {two}/s {amount} else put {one}/s {amount}, copy {two}/d {one}/s"
        ),
        13 => format!("txn c{client}: cas {one}/s {amount} x, delete {two}/l"),
        14 => format!("txn c{client}: incr {one}/s 1, incr {two}/a 0"),
        15 => format!("incr c{client} {one}/a 0"),
        16 => format!("append c{client} {one}/l {amount}"),
        17 => format!("put c{client} {one}/s {amount}"),
        18 => format!("get {one}/a"),
        _ => format!("scan {one}"),
    }
}

/// A step of a transaction alone: in some scripts little is said twice, so that what gets lost or astray matters.
fn step(prng: &mut Prng) -> String {
    let (shard, group) = (prng.below(SHARDS), prng.below(3) + 1);
    match prng.below(10) {
        0..=1 => format!("redirect Decide to g{group}"),
        2 => format!("drop Decide {shard}"),
        3 => format!("send g{group}"),
        4 => "deliver Ask".to_string(),
        5 => "deliver Decided".to_string(),
        6 => "deliver Granted".to_string(),
        7 => format!("deliver Decide {shard}"),
        8 => "deliver Done".to_string(),
        _ => "deliver Prepare".to_string(),
    }
}

/// A command drawn. Some mean nothing where they are drawn: the script says so, and goes on.
fn draw(prng: &mut Prng, terse: bool) -> String {
    if terse && prng.chance(400) {
        return step(prng);
    }
    let (shard, group, client) = (prng.below(SHARDS), prng.below(4) + 1, prng.below(4) + 1);
    let place = if prng.chance(200) { "m".to_string() } else { format!("g{group}") };
    let first = prng.below(3) + 1;
    match prng.below(60) {
        0..=13 => ask(prng),
        14..=15 => format!("retry c{client} at g{group}"),
        16..=17 => format!("retry c{client}"),
        18 => format!("retry c{client} #{}", first),
        19 => format!("give up c{client}"),
        20..=22 => format!("move {shard} to {group}"),
        23 => format!("join {group} 1 2 3"),
        24 => format!("leave {group}"),
        25 => format!("down {place}"),
        26..=27 => format!("up {place}"),
        28..=29 => format!("leader {place} dies"),
        30 => format!("pause g{group}"),
        31 => format!("resume g{group}"),
        32 => match prng.below(3) {
            0 => format!("behind g{group} {}", prng.below(40)),
            _ => format!("tick {}", prng.below(80)),
        },
        33 => format!("drop first={first}"),
        34 => format!("drop {} {shard}", pick(prng, &["Prepare", "Granted", "Decide", "Done"])),
        35..=36 => format!("copy first={first}"),
        37 => format!("hold {shard} {}", pick(prng, &["first=1", "Prepare", "Decide"])),
        38 => "release".to_string(),
        39 => format!("redirect first={first} to g{group}"),
        40 => format!("redirect {} to g{group}", pick(prng, &["Prepare", "Decide", "Ask"])),
        41 => format!("expire g{group}"),
        42..=43 => format!("send {place}"),
        44..=45 => {
            if terse {
                "deliver".to_string()
            } else {
                "send".to_string()
            }
        }
        46..=48 => format!("deliver {shard}"),
        49..=50 => format!("deliver c{client}"),
        51..=55 => format!("deliver first={first}"),
        _ if terse => "deliver".to_string(),
        _ => "round".to_string(),
    }
}

/// The commands of a seed.
pub fn script(seed: u64) -> Vec<String> {
    let mut prng = Prng::new(seed);
    let chunk = [1, 60, 65_536][prng.below(3) as usize];
    let (groups, lag, rounds) = (prng.between(2, 3), prng.below(3), prng.below(3) + 1);
    let ttl = [150, 100_000][prng.below(2) as usize];
    let (txns, parked) = ([2, 100][prng.below(2) as usize], [1, 100][prng.below(2) as usize]);
    let mut commands = vec![format!(
        "cluster shards={SHARDS} groups={groups} chunk={chunk} lag={lag} rounds={rounds} ttl={ttl} ahead=100 \
         txns={txns} parked={parked}"
    )];
    let terse = prng.chance(500);
    commands.extend((0..STEPS).map(|_| draw(&mut prng, terse)));
    commands.extend((1..5).flat_map(|id| [format!("up g{id}"), format!("resume g{id}")]));
    commands.extend(["up m", "release", "finish"].map(String::from));
    commands.push(format!("txn c9: {BANK}"));
    commands.push("finish".to_string());
    commands
}

/// Runs the script of a seed. The number of transactions that ran.
///
/// # Errors
/// The first property that didn't hold.
pub fn run(seed: u64) -> Result<usize, String> {
    let commands = script(seed);
    let (mut script, mut lines) = (Script::default(), Vec::new());
    for (number, command) in commands.iter().enumerate() {
        let said = script.run(command);
        if let Some(line) = said.iter().find(|line| line.starts_with("violated ")) {
            return Err(format!("seed {seed}: {line}, after\n> {}", commands[..=number].join("\n> ")));
        }
        lines.extend(said);
    }
    if lines.last().is_none_or(|line| line != "all is answered") {
        return Err(format!("seed {seed}: P10: something isn't answered"));
    }
    let ran = lines.iter().filter(|line| line.contains(" ran ")).count();
    let bank = lines.iter().rev().find(|line| line.contains(" c9 ") && line.contains(" ran then "));
    let amounts = bank.and_then(|line| line.split_once('[')).map_or("", |(_, rest)| rest);
    let amounts = amounts.trim_end_matches(']').split(", ").filter_map(|value| value.split(' ').next());
    let sum: i64 = amounts.filter_map(|amount| amount.parse::<i64>().ok()).sum();
    if bank.is_none() || sum != 0 {
        return Err(format!("seed {seed}: P7: the bank holds {bank:?}"));
    }
    Ok(ran)
}
