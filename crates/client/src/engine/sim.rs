//! Nodes, streams, callers and time around an [`Engine`], simulated: any seed can be run again.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvserver::command::{Op, Refusal, Reply, Request, ShardId};
use kvserver::query::Answer;
use kvserver::txn::Conflict;
use paxos::codec;
use paxos::ids::{ClientId, Generation, GroupId, LogTime, NodeId, Sequence};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use shardmaster::ids::{Epoch, GroupRef, Owner};
use tokio::time::Instant;
use wire::v1::{self, Code};

use super::{Begun, Engine, Event, Kind, Taken, Target};
use crate::error::{Error, ErrorKind};
use crate::options::ClientOptions;
use crate::outcome::{LinkId, Outcome};
use crate::session::{Session, Ticket};
use crate::slab::Key;
use crate::verdict::{Frame, Refused, Verdict};

pub(super) const SHARDS: u16 = 4;
const HOP: Duration = Duration::from_micros(200);

/// What will happen.
pub(super) enum Due {
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
pub(super) struct Node {
    pub(super) alive: bool,
    pub(super) paused: bool,
    pub(super) hint: u32,
}

/// One write and what became of it.
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) shard: ShardId,
    pub(super) sequence: Option<u64>,
    pub(super) result: Option<Result<Verdict, Error>>,
    pub(super) ended: Option<Instant>,
}

pub(super) struct Sim {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    pub(super) due: BTreeMap<(Instant, u64), Due>,
    pub(super) count: u64,
    pub(super) random: SmallRng,
    pub(super) nodes: [Node; 3],
    pub(super) leader: u32,
    /// The group that serves each shard, and the epoch of its copy; both groups have the same leader.
    pub(super) owners: [(u32, u64); SHARDS as usize],
    /// Until when each shard is on its way to its owner.
    pub(super) arrives: [Instant; SHARDS as usize],
    pub(super) loss: f64,
    /// How many tries give way to a transaction.
    pub(super) contention: f64,
    pub(super) resting: BTreeSet<usize>,
    pub(super) epochs: BTreeMap<usize, u64>,
    pub(super) held: Vec<(LinkId, u64, v1::Call)>,
    pub(super) executed: BTreeSet<u64>,
    pub(super) bytes: BTreeMap<u64, Bytes>,
    pub(super) writes: Vec<Write>,
    /// Those without a result, and some with.
    pub(super) open: Vec<usize>,
    pub(super) probes: usize,
}

impl Sim {
    pub(super) fn new(seed: u64, options: ClientOptions) -> Sim {
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
            owners: [(1, 1); SHARDS as usize],
            arrives: [now; SHARDS as usize],
            loss: 0.0,
            contention: 0.0,
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

    pub(super) fn elect(&mut self, node: u32) {
        self.leader = node;
        self.nodes.iter_mut().for_each(|n| n.hint = node);
    }

    /// A shard goes to the other group, and is there in a while.
    pub(super) fn give(&mut self, shard: u16, takes: Duration) {
        let (group, epoch) = &mut self.owners[usize::from(shard)];
        (*group, *epoch) = (3 - *group, *epoch + 1);
        self.arrives[usize::from(shard)] = self.now + takes;
    }

    pub(super) fn kill(&mut self, node: u32) {
        self.nodes[node as usize - 1].alive = false;
        self.cut(node);
    }

    /// The streams to a node break.
    pub(super) fn cut(&mut self, node: u32) {
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

    pub(super) fn resume(&mut self, node: u32) {
        self.nodes[node as usize - 1].paused = false;
        for (link, epoch, call) in std::mem::take(&mut self.held) {
            self.after(Duration::ZERO, Due::Call(link, epoch, call));
        }
    }

    fn node_of(&self, link: LinkId) -> u32 {
        self.engine.address(link)[1..2].parse().unwrap()
    }

    pub(super) fn write(&mut self, shard: u16) {
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
    pub(super) fn cancel(&mut self, index: usize) {
        let write = &mut self.writes[index];
        if write.result.is_none() {
            self.engine.cancel(write.key);
            let gone = Error::not_executed(ErrorKind::Cancelled, "");
            write.result = Some(Err(Error { outcome: Outcome::Unknown, ..gone }));
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
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

    pub(super) fn hello(&self, link: LinkId) -> v1::Hello {
        let member = |node: u32| v1::Member { node, client_address: format!("n{node}:1") };
        let group = |id| v1::Group { id, generation: 1, members: (1..=3).map(member).collect(), leader: 0 };
        let node = self.node_of(link);
        let routing = v1::Routing {
            version: 1,
            shards: u32::from(SHARDS),
            groups: vec![group(1), group(2)],
            owners: vec![1; 4],
            epochs: vec![1; 4],
            config: 1,
        };
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
                v1::call::Kind::Write(bytes) => self.execute(call.group, &bytes),
            }
        } else {
            let leader =
                (node.hint != 0 && node.hint != id).then(|| (NodeId(node.hint), format!("n{}:1", node.hint)));
            let code = if leader.is_some() { Code::NotLeader } else { Code::NoLeader };
            Verdict::Refused(Box::new(Refused {
                code,
                message: String::new(),
                leader,
                owner: None,
                unknown: false,
            }))
        };
        if !self.random.random_bool(self.loss) {
            self.after(HOP, Due::Answer(link, epoch, call.id, verdict));
        }
    }

    fn execute(&mut self, group: u32, bytes: &Bytes) -> Verdict {
        let request: Request = codec::decode(bytes).unwrap();
        let shard = usize::from(request.shard.0);
        let (serves, epoch) = self.owners[shard];
        if serves != group {
            let group = GroupRef { group: GroupId(serves), generation: Generation(1) };
            let owner = Some(Owner { group, epoch: Epoch(epoch) });
            return Verdict::Reply(Reply::Refused(Refusal::WrongGroup { owner }));
        }
        if self.arrives[shard] > self.now {
            return Verdict::Reply(Reply::Refused(Refusal::Awaiting));
        }
        let sequence = request.sequence.0;
        if !self.executed.contains(&sequence) && self.random.random_bool(self.contention) {
            let why = if self.random.random_bool(0.5) { Conflict::Older } else { Conflict::Moving };
            return Verdict::Reply(Reply::Refused(Refusal::Conflict(why)));
        }
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
                    Taken::Frame(frame) => {
                        for call in frame.calls {
                            self.probes += usize::from(call.id >> 63 == 1);
                            self.after(HOP, Due::Call(link, epoch, call));
                        }
                    }
                    Taken::Soon => {}
                    Taken::Nothing | Taken::End => break,
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

    pub(super) fn all_answered(&self) -> bool {
        self.writes.iter().all(|write| matches!(write.result, Some(Ok(_))))
    }

    pub(super) fn settled(&mut self) {
        assert_eq!((self.engine.calls(), self.engine.in_flight, self.engine.in_flight_bytes), (0, 0, 0));
        assert_eq!(self.engine.unclaimed, 0);
        let owed: usize = self.engine.links.iter().map(|link| link.open).sum();
        assert_eq!(owed, 0, "links believe that calls are open which aren't");
    }
}
