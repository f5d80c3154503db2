//! What an answer means: the end of a call, a redirect, or "later".
//!
//! A refusal moves a call only if it is about its newest try; about an older one it only settles that this try is no longer
//! open. Anything from the session table is about the request itself, whichever try it answers.

use std::time::Duration;

use kvserver::command::{BusyReason, Refusal, Reply, ShardId};
use kvserver::query::Answer;
use kvserver::txn::Conflict;
use paxos::ids::NodeId;
use shardmaster::ids::Owner;
use tokio::time::Instant;
use wire::v1::Code;

use super::{Engine, Kind, Phase, Target};
use crate::backoff::{self, Backoff};
use crate::error::ErrorKind;
use crate::options::Consistency;
use crate::outcome::LinkId;
use crate::slab::{ATTEMPT_MASK, Key};
use crate::verdict::{Frame, Refused, Verdict};

/// Redirects in a row that are followed at once.
const REDIRECTS: u32 = 4;
/// What is to be repeated soon waits at least so long.
const SOONEST: Duration = Duration::from_millis(2);

impl Engine {
    /// A frame of answers came.
    pub(crate) fn heard(&mut self, link: LinkId, epoch: u64, frame: Frame, now: Instant) {
        if self.links[link.0].epoch != epoch {
            return;
        }
        self.session.heard(frame.log_time);
        let speaker = &mut self.links[link.0];
        speaker.quiet_since = now;
        speaker.suspect = false;
        for (id, verdict) in frame.answers {
            match Engine::probed(id) {
                Some(group) => self.probe_answered(group, link, verdict, now),
                None => self.answered(id, link, verdict, now),
            }
        }
    }

    fn answered(&mut self, id: u64, link: LinkId, verdict: Verdict, now: Instant) {
        let (key, number) = Key::from_wire(id);
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some((open, newest)) = call.attempts.answered(number, ATTEMPT_MASK) else { return };
        let acts = newest && matches!(call.phase, Phase::Sent(..));
        let from = &mut self.links[open.link.0];
        from.open = from.open.saturating_sub(1);
        let node = from.node;
        match verdict {
            Verdict::Reply(Reply::Refused(refusal)) => self.table_refused(key, acts, &refusal, now),
            Verdict::Found(Answer::WrongGroup { owner, .. }) if matches!(call.target, Target::Shard(_)) => {
                if acts {
                    self.wrong_group(key, owner.as_ref(), now);
                }
            }
            Verdict::Found(Answer::Awaiting { .. }) => {
                if acts {
                    self.await_shard(key, now);
                }
            }
            Verdict::Reply(_) | Verdict::Found(_) => {
                let by_leader = call.kind != Kind::Read(Consistency::Stale);
                let group = call.group;
                self.finish(key, Ok(verdict));
                if let (true, true, Some(node)) = (by_leader, newest, node) {
                    self.leads(group, node, now);
                }
            }
            Verdict::Refused(refused) => self.node_refused(key, acts, node, link, *refused, now),
            Verdict::Malformed => {
                call.attempts.unknown();
                self.fail(key, ErrorKind::Protocol, "a node sent an answer that can't be decoded");
            }
        }
    }

    /// The log was asked, and the request had no effect there.
    fn table_refused(&mut self, key: Key, acts: bool, refusal: &Refusal, now: Instant) {
        let kind = match refusal {
            Refusal::AlreadyAcknowledged => {
                if let Some(call) = self.calls.get_mut(key) {
                    // Whether it ran isn't known any more.
                    call.attempts.unknown();
                }
                ErrorKind::AlreadyAcknowledged
            }
            Refusal::SessionExpired => ErrorKind::SessionExpired,
            Refusal::SequenceReused => ErrorKind::SequenceReused,
            Refusal::Invalid => ErrorKind::Invalid,
            Refusal::WrongGroup { owner } if acts => {
                return self.wrong_group(key, owner.as_ref(), now);
            }
            Refusal::Awaiting if acts => return self.await_shard(key, now),
            Refusal::Busy(BusyReason::Moving) if acts => {
                if let Some(call) = self.calls.get_mut(key) {
                    call.redirects = call.redirects.saturating_add(1);
                }
                return self.come_back(key, &backoff::MOVING, ErrorKind::Busy, now);
            }
            Refusal::Conflict(conflict) if acts => return self.gave_way(key, *conflict, now),
            // The stamp comes of age while we wait.
            Refusal::Busy(_) | Refusal::FromTheFuture if acts => {
                return self.back_off(key, ErrorKind::Busy, now);
            }
            Refusal::WrongGroup { .. }
            | Refusal::Awaiting
            | Refusal::Busy(_)
            | Refusal::Conflict(_)
            | Refusal::FromTheFuture => {
                return;
            }
        };
        self.fail(key, kind, refusal.to_string());
    }

    /// A try of a transaction was given up. The next one is as old as this one, so it wins some day.
    fn gave_way(&mut self, key: Key, conflict: Conflict, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.conflict = Some(conflict);
        if conflict == Conflict::TimedOut {
            call.lasted = now.saturating_duration_since(call.tried);
        }
        if conflict == Conflict::Moving {
            call.redirects = call.redirects.saturating_add(1);
            return self.come_back(key, &backoff::MOVING, ErrorKind::Conflict, now);
        }
        let delay = backoff::CONFLICT.delay(call.conflicts, &mut self.random);
        call.conflicts = call.conflicts.saturating_add(1);
        self.pause(key, ErrorKind::Conflict, now + delay);
    }

    /// A node can't say.
    fn node_refused(
        &mut self,
        key: Key,
        acts: bool,
        node: Option<NodeId>,
        link: LinkId,
        refused: Refused,
        now: Instant,
    ) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if refused.unknown {
            call.attempts.unknown();
        }
        let (group, target) = (call.group, call.target);
        match refused.code {
            Code::TooLarge => self.fail(key, ErrorKind::TooLarge, refused.message),
            Code::Invalid => self.fail(key, ErrorKind::Invalid, refused.message),
            _ if !acts => {}
            // Whoever names a group wants to know.
            Code::WrongGroup if matches!(target, Target::Group(_)) => {
                self.finish(key, Ok(Verdict::Refused(Box::new(refused))));
            }
            Code::WrongGroup => {
                self.wrong_group(key, refused.owner.as_ref(), now);
                self.offered(key, refused.owner.as_ref(), refused.leader, now);
            }
            Code::Awaiting => self.await_shard(key, now),
            Code::Busy => self.back_off(key, ErrorKind::Busy, now),
            Code::DiskFull => self.back_off(key, ErrorKind::DiskFull, now),
            Code::Unspecified => self.back_off(key, ErrorKind::Unavailable, now),
            Code::Stopping | Code::NotLeader | Code::NoLeader => {
                if refused.code == Code::Stopping {
                    self.links[link.0].draining = true;
                }
                if let Some(node) = node {
                    self.denied(group, node, refused.leader, now);
                }
                self.dispatch(key, now);
            }
        }
    }

    /// Somebody was told where a shard went; whether that is news.
    pub(crate) fn redirected(&mut self, shard: ShardId, owner: &Owner, now: Instant) -> bool {
        let news = self.router.moved(shard, owner);
        if news {
            self.rebind(now);
        }
        news
    }

    /// The shard isn't served where we asked: not a failure, as long as we learn where it is.
    fn wrong_group(&mut self, key: Key, owner: Option<&Owner>, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (asked, target) = (call.group, call.target);
        call.redirects = call.redirects.saturating_add(1);
        let (redirects, shard) = (call.redirects, target.shard());
        if let (Some(shard), Some(owner)) = (shard, owner) {
            self.redirected(shard, owner, now);
        }
        // What it was told may still stand, or have been called off.
        if shard.is_some_and(|shard| self.router.refuted(shard, asked)) {
            self.rebind(now);
        }
        // Where one shard went, others may have gone.
        self.want_refresh();
        let elsewhere = shard.and_then(|shard| self.router.owner(shard)).is_some_and(|group| group != asked);
        if !elsewhere || redirects > REDIRECTS {
            return self.come_back(key, &backoff::MOVING, ErrorKind::Unavailable, now);
        }
        if self.calls.get_mut(key).is_some_and(|call| matches!(call.phase, Phase::Sent(..))) {
            self.dispatch(key, now);
        }
    }

    /// A redirect may name the leader, of a group that nobody else told us how to reach.
    fn offered(&mut self, key: Key, owner: Option<&Owner>, leader: Option<(NodeId, String)>, now: Instant) {
        let (Some(owner), Some((leader, address))) = (owner, leader) else { return };
        let Some(group) = self.router.index(owner.group.group) else { return };
        if self.router.is_reachable(group) {
            return;
        }
        self.know(leader, &address, now);
        self.hinted(group, leader, now);
        let parked = |call: &mut super::Call| matches!(call.phase, Phase::Backoff(_)) && call.group == group;
        if self.calls.get_mut(key).is_some_and(parked) {
            self.dispatch(key, now);
        }
    }

    /// The shard is on its way to where we asked.
    fn await_shard(&mut self, key: Key, now: Instant) {
        if let Some(call) = self.calls.get_mut(key) {
            call.redirects = 0;
        }
        self.come_back(key, &backoff::AWAITING, ErrorKind::Busy, now);
    }

    /// Nobody is overloaded: the call is repeated soon, and never much later.
    fn come_back(&mut self, key: Key, pause: &Backoff, trouble: ErrorKind, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let delay = pause.delay(call.redirects.saturating_sub(1), &mut self.random);
        self.pause(key, trouble, now + delay.max(SOONEST));
    }
}
