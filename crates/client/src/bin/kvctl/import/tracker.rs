//! Which records are done: all up to a place in the file, and some after it.

use std::collections::{BTreeSet, VecDeque};

use paxos::ids::Sequence;
use serde::{Deserialize, Serialize};

/// A place between two records of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Records before it.
    pub(super) records: u64,
    /// Lines before it.
    pub(super) lines: u64,
    /// Bytes before it.
    pub(super) offset: u64,
}

/// The records from the first that isn't done to the last that was begun.
pub(super) struct Tracker {
    place: Place,
    /// Of the record at `place`, once it is begun.
    sequence: Sequence,
    /// Of the next record to begin.
    next_sequence: Sequence,
    open: VecDeque<Begun>,
    /// Numbers of records that an earlier session did.
    done_before: BTreeSet<u64>,
}

struct Begun {
    end: Place,
    is_done: bool,
    /// It took a sequence of this session.
    has_sequence: bool,
}

impl Tracker {
    /// All records before `place` are done, and those numbered in `done_before`.
    pub(super) fn new(place: Place, done_before: BTreeSet<u64>) -> Tracker {
        let first = Sequence(1);
        Tracker { place, sequence: first, next_sequence: first, open: VecDeque::new(), done_before }
    }

    /// The next record has this sequence.
    pub(super) fn begin_session(&mut self, sequence: Sequence) {
        assert!(self.open.is_empty(), "a session ends before the next begins");
        (self.sequence, self.next_sequence) = (sequence, sequence);
    }

    /// How many records there are from the first that isn't done to the last that was begun.
    pub(super) fn begun(&self) -> usize {
        self.open.len()
    }

    /// Begins the next record in file order, which ends at `end`, and gives its sequence; `None` if it's done already.
    pub(super) fn begin(&mut self, end: Place) -> Option<Sequence> {
        let number = self.place.records + self.open.len() as u64;
        assert_eq!(end.records, number + 1, "records are begun in file order");
        let has_sequence = !self.done_before.remove(&number);
        self.open.push_back(Begun { end, is_done: !has_sequence, has_sequence });
        if !has_sequence {
            self.advance();
            return None;
        }
        let sequence = self.next_sequence;
        self.next_sequence = Sequence(sequence.0 + 1);
        Some(sequence)
    }

    /// The record with this number, from 0, is done.
    pub(super) fn finish(&mut self, number: u64) {
        let at = number.checked_sub(self.place.records).and_then(|at| usize::try_from(at).ok());
        let begun = at.and_then(|at| self.open.get_mut(at));
        if let Some(begun) = begun {
            begun.is_done = true;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(first) = self.open.pop_front_if(|begun| begun.is_done) {
            self.place = first.end;
            self.sequence.0 += u64::from(first.has_sequence);
        }
    }

    /// Every record before it is done.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The sequence of the record at [`Tracker::place`].
    pub(super) fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Numbers of the records after [`Tracker::place`] that are done.
    pub(super) fn also_done(&self) -> BTreeSet<u64> {
        let open = self.open.iter().zip(self.place.records..);
        let done = open.filter(|(begun, _)| begun.is_done).map(|(_, number)| number);
        done.chain(self.done_before.iter().copied()).collect()
    }

    /// Numbers of the records after [`Tracker::place`] that an earlier session did.
    pub(super) fn done_before(&self) -> BTreeSet<u64> {
        let open = self.open.iter().zip(self.place.records..);
        let before = open.filter(|(begun, _)| !begun.has_sequence).map(|(_, number)| number);
        before.chain(self.done_before.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(records: u64) -> Place {
        Place { records, lines: records, offset: records * 10 }
    }

    fn tracker(place: Place, sequence: u64, done_before: BTreeSet<u64>) -> Tracker {
        let mut tracker = Tracker::new(place, done_before);
        tracker.begin_session(Sequence(sequence));
        tracker
    }

    #[test]
    fn the_place_follows_the_first_that_is_not_done() {
        let mut tracker = tracker(Place::default(), 1, BTreeSet::new());
        for number in 0..4 {
            assert_eq!(tracker.begin(end(number + 1)), Some(Sequence(number + 1)));
        }
        tracker.finish(2);
        tracker.finish(1);
        assert_eq!((tracker.place(), tracker.sequence()), (end(0), Sequence(1)));
        assert_eq!(tracker.also_done(), [1, 2].into());
        tracker.finish(0);
        assert_eq!((tracker.place(), tracker.sequence()), (end(3), Sequence(4)));
        assert_eq!(tracker.also_done(), [].into());
    }

    #[test]
    fn records_done_before_take_no_sequence() {
        let mut tracker = tracker(end(5), 1, [6, 8].into());
        assert_eq!(tracker.begin(end(6)), Some(Sequence(1)));
        assert_eq!(tracker.begin(end(7)), None);
        assert_eq!(tracker.begin(end(8)), Some(Sequence(2)));
        assert_eq!(tracker.also_done(), [6, 8].into());
        assert_eq!(tracker.done_before(), [6, 8].into());
        tracker.finish(7);
        assert_eq!((tracker.also_done(), tracker.done_before()), ([6, 7, 8].into(), [6, 8].into()));
        tracker.finish(5);
        assert_eq!((tracker.place(), tracker.sequence()), (end(8), Sequence(3)));
        assert_eq!(tracker.also_done(), [8].into());
        assert_eq!(tracker.begin(end(9)), None);
        assert_eq!((tracker.place(), tracker.sequence()), (end(9), Sequence(3)));
    }

    /// A run that is killed anywhere gives, when it is taken up, each record the sequence it had.
    #[test]
    fn a_record_keeps_its_sequence_over_a_crash() {
        let mut first = tracker(Place::default(), 7, [2, 5].into());
        let sequences: Vec<_> = (0..9).map(|number| first.begin(end(number + 1))).collect();
        for number in [1, 0, 4, 3] {
            first.finish(number);
            let mut second = tracker(first.place(), first.sequence().0, first.done_before());
            for number in first.place().records..9 {
                let sequence = sequences[usize::try_from(number).unwrap()];
                assert_eq!(second.begin(end(number + 1)), sequence, "record {number}");
            }
        }
    }
}
