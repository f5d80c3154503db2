//! The engine against simulated nodes, in simulated time: any seed can be run again.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvserver::command::{Op, Reply, Request, ShardId};
use kvserver::query::Answer;
use paxos::codec;
use paxos::ids::{ClientId, GroupId, LogTime, NodeId, Sequence};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wire::v1::{self, Code};

use super::{Begun, Engine, Event, Kind, Target};
use crate::error::{Error, ErrorKind};
use crate::options::{ClientOptions, Consistency};
use crate::outcome::{LinkId, Outcome};
use crate::session::{Session, Ticket};
use crate::slab::Key;
use crate::verdict::{Frame, Refused, Verdict};

const SHARDS: u16 = 4;
const HOP: Duration = Duration::from_micros(200);

/// What will happen.
enum Due {
    /// A connection is made or refused.
    Connected(LinkId, u64),
    /// A link may try again.
    Rested(LinkId),
    /// A call reaches its node.
    Call(LinkId, u64, v1::Call),
    /// An answer reaches the client.
    Answer(LinkId, u64, u64, Verdict),
    Look,
}

/// A node as the client can tell it from others.
#[derive(Clone, Copy)]
struct Node {
    alive: bool,
    paused: bool,
    hint: u32,
}

/// One write and what became of it.
struct Write {
    key: Key,
    shard: ShardId,
    sequence: Option<u64>,
    result: Option<Result<Verdict, Error>>,
    ended: Option<Instant>,
}

struct Sim {
    engine: Engine,
    now: Instant,
    due: BTreeMap<(Instant, u64), Due>,
    count: u64,
    random: SmallRng,
    nodes: [Node; 3],
    leader: u32,
    loss: f64,
    resting: BTreeSet<usize>,
    epochs: BTreeMap<usize, u64>,
    held: Vec<(LinkId, u64, v1::Call)>,
    executed: BTreeSet<u64>,
    bytes: BTreeMap<u64, Bytes>,
    writes: Vec<Write>,
    /// Those without a result, and some with.
    open: Vec<usize>,
    probes: usize,
}

impl Sim {
    fn new(seed: u64, options: ClientOptions) -> Sim {
        let endpoints = vec!["n1:1".to_string()];
        let now = Instant::now();
        let options = ClientOptions { endpoints, ..options };
        let session = Session::new(ClientId(7), Sequence(1));
        let mut sim = Sim {
            engine: Engine::new(options, session, seed, now),
            now,
            due: BTreeMap::new(),
            count: 0,
            random: SmallRng::seed_from_u64(seed),
            nodes: [Node { alive: true, paused: false, hint: 1 }; 3],
            leader: 1,
            loss: 0.0,
            resting: BTreeSet::new(),
            epochs: BTreeMap::new(),
            held: Vec::new(),
            executed: BTreeSet::new(),
            bytes: BTreeMap::new(),
            writes: Vec::new(),
            open: Vec::new(),
            probes: 0,
        };
        sim.engine.want(LinkId(0));
        sim.after(Duration::ZERO, Due::Look);
        sim.run(Duration::from_millis(20));
        assert!(sim.engine.router().is_ready());
        sim
    }

    fn after(&mut self, delay: Duration, due: Due) {
        self.count += 1;
        self.due.insert((self.now + delay, self.count), due);
    }

    fn elect(&mut self, node: u32) {
        self.leader = node;
        self.nodes.iter_mut().for_each(|n| n.hint = node);
    }

    fn kill(&mut self, node: u32) {
        self.nodes[node as usize - 1].alive = false;
        self.cut(node);
    }

    /// The streams to a node break.
    fn cut(&mut self, node: u32) {
        for index in 0..self.engine.links() {
            if self.engine.address(LinkId(index)) == format!("n{node}:1")
                && self.epochs.remove(&index).is_some()
            {
                self.down(LinkId(index));
            }
        }
    }

    fn down(&mut self, link: LinkId) {
        let delay = self.engine.down(link, self.now);
        self.epochs.remove(&link.0);
        self.resting.insert(link.0);
        self.after(delay, Due::Rested(link));
    }

    fn resume(&mut self, node: u32) {
        self.nodes[node as usize - 1].paused = false;
        for (link, epoch, call) in std::mem::take(&mut self.held) {
            self.after(Duration::ZERO, Due::Call(link, epoch, call));
        }
    }

    fn node_of(&self, link: LinkId) -> u32 {
        self.engine.address(link)[1..2].parse().unwrap()
    }

    fn write(&mut self, shard: u16) {
        let shard = ShardId(shard);
        self.open.push(self.writes.len());
        let begun = self.engine.begin(Target::Shard(shard), Kind::Write, Some(shard), 100, self.now);
        let key = match begun.unwrap() {
            Begun::Granted(key, ticket) => {
                self.writes.push(Write { key, shard, sequence: None, result: None, ended: None });
                self.submit(self.writes.len() - 1, ticket);
                return;
            }
            Begun::Waiting(key) => key,
        };
        self.writes.push(Write { key, shard, sequence: None, result: None, ended: None });
    }

    fn submit(&mut self, index: usize, ticket: Option<Ticket>) {
        let Ticket { client, sequence, ack_through, sent_at } = ticket.unwrap();
        let shard = self.writes[index].shard;
        let open = |w: &&Write| w.shard == shard && w.result.is_none();
        let lowest = self.writes.iter().filter(open).filter_map(|w| w.sequence).min();
        assert!(ack_through.0 < lowest.unwrap_or(sequence.0), "an unanswered write was acknowledged");
        self.writes[index].sequence = Some(sequence.0);
        let request = Request { client, sequence, ack_through, sent_at, shard, op: Op::Ack };
        let key = self.writes[index].key;
        self.engine.submit(key, codec::encode(&request).into(), self.now);
    }

    /// The caller goes away.
    fn cancel(&mut self, index: usize) {
        let write = &mut self.writes[index];
        if write.result.is_none() {
            self.engine.cancel(write.key);
            let gone = Error::not_executed(ErrorKind::Cancelled, "");
            write.result = Some(Err(Error { outcome: Outcome::Unknown, ..gone }));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drive();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), due) = entry.remove_entry();
            self.now = at;
            self.happen(due);
            self.drive();
        }
        self.now = end;
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Look => {
                let next = self.engine.tick(self.now).unwrap_or(Duration::from_millis(20));
                self.after(next, Due::Look);
            }
            Due::Rested(link) => {
                self.resting.remove(&link.0);
            }
            Due::Connected(link, epoch) => {
                let node = self.nodes[self.node_of(link) as usize - 1];
                match node.alive && !node.paused {
                    true => {
                        let hello = self.hello(link);
                        assert!(self.engine.hello(link, hello, self.now));
                        self.epochs.insert(link.0, epoch);
                    }
                    false => self.down(link),
                }
            }
            Due::Call(link, epoch, call) => self.serve(link, epoch, call),
            Due::Answer(link, epoch, id, verdict) => {
                let frame = Frame { answers: vec![(id, verdict)], log_time: LogTime(1) };
                self.engine.heard(link, epoch, frame, self.now);
            }
        }
    }

    fn hello(&self, link: LinkId) -> v1::Hello {
        let member = |node: u32| v1::Member { node, client_address: format!("n{node}:1") };
        let group = v1::Group { id: 1, generation: 1, members: (1..=3).map(member).collect(), leader: 0 };
        let node = self.node_of(link);
        let routing =
            v1::Routing { version: 1, shards: u32::from(SHARDS), groups: vec![group], owners: vec![1; 4] };
        v1::Hello { node, cluster: Bytes::from(vec![1; 16]), routing: Some(routing), ..v1::Hello::default() }
    }

    fn serve(&mut self, link: LinkId, epoch: u64, call: v1::Call) {
        let id = self.node_of(link);
        let node = self.nodes[id as usize - 1];
        if node.paused {
            self.held.push((link, epoch, call));
            return;
        }
        if !node.alive || self.random.random_bool(self.loss) {
            return;
        }
        let verdict = if self.leader == id {
            match call.kind.unwrap() {
                v1::call::Kind::Read(_) => Verdict::Found(Answer::Value(None)),
                v1::call::Kind::Write(bytes) => self.execute(&bytes),
            }
        } else {
            let leader =
                (node.hint != 0 && node.hint != id).then(|| (NodeId(node.hint), format!("n{}:1", node.hint)));
            let code = if leader.is_some() { Code::NotLeader } else { Code::NoLeader };
            Verdict::Refused(Box::new(Refused {
                code,
                message: String::new(),
                leader,
                group: None,
                unknown: false,
            }))
        };
        if !self.random.random_bool(self.loss) {
            self.after(HOP, Due::Answer(link, epoch, call.id, verdict));
        }
    }

    fn execute(&mut self, bytes: &Bytes) -> Verdict {
        let request: Request = codec::decode(bytes).unwrap();
        let sequence = request.sequence.0;
        let first = self.bytes.entry(sequence).or_insert_with(|| bytes.clone());
        assert_eq!(first, bytes, "tries differ");
        self.executed.insert(sequence);
        Verdict::Reply(Reply::Written { length: 0, version: sequence })
    }

    /// What the tasks around the engine do.
    fn drive(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for index in 0..self.engine.links() {
            let link = LinkId(index);
            let idle = !self.resting.contains(&index) && !self.epochs.contains_key(&index);
            if idle && self.engine.poll_wanted(link, &mut context).is_ready() {
                let epoch = self.engine.connecting(link, self.now);
                self.resting.insert(index);
                self.after(HOP, Due::Rested(link));
                self.after(HOP, Due::Connected(link, epoch));
            }
            let Some(epoch) = self.epochs.get(&index).copied() else { continue };
            loop {
                match self.engine.take(link, epoch, self.now, &mut context) {
                    super::Taken::Frame(frame) => {
                        for call in frame.calls {
                            self.probes += usize::from(call.id >> 63 == 1);
                            self.after(HOP, Due::Call(link, epoch, call));
                        }
                    }
                    super::Taken::Soon => {}
                    super::Taken::Nothing | super::Taken::End => break,
                }
            }
        }
        for index in std::mem::take(&mut self.open) {
            if self.writes[index].result.is_some() {
                continue;
            }
            self.open.push(index);
            match self.engine.poll_call(self.writes[index].key, &mut context) {
                Poll::Ready(Event::Granted(ticket)) if self.writes[index].sequence.is_none() => {
                    self.submit(index, ticket);
                }
                Poll::Ready(Event::Done(result)) => {
                    self.writes[index].result = Some(result);
                    self.writes[index].ended = Some(self.now);
                }
                Poll::Ready(Event::Granted(_)) | Poll::Pending => {}
            }
        }
        self.engine.take_wakers();
    }

    fn all_answered(&self) -> bool {
        self.writes.iter().all(|write| matches!(write.result, Some(Ok(_))))
    }

    fn settled(&mut self) {
        assert_eq!((self.engine.calls(), self.engine.in_flight, self.engine.in_flight_bytes), (0, 0, 0));
        assert_eq!(self.engine.unclaimed, 0);
        let owed: usize = self.engine.links.iter().map(|link| link.open).sum();
        assert_eq!(owed, 0, "links believe that calls are open which aren't");
    }
}

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
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever nodes and streams do: every call ends by its deadline, an answer means executed, "not executed" means
    /// never executed, and once all is well every call is answered.
    #[test]
    fn the_outcome_is_true(
        steps in prop::collection::vec(step(), 1..80), seed: u64, lossy: bool,
        impatient: bool, in_flight_max in 1_usize..20
    ) {
        let timeout = Duration::from_millis(if impatient { 300 } else { 5000 });
        let options = ClientOptions { in_flight_max, timeout, ..ClientOptions::default() };
        let mut sim = Sim::new(seed, options);
        sim.loss = if lossy { 0.05 } else { 0.0 };
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
            }
        }
        sim.loss = 0.0;
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
