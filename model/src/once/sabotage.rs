//! Bugs put around the shipped code on purpose, to prove that the model sees them.

use kvserver::command::{Op, Request};
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::batch::BatchBuilder;

use crate::once::bounds::{Bounds, KEY, SHARD, log_time};
use crate::once::steps::value;

/// One bug of a client or of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// Each try carries the newest log time.
    StampedAnew,
    /// Each try is a request of its own.
    NumberedAnew,
    /// A client acknowledges all that it sent before, answered or not.
    AcknowledgesUnheard,
    /// A client sends more at a time than the shard remembers.
    IgnoresWindow,
    /// A snapshot has no session rows.
    RowsLeftOut,
}

impl Sabotage {
    /// What a client sends instead.
    pub(crate) fn sends(self, request: &mut Request, log_time: LogTime) {
        match self {
            Sabotage::StampedAnew => request.sent_at = log_time,
            Sabotage::NumberedAnew => request.sequence = Sequence(request.sequence.0 + 10 * log_time.0),
            Sabotage::AcknowledgesUnheard => request.ack_through = Sequence(request.sequence.0 - 1),
            Sabotage::IgnoresWindow | Sabotage::RowsLeftOut => {}
        }
    }

    /// What a replica that was behind has instead.
    pub(crate) fn restores(self, bounds: &Bounds, store: &mut Store) {
        if self != Sabotage::RowsLeftOut {
            return;
        }
        let request = Request {
            client: ClientId(u128::MAX),
            sequence: Sequence(1),
            ack_through: Sequence(0),
            sent_at: log_time(store),
            shard: SHARD,
            op: Op::Put { key: KEY.to_vec(), value: value(store) },
        };
        let mut batch = BatchBuilder::default();
        batch.push(&codec::encode(&request));
        let mut bare = bounds.store();
        bare.apply_each(&batch.finish(log_time(store)), |_, _| {});
        *store = bare;
    }
}
