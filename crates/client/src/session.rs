//! The client's side of exactly once: sequences, what each shard may forget, and how far a shard may be run ahead of.
//!
//! Sequences are unique over all shards; `ack_through` is per home shard (RULES B7: one stuck shard must not keep the
//! tables of the others full). An abandoned request counts as answered, else `ack_through` would stand still for ever.

use std::collections::VecDeque;

use kvserver::command::{SESSION_WINDOW, ShardId};
use paxos::ids::{ClientId, LogTime, Sequence};

// The window is small: it fits.
const WINDOW: usize = SESSION_WINDOW as usize;

/// What a new write is stamped with; every try repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) client: ClientId,
    pub(crate) sequence: Sequence,
    pub(crate) ack_through: Sequence,
    pub(crate) sent_at: LogTime,
}

/// A session and its unanswered writes.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientId,
    next: u64,
    log_time: LogTime,
    shards: Vec<Home>,
}

/// The unanswered writes of one home shard.
#[derive(Debug, Default)]
struct Home {
    // In order of sequence; the front is unanswered.
    writes: VecDeque<(u64, bool)>,
    // Replies that the shard keeps for us.
    kept: bool,
}

impl Session {
    /// A session that goes on at `next`.
    pub(crate) fn new(client: ClientId, next: Sequence) -> Session {
        Session { client, next: next.0.max(1), log_time: LogTime(0), shards: Vec::new() }
    }

    /// The session's id and its next sequence.
    pub(crate) fn position(&self) -> (ClientId, Sequence) {
        (self.client, Sequence(self.next))
    }

    /// A node told its log time.
    pub(crate) fn heard(&mut self, log_time: LogTime) {
        self.log_time = self.log_time.max(log_time);
    }

    /// Opens a write with this home shard, unless the shard's window is full.
    pub(crate) fn open(&mut self, shard: ShardId) -> Option<Ticket> {
        if self.room(shard) == 0 {
            return None;
        }
        let (sequence, ack_through) = (self.next, self.ack_through(shard));
        self.next += 1;
        let home = self.home(shard);
        home.writes.push_back((sequence, false));
        home.kept = true;
        Some(Ticket {
            client: self.client,
            sequence: Sequence(sequence),
            ack_through: Sequence(ack_through),
            sent_at: self.log_time,
        })
    }

    /// How many more writes can be opened with this home shard now. The shard counts the replies that it keeps, so what
    /// counts here is every write from the lowest unanswered one on, answered or not.
    pub(crate) fn room(&mut self, shard: ShardId) -> usize {
        WINDOW.saturating_sub(self.home(shard).writes.len())
    }

    /// A write was answered or given up; whether `ack_through` moved.
    pub(crate) fn close(&mut self, shard: ShardId, sequence: Sequence) -> bool {
        let home = self.home(shard);
        let Ok(index) = home.writes.binary_search_by_key(&sequence.0, |(s, _)| *s) else { return false };
        home.writes[index].1 = true;
        while home.writes.front().is_some_and(|(_, answered)| *answered) {
            home.writes.pop_front();
        }
        index == 0
    }

    /// The shards that keep replies although every write there was answered.
    pub(crate) fn idle_homes(&self) -> impl Iterator<Item = ShardId> + '_ {
        let idle = |home: &Home| home.kept && home.writes.is_empty();
        (0..).zip(&self.shards).filter(move |(_, home)| idle(home)).map(|(shard, _)| ShardId(shard))
    }

    /// The shard was told to forget everything answered so far.
    pub(crate) fn acknowledged(&mut self, shard: ShardId) {
        let home = self.home(shard);
        home.kept = !home.writes.is_empty();
    }

    fn ack_through(&mut self, shard: ShardId) -> u64 {
        let next = self.next;
        self.home(shard).writes.front().map_or(next, |(lowest, _)| *lowest) - 1
    }

    fn home(&mut self, shard: ShardId) -> &mut Home {
        let index = usize::from(shard.0);
        if self.shards.len() <= index {
            self.shards.resize_with(index + 1, Home::default);
        }
        &mut self.shards[index]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const HOME: ShardId = ShardId(3);

    fn session() -> Session {
        Session::new(ClientId(7), Sequence(1))
    }

    #[test]
    fn a_stuck_shard_does_not_hold_back_another() {
        let mut session = session();
        let stuck = session.open(HOME).unwrap();
        for _ in 0..5000 {
            let ticket = session.open(ShardId(0)).unwrap();
            assert_eq!(ticket.ack_through.0, ticket.sequence.0 - 1);
            session.close(ShardId(0), ticket.sequence);
        }
        assert_eq!(session.open(HOME).unwrap().ack_through.0, stuck.sequence.0 - 1);
    }

    #[test]
    fn a_shard_is_not_run_ahead_of() {
        let mut session = session();
        let tickets: Vec<_> = (0..1024).map(|_| session.open(HOME).unwrap()).collect();
        assert_eq!(session.open(HOME), None);
        assert!(
            !session.close(HOME, tickets[1].sequence),
            "the shard keeps its reply as long as the first's is missing"
        );
        assert_eq!((session.room(HOME), session.open(HOME)), (0, None));
        assert!(session.close(HOME, tickets[0].sequence));
        assert_eq!(session.room(HOME), 2);
    }

    #[test]
    fn the_stamp_is_the_highest_heard() {
        let mut session = session();
        session.heard(LogTime(9));
        session.heard(LogTime(4));
        assert_eq!(session.open(HOME).unwrap().sent_at, LogTime(9));
    }

    #[test]
    fn a_shard_is_idle_once_and_until_the_next_write() {
        let mut session = session();
        let ticket = session.open(HOME).unwrap();
        assert_eq!(session.idle_homes().count(), 0);
        session.close(HOME, ticket.sequence);
        assert_eq!(session.idle_homes().collect::<Vec<_>>(), vec![HOME]);
        session.acknowledged(HOME);
        assert_eq!(session.idle_homes().count(), 0);
    }

    proptest! {
        /// Against the definition: the lowest unanswered with that home, minus one; never past an unanswered one,
        /// never back, never more than the window below a sequence.
        #[test]
        fn ack_through_is_the_lowest_unanswered_minus_one(
            steps in prop::collection::vec((0_u16..3, prop::bool::weighted(0.7), any::<prop::sample::Index>()), 1..4000)
        ) {
            let mut session = session();
            let mut unanswered: [BTreeSet<u64>; 3] = Default::default();
            let mut all: [BTreeSet<u64>; 3] = Default::default();
            let mut last = [0; 3];
            let mut next = 1;
            for (shard, open, pick) in steps {
                let home = &mut unanswered[usize::from(shard)];
                let all = &mut all[usize::from(shard)];
                if open {
                    let expected = home.first().copied().unwrap_or(next) - 1;
                    match session.open(ShardId(shard)) {
                        None => prop_assert_eq!(all.range(expected + 1..).count(), WINDOW),
                        Some(ticket) => {
                            prop_assert_eq!((ticket.sequence.0, ticket.ack_through.0), (next, expected));
                            prop_assert!(ticket.ack_through.0 >= last[usize::from(shard)]);
                            last[usize::from(shard)] = ticket.ack_through.0;
                            home.insert(next);
                            all.insert(next);
                            next += 1;
                        }
                    }
                } else if !home.is_empty() {
                    let chosen = *home.iter().nth(pick.index(home.len())).unwrap();
                    let moved = session.close(ShardId(shard), Sequence(chosen));
                    prop_assert_eq!(moved, home.first() == Some(&chosen));
                    home.remove(&chosen);
                }
            }
            prop_assert_eq!(session.position().1, Sequence(next));
        }
    }
}
