//! Rounds of operations, each on keys of its own, so that a history stays short enough to be judged, whatever the run takes.
//!
//! Some clients are a team and share rounds. A round has [`KEYS`] keys, spread over the groups, and [`OPERATIONS`]
//! operations, or fewer if [`UNKNOWN_MAX`] of them came to nobody knows what; then its team goes on to the next one. A round
//! that is over is held for a while: its keys are looked at once more after faults that came later.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use client::Routing;
use parking_lot::Mutex;
use scripted::history::{History, Operation, Outcome};

/// Keys of a round.
pub(super) const KEYS: usize = 12;
/// Operations of a round.
const OPERATIONS: usize = 300;
/// Unknown outcomes of a round: each may have happened at any time after its call, so many are hard to judge.
const UNKNOWN_MAX: usize = 10;
/// Clients that share rounds: what is in flight at once is what makes judging hard.
pub(super) const TEAM: u64 = 8;
/// Rounds of a team that are over and wait for the second look.
const HELD_MAX: usize = 16;
/// Names that are tried for a key in a wanted group.
const NAMES_MAX: usize = 256;

/// What is done with a key; a third of a round's keys each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Set, compared, removed, exchanged.
    Register,
    /// Added to.
    Counter,
    /// Appended to.
    List,
}

impl Sort {
    const ALL: [Sort; 3] = [Sort::Register, Sort::Counter, Sort::List];

    fn name(self) -> &'static str {
        match self {
            Sort::Register => "register",
            Sort::Counter => "counter",
            Sort::List => "list",
        }
    }

    /// Of the key with this number.
    pub(super) fn of(number: usize) -> Sort {
        Sort::ALL[number % Sort::ALL.len()]
    }

    /// The numbers of the keys of this sort.
    pub(super) fn numbers(self) -> impl Iterator<Item = usize> {
        (0..KEYS).filter(move |number| Sort::of(*number) == self)
    }
}

/// The keys of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    /// Which round's, from 0.
    pub(super) round: u64,
    /// By their numbers.
    pub(super) names: Vec<Vec<u8>>,
}

impl Keys {
    /// Below this prefix, and in the groups in turn as far as names are found.
    fn new(prefix: &str, round: u64, routing: &Routing) -> Keys {
        let groups: Vec<_> = routing.owners.iter().collect::<BTreeSet<_>>().into_iter().copied().collect();
        let name = |number: usize| {
            let sort = Sort::of(number).name();
            let of = |tried: usize| format!("{prefix}{round}/{sort}{number}-{tried}").into_bytes();
            // Each group gets keys of each sort.
            let turn = number / Sort::ALL.len() + usize::try_from(round).unwrap_or(0);
            let wanted = (!groups.is_empty()).then(|| groups[turn % groups.len()]);
            let is_there = |name: &Vec<u8>| routing.locate(name).map(|place| place.group) == wanted;
            (0..NAMES_MAX).map(of).find(is_there).unwrap_or_else(|| of(0))
        };
        Keys { round, names: (0..KEYS).map(name).collect() }
    }
}

/// A round that is over, or as far as it came.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) keys: Arc<Keys>,
    pub(super) history: History,
}

struct Open {
    keys: Arc<Keys>,
    called: usize,
    answered: usize,
    unknown: usize,
    history: History,
}

impl Open {
    /// Whether no more operations belong to it.
    fn is_full(&self) -> bool {
        self.called >= OPERATIONS || self.unknown >= UNKNOWN_MAX
    }
}

/// All rounds of a team.
pub(super) struct Rounds {
    prefix: String,
    routing: Routing,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Rounds so far.
    begun: u64,
    /// Those with operations to come or in flight, the newest last.
    open: VecDeque<Open>,
    held: VecDeque<Closed>,
}

impl Rounds {
    /// With keys that begin so, in the groups of this table.
    pub(super) fn new(prefix: String, routing: Routing) -> Rounds {
        let inner = Mutex::new(Inner { begun: 0, open: VecDeque::new(), held: VecDeque::new() });
        let rounds = Rounds { prefix, routing, inner };
        rounds.begin(&mut rounds.inner.lock(), 0);
        rounds
    }

    fn begin(&self, inner: &mut Inner, called: usize) -> Arc<Keys> {
        let keys = Arc::new(Keys::new(&self.prefix, inner.begun, &self.routing));
        inner.begun += 1;
        let history = History::default();
        inner.open.push_back(Open { keys: keys.clone(), called, answered: 0, unknown: 0, history });
        keys
    }

    /// The keys for one more operation, which [`Rounds::note`] must hear of.
    pub(super) fn call(&self) -> Arc<Keys> {
        let mut inner = self.inner.lock();
        match inner.open.back_mut() {
            Some(newest) if !newest.is_full() => {
                newest.called += 1;
                newest.keys.clone()
            }
            // It is full, or over.
            _ => self.begin(&mut inner, 1),
        }
    }

    /// The keys in use just now.
    pub(super) fn newest(&self) -> Option<Arc<Keys>> {
        self.inner.lock().open.back().map(|newest| newest.keys.clone())
    }

    /// Writes down what came of an operation; nothing if that says nothing. A round that it is time to look at once more.
    pub(super) fn note(&self, keys: &Keys, operation: Option<Operation>) -> Option<Closed> {
        let mut inner = self.inner.lock();
        let at = inner.open.iter().position(|open| open.keys.round == keys.round)?;
        let open = inner.open.get_mut(at)?;
        open.answered += 1;
        open.unknown += usize::from(operation.as_ref().is_some_and(|op| op.outcome == Outcome::Unknown));
        open.history.operations.extend(operation);
        if open.is_full()
            && open.answered == open.called
            && let Some(Open { keys, history, .. }) = inner.open.remove(at)
        {
            inner.held.push_back(Closed { keys, history });
        }
        if inner.held.len() > HELD_MAX { inner.held.pop_front() } else { None }
    }

    /// Takes one back that couldn't be looked at.
    pub(super) fn hold(&self, closed: Closed) {
        self.inner.lock().held.push_back(closed);
    }

    /// All that wasn't looked at once more, when nothing is in flight any more. Nothing may be called after that.
    pub(super) fn rest(&self) -> Vec<Closed> {
        let mut inner = self.inner.lock();
        let mut rest: Vec<Closed> = inner.held.drain(..).collect();
        let unfinished = inner.open.drain(..).filter(|open| open.answered > 0);
        rest.extend(unfinished.map(|Open { keys, history, .. }| Closed { keys, history }));
        rest
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::GroupId;

    use super::*;

    fn rounds() -> Rounds {
        let owners = (0..64).map(|shard| GroupId(shard % 3 + 1)).collect();
        Rounds::new("check/a/".to_owned(), Routing { shards: 64, owners, ..Routing::default() })
    }

    #[test]
    fn each_sort_has_keys_in_each_group() {
        let rounds = rounds();
        let keys = rounds.call();
        assert_eq!(keys.names.iter().collect::<BTreeSet<_>>().len(), KEYS);
        for sort in Sort::ALL {
            let groups: BTreeSet<_> = sort
                .numbers()
                .filter_map(|number| rounds.routing.locate(&keys.names[number]))
                .map(|place| place.group)
                .collect();
            assert_eq!(groups.len(), 3, "{sort:?}");
        }
    }

    #[test]
    fn a_round_is_closed_when_all_of_it_is_answered() {
        let rounds = rounds();
        let calls: Vec<_> = (0..=OPERATIONS).map(|_| rounds.call()).collect();
        assert_eq!((calls[0].round, calls[OPERATIONS - 1].round, calls[OPERATIONS].round), (0, 0, 1));
        assert!(calls[0].names.iter().all(|name| !calls[OPERATIONS].names.contains(name)));
        assert_eq!(rounds.newest().map(|keys| keys.round), Some(1));
        for keys in &calls[..OPERATIONS - 1] {
            assert!(rounds.note(keys, None).is_none());
        }
        assert_eq!(rounds.inner.lock().held.len(), 0);
        assert!(rounds.note(&calls[0], None).is_none());
        assert_eq!(rounds.inner.lock().held.len(), 1);
        rounds.note(&calls[OPERATIONS], None);
        assert_eq!(rounds.rest().len(), 2);
    }

    #[test]
    fn a_round_with_many_unknown_outcomes_is_short() {
        let rounds = rounds();
        let unknown = |at| Operation::unknown(1, at, client::TxnOp::Get { key: b"k".to_vec() });
        let keys: Vec<_> = (0..=UNKNOWN_MAX).map(|_| rounds.call()).collect();
        for (at, keys) in (0..).zip(&keys[1..]) {
            rounds.note(keys, Some(unknown(at)));
        }
        assert_eq!(rounds.call().round, 1);
        assert_eq!(rounds.inner.lock().held.len(), 0, "one is in flight");
        rounds.note(&keys[0], None);
        assert_eq!(rounds.inner.lock().held.len(), 1);
    }

    #[test]
    fn only_so_many_rounds_are_held() {
        let rounds = rounds();
        let (mut looked_at, mut names) = (Vec::new(), BTreeSet::new());
        for _ in 0..OPERATIONS * (HELD_MAX + 3) {
            let keys = rounds.call();
            names.extend(keys.names.clone());
            looked_at.extend(rounds.note(&keys, None).map(|closed| closed.keys.round));
        }
        assert_eq!(looked_at, [0, 1, 2]);
        assert_eq!(names.len(), (HELD_MAX + 3) * KEYS, "no key is used by two rounds");
        assert_eq!(rounds.rest().len(), HELD_MAX);
    }
}
