//! Where a call goes next: to its group's leader, to some member if it may be stale, or to wait for a leader.

use std::time::Duration;

use tokio::time::Instant;

use super::discovery::Discovery;
use super::links::Item;
use super::{Engine, Kind, Pace, Phase, Target};
use crate::backoff;
use crate::error::ErrorKind;
use crate::options::Consistency;
use crate::outcome::LinkId;
use crate::router::GroupIndex;
use crate::slab::Key;
use crate::verdict::{Refused, Verdict};

/// How long a call waits for a routing table that knows its shard.
const UNROUTED: Duration = Duration::from_millis(10);

impl Engine {
    /// Sends a call on its way.
    pub(super) fn dispatch(&mut self, key: Key, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (target, kind) = (call.target, call.kind);
        let group = match target {
            Target::Shard(shard) => self.router.owner(shard),
            Target::Group(id) => self.router.index(id),
        };
        let Some(group) = group else {
            self.want_refresh();
            return match target {
                Target::Shard(_) => self.pause(key, ErrorKind::Unavailable, now + UNROUTED),
                // Whoever names a group wants to know that it is gone.
                Target::Group(_) => self.finish(key, Ok(Verdict::Refused(Box::new(Refused::wrong_group())))),
            };
        };
        if let Some(call) = self.calls.get_mut(key) {
            call.group = group;
        }
        if !self.router.is_reachable(group) {
            // Only a redirect told of it.
            self.want_refresh();
            return self.pause(key, ErrorKind::Unavailable, now + UNROUTED);
        }
        let link = match kind {
            Kind::Read(Consistency::Stale) => self.some_member(group),
            _ => self.leader_link(group),
        };
        match (link, kind) {
            (Some(link), _) => self.queue(key, link),
            (None, Kind::Read(Consistency::Stale)) => {
                self.reach_all(group);
                self.pause(key, ErrorKind::Unavailable, now + UNROUTED);
            }
            (None, _) => self.wait_for_leader(key, group, now),
        }
    }

    /// Owners changed: what isn't on its way and is bound to a group that doesn't serve its shard any more goes to
    /// the one that does, also out of the line of a group without a leader.
    pub(super) fn rebind(&mut self, now: Instant) {
        let router = &self.router;
        let astray = |call: &super::Call| match (call.target, &call.phase) {
            (Target::Shard(shard), Phase::Leaderless | Phase::Queued(_)) => {
                router.owner(shard).is_some_and(|owner| owner != call.group)
            }
            (Target::Group(id), Phase::Leaderless | Phase::Queued(_)) => router.index(id).is_none(),
            _ => false,
        };
        let keys: Vec<Key> =
            self.calls.iter_mut().filter(|(_, call)| astray(call)).map(|(key, _)| key).collect();
        for key in keys {
            self.dispatch(key, now);
        }
    }

    /// Tries again later.
    pub(super) fn pause(&mut self, key: Key, trouble: ErrorKind, until: Instant) {
        if let Some(call) = self.calls.get_mut(key) {
            call.phase = Phase::Backoff(until);
            call.trouble = Some(trouble);
            self.hurry_from(Pace::Calm);
        }
    }

    /// Tries again later, and later each time.
    pub(super) fn back_off(&mut self, key: Key, trouble: ErrorKind, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let delay = backoff::CALL.delay(call.refusals, &mut self.random);
        call.refusals += 1;
        self.pause(key, trouble, now + delay);
    }

    fn queue(&mut self, key: Key, link: LinkId) {
        if let Some(call) = self.calls.get_mut(key) {
            call.phase = Phase::Queued(link);
            self.links[link.0].push(Item::Call(key), &mut self.wakers);
        }
    }

    fn leader_link(&self, group: GroupIndex) -> Option<LinkId> {
        let link = *self.by_node.get(&self.router.group(group).leader?)?;
        self.links[link.0].may_queue().then_some(link)
    }

    /// A member that may answer a stale read: one that is connected if there is one.
    fn some_member(&self, group: GroupIndex) -> Option<LinkId> {
        let links =
            || self.router.group(group).members.iter().filter_map(|node| self.by_node.get(node).copied());
        let up = links().find(|link| self.links[link.0].is_usable());
        up.or_else(|| links().find(|link| self.links[link.0].may_queue()))
    }

    /// Connects to all members.
    pub(super) fn reach_all(&mut self, group: GroupIndex) {
        for link in self.member_links(group) {
            self.links[link.0].want(&mut self.wakers);
        }
    }

    pub(super) fn member_links(&self, group: GroupIndex) -> Vec<LinkId> {
        let members = &self.router.group(group).members;
        members.iter().filter_map(|node| self.by_node.get(node).copied()).collect()
    }

    pub(super) fn discovery(&mut self, group: GroupIndex) -> &mut Discovery {
        if self.discoveries.len() <= group.0 {
            self.discoveries.resize_with(group.0 + 1, Discovery::default);
        }
        &mut self.discoveries[group.0]
    }
}
