//! The candidate: canvass, then phase 1 over all open slots ("Paxos Made Simple", §3).
//!
//! A canvass changes nothing anywhere and keeps a replica that can't win from disturbing one that leads. Keeps P4 by
//! adopting, per slot, what is chosen or else the entry of the highest ballot that a quorum reports.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Ballot, Moment, NodeId, Slot};
use crate::io::{Delay, Output, Timer};
use crate::limits::PROMISE_AHEAD_SLOTS_MAX;
use crate::message::{Command, Entry, Known, Message};
use crate::mutants::{self, Mutant};
use crate::quorum::{NodeSet, Voters};
use crate::replica::Replica;
use crate::roles::{Leader, Role};

/// A round of "would you?".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Canvass {
    ballot: Ballot,
    granted: NodeSet,
}

/// One chunk of a promise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromisePart<C> {
    /// The promiser's `chosen_end`.
    pub chosen_end: Slot,
    /// The promiser's `compacted_end`.
    pub compacted_end: Slot,
    /// What it knows of open slots.
    pub known: Vec<(Slot, Known<C>)>,
    /// Number of this chunk.
    pub chunk: u32,
    /// How many there are.
    pub chunks: u32,
}

impl<C> PromisePart<C> {
    /// It reports a slot that its promiser can't have voted for: every slot below it would be filled (P10).
    fn is_too_far_ahead(&self) -> bool {
        let end = self.chosen_end.0.saturating_add(PROMISE_AHEAD_SLOTS_MAX);
        self.known.iter().any(|(slot, _)| slot.0 >= end)
    }
}

/// The promise of one acceptor, as far as its chunks have arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Promised<C> {
    chosen_end: Slot,
    chunks: u32,
    arrived: BTreeSet<u32>,
    known: BTreeMap<Slot, Known<C>>,
}

impl<C> Promised<C> {
    fn is_complete(&self) -> bool {
        self.arrived.len() == self.chunks as usize
    }
}

/// A replica in phase 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate<C> {
    pub(crate) ballot: Ballot,
    asked_from: Slot,
    released: Option<Ballot>,
    promises: BTreeMap<NodeId, Promised<C>>,
}

/// What a quorum of promises obliges a new leader to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elected<C> {
    /// The largest `chosen_end` of the quorum: below it the leader proposes nothing and fetches.
    pub(crate) chosen_end: Slot,
    /// A promiser with that `chosen_end`.
    pub(crate) ahead: NodeId,
    /// One entry for every slot from `chosen_end` to the last one reported.
    pub(crate) adopted: BTreeMap<Slot, Entry<C>>,
}

impl<C: Command> Candidate<C> {
    /// Takes a chunk; a quorum of complete promises elects.
    fn on_promise(&mut self, from: NodeId, part: PromisePart<C>, voters: &Voters) -> Option<Elected<C>> {
        let promised = self.promises.entry(from).or_insert_with(|| Promised::new(&part));
        if promised.chosen_end != part.chosen_end || promised.chunks != part.chunks {
            // It was built anew since; chunks of two builds don't mix.
            *promised = Promised::new(&part);
        }
        promised.arrived.insert(part.chunk);
        promised.known.extend(part.known);
        let complete = self.promises.iter().filter(|(_, p)| p.is_complete()).map(|(node, _)| *node).collect();
        voters.is_quorum(&complete).then(|| self.adopt(&complete))
    }

    fn adopt(&self, quorum: &NodeSet) -> Elected<C> {
        let promises = || self.promises.iter().filter(|(node, _)| quorum.contains(**node));
        let (ahead, chosen_end) = promises()
            .map(|(node, p)| (*node, p.chosen_end))
            .max_by_key(|(_, end)| *end)
            .expect("a quorum isn't empty");
        let mut best: BTreeMap<Slot, &Known<C>> = BTreeMap::new();
        for (slot, known) in promises().flat_map(|(_, p)| p.known.range(chosen_end..)) {
            if mutants::is_on(Mutant::VotesNotAdopted) {
                continue;
            }
            let held = best.entry(*slot).or_insert(known);
            if (rank(known) > rank(held)) != mutants::is_on(Mutant::LowestBallotAdopted) {
                *held = known;
            }
        }
        let end = best.last_key_value().map_or(chosen_end, |(slot, _)| slot.next());
        let adopted = (chosen_end.0..end.0).map(Slot).map(|slot| {
            let entry = match best.get(&slot) {
                Some(Known::Accepted(_, entry) | Known::Chosen(entry)) => entry.clone(),
                None => Entry::Noop,
            };
            (slot, entry)
        });
        Elected { chosen_end, ahead, adopted: adopted.collect() }
    }

    fn has_promise_of(&self, node: NodeId) -> bool {
        self.promises.get(&node).is_some_and(Promised::is_complete)
    }
}

impl<C> Promised<C> {
    fn new(part: &PromisePart<C>) -> Promised<C> {
        Promised {
            chosen_end: part.chosen_end,
            chunks: part.chunks,
            arrived: BTreeSet::new(),
            known: BTreeMap::new(),
        }
    }
}

/// Chosen beats every ballot; among votes the highest ballot wins.
fn rank<C>(known: &Known<C>) -> (bool, Ballot) {
    match known {
        Known::Accepted(ballot, _) => (false, *ballot),
        Known::Chosen(_) => (true, Ballot::ZERO),
    }
}

impl<C: Command> Replica<C> {
    pub(crate) fn on_election_due(&mut self, out: &mut Output<C>) {
        let waits_for_disk = match &self.role {
            Role::Leader(_) => return,
            Role::Candidate(candidate) => !candidate.has_promise_of(self.me()),
            Role::Follower | Role::Canvassing(_) => false,
        };
        let (min, max) = (self.limits().election_min_us, self.limits().election_max_us);
        out.arm(Timer::Election, Delay::Between(min, max));
        if !self.state_lost()
            && !waits_for_disk
            && self.disk_wait.is_none()
            && !self.is_sticky_against(self.me(), None)
        {
            self.canvass(out);
        }
    }

    fn canvass(&mut self, out: &mut Output<C>) {
        let ballot = self.promised.max(self.seen).next(self.me());
        if !self.limits().canvass {
            self.prepare(ballot, None, out);
            return;
        }
        let granted: NodeSet = [self.me()].into_iter().collect();
        if self.config.voters.is_quorum(&granted) {
            self.prepare(ballot, None, out);
            return;
        }
        self.follow(out);
        self.role = Role::Canvassing(Canvass { ballot, granted });
        for to in self.others() {
            out.send(self.me(), to, Message::Canvass { ballot, chosen_end: self.chosen_end });
        }
        // A canvass disturbs nobody, so a failed one is soon repeated.
        let patience = self.limits().election_min_us / 4;
        out.arm(Timer::Election, Delay::Between(patience, 2 * patience));
    }

    pub(crate) fn on_canvass(&mut self, from: NodeId, ballot: Ballot, chosen_end: Slot, out: &mut Output<C>) {
        let free = ballot > self.promised && !self.is_sticky_against(from, None);
        let granted = free && self.can_report(chosen_end);
        let message = Message::Canvassed {
            ballot,
            granted,
            promised: self.promised,
            leader: self.leading().or(self.heard),
            chosen_end: self.chosen_end,
            compacted_end: self.log.compacted_end(),
        };
        out.send(self.me(), from, message);
    }

    pub(crate) fn on_canvassed(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        granted: bool,
        promised: Ballot,
        compacted_end: Slot,
        out: &mut Output<C>,
    ) {
        let Role::Canvassing(canvass) = &mut self.role else { return };
        if canvass.ballot != ballot {
            return;
        }
        if !granted {
            self.see(promised);
            return;
        }
        if compacted_end > self.chosen_end && !self.deferred {
            // It would need a snapshot before it could serve: let the other go first, once.
            self.deferred = true;
            self.follow(out);
            return;
        }
        canvass.granted.insert(from);
        if self.config.voters.is_quorum(&canvass.granted) {
            self.prepare(ballot, None, out);
        }
    }

    /// Phase 1a. The ballot must be durable before anyone hears it: forgotten, it could be used twice.
    pub(crate) fn prepare(&mut self, ballot: Ballot, released: Option<Ballot>, out: &mut Output<C>) {
        assert!(ballot > self.promised, "P3: a ballot is used once");
        self.follow(out);
        self.set_promised(ballot, out);
        let asked_from = self.chosen_end;
        self.role = Role::Candidate(Candidate { ballot, asked_from, released, promises: BTreeMap::new() });
        for to in self.others() {
            let message = Message::Prepare { ballot, chosen_end: asked_from, released };
            out.send_after_sync(self.me(), to, message);
        }
        self.promise(self.me(), ballot, asked_from, out);
        let limits = self.limits();
        out.arm(Timer::Resend, Delay::Exactly(limits.resend_us));
        out.arm(Timer::Election, Delay::Between(limits.election_min_us, limits.election_max_us));
    }

    pub(crate) fn resend_prepare(&self, out: &mut Output<C>) {
        let Role::Candidate(candidate) = &self.role else { return };
        if !candidate.has_promise_of(self.me()) {
            // The disk is slow, and the first Prepare still waits for it.
            return;
        }
        for to in self.others().into_iter().filter(|to| !candidate.has_promise_of(*to)) {
            let message = Message::Prepare {
                ballot: candidate.ballot,
                chosen_end: candidate.asked_from,
                released: candidate.released,
            };
            out.send_after_sync(self.me(), to, message);
        }
    }

    pub(crate) fn on_promise(
        &mut self,
        now: Moment,
        from: NodeId,
        ballot: Ballot,
        part: PromisePart<C>,
        out: &mut Output<C>,
    ) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.ballot != ballot || part.chunk >= part.chunks || part.is_too_far_ahead() {
            return;
        }
        if let Some(elected) = candidate.on_promise(from, part, &self.config.voters) {
            self.become_leader(now, ballot, elected, out);
        }
    }

    fn become_leader(&mut self, now: Moment, ballot: Ballot, elected: Elected<C>, out: &mut Output<C>) {
        self.heard = None;
        self.deferred = false;
        let behind = elected.chosen_end > self.chosen_end;
        let ahead = elected.ahead;
        let chosen_end = elected.chosen_end;
        self.role = Role::Leader(Leader::new(ballot, elected));
        // What earlier leaders told is of no use: they may be gone.
        self.told = None;
        out.cancel(Timer::Election);
        out.cancel(Timer::LeaderSilent);
        out.cancel(Timer::Resend);
        out.arm(Timer::CheckQuorum, Delay::Exactly(self.limits().check_quorum_us));
        self.beat(now, out);
        if behind {
            self.on_ahead(ahead, chosen_end, out);
        }
    }
}
