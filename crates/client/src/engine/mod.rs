//! All of a client's calls as one value without IO: who may start, where each call goes, what an answer means, what time
//! brings. The callers, the streams and the ticker are its drivers; they hold its lock for a moment and do the waking.
//!
//! A call: [`Engine::begin`] -> granted (at once, or when there is room) -> [`Engine::submit`] -> queued at a link, or
//! waiting for its group to have a leader -> sent -> answered, or refused and again -> done -> taken by its caller.

mod admit;
mod answers;
mod discovery;
mod dispatch;
mod links;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
mod tick;

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvserver::command::ShardId;
use kvserver::txn::Conflict;
use paxos::ids::{GroupId, NodeId, Sequence};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

pub(crate) use admit::{Begun, Event};
pub(crate) use links::Taken;

use crate::error::{Error, ErrorKind};
use crate::options::{ClientOptions, Consistency};
use crate::outcome::{Attempts, LinkId};
use crate::router::{GroupIndex, Router};
use crate::session::{Session, Ticket};
use crate::slab::{Key, Slab};
use crate::verdict::Verdict;
use discovery::Discovery;
use links::Link;

/// Where a call wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To whoever serves the shard.
    Shard(ShardId),
    /// To this group, right or wrong.
    Group(GroupId),
}

impl Target {
    /// The shard, if it is one that is wanted.
    fn shard(self) -> Option<ShardId> {
        match self {
            Target::Shard(shard) => Some(shard),
            Target::Group(_) => None,
        }
    }
}

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request for the log.
    Write,
    /// A query.
    Read(Consistency),
}

/// How a call stands.
#[derive(Debug)]
enum Phase {
    /// For room.
    Waiting,
    /// Its caller may encode and submit it.
    Granted(Option<Ticket>),
    /// Its group has no known leader.
    Leaderless,
    /// In the outbox of a link.
    Queued(LinkId),
    /// On its way.
    Sent(LinkId, Instant),
    /// Refused for now.
    Backoff(Instant),
    /// For its caller to take.
    Done(Result<Verdict, Error>),
}

/// A call in flight.
#[derive(Debug)]
struct Call {
    phase: Phase,
    waker: Option<Waker>,
    target: Target,
    kind: Kind,
    home: Option<ShardId>,
    sequence: Option<Sequence>,
    body: Bytes,
    cost: usize,
    deadline: Instant,
    /// The group it was last sent to.
    group: GroupIndex,
    attempts: Attempts,
    /// Refusals in a row that ask for backoff.
    refusals: u32,
    /// Redirects in a row.
    redirects: u32,
    /// Tries that heard nothing.
    silences: u32,
    /// Tries in a row that gave way to other transactions.
    conflicts: u32,
    /// Why the last one did.
    conflict: Option<Conflict>,
    /// When the present try began, its repetitions included.
    tried: Instant,
    /// How long the last try took that ran out of time on its own.
    lasted: Duration,
    /// The last thing that stood in its way.
    trouble: Option<ErrorKind>,
}

/// When the ticker looks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// When somebody says so.
    Parked,
    /// In a while.
    Calm,
    /// In a few milliseconds.
    Soon,
}

/// Something that one task waits for.
#[derive(Debug, Default)]
struct Signal {
    raised: bool,
    waker: Option<Waker>,
}

impl Signal {
    fn raise(&mut self, wakers: &mut Vec<Waker>) {
        self.raised = true;
        wakers.extend(self.waker.take());
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.raised) {
            return Poll::Ready(());
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    options: ClientOptions,
    session: Session,
    router: Router,
    cluster: Option<u128>,
    calls: Slab<Call>,
    links: Vec<Link>,
    by_node: BTreeMap<NodeId, LinkId>,
    discoveries: Vec<Discovery>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// For room among the calls in flight.
    waiting: VecDeque<Key>,
    /// For room in the window of a home shard.
    waiting_homes: BTreeMap<ShardId, VecDeque<Key>>,
    /// Done calls whose callers haven't run yet: they are about to submit more.
    unclaimed: usize,
    random: SmallRng,
    closed: bool,
    /// Whom to wake once the lock is free.
    wakers: Vec<Waker>,
    pace: Pace,
    looked: Instant,
    hurry: Signal,
    refresh: Signal,
    ready: Signal,
}

impl Engine {
    /// A client that knows its endpoints and nothing else.
    pub(crate) fn new(options: ClientOptions, session: Session, seed: u64, now: Instant) -> Engine {
        let links = options.endpoints.iter().map(|address| Link::new(address, now)).collect();
        Engine {
            options,
            session,
            router: Router::default(),
            cluster: None,
            calls: Slab::default(),
            links,
            by_node: BTreeMap::new(),
            discoveries: Vec::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            waiting: VecDeque::new(),
            waiting_homes: BTreeMap::new(),
            unclaimed: 0,
            random: SmallRng::seed_from_u64(seed),
            closed: false,
            wakers: Vec::new(),
            pace: Pace::Calm,
            looked: now,
            hurry: Signal::default(),
            refresh: Signal::default(),
            ready: Signal::default(),
        }
    }

    /// Whom to wake, after the lock is given back.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    /// What the client was asked to do.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The session.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to note what was acknowledged.
    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The routing table and what was learned since.
    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// The cluster's id, once a node told it.
    pub(crate) fn cluster(&self) -> Option<u128> {
        self.cluster
    }

    /// How many calls there are, waiting and done ones included.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The ticker sleeps until somebody hurries it.
    pub(crate) fn park(&mut self) {
        self.pace = Pace::Parked;
        if self.calls.len() > 0 {
            self.hurry_from(Pace::Parked);
        }
    }

    /// Makes the ticker look, unless it is about to.
    fn hurry_from(&mut self, slowest: Pace) {
        if self.pace == Pace::Parked || self.pace == slowest {
            self.pace = Pace::Soon;
            self.hurry.raise(&mut self.wakers);
        }
    }

    /// Ready when the ticker should look at once.
    pub(crate) fn poll_hurry(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.hurry.poll(context)
    }

    /// Ready when a newer routing table is wanted.
    pub(crate) fn poll_refresh(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.refresh.poll(context)
    }

    /// A newer routing table is wanted.
    pub(crate) fn want_refresh(&mut self) {
        self.refresh.raise(&mut self.wakers);
    }

    /// Ready after something changed for a client that connects: a table came, or a link failed.
    pub(crate) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.ready.poll(context)
    }

    /// Ends every call, and every stream.
    pub(crate) fn shut(&mut self) {
        self.closed = true;
        self.fail_all(ErrorKind::Cancelled, "the client was closed");
        for link in &mut self.links {
            self.wakers.extend(link.writer.take());
        }
    }

    fn fail_all(&mut self, kind: ErrorKind, message: &str) {
        let keys: Vec<Key> = self.calls.iter_mut().map(|(key, _)| key).collect();
        for key in keys {
            self.fail(key, kind, message);
        }
    }
}
