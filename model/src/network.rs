//! The network: the set of all messages ever sent. Any of them may arrive at any time, again, or never, so loss,
//! duplication and reordering need no actions of their own.
//!
//! What a set of messages says about P2, P3 and P4 depends on nothing else, so it is worked out once per set.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::message::{Entry, Envelope, Known, Message};
use paxos::quorum::{NodeSet, Voters};

/// A message with its hash, computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter {
    /// Who says what to whom.
    pub envelope: Envelope<u8>,
    /// Stable within one build.
    pub hash: u64,
}

impl Letter {
    /// A letter of an envelope.
    pub fn new(envelope: Envelope<u8>) -> Arc<Letter> {
        let hash = hash_of(&envelope);
        Arc::new(Letter { envelope, hash })
    }
}

impl Hash for Letter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// A hash that is the same in every run of one build.
pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A growing set of letters, ordered by hash, and what it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Sorted by hash, without duplicates.
    pub letters: Vec<Arc<Letter>>,
    /// Independent of the order in which the letters came.
    pub hash: u64,
    /// What the letters say.
    pub facts: Facts,
}

/// What a set of letters says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Per slot, what a quorum said to have accepted at one ballot, in order of ballots.
    pub chosen: BTreeMap<Slot, Vec<(Ballot, Entry<u8>)>>,
    /// The highest ballot that each node confirmed in a Promise or an Accepted.
    pub confirmed: BTreeMap<NodeId, Ballot>,
    /// A leader proposed an entry that another leader had proposed before it.
    pub adopted: bool,
    /// A leader filled a slot with nothing, since another one above it was in use.
    pub hole_filled: bool,
    /// A node accepted below a promise that doesn't report that vote (P2).
    pub broken_promise: Option<String>,
    /// Two entries were proposed at one ballot and slot (P3).
    pub two_entries: Option<String>,
    /// Two entries were chosen at one slot (P4).
    pub two_chosen: Option<String>,
}

impl Network {
    /// Whether the letter was ever sent.
    pub fn contains(&self, letter: &Letter) -> bool {
        self.letters.binary_search_by_key(&letter.hash, |l| l.hash).is_ok()
    }

    /// The letters of `self` and `more`.
    pub fn with(&self, more: &[Arc<Letter>], voters: &Voters) -> Network {
        let mut letters = self.letters.clone();
        let mut hash = self.hash;
        for letter in more {
            if let Err(place) = letters.binary_search_by_key(&letter.hash, |l| l.hash) {
                letters.insert(place, letter.clone());
                hash = hash.wrapping_add(letter.hash);
            }
        }
        let facts = Facts::of(&letters, voters);
        Network { letters, hash, facts }
    }
}

/// What a promise says about votes.
struct Promised<'a> {
    by: NodeId,
    ballot: Ballot,
    known: &'a [(Slot, Known<u8>)],
    chosen_end: Slot,
}

impl Promised<'_> {
    /// Whether a vote of the promiser contradicts the promise: below it, and not reported by it.
    fn is_broken_by(&self, ballot: Ballot, slot: Slot, asked_from: Slot) -> bool {
        let concerned = ballot < self.ballot && slot >= self.chosen_end.max(asked_from);
        let reported = self.known.iter().any(|(s, known)| {
            *s == slot
                && match known {
                    Known::Accepted(voted_at, _) => *voted_at >= ballot,
                    Known::Chosen(_) => true,
                }
        });
        concerned && !reported
    }
}

impl Facts {
    fn of(letters: &[Arc<Letter>], voters: &Voters) -> Facts {
        let mut facts = Facts::default();
        let mut proposed: BTreeMap<(Slot, Ballot), &Entry<u8>> = BTreeMap::new();
        let mut votes: BTreeMap<(Slot, Ballot), NodeSet> = BTreeMap::new();
        let mut asked: BTreeMap<Ballot, Slot> = BTreeMap::new();
        let mut promises = Vec::new();
        for Envelope { from, message, .. } in letters.iter().map(|letter| &letter.envelope) {
            match message {
                Message::Accept { ballot, slot, entry, .. } => {
                    if *proposed.entry((*slot, *ballot)).or_insert(entry) != entry {
                        facts.two_entries = Some(format!("two entries proposed at {ballot}, {slot}"));
                    }
                }
                Message::Accepted { ballot, slot } => {
                    facts.confirm(*from, *ballot);
                    votes.entry((*slot, *ballot)).or_default().insert(*from);
                }
                Message::Prepare { ballot, chosen_end, .. } => {
                    asked.insert(*ballot, *chosen_end);
                }
                // Entries are small: a promise has one chunk in every model.
                Message::Promise { ballot, known, chosen_end, .. } => {
                    facts.confirm(*from, *ballot);
                    promises.push(Promised { by: *from, ballot: *ballot, known, chosen_end: *chosen_end });
                }
                Message::Canvass { .. }
                | Message::Canvassed { .. }
                | Message::Preempted { .. }
                | Message::AlreadyChosen { .. }
                | Message::Heartbeat { .. }
                | Message::HeartbeatAck { .. }
                | Message::CatchUp { .. }
                | Message::Caught { .. }
                | Message::Transfer { .. } => {}
            }
        }
        facts.judge_promises(&promises, &votes, &asked);
        facts.adopted = proposed.iter().any(|((slot, ballot), entry)| {
            **entry != Entry::Noop
                && proposed
                    .range((*slot, Ballot::ZERO)..(*slot, *ballot))
                    .any(|((_, earlier), old)| earlier.node != ballot.node && old == entry)
        });
        facts.hole_filled = proposed.values().any(|entry| **entry == Entry::Noop);
        for ((slot, ballot), _) in votes.iter().filter(|(_, voted)| voters.is_quorum(voted)) {
            match proposed.get(&(*slot, *ballot)) {
                Some(entry) => facts.choose(*slot, *ballot, (*entry).clone()),
                None => facts.two_entries = Some(format!("a vote at {ballot}, {slot} that nobody proposed")),
            }
        }
        facts
    }

    fn confirm(&mut self, node: NodeId, ballot: Ballot) {
        let confirmed = self.confirmed.entry(node).or_default();
        *confirmed = ballot.max(*confirmed);
    }

    fn choose(&mut self, slot: Slot, ballot: Ballot, entry: Entry<u8>) {
        let chosen = self.chosen.entry(slot).or_default();
        if chosen.iter().any(|(_, other)| *other != entry) {
            self.two_chosen = Some(format!("two entries chosen at {slot}"));
        }
        chosen.push((ballot, entry));
    }

    fn judge_promises(
        &mut self,
        promises: &[Promised<'_>],
        votes: &BTreeMap<(Slot, Ballot), NodeSet>,
        asked: &BTreeMap<Ballot, Slot>,
    ) {
        for promise in promises {
            let asked_from = asked.get(&promise.ballot).copied().unwrap_or_default();
            for ((slot, ballot), _) in votes.iter().filter(|(_, voted)| voted.contains(promise.by)) {
                if promise.is_broken_by(*ballot, *slot, asked_from) {
                    let (node, promised) = (promise.by, promise.ballot);
                    let broken = format!("{node} promised {promised} and voted at {ballot}, {slot}");
                    self.broken_promise = Some(broken);
                }
            }
        }
    }
}
