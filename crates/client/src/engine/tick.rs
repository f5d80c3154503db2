//! What time brings: deadlines, silent nodes, tries to repeat. One look at everything every few milliseconds, instead of
//! a timer a call.

use std::time::Duration;

use kvserver::txn::Conflict;
use tokio::time::Instant;

use super::{Call, Engine, Pace, Phase};
use crate::error::ErrorKind;
use crate::outcome::{LinkId, Outcome};
use crate::slab::Key;

/// While something is about to be repeated.
const SOON: Duration = Duration::from_millis(4);
/// While something is to be repeated even before.
const SOONEST: Duration = Duration::from_millis(2);
/// While calls are in flight and all is well.
const CALM: Duration = Duration::from_millis(20);
/// A connection that isn't made by then is no longer waited for.
const CONNECT_PATIENCE: Duration = Duration::from_millis(250);
/// A node is granted this much more silence for each mebibyte that it has to answer.
const SILENCE_PER_MIB: Duration = Duration::from_millis(100);

/// A call that was refused so far isn't tried again so shortly before its deadline: better surely not executed than
/// unknown.
const LAST_TRY: Duration = Duration::from_millis(50);
/// A look that comes so late means that this process stood still.
const LATE: Duration = Duration::from_millis(150);

enum Due {
    Deadline,
    Again,
    Silence,
}

impl Engine {
    /// Does what is due; when to look again, `None` if nothing is in flight.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Duration> {
        let paused = now.saturating_duration_since(self.looked) > LATE;
        self.looked = now;
        for index in 0..self.links.len() {
            if paused {
                // It was us: what the node said meanwhile isn't read yet.
                self.links[index].quiet_since = now;
            }
            if self.is_silent(LinkId(index), now) {
                self.links[index].suspect = true;
                self.leave(LinkId(index), now);
            }
        }
        let mut soon = false;
        let mut next = SOON;
        let (attempt, timeout) = (self.options.attempt_timeout, self.options.timeout);
        let too_late = |call: &Call| {
            // The next try of a transaction may take as long as the last one.
            let takes = LAST_TRY.min(timeout / 8).max(call.lasted.min(timeout / 2));
            call.deadline <= now + takes && call.outcome() == Outcome::NotExecuted
        };
        let due = |call: &Call| {
            let sent_until = |at| at + attempt.saturating_mul(1 << call.silences.min(8));
            match call.phase {
                Phase::Done(_) => None,
                _ if call.deadline <= now => Some(Due::Deadline),
                Phase::Backoff(until) if until <= now && too_late(call) => Some(Due::Deadline),
                Phase::Backoff(until) if until <= now => Some(Due::Again),
                Phase::Sent(_, at) if sent_until(at) <= now => Some(Due::Silence),
                _ => None,
            }
        };
        let mut all: Vec<(Key, Due)> = Vec::new();
        for (key, call) in self.calls.iter_mut() {
            if let Phase::Backoff(until) = call.phase {
                soon = true;
                next = next.min(until.saturating_duration_since(now).max(SOONEST));
            }
            all.extend(due(call).map(|due| (key, due)));
        }
        for (key, due) in all {
            match due {
                Due::Deadline => self.give_up(key),
                Due::Again => self.again(key, now),
                Due::Silence => self.repeat(key, now),
            }
        }
        soon |= self.search(now);
        self.pace = if soon { Pace::Soon } else { Pace::Calm };
        match self.calls.len() {
            0 => None,
            _ if soon => Some(next),
            _ => Some(CALM),
        }
    }

    fn is_silent(&mut self, id: LinkId, now: Instant) -> bool {
        let link = &self.links[id.0];
        if link.suspect {
            return false;
        }
        if let Some(since) = link.connecting_since() {
            return since + CONNECT_PATIENCE <= now;
        }
        let quiet = now.saturating_duration_since(link.quiet_since);
        if !link.is_up() || link.open == 0 || quiet < self.options.silence {
            return false;
        }
        let owed = |call: &Call| call.attempts.open().any(|open| open.link == id);
        let bytes: usize = self.calls.iter_mut().filter(|(_, call)| owed(call)).map(|(_, c)| c.cost).sum();
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        quiet >= self.options.silence + SILENCE_PER_MIB.saturating_mul(mebibytes)
    }

    /// A call that was refused goes out again.
    fn again(&mut self, key: Key, now: Instant) {
        if let Some(call) = self.calls.get_mut(key) {
            call.tried = now;
        }
        self.dispatch(key, now);
    }

    /// A try heard nothing: the request goes out again, to somebody else if its leader answers nobody.
    fn repeat(&mut self, key: Key, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.silences += 1;
        call.trouble = Some(ErrorKind::Timeout);
        let (Phase::Sent(link, at), group) = (&call.phase, call.group) else { return };
        let (link, at) = (*link, *at);
        let lives = self.discovery(group).answered.is_some_and(|answered| answered > at);
        if let (false, Some(node)) = (lives, self.links[link.0].node)
            && self.router.group(group).leader == Some(node)
        {
            self.router.deny(group, node);
        }
        self.dispatch(key, now);
    }

    /// The deadline has passed.
    fn give_up(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (group, trouble) = (call.group, call.trouble);
        // All that is known of a transaction that others kept from running, wherever its last try is.
        let conflict = call.conflict.filter(|_| trouble == Some(ErrorKind::Conflict));
        let (kind, message) = match &call.phase {
            Phase::Waiting | Phase::Granted(_) => {
                (ErrorKind::Busy, "too many operations of this client are in flight".to_string())
            }
            Phase::Leaderless => return self.no_leader(key),
            Phase::Sent(..) | Phase::Backoff(_) if conflict.is_some() => {
                (ErrorKind::Conflict, gave_way(conflict))
            }
            Phase::Queued(link) => {
                (ErrorKind::Unavailable, format!("{} can't be reached", self.links[link.0].address))
            }
            Phase::Sent(link, _) => {
                (ErrorKind::Timeout, format!("{} didn't answer in time", self.links[link.0].address))
            }
            Phase::Backoff(_) | Phase::Done(_) => {
                let kind = trouble.unwrap_or(ErrorKind::Timeout);
                (kind, later(kind, self.router.groups().get(group.0).map_or(0, |g| g.id.0)))
            }
        };
        self.fail(key, kind, message);
    }

    fn no_leader(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let group = self.router.group(call.group);
        let links = || group.members.iter().filter_map(|node| self.by_node.get(node));
        let reachable = links().filter(|link| self.links[link.0].is_usable()).count();
        let (id, members) = (group.id.0, group.members.len());
        let kind = if reachable == 0 { ErrorKind::Unavailable } else { ErrorKind::NoLeader };
        let message = format!("group {id} has no leader ({reachable} of {members} replicas reachable)");
        self.fail(key, kind, message);
    }
}

fn gave_way(conflict: Option<Conflict>) -> String {
    let why = conflict.map(|why| format!(": {why}")).unwrap_or_default();
    format!("the transaction didn't get through{why}")
}

fn later(kind: ErrorKind, group: u32) -> String {
    match kind {
        ErrorKind::Busy => format!("group {group} is busy"),
        ErrorKind::DiskFull => format!("the leader of group {group} has no room on its disk"),
        ErrorKind::Unavailable => "no node that serves the shard could be reached".to_string(),
        _ => format!("group {group} didn't answer in time"),
    }
}
