//! Sessions that a node keeps for unary calls that bring none: one a shard, so that a slow shard holds up no other.
//!
//! Nothing is retried under these sessions, so each request is the only try of its sequence (P9).

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use paxos::ids::{ClientId, LogTime, Sequence};
use rand::{Rng, RngExt};

use crate::command::{Op, Request, SESSION_WINDOW, ShardId};

/// Sessions by shard.
pub(crate) struct Sessions {
    shards: Vec<Arc<Mutex<Session>>>,
}

/// The session with one shard.
struct Session {
    client: ClientId,
    last: u64,
    unanswered: BTreeSet<u64>,
}

/// A request under way; it counts as unanswered until this is dropped.
pub(crate) struct Ticket {
    session: Arc<Mutex<Session>>,
    sequence: u64,
    ack_through: u64,
    client: ClientId,
}

impl Sessions {
    /// Sessions of clients that no one else is, one a shard.
    pub(crate) fn new(shards: u16, mut luck: impl Rng) -> Sessions {
        let session = |_| {
            let client = ClientId(luck.random());
            Arc::new(Mutex::new(Session { client, last: 0, unanswered: BTreeSet::new() }))
        };
        Sessions { shards: (0..shards).map(session).collect() }
    }

    /// A place in the session of `shard`; `None` if there is no such shard, or its window is full.
    pub(crate) fn next(&self, shard: ShardId) -> Option<Ticket> {
        let session = self.shards.get(usize::from(shard.0))?;
        let mut held = session.lock();
        let sequence = held.last + 1;
        let ack_through = held.unanswered.first().map_or(held.last, |lowest| lowest - 1);
        if sequence - ack_through > SESSION_WINDOW {
            return None;
        }
        held.last = sequence;
        held.unanswered.insert(sequence);
        let client = held.client;
        drop(held);
        Some(Ticket { session: session.clone(), sequence, ack_through, client })
    }
}

impl Ticket {
    /// The request that carries `op`, first sent when the log time was `sent_at`.
    pub(crate) fn request(&self, shard: ShardId, sent_at: u64, op: Op) -> Request {
        Request {
            client: self.client,
            sequence: Sequence(self.sequence),
            ack_through: Sequence(self.ack_through),
            sent_at: LogTime(sent_at),
            shard,
            op,
        }
    }
}

impl Drop for Ticket {
    /// Answered, or given up on: either way nobody will ask again.
    fn drop(&mut self) {
        self.session.lock().unanswered.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_is_what_lies_below_the_lowest_unanswered() {
        let sessions = Sessions::new(1, rand::rng());
        let next = || sessions.next(ShardId(0)).unwrap();
        let (first, second) = (next(), next());
        assert_eq!((first.sequence, first.ack_through), (1, 0));
        assert_eq!((second.sequence, second.ack_through), (2, 0));
        drop(first);
        let third = next();
        assert_eq!((third.sequence, third.ack_through), (3, 1));
        drop(third);
        drop(second);
        assert_eq!(next().ack_through, 3);
    }

    #[test]
    fn the_window_is_never_left() {
        let sessions = Sessions::new(2, rand::rng());
        let tickets: Vec<_> = (0..SESSION_WINDOW).map(|_| sessions.next(ShardId(1)).unwrap()).collect();
        assert!(sessions.next(ShardId(1)).is_none());
        assert!(sessions.next(ShardId(0)).is_some(), "another shard isn't held up");
        assert!(sessions.next(ShardId(2)).is_none(), "no such shard");
        drop(tickets);
        assert!(sessions.next(ShardId(1)).is_some());
    }

    #[test]
    fn every_shard_is_another_client() {
        let sessions = Sessions::new(2, rand::rng());
        let client = |shard| sessions.next(ShardId(shard)).unwrap().client;
        assert_ne!(client(0), client(1));
    }
}
