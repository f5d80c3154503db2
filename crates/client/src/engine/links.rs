//! The streams to nodes, as the engine sees them: what waits to go out, what is unanswered, whether they speak.
//!
//! A stream has a number (its link's *epoch*), so that one that is dying can't take calls meant for its successor.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use paxos::ids::NodeId;
use tokio::time::Instant;
use wire::v1;

use super::{Engine, Kind, Phase, Signal};
use crate::backoff;
use crate::error::ErrorKind;
use crate::options::Consistency;
use crate::outcome::LinkId;
use crate::router::GroupIndex;
use crate::routing::Routing;
use crate::slab::Key;

/// A frame of calls is cut after this many bytes; one call is always allowed.
const FRAME_BYTES: usize = 256 << 10;
const FRAME_CALLS: usize = 4096;

/// What goes out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Call(Key),
    Probe(GroupIndex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Connecting(Instant),
    Up,
}

/// The way to one node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) node: Option<NodeId>,
    state: State,
    pub(super) epoch: u64,
    failures: u32,
    /// Why the last connection wasn't let in, if that was the reason.
    refused: Option<String>,
    /// It was silent for too long, and still is.
    pub(super) suspect: bool,
    /// The node said that it stops.
    pub(super) draining: bool,
    wanted: Signal,
    pub(super) writer: Option<Waker>,
    yielded: bool,
    outbox: VecDeque<Item>,
    /// Tries that are sent and unanswered; probes aren't counted, since nobody waits for one of them.
    pub(super) open: usize,
    /// Since when it owes an answer without saying anything.
    pub(super) quiet_since: Instant,
    pub(super) probes: Vec<(GroupIndex, Instant)>,
}

/// What a stream is to send.
#[derive(Debug)]
pub(crate) enum Taken {
    /// This.
    Frame(v1::ClientFrame),
    /// Nothing now; it will be woken.
    Nothing,
    /// More is about to come: let the others run first.
    Soon,
    /// The stream is over.
    End,
}

impl Link {
    pub(super) fn new(address: &str, now: Instant) -> Link {
        Link {
            address: address.to_string(),
            node: None,
            state: State::Down,
            epoch: 0,
            failures: 0,
            refused: None,
            suspect: false,
            draining: false,
            wanted: Signal::default(),
            writer: None,
            yielded: false,
            outbox: VecDeque::new(),
            open: 0,
            quiet_since: now,
            probes: Vec::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// It speaks.
    pub(super) fn is_usable(&self) -> bool {
        self.is_up() && !self.suspect && !self.draining
    }

    /// It speaks, or nothing is known against it.
    pub(super) fn may_queue(&self) -> bool {
        self.is_usable() || (!self.is_up() && self.failures == 0 && !self.suspect)
    }

    /// Since when it connects.
    pub(super) fn connecting_since(&self) -> Option<Instant> {
        match self.state {
            State::Connecting(since) => Some(since),
            State::Down | State::Up => None,
        }
    }

    /// Somebody needs it.
    pub(super) fn want(&mut self, wakers: &mut Vec<Waker>) {
        if self.state == State::Down {
            self.wanted.raise(wakers);
        }
    }

    pub(super) fn push(&mut self, item: Item, wakers: &mut Vec<Waker>) {
        self.outbox.push_back(item);
        match self.state {
            State::Up => wakers.extend(self.writer.take()),
            State::Down | State::Connecting(_) => self.want(wakers),
        }
    }
}

impl Engine {
    /// How many links there are; they are never removed.
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    /// Where a link leads.
    pub(crate) fn address(&self, link: LinkId) -> String {
        self.links[link.0].address.clone()
    }

    /// Addresses of nodes, those that speak first.
    pub(crate) fn reachable(&self) -> Vec<String> {
        let mut links: Vec<&Link> = self.links.iter().collect();
        links.sort_by_key(|link| (!link.is_usable(), link.failures));
        links.into_iter().map(|link| link.address.clone()).collect()
    }

    /// Asks for a connection.
    pub(crate) fn want(&mut self, link: LinkId) {
        self.links[link.0].want(&mut self.wakers);
    }

    /// Ready when somebody needs the link.
    pub(crate) fn poll_wanted(&mut self, link: LinkId, context: &mut Context<'_>) -> Poll<()> {
        self.links[link.0].wanted.poll(context)
    }

    /// A connection is being made; the number of its stream.
    pub(crate) fn connecting(&mut self, link: LinkId, now: Instant) -> u64 {
        let link = &mut self.links[link.0];
        link.state = State::Connecting(now);
        link.epoch += 1;
        link.epoch
    }

    /// The first words of a node. False if it isn't a node of this cluster.
    pub(crate) fn hello(&mut self, link: LinkId, hello: v1::Hello, now: Instant) -> bool {
        let cluster = <[u8; 16]>::try_from(hello.cluster.as_ref()).map(u128::from_be_bytes).ok();
        if cluster.is_some() && self.cluster.is_some() && cluster != self.cluster {
            return false;
        }
        self.cluster = self.cluster.or(cluster);
        let node = NodeId(hello.node);
        self.by_node.entry(node).or_insert(link);
        let speaker = &mut self.links[link.0];
        speaker.node = Some(node);
        speaker.state = State::Up;
        speaker.failures = 0;
        speaker.refused = None;
        speaker.suspect = false;
        speaker.draining = false;
        speaker.quiet_since = now;
        self.wakers.extend(speaker.writer.take());
        if let Some(table) = hello.routing.and_then(Routing::from_wire) {
            self.learn(&table, now);
        }
        if !self.router.is_ready() {
            self.want_refresh();
        }
        self.probe_new(node, link, now);
        self.ready.raise(&mut self.wakers);
        true
    }

    /// A routing table came, from whomever; whether it was news.
    pub(crate) fn learn(&mut self, table: &Routing, now: Instant) -> bool {
        let is_news = self.router.update(table);
        if is_news {
            self.ready.raise(&mut self.wakers);
            let nodes: Vec<(NodeId, String)> =
                self.router.addresses().map(|(node, address)| (node, address.to_string())).collect();
            for (node, address) in nodes {
                self.know(node, &address, now);
            }
        }
        for group in &table.groups {
            if let (Some(index), Some(leader)) = (self.router.index(group.id), group.leader) {
                self.hinted(index, leader, now);
            }
        }
        if is_news {
            self.rebind(now);
        }
        is_news
    }

    /// There is such a node at this address.
    pub(super) fn know(&mut self, node: NodeId, address: &str, now: Instant) {
        if address.is_empty() {
            return;
        }
        if let Some(known) = self.by_node.get(&node) {
            // It came back elsewhere. What the user gave is kept: it may be the only way from here.
            let link = &mut self.links[known.0];
            if link.state == State::Down && !self.options.endpoints.contains(&link.address) {
                address.clone_into(&mut link.address);
            }
            return;
        }
        let same = self.links.iter().position(|link| link.node.is_none() && link.address == address);
        let link = LinkId(same.unwrap_or(self.links.len()));
        if same.is_none() {
            self.links.push(Link::new(address, now));
            self.ready.raise(&mut self.wakers);
        }
        self.links[link.0].node = Some(node);
        self.by_node.insert(node, link);
    }

    /// The connection is gone, or couldn't be made; how long to wait before the next.
    pub(crate) fn down(&mut self, link: LinkId, now: Instant) -> Duration {
        let broken = &mut self.links[link.0];
        let was_up = broken.is_up();
        broken.state = State::Down;
        broken.epoch += 1;
        broken.open = 0;
        broken.suspect = false;
        broken.outbox.clear();
        broken.probes.clear();
        self.wakers.extend(broken.writer.take());
        let delay =
            if was_up { Duration::ZERO } else { backoff::CONNECT.delay(broken.failures, &mut self.random) };
        broken.failures = broken.failures.saturating_add(1);
        self.ready.raise(&mut self.wakers);
        for (_, call) in self.calls.iter_mut() {
            call.attempts.broken(link);
        }
        self.leave(link, now);
        if let Some(why) = self.locked_out() {
            // To repeat them would only let the deadline pass.
            self.fail_all(ErrorKind::NotAuthenticated, &why);
        }
        delay
    }

    /// The connection that ends wasn't let in, or ends for another reason.
    pub(crate) fn refused(&mut self, link: LinkId, why: Option<String>) {
        self.links[link.0].refused = why;
    }

    /// Why nobody is left to ask: every node was tried and none speaks, and one at least doesn't let this client in.
    pub(crate) fn locked_out(&self) -> Option<String> {
        let fails = |link: &Link| !link.is_up() && link.failures > 0;
        if !self.links.iter().all(fails) {
            return None;
        }
        self.links.iter().find_map(|link| link.refused.clone())
    }

    /// Nobody is asked there for now: its calls go elsewhere.
    pub(super) fn leave(&mut self, link: LinkId, now: Instant) {
        if let Some(node) = self.links[link.0].node {
            self.router.lost(node);
        }
        let here = |phase: &Phase| match phase {
            Phase::Queued(at) | Phase::Sent(at, _) => *at == link,
            _ => false,
        };
        let keys: Vec<Key> =
            self.calls.iter_mut().filter(|(_, call)| here(&call.phase)).map(|(key, _)| key).collect();
        for key in keys {
            self.dispatch(key, now);
        }
    }

    /// The next frame of a stream.
    pub(crate) fn take(&mut self, id: LinkId, epoch: u64, now: Instant, context: &mut Context<'_>) -> Taken {
        let link = &mut self.links[id.0];
        if self.closed || link.epoch != epoch {
            return Taken::End;
        }
        if !link.is_up() || link.outbox.is_empty() {
            link.writer = Some(context.waker().clone());
            return Taken::Nothing;
        }
        if self.unclaimed > 0 && !std::mem::replace(&mut link.yielded, true) {
            return Taken::Soon;
        }
        link.yielded = false;
        if link.open == 0 {
            link.quiet_since = now;
        }
        let mut calls = Vec::with_capacity(link.outbox.len().min(FRAME_CALLS));
        let mut bytes = 0;
        while bytes < FRAME_BYTES && calls.len() < FRAME_CALLS {
            let Some(item) = self.links[id.0].outbox.pop_front() else { break };
            let Some(call) = self.wire_call(item, id, now) else { continue };
            bytes += body_bytes(&call);
            calls.push(call);
        }
        Taken::Frame(v1::ClientFrame { calls })
    }

    fn wire_call(&mut self, item: Item, link: LinkId, now: Instant) -> Option<v1::Call> {
        let key = match item {
            Item::Probe(group) => return self.probe_call(group),
            Item::Call(key) => key,
        };
        let call = self.calls.get_mut(key)?;
        if !matches!(call.phase, Phase::Queued(at) if at == link) {
            return None;
        }
        call.phase = Phase::Sent(link, now);
        self.links[link.0].open += 1;
        let body = call.body.clone();
        let (consistency, kind) = match call.kind {
            Kind::Write => (v1::Consistency::Linearizable, v1::call::Kind::Write(body)),
            Kind::Read(consistency) => (on_wire(consistency), v1::call::Kind::Read(body)),
        };
        Some(v1::Call {
            id: key.wire(call.attempts.send(link)),
            group: self.router.group(call.group).id.0,
            consistency: consistency.into(),
            kind: Some(kind),
        })
    }
}

fn on_wire(consistency: Consistency) -> v1::Consistency {
    match consistency {
        Consistency::Linearizable => v1::Consistency::Linearizable,
        Consistency::Lease => v1::Consistency::Lease,
        Consistency::Stale => v1::Consistency::Stale,
    }
}

fn body_bytes(call: &v1::Call) -> usize {
    match &call.kind {
        Some(v1::call::Kind::Write(body) | v1::call::Kind::Read(body)) => body.len() + 16,
        None => 0,
    }
}
