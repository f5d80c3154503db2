//! Hostile bytes for what stands in the shardmaster's log, what it is asked, and its snapshots.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod world;

use bincode::{Decode, Encode};
use fuzz::dice::Dice;
use fuzz::mutate::mutate;
use fuzz::run::{Target, Verdict};
use fuzz::sequence;
use paxos::codec;
use paxos::ids::{ClientId, GroupId, LogTime, NodeId, Sequence, Slot};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{Page, RequestId, StateMachine};
use shardmaster::command::{Command, Measure, Policy, Reply, Request, ShardChange};
use shardmaster::ids::{ConfigNum, Epoch, GroupRef, ShardId};
use shardmaster::master::Master;
use shardmaster::orders::Report;
use shardmaster::query::{Answer, Query};
use shardmaster::refusal::Refusal;
use world::{World, info, master};

fn commands() -> Vec<Command> {
    let from = GroupRef { group: GroupId(1), generation: paxos::ids::Generation(1) };
    let report = Report::Moved { shard: ShardId(3), epoch: Epoch(2) };
    vec![
        Command::Join { group: GroupId(4), nodes: vec![NodeId(4), NodeId(5)] },
        Command::Leave { group: GroupId(2) },
        Command::Move { shards: vec![ShardId(1), ShardId(3)], to: GroupId(2) },
        Command::Swap { a: ShardId(0), b: ShardId(7) },
        Command::Register(info(3)),
        Command::Report { from, report },
        Command::Report { from, report: Report::Active },
        Command::SetPaused(true),
        Command::SetPolicy(Policy { measure: Measure::Load, ..Policy::default() }),
    ]
}

fn request(command: Command) -> Request {
    Request { id: RequestId { client: ClientId(1 << 90), sequence: Sequence(300) }, command }
}

/// Whatever decodes is what its own encoding decodes to.
fn again<T: Encode + Decode<()> + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Verdict {
    let decoded = codec::decode::<T>(bytes);
    if let Ok(value) = &decoded {
        assert_eq!(codec::decode::<T>(&codec::encode(value)).as_ref(), Ok(value));
    }
    Verdict::of(&decoded)
}

#[test]
fn fuzz_requests() {
    let seeds = commands().into_iter().map(|command| request(command).encode()).collect();
    let fresh = master(8, 3);
    Target::new("master_request", seeds).run(|bytes| {
        let decoded = Request::decode(bytes);
        if let Ok(request) = &decoded {
            assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(request));
        }
        let mut master = fresh.clone();
        let mut batch = BatchBuilder::default();
        batch.push(bytes);
        let mut replies = Vec::new();
        master.apply(Slot(6), &batch.finish(LogTime(100)), &mut replies);
        master.check().unwrap();
        let (id, reply) = replies.pop().unwrap();
        match &decoded {
            Ok(request) => assert_eq!(id, request.id),
            Err(_) => assert!(matches!(reply, Reply::Refused(Refusal::Invalid)), "{reply:?}"),
        }
        Verdict::of(&decoded)
    });
}

#[test]
fn fuzz_queries() {
    let mut queries = vec![
        Query::Map(Some(ConfigNum(1))),
        Query::History { from: ConfigNum(0), limit: 100 },
        Query::Routing { newer_than: 3 },
        Query::Migrations,
        Query::Nodes,
        Query::Duties,
        Query::Policy,
        Query::Rebalance,
    ];
    queries.extend(commands().into_iter().map(Query::DryRun));
    let mut world = World::new(8, 3);
    world.command(&Command::Join { group: GroupId(4), nodes: vec![NodeId(4), NodeId(5)] });
    Target::new("master_query", queries.iter().map(codec::encode).collect()).run(|bytes| {
        if let Ok(query) = codec::decode::<Query>(bytes) {
            let answer = world.master.query(&query);
            assert_eq!(codec::decode::<Answer>(&codec::encode(&answer)), Ok(answer));
        }
        again::<Query>(bytes)
    });
}

#[test]
fn fuzz_answers() {
    let mut world = World::new(8, 3);
    world.command(&Command::Move { shards: vec![ShardId(1)], to: GroupId(2) });
    let queries = [
        Query::Map(None),
        Query::History { from: ConfigNum(0), limit: 100 },
        Query::Routing { newer_than: 0 },
        Query::Migrations,
        Query::Nodes,
        Query::Duties,
        Query::Policy,
        Query::Rebalance,
        Query::DryRun(Command::Leave { group: GroupId(3) }),
    ];
    let answers = queries.iter().map(|query| codec::encode(&world.master.query(query))).collect();
    Target::new("master_answer", answers).run(again::<Answer>);
    let change = ShardChange { shard: ShardId(1), from: GroupId(1), to: GroupId(2) };
    let replies = [
        Reply::Done,
        Reply::Changed { config: ConfigNum(3), already: false, changes: vec![change] },
        Reply::Refused(Refusal::Invalid),
    ];
    Target::new("master_reply", replies.iter().map(codec::encode).collect()).run(again::<Reply>);
}

/// Pages as one input.
fn flat(pages: &[Page]) -> Vec<u8> {
    let pages: Vec<_> = pages.iter().map(|page| (page.key.clone(), page.body.clone())).collect();
    codec::encode(&pages)
}

fn pages(bytes: &[u8]) -> Option<Vec<Page>> {
    let pages: Vec<(Vec<u8>, Vec<u8>)> = codec::decode(bytes).ok()?;
    Some(pages.into_iter().map(|(key, body)| Page { key, body }).collect())
}

fn snapshot(master: &Master) -> Vec<u8> {
    flat(&master.pages().collect::<Vec<_>>())
}

#[test]
fn fuzz_snapshots() {
    let mut world = World::new(8, 3);
    let mut seeds = vec![snapshot(&world.master)];
    world.command(&Command::Join { group: GroupId(4), nodes: vec![NodeId(4), NodeId(5)] });
    world.work();
    world.command(&Command::Move { shards: vec![ShardId(0), ShardId(1)], to: GroupId(2) });
    seeds.push(snapshot(&world.master));
    let known = seeds.clone();
    let fresh = master(8, 3);
    Target::new("master_snapshot", seeds).run(|bytes| {
        let Some(pages) = pages(bytes) else { return Verdict::Refused("no pages".into()) };
        let restored = fresh.clone().restore(&mut pages.into_iter());
        if let Ok(master) = &restored {
            assert!(known.contains(&snapshot(master)), "another state than any that was written");
        }
        Verdict::of(&restored)
    });
}

/// Pages whose header names the hash that they have; `None` if they are refused for something else.
fn forged(mut pages: Vec<Page>) -> Option<Master> {
    let why = match master(8, 3).restore(&mut pages.clone().into_iter()) {
        Ok(master) => return Some(master),
        Err(error) => error.to_string(),
    };
    let hash = why.split("state hash ").nth(1)?.get(..32)?;
    let hash = u128::from_str_radix(hash, 16).ok()?;
    // A number of 128 bits is a marker and 16 bytes.
    let (_, written) = pages.first_mut()?.body.split_last_chunk_mut::<16>()?;
    *written = hash.to_le_bytes();
    master(8, 3).restore(&mut pages.into_iter()).ok()
}

/// Not damage, but somebody's work: a state that no log leads to, but keeps all that is checked, goes on.
#[test]
fn fuzz_forged_snapshots() {
    let mut world = World::new(8, 3);
    world.command(&Command::Join { group: GroupId(4), nodes: vec![NodeId(4), NodeId(5)] });
    world.work();
    world.command(&Command::Move { shards: vec![ShardId(0), ShardId(1)], to: GroupId(2) });
    let whole: Vec<Page> = world.master.pages().collect();
    let seeds = (0..).zip(&whole).map(|(page, Page { body, .. })| [&[page], &body[..]].concat());
    // An input is one page, after its number.
    let replaced = |bytes: &[u8]| {
        let (page, body) = bytes.split_first()?;
        let mut pages = whole.clone();
        pages.get_mut(usize::from(*page))?.body = body.to_vec();
        Some(pages)
    };
    Target::new("master_forged", seeds.collect()).few(1000).run(|bytes| {
        let master = replaced(bytes).and_then(forged);
        let verdict = Verdict::of_option(&master);
        let Some(mut master) = master else { return verdict };
        for (time, command) in (0..).zip(commands()) {
            let mut batch = BatchBuilder::default();
            batch.push(&request(command).encode());
            master.apply(Slot(time), &batch.finish(LogTime(time)), &mut Vec::new());
        }
        for query in [Query::Migrations, Query::Duties, Query::Rebalance, Query::Routing { newer_than: 0 }] {
            let _ = master.query(&query);
        }
        let _ = (master.state_bytes(), master.counts(), master.state_hash());
        verdict
    });
}

/// A history of changes, orders and reports, each changed before it is applied, or not.
fn history(mut dice: Dice) -> u64 {
    let mut world = World::new(8, 3);
    let steps = 20 + dice.below(60) as u64;
    let seeds: Vec<Vec<u8>> = commands().into_iter().map(|command| request(command).encode()).collect();
    let mut known = seeds.clone();
    let mut time = 1000;
    for step in 0..steps {
        let duties = world.master.clone().query(&Query::Duties);
        if let Answer::Duties(duties) = duties
            && !duties.is_empty()
        {
            let duty = dice.pick(&duties);
            let report = *dice.pick(&reports(duty.order));
            known.push(request(Command::Report { from: duty.to, report }).encode());
        }
        let from = dice.pick(&known).clone();
        let bytes = match dice.chance(70) {
            true => mutate(&mut dice, &from, &seeds[0], &[], 1 << 16),
            false => from,
        };
        let before = world.master.clone();
        time = if dice.chance(5) { dice.hostile() } else { time.saturating_add(1) };
        let mut batch = BatchBuilder::default();
        // Another sequence, so that it isn't a retry.
        match Request::decode(&bytes) {
            Ok(found) if dice.chance(90) => {
                let id = RequestId { sequence: Sequence(1000 + step), ..found.id };
                batch.push(&Request { id, ..found }.encode());
            }
            _ => batch.push(&bytes),
        }
        let mut batch = batch.finish(LogTime(time));
        if dice.chance(5) {
            batch = mutate(&mut dice, &batch, &bytes, &[], 1 << 16);
        }
        world.master.apply(Slot(step), &batch, &mut Vec::new());
        world.master.check().unwrap();
        world.master.check_since(&before).unwrap();
        known.truncate(100);
    }
    let restored = master(8, 3).restore(&mut world.master.pages().collect::<Vec<_>>().into_iter()).unwrap();
    assert_eq!(restored, world.master);
    assert_eq!(restored.state_hash(), world.master.state_hash());
    steps
}

fn reports(order: shardmaster::orders::Order) -> Vec<Report> {
    use shardmaster::orders::Order;
    match order {
        Order::Greet => vec![Report::Active],
        Order::Stage { shard, epoch, .. } => {
            vec![Report::Moved { shard, epoch }, Report::Abandoned { shard, epoch }]
        }
        Order::Release { shard, epoch } => vec![Report::Released { shard, epoch }],
        Order::Cancel { shard, epoch } => {
            vec![Report::Cancelled { shard, epoch }, Report::Frozen { shard, epoch }]
        }
        Order::Abandon { shard, epoch } => {
            vec![Report::Abandoned { shard, epoch }, Report::Moved { shard, epoch }]
        }
        Order::Thaw { shard, epoch } => vec![Report::Cancelled { shard, epoch }],
        Order::Retire => vec![Report::Retired],
    }
}

#[test]
fn fuzz_histories() {
    sequence::run("master_history", 3000, history);
}
