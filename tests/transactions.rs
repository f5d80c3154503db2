//! Transactions over groups of real processes: through kills, moves, crashes at each step, and cuts between leaders.
//!
//! `BANK_SECONDS`, `SWAP_SECONDS`, `CRASH_ROUNDS` and `CUT_SECONDS` set the doses; the defaults fit a test run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use client::{Access, Client, ClientOptions, Transaction, Txn, TxnReply, TxnResult};
use kvserver::command::shard_of;
use rand::RngExt as _;
use scripted::history::{History, Outcome};
use serde_json::Value as Json;
use tests::Demo;
use tests::load::{await_moves, dose};
use tests::work::{Running, Seen, Worker, connect};
use wire::v1;

const SHARDS: u64 = 16;
/// What each account has at first.
const BALANCE: i64 = 100;
/// Until when nothing may be left of a transaction, once all is whole again.
const RESOLVED: Duration = Duration::from_secs(10);

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn cluster(groups: u64) -> Demo {
    Demo::start(&["--groups", &groups.to_string(), "--shards", &SHARDS.to_string()])
}

// ------------------------------------------------------------------------------------------------ a bank

/// Accounts whose sum never changes.
#[derive(Clone)]
struct Bank {
    accounts: Vec<Vec<u8>>,
}

impl Bank {
    /// Opens these accounts.
    fn open(demo: &Demo, accounts: Vec<String>) -> Bank {
        let accounts: Vec<Vec<u8>> = accounts.into_iter().map(String::into_bytes).collect();
        let balance = BALANCE.to_string();
        let pairs: Vec<_> = accounts.iter().map(|account| (account, &balance)).collect();
        let endpoints = demo.endpoints();
        runtime().block_on(async { connect(endpoints).await.multi_put(&pairs).await }).unwrap();
        Bank { accounts }
    }

    /// From an account to another one, which it draws.
    fn transfer(&self, worker: &mut Worker, from: &[u8]) -> Txn {
        let others: Vec<_> = self.accounts.iter().filter(|account| *account != from).collect();
        let to = others[worker.random.random_range(0..others.len())];
        transfer(from, to, worker.random.random_range(1..=5))
    }

    fn read_all(&self) -> Txn {
        self.accounts.iter().fold(Transaction::new(), Transaction::get).into()
    }

    /// Each reading of all accounts has the right sum, and the history can be ordered. How many readings.
    fn judge(&self, seen: &mut Seen) -> usize {
        let initial = self.accounts.iter().map(|account| (account.clone(), BALANCE.to_string().into_bytes()));
        seen.history.initial = initial.collect();
        let sums = sums(&seen.history, self.accounts.len());
        let right = BALANCE * self.accounts.len() as i64;
        let wrong: Vec<_> = sums.iter().filter(|sum| **sum != right).collect();
        assert!(wrong.is_empty(), "P8, P9: {} of {} sums aren't {right}: {wrong:?}", wrong.len(), sums.len());
        seen.assert_ordered();
        sums.len()
    }
}

fn transfer(from: &[u8], to: &[u8], amount: i64) -> Txn {
    Transaction::new().when_present(from).when_present(to).incr(from, -amount).incr(to, amount).into()
}

/// What the readings of so many accounts add up to.
fn sums(history: &History, accounts: usize) -> Vec<i64> {
    let readings = history.operations.iter().filter_map(|op| match &op.outcome {
        Outcome::Replied(reply) if op.txn.is_read_only() && reply.results.len() == accounts => Some(reply),
        _ => None,
    });
    readings.map(|reply| reply.results.iter().map(balance).sum()).collect()
}

fn balance(result: &TxnResult) -> i64 {
    match result {
        TxnResult::Value(Some((value, _))) => std::str::from_utf8(value).unwrap().parse().unwrap(),
        other => panic!("an account is gone: {other:?}"),
    }
}

/// Kills the leader of one group after the other, and starts it again.
struct Killer {
    turn: u64,
    groups: u64,
    down: Option<u64>,
}

impl Killer {
    fn kill(&mut self, demo: &Demo) {
        let leader = demo.leader(self.turn % self.groups + 1);
        self.turn += 1;
        demo.ok(&["fault", "kill", "--node", &leader.to_string()]);
        self.down = Some(leader);
    }

    fn restart(&mut self, demo: &Demo) {
        if let Some(node) = self.down.take() {
            demo.ok(&["fault", "start", "--node", &node.to_string()]);
        }
    }
}

/// Asks for a shard to be moved; whether that was taken.
fn move_shard(demo: &Demo, shard: u64, to: u64) -> bool {
    let (shard, to) = (shard.to_string(), to.to_string());
    let output = demo.kvctl(&["--timeout", "20s", "shard", "move", &shard, "--to", &to]);
    match output.status.code() {
        Some(0) => true,
        Some(4 | 6) => false,
        code => panic!("shard move: {code:?}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn a_bank_keeps_its_sum_through_kills_and_moves() {
    const GROUPS: u64 = 4;
    const TRANSFERRING: u64 = 20;
    let demo = cluster(GROUPS);
    let bank = Bank::open(&demo, (0..64).map(|n| format!("account-{n:02}")).collect());
    let working = bank.clone();
    let running =
        Running::start(demo.endpoints(), TRANSFERRING + 3, bank.accounts.clone(), move |mut worker| {
            let bank = working.clone();
            async move {
                while worker.goes_on() {
                    let from = bank.accounts[worker.random.random_range(0..bank.accounts.len())].clone();
                    let txn = match worker.who < TRANSFERRING {
                        true => bank.transfer(&mut worker, &from),
                        false => bank.read_all(),
                    };
                    worker.transact(txn).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                worker
            }
        });
    let mut killer = Killer { turn: 0, groups: GROUPS, down: None };
    let mut moves = 0;
    for second in 1..=dose("BANK_SECONDS", 12) {
        let next = Instant::now() + Duration::from_secs(1);
        match second % 5 {
            0 => killer.kill(&demo),
            1 => killer.restart(&demo),
            _ => {}
        }
        moves +=
            u64::from(second % 2 == 0 && move_shard(&demo, second / 2 * 5 % SHARDS, second / 2 % GROUPS + 1));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    killer.restart(&demo);
    let settled = await_moves(&demo, RESOLVED);
    let mut seen = running.finish();
    let resolved = await_nothing_left(&demo, GROUPS);
    let readings = bank.judge(&mut seen);
    println!(
        "{} kills, {moves} moves, settled after {settled:?}, resolved after {resolved:?}; {readings} sums; {}",
        killer.turn,
        seen.summary()
    );
    assert!(killer.turn > 0 && moves > 0 && readings > 10, "a fault that never fired proves nothing");
    seen.assert_no_errors();
}

#[test]
fn a_wrong_sum_is_noticed() {
    use scripted::history::Operation;
    let found = |n: i64| TxnResult::Value(Some((n.to_string().into_bytes(), 1)));
    let outcome = Outcome::Replied(TxnReply { held: true, results: vec![found(7), found(-3)] });
    let txn = Transaction::new().get("a").get("b").into();
    let reading = Operation { client: 0, invoked: 0, returned: 1, txn, outcome };
    assert_eq!(sums(&History { operations: vec![reading], ..History::default() }, 2), [4]);
}

// ------------------------------------------------------------------------------------------------ what is under way

async fn transactions(address: String) -> Result<v1::TransactionsResponse, String> {
    let mut node = client::admin(&address, Duration::from_secs(2), &Access::default())
        .await
        .map_err(|error| error.to_string())?;
    let told = node.transactions(v1::TransactionsRequest {}).await;
    Ok(told.map_err(|status| status.to_string())?.into_inner())
}

/// Waits until the leaders of all groups say that no transaction is under way; how long that took.
fn await_nothing_left(demo: &Demo, groups: u64) -> Duration {
    let (runtime, began) = (runtime(), Instant::now());
    loop {
        let told = demo.endpoints().into_iter().map(|address| runtime.block_on(transactions(address)));
        let told: Vec<_> = told.collect();
        let known = told.iter().flatten();
        let led: BTreeSet<u32> = known.clone().flat_map(|told| told.groups.iter().copied()).collect();
        let is_idle = known.clone().all(|told| told.transactions.is_empty());
        if is_idle && (1..=groups).all(|group| led.contains(&u32::try_from(group).unwrap())) {
            return began.elapsed();
        }
        assert!(began.elapsed() < RESOLVED, "P10: still under way after {RESOLVED:?}: {told:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// So many keys in each of these groups.
fn keys_by_group(demo: &Demo, groups: &[u64], each: usize) -> BTreeMap<u64, Vec<String>> {
    let names: Vec<String> = (0..400).map(|n| format!("account-{n:03}")).collect();
    let arguments = ["-o", "json", "locate"].into_iter().chain(names.iter().map(String::as_str));
    let located = json(&demo.ok(&arguments.collect::<Vec<_>>()));
    let mut keys: BTreeMap<u64, Vec<String>> = groups.iter().map(|group| (*group, Vec::new())).collect();
    for key in located["keys"].as_array().unwrap() {
        if let Some(keys) = keys.get_mut(&key["group"].as_u64().unwrap()).filter(|keys| keys.len() < each) {
            keys.push(key["key"].as_str().unwrap().to_string());
        }
    }
    assert!(keys.values().all(|keys| keys.len() == each), "too few keys: {keys:?}");
    keys
}

/// Makes a node lead a group.
fn lead(demo: &Demo, group: u64, node: u64) {
    let (name, to) = (group.to_string(), node.to_string());
    let end = Instant::now() + Duration::from_secs(20);
    while demo.leader(group) != node {
        demo.kvctl(&["member", "transfer-leader", "--group", &name, "--to", &to]);
        assert!(Instant::now() < end, "node {node} doesn't come to lead group {group}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

// ------------------------------------------------------------------------------------------------ opposing swaps

/// Commits in each whole second of a history.
fn commits_by_second(history: &History, seconds: u64) -> Vec<usize> {
    let mut commits = vec![0; usize::try_from(seconds).unwrap()];
    for op in &history.operations {
        let second = usize::try_from(op.returned / 1_000_000).unwrap_or(usize::MAX);
        if let (Some(commits), Outcome::Replied(_)) = (commits.get_mut(second), &op.outcome) {
            *commits += 1;
        }
    }
    commits
}

/// The slowest of a hundred operations.
fn p99(history: &History) -> Duration {
    let mut times: Vec<u64> = history.operations.iter().map(|op| op.returned - op.invoked).collect();
    times.sort_unstable();
    Duration::from_micros(times[times.len() * 99 / 100])
}

/// The sum over all nodes of what a counter of `/metrics` says.
fn counted(demo: &Demo, name: &str) -> u64 {
    use std::io::{Read as _, Write as _};
    let of = |node| {
        let mut stream = std::net::TcpStream::connect(demo.port(node, "http")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    (1..=demo.endpoints().len()).map(of).sum()
}

#[test]
fn opposing_swaps_go_on() {
    let demo = cluster(2);
    let keys = keys_by_group(&demo, &[1, 2], 1);
    let (a, b) = (keys[&1][0].clone(), keys[&2][0].clone());
    demo.ok(&["put", &a, "left"]);
    demo.ok(&["put", &b, "right"]);
    let shards = [&a, &b].map(|key| u64::from(shard_of(key.as_bytes(), SHARDS as u16).0));
    let both = [a.clone().into_bytes(), b.clone().into_bytes()];
    let initial = [(both[0].clone(), b"left".to_vec()), (both[1].clone(), b"right".to_vec())];
    let running = Running::start(demo.endpoints(), 20, both.to_vec(), move |mut worker| {
        let (a, b) = if worker.who % 2 == 0 { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        async move {
            while worker.goes_on() {
                let swap = Transaction::new().get(&a).get(&b).copy(&a, &b).copy(&b, &a);
                worker.transact(swap.into()).await;
            }
            worker
        }
    });
    let (seconds, mut moves) = (dose("SWAP_SECONDS", 6), 0);
    for turn in 1..=seconds {
        std::thread::sleep(Duration::from_secs(1));
        // Now and then the shards of both keys change places.
        if turn % 3 == 0 {
            let (to_a, to_b) = if turn % 2 == 1 { (2, 1) } else { (1, 2) };
            moves +=
                u64::from(move_shard(&demo, shards[0], to_a)) + u64::from(move_shard(&demo, shards[1], to_b));
        }
    }
    let mut seen = running.finish();
    let commits = commits_by_second(&seen.history, seconds);
    let given_up = counted(&demo, "synod_txns_older_total");
    println!(
        "{commits:?} commits by second, p99 {:?}, {given_up} tries given up, {moves} moves; {}",
        p99(&seen.history),
        seen.summary()
    );
    assert!(commits.iter().all(|commits| *commits > 0), "P10: a second without a commit: {commits:?}");
    seen.history.initial.extend(initial);
    seen.assert_right();
    await_nothing_left(&demo, 2);
}

// ------------------------------------------------------------------------------------------------ crashes

/// Steps of a transaction at which a process can be told to end; whether that is the coordinator's.
const STEPS: [(&str, bool); 8] = [
    ("begun", true),
    ("prepared", true),
    ("decided", true),
    ("told", true),
    ("prepare-received", false),
    ("prepare-logged", false),
    ("decide-received", false),
    ("decide-logged", false),
];

async fn crash_at(address: String, step: &str) {
    let mut node = client::admin(&address, Duration::from_secs(2), &Access::default()).await.unwrap();
    let faults = node.get_faults(v1::FaultsRequest {}).await.unwrap().into_inner();
    node.set_faults(v1::Faults { crash_at: step.to_string(), ..faults }).await.unwrap();
}

fn await_death(demo: &Demo, node: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let listed = json(&demo.ok(&["-o", "json", "fault", "list"]));
        let process = listed["nodes"].as_array().unwrap().iter().find(|found| found["id"] == node).unwrap();
        if process["process"] == "down" {
            return;
        }
        assert!(Instant::now() < end, "node {node} never came to that step");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Clients that transfer from accounts of the first group to accounts of the second, and read all.
fn transfers_between(demo: &Demo, bank: &Bank, homes: usize, timeout: Duration) -> Running {
    let (bank, endpoints) = (bank.clone(), demo.endpoints());
    Running::start(demo.endpoints(), 6, bank.accounts.clone(), move |mut worker| {
        let (bank, endpoints) = (bank.clone(), endpoints.clone());
        async move {
            worker.client = patient(endpoints, timeout).await;
            while worker.goes_on() {
                let from = bank.accounts[worker.random.random_range(0..homes)].clone();
                let to = bank.accounts[worker.random.random_range(homes..bank.accounts.len())].clone();
                let txn = if worker.who == 0 { bank.read_all() } else { transfer(&from, &to, 1) };
                worker.transact(txn).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            worker
        }
    })
}

async fn patient(endpoints: Vec<String>, timeout: Duration) -> Client {
    let options = ClientOptions { endpoints, timeout, ..ClientOptions::default() };
    Client::connect(options).await.unwrap()
}

#[test]
fn a_crash_at_any_step_is_resolved() {
    let demo = cluster(2);
    let runtime = runtime();
    let keys = keys_by_group(&demo, &[1, 2], 4);
    for (step, at_coordinator) in STEPS.into_iter().cycle().take(8 * dose("CRASH_ROUNDS", 1) as usize) {
        let bank = Bank::open(&demo, [keys[&1].clone(), keys[&2].clone()].concat());
        // Elsewhere than the other group, so that only one of the two parts dies.
        lead(&demo, 1, 1);
        lead(&demo, 2, 2);
        let node = if at_coordinator { 1 } else { 2 };
        let running = transfers_between(&demo, &bank, 4, Duration::from_secs(60));
        runtime.block_on(crash_at(demo.port(node as usize, "client"), step));
        await_death(&demo, node);
        std::thread::sleep(Duration::from_millis(300));
        demo.ok(&["fault", "start", "--node", &node.to_string()]);
        let restarted = Instant::now();
        let mut seen = running.finish();
        let left = await_nothing_left(&demo, 2);
        let resolved = restarted.elapsed();
        let readings = bank.judge(&mut seen);
        println!(
            "{step}: resolved {resolved:?} after the restart ({left:?}); {readings} sums; {}",
            seen.summary()
        );
        assert!(resolved < RESOLVED, "P10: {step}: it took {resolved:?}");
        seen.assert_no_errors();
    }
}

// ------------------------------------------------------------------------------------------------ cuts

#[test]
fn leaders_cut_from_each_other_give_clear_answers() {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let demo = cluster(2);
    let keys = keys_by_group(&demo, &[1, 2], 4);
    let bank = Bank::open(&demo, [keys[&1].clone(), keys[&2].clone()].concat());
    // Both keep a majority with node 3, but can't say anything to each other.
    lead(&demo, 1, 1);
    lead(&demo, 2, 2);
    let across = transfers_between(&demo, &bank, 4, TIMEOUT);
    let local = Bank::open(&demo, keys[&1].iter().map(|key| format!("{{{key}}}-local")).collect());
    let working = local.clone();
    let within = Running::start(demo.endpoints(), 2, local.accounts.clone(), move |mut worker| {
        let bank = working.clone();
        async move {
            while worker.goes_on() {
                let from = bank.accounts[worker.random.random_range(0..bank.accounts.len())].clone();
                let txn = bank.transfer(&mut worker, &from);
                worker.transact(txn).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            worker
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    demo.ok(&["fault", "partition", "1|2"]);
    let cut_at = across.now();
    std::thread::sleep(Duration::from_secs(dose("CUT_SECONDS", 12)));
    let healed_at = across.now();
    demo.ok(&["fault", "heal"]);
    std::thread::sleep(Duration::from_secs(2));
    let mut across = across.finish();
    let mut within = within.finish();
    let left = await_nothing_left(&demo, 2);
    println!("cut: across {}\nwithin {}", across.summary(), within.summary());
    println!("nothing left after {left:?}; errors: {:#?}", across.errors);
    let committed = |from: u64, to: u64| {
        let within = across.history.operations.iter().filter(|op| op.invoked > from && op.returned < to);
        within.filter(|op| matches!(op.outcome, Outcome::Replied(_))).count()
    };
    assert_eq!(committed(cut_at, healed_at), 0, "a fault that didn't fire proves nothing");
    assert!(committed(healed_at, u64::MAX) > 10, "P10: it doesn't go on after the heal");
    assert!(across.longest < TIMEOUT + Duration::from_secs(1), "an answer took {:?}", across.longest);
    bank.judge(&mut across);
    local.judge(&mut within);
    within.assert_no_errors();
    assert!(within.longest < Duration::from_secs(2), "in one group an operation took {:?}", within.longest);
}
