//! How the transactions ended that clients sent to this node: for people, and for what they watch.

use std::sync::atomic::AtomicU64;

use super::context::count;
use crate::command::{Refusal, Reply};
use crate::txn::Conflict;

/// Counters since the start; all only grow. A transaction that is tried again is counted at every end.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    ran: AtomicU64,
    failed: AtomicU64,
    older: AtomicU64,
    moving: AtomicU64,
    timed_out: AtomicU64,
    full: AtomicU64,
    given_up: AtomicU64,
}

impl Outcomes {
    /// Counts the reply, if it is that of a transaction.
    pub(crate) fn count(&self, reply: &Reply) {
        let counter = match reply {
            Reply::Txn(_) => &self.ran,
            Reply::TxnFailed { .. } => &self.failed,
            Reply::Refused(Refusal::Conflict(conflict)) => match conflict {
                Conflict::Older => &self.older,
                Conflict::Moving => &self.moving,
                Conflict::TimedOut => &self.timed_out,
                Conflict::Full => &self.full,
                Conflict::GivenUp => &self.given_up,
                Conflict::TooLarge => &self.failed,
            },
            _ => return,
        };
        count(counter, 1);
    }

    /// Name, meaning and counter of each.
    pub(crate) fn all(&self) -> [(&'static str, &'static str, &AtomicU64); 7] {
        [
            ("txns_ran", "Transactions that ran", &self.ran),
            ("txns_failed", "Transactions without effect, since an operation couldn't be done", &self.failed),
            ("txns_older", "Transactions given up for an older one", &self.older),
            ("txns_moving", "Transactions given up since a shard is about to move", &self.moving),
            ("txns_timed_out", "Transactions given up since a vote took too long", &self.timed_out),
            ("txns_full", "Transactions given up since a shard had too many", &self.full),
            ("txns_given_up", "Transactions given up by their client", &self.given_up),
        ]
    }
}
