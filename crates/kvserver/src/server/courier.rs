//! Carries to the leader of another group what groups led here owe it about transactions, and brings the answers back.
//!
//! What waits travels together, and few calls are under way at once: so calls grow with the load, and no timer waits for
//! more. What is lost is found again by whoever looks at what is owed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use paxos::ids::GroupId;
use shardmaster::ids::GroupRef;

use super::transactions::TxnAgent;
use crate::txn::{TxnAnswer, TxnDuty};
use crate::{command, machine};

/// Calls to one group that are under way at once.
const CALLS_MAX: usize = 2;
/// One call takes so many entries at most.
const CALL_ENTRIES: usize = 1024;
/// One call takes so many bytes at most; one entry is always allowed.
const CALL_BYTES: usize = 4 << 20;
/// What may wait for one group.
const WAITING_MAX: usize = 16_384;
/// Its bytes; one entry is always allowed.
const WAITING_BYTES: usize = 64 << 20;

/// What one group led here owes another.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// Who owes it.
    pub(crate) by: GroupId,
    pub(crate) duty: TxnDuty,
}

/// The way to one group.
pub(crate) struct Courier {
    to: GroupRef,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    parcels: VecDeque<(Parcel, Bytes)>,
    bytes: usize,
    /// Calls under way.
    calls: usize,
}

impl Courier {
    pub(crate) fn new(to: GroupRef) -> Arc<Courier> {
        Arc::new(Courier { to, waiting: Mutex::default() })
    }

    /// Takes a parcel, with its entry as it will stand in the log there. Gives it back if too much waits.
    pub(crate) fn take(&self, parcel: Parcel, request: Bytes) -> Option<Parcel> {
        let mut waiting = self.waiting.lock();
        let full = waiting.parcels.len() >= WAITING_MAX
            || (waiting.bytes > 0 && waiting.bytes + request.len() > WAITING_BYTES);
        if full {
            return Some(parcel);
        }
        waiting.bytes += request.len();
        waiting.parcels.push_back((parcel, request));
        None
    }

    /// Begins a call with what waits, unless as many as may be are under way: each of them takes more when it is back.
    pub(crate) fn go(self: &Arc<Courier>, agent: &Arc<TxnAgent>) {
        let mut waiting = self.waiting.lock();
        if waiting.parcels.is_empty() || waiting.calls >= CALLS_MAX {
            return;
        }
        waiting.calls += 1;
        drop(waiting);
        let (courier, agent) = (self.clone(), agent.clone());
        agent.env().clone().spawn(async move {
            while let Some((parcels, requests)) = courier.load() {
                courier.carry(&agent, parcels, requests).await;
            }
        });
    }

    /// Whether nothing waits or is under way.
    pub(crate) fn rests(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.parcels.is_empty() && waiting.calls == 0
    }

    /// What the next call takes; `None` ends the calls in a row.
    fn load(&self) -> Option<(Vec<Parcel>, Vec<Bytes>)> {
        let mut waiting = self.waiting.lock();
        let (mut parcels, mut requests, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, request)) = waiting.parcels.front() {
            let length = request.len();
            let fits = parcels.len() < CALL_ENTRIES && bytes + length <= CALL_BYTES;
            if !fits && !parcels.is_empty() {
                break;
            }
            let Some((parcel, request)) = waiting.parcels.pop_front() else { break };
            waiting.bytes -= length;
            bytes += length;
            parcels.push(parcel);
            requests.push(request);
        }
        if parcels.is_empty() {
            waiting.calls -= 1;
            return None;
        }
        Some((parcels, requests))
    }

    async fn carry(&self, agent: &Arc<TxnAgent>, parcels: Vec<Parcel>, requests: Vec<Bytes>) {
        let replies = match agent.asker().write_all(self.to, requests).await {
            Ok(replies) => replies,
            Err(error) => {
                tracing::debug!(to = %self.to, entries = parcels.len(), %error, "nobody answered");
                Vec::new()
            }
        };
        let answers =
            replies.into_iter().map(|reply| reply.and_then(answer_of)).chain(std::iter::repeat(None));
        agent.came_back(parcels.into_iter().zip(answers));
    }
}

/// What a reply says about a transaction.
pub(crate) fn answer_of(reply: machine::Reply) -> Option<TxnAnswer> {
    match reply {
        machine::Reply::Store(command::Reply::Between(answer)) => Some(*answer),
        machine::Reply::Store(_) | machine::Reply::Master(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, Generation, LogTime, Sequence};

    use super::*;
    use crate::command::ShardId;
    use crate::txn::{Age, Attempt, TxnCommand};

    fn courier() -> Arc<Courier> {
        Courier::new(GroupRef { group: GroupId(2), generation: Generation(1) })
    }

    fn parcel(number: u64) -> Parcel {
        let age = Age { sent_at: LogTime(1), client: ClientId(7), sequence: Sequence(1) };
        let command = TxnCommand::Expire { attempt: Attempt { home: ShardId(3), number, age } };
        Parcel { by: GroupId(1), duty: TxnDuty { to: ShardId(200), urgent: true, command } }
    }

    fn number(parcel: &Parcel) -> u64 {
        parcel.duty.command.attempt().number
    }

    #[test]
    fn a_call_takes_what_waits_in_order_up_to_its_bounds() {
        let courier = courier();
        courier.waiting.lock().calls = 1;
        for n in 0..3 {
            assert!(courier.take(parcel(n), vec![0; CALL_BYTES / 2].into()).is_none());
        }
        let small = (3..).take(CALL_ENTRIES + 1);
        small.for_each(|n| assert!(courier.take(parcel(n), Bytes::new()).is_none()));
        let sizes: Vec<usize> =
            std::iter::from_fn(|| courier.load()).map(|(_, requests)| requests.len()).collect();
        assert_eq!(sizes, [2, CALL_ENTRIES, 2]);
        assert!(courier.rests(), "the calls in a row are over");
    }

    #[test]
    fn one_entry_of_any_size_is_taken_and_what_is_too_much_is_given_back() {
        let courier = courier();
        courier.waiting.lock().calls = 1;
        assert!(courier.take(parcel(1), vec![0; WAITING_BYTES + 1].into()).is_none());
        assert_eq!(courier.take(parcel(2), vec![0].into()).as_ref().map(number), Some(2));
        assert_eq!(courier.load().map(|(parcels, _)| number(&parcels[0])), Some(1));
        for n in 0..WAITING_MAX as u64 {
            assert!(courier.take(parcel(n), Bytes::new()).is_none());
        }
        assert!(courier.take(parcel(0), Bytes::new()).is_some());
    }
}
