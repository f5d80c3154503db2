//! Finding a group's leader. Calls of a group without one wait in line, so that thousands of them cost nothing while the
//! group elects; the members are asked by *probes*: small quorum reads, which only a leader that leads can answer.
//!
//! Every member is probed at once and again every few milliseconds, the old leader too (it may only have been slow).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kvserver::query::{Answer, Query};
use paxos::codec;
use paxos::ids::NodeId;
use tokio::time::Instant;
use wire::v1;

use super::links::Item;
use super::{Engine, Pace, Phase};
use crate::backoff;
use crate::outcome::LinkId;
use crate::router::GroupIndex;
use crate::slab::Key;
use crate::verdict::Verdict;

/// A probe without an answer is repeated on the same stream only after this.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
const PROBE_BIT: u64 = 1 << 63;

/// The search for one group's leader.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    /// Calls that wait for it, in order.
    pub(super) waiting: VecDeque<Key>,
    /// When to probe next; `None` while nobody searches.
    next: Option<Instant>,
    round: u32,
    /// When a leader of this group last answered.
    pub(super) answered: Option<Instant>,
}

impl Engine {
    /// A call waits until its group has a leader.
    pub(super) fn wait_for_leader(&mut self, key: Key, group: GroupIndex, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.phase = Phase::Leaderless;
        self.router.forget_leader(group);
        let discovery = self.discovery(group);
        discovery.waiting.push_back(key);
        if discovery.next.is_none() {
            discovery.round = 0;
            self.probe_all(group, now);
            self.hurry_from(Pace::Calm);
        }
    }

    /// Probes the members where it is time to; whether any search goes on.
    pub(super) fn search(&mut self, now: Instant) -> bool {
        let mut searching = false;
        for index in 0..self.discoveries.len() {
            let group = GroupIndex(index);
            let Some(due) = self.discoveries[index].next else { continue };
            self.drop_gone(group);
            if self.discoveries[index].waiting.is_empty() {
                self.discoveries[index].next = None;
                continue;
            }
            searching = true;
            if due <= now {
                self.router.forgive(group);
                self.probe_all(group, now);
            }
        }
        searching
    }

    fn drop_gone(&mut self, group: GroupIndex) {
        let calls = &mut self.calls;
        let mut gone =
            |key: Key| !calls.get_mut(key).is_some_and(|call| matches!(call.phase, Phase::Leaderless));
        let waiting = &mut self.discoveries[group.0].waiting;
        while waiting.front().is_some_and(|key| gone(*key)) {
            waiting.pop_front();
        }
    }

    fn probe_all(&mut self, group: GroupIndex, now: Instant) {
        for link in self.member_links(group) {
            self.probe(group, link, now);
        }
        let round = self.discovery(group).round;
        let delay = backoff::DISCOVERY.delay(round, &mut self.random);
        let discovery = self.discovery(group);
        discovery.round = round.saturating_add(1);
        discovery.next = Some(now + delay);
        // A node that knows a newer table may know where the group went.
        if round == 8 {
            self.want_refresh();
        }
    }

    /// Asks one node whether it leads, unless it was asked already.
    fn probe(&mut self, group: GroupIndex, link: LinkId, now: Instant) {
        let link = &mut self.links[link.0];
        if !link.is_up() {
            return link.want(&mut self.wakers);
        }
        match link.probes.iter_mut().find(|(of, _)| *of == group) {
            Some((_, asked)) if now.duration_since(*asked) < PROBE_AGAIN => return,
            Some((_, asked)) => *asked = now,
            None => link.probes.push((group, now)),
        }
        link.push(Item::Probe(group), &mut self.wakers);
    }

    /// A node is reachable: the searches in which it may be the answer ask it at once.
    pub(super) fn probe_new(&mut self, node: NodeId, link: LinkId, now: Instant) {
        for index in 0..self.discoveries.len() {
            let searching = self.discoveries[index].next.is_some();
            if searching && self.router.groups()[index].members.contains(&node) {
                self.probe(GroupIndex(index), link, now);
            }
        }
    }

    /// A probe as it goes over the wire; `None` if the group serves nothing that could be read.
    pub(super) fn probe_call(&self, group: GroupIndex) -> Option<v1::Call> {
        let shard = self.router.a_shard_of(group)?;
        let query = Query::Get { shard, key: vec![0] };
        let index = u64::try_from(group.0).ok()?;
        Some(v1::Call {
            id: PROBE_BIT | index,
            group: self.router.group(group).id.0,
            consistency: v1::Consistency::Linearizable.into(),
            kind: Some(v1::call::Kind::Read(Bytes::from(codec::encode(&query)))),
        })
    }

    /// The group that an id on the wire probed.
    pub(super) fn probed(id: u64) -> Option<GroupIndex> {
        let index = (id & PROBE_BIT != 0).then_some(id & !PROBE_BIT)?;
        usize::try_from(index).ok().map(GroupIndex)
    }

    /// A node answered a probe.
    pub(super) fn probe_answered(&mut self, group: GroupIndex, link: LinkId, verdict: Verdict, now: Instant) {
        let from = &mut self.links[link.0];
        from.probes.retain(|(of, _)| *of != group);
        let Some(node) = from.node else { return };
        match verdict {
            Verdict::Found(found) => {
                if let Answer::WrongGroup { shard, owner: Some(owner) } = found {
                    self.redirected(shard, &owner, now);
                }
                self.leads(group, node, now);
            }
            // It says nothing of who leads the group.
            Verdict::Refused(refused) if refused.code == v1::Code::WrongGroup => self.want_refresh(),
            Verdict::Refused(refused) if refused.code == v1::Code::Awaiting => self.leads(group, node, now),
            Verdict::Refused(refused) => self.denied(group, node, refused.leader, now),
            Verdict::Reply(_) | Verdict::Malformed => {}
        }
    }

    /// `node` said that it doesn't lead, and who does.
    pub(super) fn denied(
        &mut self,
        group: GroupIndex,
        node: NodeId,
        hint: Option<(NodeId, String)>,
        now: Instant,
    ) {
        let follow = self.router.deny(group, node);
        if let Some((leader, address)) = hint
            && follow
            && leader != node
        {
            self.know(leader, &address, now);
            self.hinted(group, leader, now);
        }
    }

    /// Somebody says that `node` leads: believed if nobody else is known to, and if it can be asked.
    pub(super) fn hinted(&mut self, group: GroupIndex, node: NodeId, now: Instant) {
        let askable = self.by_node.get(&node).is_some_and(|link| self.links[link.0].may_queue());
        if askable && self.router.group(group).leader.is_none() {
            self.router.lead(group, node);
            self.go_on(group, now);
        }
    }

    /// `node` answered as the leader does.
    pub(super) fn leads(&mut self, group: GroupIndex, node: NodeId, now: Instant) {
        let news = self.router.confirm(group, node);
        if self.router.group(group).leader == Some(node) {
            self.discovery(group).answered = Some(now);
        }
        if news || !self.discovery(group).waiting.is_empty() {
            self.go_on(group, now);
        }
    }

    fn go_on(&mut self, group: GroupIndex, now: Instant) {
        let discovery = self.discovery(group);
        discovery.next = None;
        for key in std::mem::take(&mut discovery.waiting) {
            if self.calls.get_mut(key).is_some_and(|call| matches!(call.phase, Phase::Leaderless)) {
                self.dispatch(key, now);
            }
        }
    }
}
