//! What the source sends next. Derived from its state and the destination's position alone: the tables first, in key
//! order, as they are now; then what changed behind the position, from the dirty index, as it is now.

use std::ops::Bound;

use paxos::codec;
use paxos::ids::ClientId;
use paxos::mutants::{self, Mutant};
use shardmaster::ids::{Epoch, ShardId};

use crate::genesis::Limits;
use crate::handoff::place::{Phase, Place};
use crate::handoff::{Base, Chunk, Dirty, DirtyItem, Item, Position, Pulled};
use crate::pairs::Value;
use crate::query::Answer;
use crate::session::Row;
use crate::shard::Shard;
use crate::store::Store;
use crate::txn::Kept;

/// What an item takes beside its bytes.
const ITEM_BYTES: usize = 40;

impl Store {
    /// Answers the destination of a move.
    pub(crate) fn pull(&self, shard: ShardId, epoch: Epoch, at: &Position) -> Answer {
        let place = self.place(shard);
        place.map_or(Answer::Invalid, |place| Answer::Pulled(pull(place, shard, epoch, at, self.limits())))
    }
}

/// The chunk that follows a position.
fn pull(place: &Place, shard: ShardId, epoch: Epoch, at: &Position, limits: &Limits) -> Pulled {
    let departs = place.departure().filter(|departure| departure.epoch == epoch);
    let Some((copy, dirty)) =
        departs.and(place.copy.as_ref()).and_then(|copy| Some((copy, copy.phase.dirty()?)))
    else {
        return if epoch > place.fence { Pulled::NotStarted } else { Pulled::Gone };
    };
    // A replica that lags behind the one that was asked before.
    if at.staged > dirty.changes() {
        return Pulled::NotStarted;
    }
    let seal = match &copy.phase {
        Phase::Frozen(frozen) => Some(Box::new(frozen.seal.clone())),
        Phase::Serving | Phase::Moving(_) | Phase::Staging(_) => None,
    };
    let mut filling = Filling {
        items: Vec::new(),
        room: usize::try_from(limits.handoff_chunk_bytes).unwrap_or(usize::MAX),
    };
    let to = filling.fill(&copy.shard, dirty, at);
    let mut left = dirty.left(to.staged, limits.handoff_freeze_lag);
    if to.base != Base::Done {
        let tables = copy.shard.data().pairs.len() + copy.shard.sessions().rows.len();
        left = left.saturating_add(tables as u64);
    }
    let (from, items, changes_end) = (at.clone(), filling.items, dirty.changes());
    Pulled::Chunk(Chunk { shard, epoch, from, to, items, left, changes_end, seal })
}

/// A chunk that is being filled.
struct Filling {
    items: Vec<Item>,
    room: usize,
}

impl Filling {
    /// Takes what fits. Returns where it ends.
    fn fill(&mut self, shard: &Shard, dirty: &Dirty, at: &Position) -> Position {
        let staged = at.staged;
        if let Base::Keys(after) = &at.base
            && let Some(last) = self.keys(shard, after.as_deref())
        {
            return Position { base: Base::Keys(Some(last)), staged };
        }
        let rows_after = match at.base {
            Base::Keys(_) => Some(None),
            Base::Sessions(after) => Some(after),
            Base::Done => None,
        };
        if let Some(after) = rows_after
            && let Some(last) = self.rows(shard, after)
        {
            return Position { base: Base::Sessions(last), staged };
        }
        Position { base: Base::Done, staged: self.changes(shard, dirty, staged) }
    }

    /// Takes keys. Returns the last one taken if some are left.
    fn keys(&mut self, shard: &Shard, after: Option<&[u8]>) -> Option<Vec<u8>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = after;
        for (key, value) in shard.data().pairs.iter_from(from) {
            if !self.push(key_bytes(key, Some(value)), || key_item(key, Some(value))) {
                return Some(last.unwrap_or_default().to_vec());
            }
            last = Some(key);
        }
        None
    }

    /// Takes session rows. Returns the last one taken if some are left.
    fn rows(&mut self, shard: &Shard, after: Option<ClientId>) -> Option<Option<ClientId>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = after;
        if mutants::is_on(Mutant::SessionsNotMoved) {
            return None;
        }
        for (client, row) in shard.sessions().rows.range((from, Bound::Unbounded)) {
            if !self.push(row_bytes(Some(row)), || row_item(*client, Some(row))) {
                return Some(last);
            }
            last = Some(*client);
        }
        None
    }

    /// Takes what changed after `staged`. Returns the change through which all is taken.
    fn changes(&mut self, shard: &Shard, dirty: &Dirty, staged: u64) -> u64 {
        let mut last = staged;
        for (change, item) in dirty.after(staged) {
            let taken = match item {
                DirtyItem::Key(key) => {
                    let value = shard.data().pairs.get(key.as_bytes());
                    self.push(key_bytes(key.as_bytes(), value), || key_item(key.as_bytes(), value))
                }
                DirtyItem::Row(client) => {
                    let stays = mutants::is_on(Mutant::SessionsNotMoved);
                    let row = shard.sessions().rows.get(client).map(AsRef::as_ref).filter(|_| !stays);
                    self.push(row_bytes(row), || row_item(*client, row))
                }
                DirtyItem::Record(number) => {
                    let left_behind = mutants::is_on(Mutant::RecordLeftBehind);
                    let record = shard.txns().decided(*number).filter(|_| !left_behind);
                    let bytes = ITEM_BYTES + record.map_or(0, Kept::bytes);
                    let item = || Item::Record {
                        number: *number,
                        record: record.map(|record| codec::encode(&**record)),
                    };
                    self.push(bytes, item)
                }
            };
            if !taken {
                return last;
            }
            last = change;
        }
        dirty.changes()
    }

    /// Takes an item if it fits; the first one always does.
    fn push(&mut self, bytes: usize, item: impl FnOnce() -> Item) -> bool {
        let fits = self.items.is_empty() || bytes <= self.room;
        if fits {
            self.room = self.room.saturating_sub(bytes);
            self.items.push(item());
        }
        fits
    }
}

fn key_bytes(key: &[u8], value: Option<Value<'_>>) -> usize {
    ITEM_BYTES + key.len() + value.map_or(0, |value| value.as_bytes().len())
}

fn key_item(key: &[u8], value: Option<Value<'_>>) -> Item {
    let value = value.map(|value| (value.version(), value.as_bytes().to_vec()));
    Item::Key { key: key.to_vec(), value }
}

fn row_bytes(row: Option<&Row>) -> usize {
    ITEM_BYTES + row.map_or(0, Row::bytes)
}

fn row_item(client: ClientId, row: Option<&Row>) -> Item {
    Item::Row { client, row: row.map(Row::record) }
}
