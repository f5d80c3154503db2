//! What the engine promises, whatever nodes and streams do.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use paxos::ids::GroupId;
use proptest::prelude::*;

use super::sim::{SHARDS, Sim};
use super::{Begun, Event, Kind, Target};
use crate::error::ErrorKind;
use crate::options::{ClientOptions, Consistency};
use crate::outcome::{LinkId, Outcome};

#[test]
fn a_dead_leader_costs_the_election_and_a_few_milliseconds_and_few_messages() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, ClientOptions::default());
        (0..500).for_each(|n| sim.write(n % SHARDS));
        sim.run(Duration::from_millis(10));
        assert!(sim.all_answered());
        sim.kill(1);
        (0..500).for_each(|n| sim.write(n % SHARDS));
        // For a while the others believe in the dead one, then in nobody.
        sim.run(Duration::from_millis(150));
        sim.nodes.iter_mut().for_each(|node| node.hint = 0);
        sim.leader = 0;
        sim.run(Duration::from_millis(250));
        let probes = sim.probes;
        sim.elect(2);
        sim.run(Duration::from_millis(60));
        assert!(sim.all_answered(), "seed {seed}");
        assert!(probes < 60, "seed {seed}: {probes} probes for 500 waiting calls");
        sim.settled();
    }
}

#[test]
fn a_silent_leader_is_left_after_half_a_second() {
    let mut sim = Sim::new(1, ClientOptions::default());
    sim.write(0);
    sim.run(Duration::from_millis(10));
    sim.nodes[0].paused = true;
    sim.write(0);
    sim.run(Duration::from_millis(100));
    sim.elect(3);
    sim.run(Duration::from_millis(390));
    assert!(!sim.all_answered());
    sim.run(Duration::from_millis(50));
    assert!(sim.all_answered());
    sim.resume(1);
    sim.run(Duration::from_millis(50));
    sim.settled();
}

#[test]
fn a_move_costs_its_pause_and_a_few_milliseconds() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, ClientOptions::default());
        (0..100).for_each(|n| sim.write(n % SHARDS));
        sim.run(Duration::from_millis(20));
        assert!(sim.all_answered());
        (0..SHARDS).for_each(|shard| sim.give(shard, Duration::from_millis(30)));
        let began = sim.now;
        (0..100).for_each(|n| sim.write(n % SHARDS));
        sim.run(Duration::from_millis(100));
        assert!(sim.all_answered(), "seed {seed}");
        let last = sim.writes.iter().filter_map(|write| write.ended).max().unwrap();
        assert!(last < began + Duration::from_millis(45), "seed {seed}: {:?}", last - began);
        assert_eq!(sim.executed.len(), 200);
        sim.settled();
    }
}

#[test]
fn transactions_that_give_way_come_back_soon_and_ever_later() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, ClientOptions::default());
        sim.contention = 1.0;
        (0..50).for_each(|n| sim.write(n % SHARDS));
        sim.run(Duration::from_secs(1));
        assert!(sim.writes.iter().all(|write| write.result.is_none()));
        sim.contention = 0.0;
        sim.run(Duration::from_millis(60));
        assert!(sim.all_answered(), "seed {seed}");
        sim.contention = 1.0;
        sim.write(0);
        sim.run(Duration::from_secs(6));
        let Some(Err(error)) = &sim.writes.last().unwrap().result else { panic!("it has to end") };
        assert_eq!((error.kind, error.outcome), (ErrorKind::Conflict, Outcome::NotExecuted));
        sim.settled();
    }
}

#[test]
fn a_cluster_of_another_id_is_not_spoken_to() {
    let mut sim = Sim::new(1, ClientOptions::default());
    let mut hello = sim.hello(LinkId(1));
    hello.cluster = Bytes::from(vec![2; 16]);
    assert!(!sim.engine.hello(LinkId(1), hello, sim.now));
}

#[test]
fn a_read_never_has_an_effect() {
    let mut sim =
        Sim::new(1, ClientOptions { timeout: Duration::from_millis(50), ..ClientOptions::default() });
    sim.nodes.iter_mut().for_each(|node| node.paused = true);
    let kind = Kind::Read(Consistency::Linearizable);
    let Ok(Begun::Granted(key, None)) = sim.engine.begin(Target::Group(GroupId(1)), kind, None, 10, sim.now)
    else {
        panic!("no room in an empty client")
    };
    sim.engine.submit(key, Bytes::from_static(b"query"), sim.now);
    sim.run(Duration::from_millis(100));
    let polled = sim.engine.poll_call(key, &mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Event::Done(Err(error))) = polled else { panic!("{polled:?}") };
    assert_eq!(error.outcome, Outcome::NotExecuted);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u16),
    Cancel(prop::sample::Index),
    Run(u64),
    Kill(u32),
    Revive(u32),
    Cut(u32),
    Pause(u32),
    Resume(u32),
    Elect(u32),
    Give(u16, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SHARDS).prop_map(Step::Write),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        4 => (0_u64..300_000).prop_map(Step::Run),
        // In the middle of an exchange.
        4 => (0_u64..600).prop_map(Step::Run),
        1 => (1_u32..4).prop_map(Step::Kill),
        2 => (1_u32..4).prop_map(Step::Revive),
        1 => (1_u32..4).prop_map(Step::Cut),
        1 => (1_u32..4).prop_map(Step::Pause),
        2 => (1_u32..4).prop_map(Step::Resume),
        2 => (0_u32..4).prop_map(Step::Elect),
        2 => (0..SHARDS, 0_u64..100).prop_map(|(shard, takes)| Step::Give(shard, takes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever nodes and streams do: every call ends by its deadline, an answer means executed, "not executed" means
    /// never executed, and once all is well every call is answered.
    #[test]
    fn the_outcome_is_true(
        steps in prop::collection::vec(step(), 1..80), seed: u64, lossy: bool, contended: bool,
        impatient: bool, in_flight_max in 1_usize..20
    ) {
        let timeout = Duration::from_millis(if impatient { 300 } else { 5000 });
        let options = ClientOptions { in_flight_max, timeout, ..ClientOptions::default() };
        let mut sim = Sim::new(seed, options);
        sim.loss = if lossy { 0.05 } else { 0.0 };
        sim.contention = if contended { 0.5 } else { 0.0 };
        for step in steps {
            match step {
                Step::Write(shard) => sim.write(shard),
                Step::Cancel(pick) if !sim.writes.is_empty() => {
                    let index = pick.index(sim.writes.len());
                    sim.cancel(index);
                }
                Step::Cancel(_) => {}
                Step::Run(micros) => sim.run(Duration::from_micros(micros)),
                Step::Kill(node) => sim.kill(node),
                Step::Revive(node) => sim.nodes[node as usize - 1].alive = true,
                Step::Cut(node) => sim.cut(node),
                Step::Pause(node) => sim.nodes[node as usize - 1].paused = true,
                Step::Resume(node) => sim.resume(node),
                Step::Elect(node) => sim.elect(node),
                Step::Give(shard, takes) => sim.give(shard, Duration::from_millis(takes)),
            }
        }
        sim.loss = 0.0;
        sim.contention = 0.0;
        for node in 1..=3 {
            sim.nodes[node as usize - 1].alive = true;
            sim.resume(node);
        }
        sim.elect(2);
        let healed = sim.now;
        sim.run(Duration::from_secs(6));
        for write in &sim.writes {
            let executed = write.sequence.is_some_and(|sequence| sim.executed.contains(&sequence));
            match write.result.as_ref() {
                None => prop_assert!(false, "a call has no end"),
                Some(Ok(_)) => prop_assert!(executed),
                Some(Err(error)) => {
                    prop_assert!(error.outcome == Outcome::Unknown || !executed, "{error:?}");
                    let late = write.ended.is_some_and(|at| at > healed + Duration::from_millis(2600));
                    prop_assert!(!late, "not answered after all was well: {error:?}");
                }
            }
        }
        sim.write(0);
        sim.run(Duration::from_millis(100));
        prop_assert!(matches!(sim.writes.last().unwrap().result, Some(Ok(_))));
        sim.settled();
    }
}
