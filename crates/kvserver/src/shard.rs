//! One shard: its keys and values, its session table, its transactions, its revision.
//!
//! The revision grows by one with each write and is what a value's version is made of, so a version is never used
//! twice, not after a delete and not after a move. Whatever changes goes through the tally (P5).

use paxos::codec;
use paxos::ids::ClientId;

use crate::command::{Reply, ShardId};
use crate::handoff::Item;
use crate::pairs::{Pairs, Slot, Value};
use crate::request::{OpView, RequestView};
use crate::session::{Context, Head, Row, SWEEP_STEPS, Sessions, Sweep};
use crate::tally::{Table, Tally, halves, hash_numbers, hash_pair, pair_bytes};
use crate::txn::Txns;

/// A decimal i64 has at most this many bytes; what is longer isn't looked at.
const NUMBER_BYTES_MAX: usize = 20;

/// A copy of a shard; a clone shares all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    id: ShardId,
    data: Data,
    sessions: Sessions,
    txns: Txns,
    tally: Tally,
}

/// No counter of a shard comes this far by counting. A copy that says so was forged, and the next step would overflow in
/// every replica.
pub(crate) const COUNT_MAX: u64 = u64::MAX / 2;

/// Keys and values with the revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) pairs: Pairs,
    pub(crate) revision: u64,
}

/// Which items a request changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Rows that the sweep dropped.
    pub(crate) swept: [Option<ClientId>; SWEEP_STEPS],
    /// The row of the request's client.
    pub(crate) row: bool,
    /// The key of the request.
    pub(crate) key: bool,
}

/// Most items that one request changes.
pub(crate) const CHANGES_MAX: u64 = SWEEP_STEPS as u64 + 2;

impl Shard {
    /// An empty shard.
    pub(crate) fn new(id: ShardId) -> Shard {
        Shard::from_parts(id, Data::default(), Sessions::default(), Txns::default())
    }

    /// A shard of these tables; its tally is made from scratch.
    pub(crate) fn from_parts(id: ShardId, data: Data, sessions: Sessions, txns: Txns) -> Shard {
        let mut tally = Tally::default();
        for (key, value) in data.pairs.iter() {
            tally.add(hash_pair(id, key, value), pair_bytes(key, value));
        }
        for (client, row) in &sessions.rows {
            row.add_to(id, *client, &mut tally);
        }
        txns.add_to(id, &mut tally);
        tally.add(scalars_hash(id, &data, &sessions, &txns), 0);
        Shard { id, data, sessions, txns, tally }
    }

    /// Executes a request at most once (P9), and forgets a few sessions that are old enough.
    pub(crate) fn apply(&mut self, request: &RequestView<'_>, head: &Head, context: &Context<'_>) -> Reply {
        self.apply_and_tell(request, head, context).0
    }

    /// As [`Shard::apply`], and says which items that changed, up to [`CHANGES_MAX`].
    pub(crate) fn apply_and_tell(
        &mut self,
        request: &RequestView<'_>,
        head: &Head,
        context: &Context<'_>,
    ) -> (Reply, Changed) {
        let Shard { id, data, sessions, txns, tally } = self;
        let before = scalars_hash(*id, data, sessions, txns);
        let revision = data.revision;
        let swept = sessions.sweep(*id, context, tally);
        let value_bytes_max = context.limits.value_bytes_max;
        let recorded = request.op.is_recorded();
        let (reply, executed) = sessions.once(*id, head, recorded, context, tally, |tally| {
            data.execute(*id, &request.op, value_bytes_max, tally)
        });
        tally.remove(before, 0);
        tally.add(scalars_hash(*id, data, sessions, txns), 0);
        (reply, Changed { swept, row: executed, key: data.revision != revision })
    }

    /// Puts an item of a staged copy in place of what is there.
    pub(crate) fn install(&mut self, item: Item) {
        let Shard { id, data, sessions, txns, tally } = self;
        match item {
            Item::Key { key, value: Some((version, bytes)) } => {
                data.change(*id, &key, tally, |slot| slot.set(version, &bytes));
            }
            Item::Key { key, value: None } => {
                data.remove(*id, &key, tally);
            }
            Item::Row { client, row } => sessions.replace(*id, client, row.map(Row::from), tally),
            Item::Record { number, record } => {
                // It was looked at before it came here.
                let record = record.and_then(|bytes| codec::decode(&bytes).ok());
                txns.set_record(*id, number, record, tally);
            }
        }
    }

    /// Sets a key, or removes it, in the name of a transaction that is decided. Whether anything changed.
    pub(crate) fn install_write(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let Shard { id, data, sessions, txns, tally } = self;
        let before = scalars_hash(*id, data, sessions, txns);
        let revision = data.revision;
        match value {
            Some(value) => drop(data.write(*id, key, value, tally)),
            None => drop(data.delete(*id, key, tally)),
        }
        tally.remove(before, 0);
        tally.add(scalars_hash(*id, data, sessions, txns), 0);
        data.revision != revision
    }

    /// Keeps what a transaction was answered; without a reply, only that the client was heard.
    pub(crate) fn record(&mut self, head: &Head, context: &Context<'_>, reply: Option<&Reply>) {
        let Shard { id, data, sessions, txns, tally } = self;
        let before = scalars_hash(*id, data, sessions, txns);
        sessions.record(*id, head, context, reply, tally);
        tally.remove(before, 0);
        tally.add(scalars_hash(*id, data, sessions, txns), 0);
    }

    /// Changes what the shard knows of transactions.
    pub(crate) fn change_txns<T>(&mut self, change: impl FnOnce(ShardId, &mut Txns, &mut Tally) -> T) -> T {
        let Shard { id, data, sessions, txns, tally } = self;
        tally.remove(scalars_hash(*id, data, sessions, txns), 0);
        let result = change(*id, txns, tally);
        tally.add(scalars_hash(*id, data, sessions, txns), 0);
        result
    }

    pub(crate) fn txns(&self) -> &Txns {
        &self.txns
    }

    /// Sets what a staged copy isn't sent item by item.
    pub(crate) fn set_scalars(&mut self, revision: u64, sweep: Sweep, tickets: u64) {
        let Shard { id, data, sessions, txns, tally } = self;
        tally.remove(scalars_hash(*id, data, sessions, txns), 0);
        data.revision = revision;
        sessions.sweep = sweep;
        txns.set_tickets(tickets);
        tally.add(scalars_hash(*id, data, sessions, txns), 0);
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
}

fn scalars_hash(id: ShardId, data: &Data, sessions: &Sessions, txns: &Txns) -> u128 {
    let sweep = &sessions.sweep;
    let [high, low] = halves(sweep.after.map_or(0, |ClientId(client)| client));
    let swept = u64::from(sweep.after.is_some());
    let numbers = [data.revision, swept, high, low, sweep.lowest.0, sweep.oldest.0, txns.tickets()];
    hash_numbers(Table::Shard, id, numbers)
}

impl Data {
    fn execute(&mut self, id: ShardId, op: &OpView<'_>, value_bytes_max: u64, tally: &mut Tally) -> Reply {
        let fits = |length: usize| length as u64 <= value_bytes_max;
        match *op {
            OpView::Put { value, .. } if !fits(value.len()) => Reply::ValueTooLarge,
            OpView::Put { key, value } => self.write(id, key, value, tally),
            OpView::Append { key, value } => match self.pairs.get(key) {
                None if !fits(value.len()) => Reply::ValueTooLarge,
                None => self.write(id, key, value, tally),
                Some(head) if !fits(head.as_bytes().len().saturating_add(value.len())) => {
                    Reply::ValueTooLarge
                }
                Some(_) => self.append(id, key, value, tally),
            },
            OpView::Delete { key } => self.delete(id, key, tally),
            OpView::Cas { key, expected, value } => {
                let present = self.pairs.get(key);
                match present.map(Value::as_bytes) == expected {
                    false => Reply::Mismatch { version: present.map_or(0, Value::version) },
                    true if !fits(value.len()) => Reply::ValueTooLarge,
                    true => self.write(id, key, value, tally),
                }
            }
            OpView::Incr { key, by } => {
                let present = self.pairs.get(key).map_or(Some(0), |value| number(value.as_bytes()));
                match present.and_then(|number| number.checked_add(by)) {
                    None => Reply::NotANumber,
                    Some(value) => {
                        self.write(id, key, value.to_string().as_bytes(), tally);
                        Reply::Number { value, version: self.revision }
                    }
                }
            }
            // A transaction doesn't come here.
            OpView::Ack | OpView::Txn(_) => Reply::Acked,
        }
    }

    fn write(&mut self, id: ShardId, key: &[u8], bytes: &[u8], tally: &mut Tally) -> Reply {
        self.revision += 1;
        let version = self.revision;
        self.change(id, key, tally, |slot| slot.set(version, bytes));
        Reply::Written { length: bytes.len() as u64, version }
    }

    fn append(&mut self, id: ShardId, key: &[u8], tail: &[u8], tally: &mut Tally) -> Reply {
        self.revision += 1;
        let version = self.revision;
        let mut length = 0;
        self.change(id, key, tally, |slot| {
            slot.append(version, tail);
            length = slot.value().map_or(0, |value| value.as_bytes().len());
        });
        Reply::Written { length: length as u64, version }
    }

    /// Changes what stands at a key, and keeps the tally right.
    fn change(&mut self, id: ShardId, key: &[u8], tally: &mut Tally, change: impl FnOnce(&mut Slot<'_>)) {
        let mut count = |slot: &Slot<'_>, count: fn(&mut Tally, u128, usize)| {
            if let Some(value) = slot.value() {
                count(tally, hash_pair(id, key, value), pair_bytes(key, value));
            }
        };
        self.pairs.edit(key, |slot| {
            count(slot, Tally::remove);
            change(slot);
            count(slot, Tally::add);
        });
    }

    fn delete(&mut self, id: ShardId, key: &[u8], tally: &mut Tally) -> Reply {
        let existed = self.remove(id, key, tally);
        self.revision += u64::from(existed);
        Reply::Deleted { existed }
    }

    /// Takes a key out, if it is there. Returns whether it was.
    fn remove(&mut self, id: ShardId, key: &[u8], tally: &mut Tally) -> bool {
        let present = self.pairs.get(key).is_some();
        if present {
            self.change(id, key, tally, |slot| slot.remove());
        }
        present
    }
}

/// The number that a value is the decimal text of; a sign and leading zeros are fine, spaces aren't.
pub(crate) fn number(bytes: &[u8]) -> Option<i64> {
    if bytes.len() > NUMBER_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
