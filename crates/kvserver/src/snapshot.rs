//! The state as pages of about 4 KiB, for checkpoints and for replicas that lag, and back.
//!
//! Pages come in ascending order of their keys: a header (format version, scalars, state hash), then for each shard that
//! was ever here its place and, if there is a copy, its scalars, its pairs in key order, its session rows in client
//! order, its dirty index in the order of changes, its transactions in the order of numbers. Restoring makes every hash from scratch and
//! refuses pages whose state hash isn't the header's, so a page that is lost, doubled or damaged is noticed (P5).

use std::iter::{self, Peekable};
use std::ops::ControlFlow;
use std::sync::Arc;

use bincode::{BorrowDecode, Decode, Encode};
use imbl::OrdMap;
use paxos::codec::{self, CodecError};
use paxos::ids::{ClientId, LogTime};
use paxos::mutants::{self, Mutant};
use paxos::rsm::state_machine::{Page, RestoreError, StateMachine};

use crate::command::{KEY_BYTES_MAX, ShardId, VALUE_BYTES_MAX, shard_of};
use crate::genesis::Limits;
use crate::handoff::{Copy, Dirty, DirtyItem, DirtyRecord, Place, PlaceRecord, SessionRow};
use crate::pairs::Pairs;
use crate::session::{Row, Sessions, Sweep};
use crate::shard::{COUNT_MAX, Data, Shard};
use crate::store::Store;
use crate::txn::{Lock, Parked, Record, Txns};

/// Version of the pages.
pub(crate) const SNAPSHOT_VERSION: u16 = 3;
/// A page takes records up to this many bytes; one record is always allowed.
pub(crate) const PAGE_BYTES: usize = 4 << 10;

#[derive(Encode, Decode)]
struct Header {
    version: u16,
    limits: Limits,
    shards: u16,
    log_time: LogTime,
    unreadable: u64,
    retired: bool,
    state_hash: u128,
}

/// What a page holds, and its place among the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKey {
    Header,
    Place(ShardId),
    Data(ShardId, u32),
    Sessions(ShardId, u32),
    Dirty(ShardId, u32),
    Records(ShardId, u32),
    Locks(ShardId, u32),
    Parked(ShardId, u32),
}

/// A place, and scalars of its copy if there is one.
#[derive(Encode, Decode)]
struct PlacePage {
    place: PlaceRecord,
    scalars: Option<Scalars>,
}

#[derive(Encode, Decode)]
struct Scalars {
    revision: u64,
    sweep_after: Option<ClientId>,
    sweep_lowest: LogTime,
    sweep_oldest: LogTime,
    tickets: u64,
}

#[derive(Encode, BorrowDecode)]
struct PairRecord<'a> {
    key: &'a [u8],
    version: u64,
    value: &'a [u8],
}

impl PageKey {
    /// Bytes that sort as shard, then table, then page.
    fn encode(self) -> Vec<u8> {
        let (shard, table, index) = match self {
            PageKey::Header => return vec![0],
            PageKey::Place(shard) => (shard, 0, 0),
            PageKey::Data(shard, index) => (shard, 1, index),
            PageKey::Sessions(shard, index) => (shard, 2, index),
            PageKey::Dirty(shard, index) => (shard, 3, index),
            PageKey::Records(shard, index) => (shard, 4, index),
            PageKey::Locks(shard, index) => (shard, 5, index),
            PageKey::Parked(shard, index) => (shard, 6, index),
        };
        [&[1][..], &shard.0.to_be_bytes(), &[table], &index.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<PageKey> {
        match *bytes {
            [0] => Some(PageKey::Header),
            [1, s0, s1, table, i0, i1, i2, i3] => {
                let shard = ShardId(u16::from_be_bytes([s0, s1]));
                let index = u32::from_be_bytes([i0, i1, i2, i3]);
                match (table, index) {
                    (0, 0) => Some(PageKey::Place(shard)),
                    (1, _) => Some(PageKey::Data(shard, index)),
                    (2, _) => Some(PageKey::Sessions(shard, index)),
                    (3, _) => Some(PageKey::Dirty(shard, index)),
                    (4, _) => Some(PageKey::Records(shard, index)),
                    (5, _) => Some(PageKey::Locks(shard, index)),
                    (6, _) => Some(PageKey::Parked(shard, index)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn page(key: PageKey, body: &impl Encode) -> Page {
    Page { key: key.encode(), body: codec::encode(body) }
}

/// The pages of a state.
pub(crate) fn pages(store: &Store) -> impl Iterator<Item = Page> + '_ {
    iter::once(header_page(store)).chain(store.places().flat_map(|(id, place)| place_pages(id, place)))
}

/// As [`pages`]; a shard whose pages were handed on is let go.
pub(crate) fn into_pages(store: Store, put: &mut dyn FnMut(Page) -> ControlFlow<()>) {
    if put(header_page(&store)).is_continue() {
        let mut places = store.into_places();
        let _ = places.try_for_each(|(id, place)| place_pages(id, &place).try_for_each(&mut *put));
    }
}

fn header_page(store: &Store) -> Page {
    let header = Header {
        version: SNAPSHOT_VERSION,
        limits: store.limits().clone(),
        shards: store.shard_count(),
        log_time: store.log_time,
        unreadable: store.unreadable,
        retired: store.retired,
        state_hash: store.state_hash(),
    };
    page(PageKey::Header, &header)
}

fn place_pages(id: ShardId, place: &Place) -> impl Iterator<Item = Page> + '_ {
    let scalars = place.copy.as_ref().map(|copy| Scalars::new(&copy.shard));
    let first = place.record().map(|place| page(PageKey::Place(id), &PlacePage { place, scalars }));
    first.into_iter().chain(place.copy.iter().flat_map(move |copy| copy_pages(id, copy)))
}

fn copy_pages(id: ShardId, copy: &Copy) -> impl Iterator<Item = Page> + '_ {
    let pairs = copy.shard.data().pairs.iter().map(|(key, value)| PairRecord {
        key,
        version: value.version(),
        value: value.as_bytes(),
    });
    let rows = copy.shard.sessions().rows.iter().map(|(client, row)| (*client, row.record()));
    let rows = rows.filter(|_| !mutants::is_on(Mutant::SessionsNotInSnapshot));
    let changes = copy.phase.dirty().into_iter().flat_map(|dirty| dirty.after(0));
    let changes = changes.map(|(change, item)| (change, item.record()));
    let data = packed(pairs, |pair| pair.key.len() + pair.value.len() + 16);
    let sessions = packed(rows, |(_, row)| 40 + row.bytes());
    let dirty = packed(changes, |(_, item)| item.bytes() + 16);
    (0..)
        .zip(data)
        .map(move |(index, pairs)| page(PageKey::Data(id, index), &pairs))
        .chain((0..).zip(sessions).map(move |(index, rows)| page(PageKey::Sessions(id, index), &rows)))
        .chain((0..).zip(dirty).map(move |(index, changes)| page(PageKey::Dirty(id, index), &changes)))
        .chain(txn_pages(id, copy.shard.txns()))
}

fn txn_pages(id: ShardId, txns: &Txns) -> impl Iterator<Item = Page> + '_ {
    let records = txns.records().map(|(number, record)| (number, Record::clone(record)));
    let locks = txns.locks().all().map(|(number, lock)| (number, Lock::clone(lock)));
    let locks = locks.filter(|_| !mutants::is_on(Mutant::LocksNotInSnapshot));
    let parked = txns.parked().map(|(number, parked)| (number, parked.since, parked.request.to_vec()));
    // They are few: one to a page.
    (0..)
        .zip(records)
        .map(move |(index, record)| page(PageKey::Records(id, index), &record))
        .chain((0..).zip(locks).map(move |(index, lock)| page(PageKey::Locks(id, index), &lock)))
        .chain((0..).zip(parked).map(move |(index, parked)| page(PageKey::Parked(id, index), &parked)))
}

/// Neighbouring records, as many as fit a page.
fn packed<T, I: Iterator<Item = T>>(records: I, bytes_of: fn(&T) -> usize) -> Packed<I, T> {
    Packed { records: records.peekable(), bytes_of }
}

struct Packed<I: Iterator<Item = T>, T> {
    records: Peekable<I>,
    bytes_of: fn(&T) -> usize,
}

impl<I: Iterator<Item = T>, T> Iterator for Packed<I, T> {
    type Item = Vec<T>;

    fn next(&mut self) -> Option<Vec<T>> {
        let first = self.records.next()?;
        let mut bytes = (self.bytes_of)(&first);
        let mut page = vec![first];
        let bytes_of = self.bytes_of;
        while let Some(record) = self.records.next_if(|record| bytes + bytes_of(record) <= PAGE_BYTES) {
            bytes += bytes_of(&record);
            page.push(record);
        }
        Some(page)
    }
}

impl Scalars {
    fn new(shard: &Shard) -> Scalars {
        let Sweep { after, lowest, oldest } = shard.sessions().sweep;
        Scalars {
            revision: shard.data().revision,
            sweep_after: after,
            sweep_lowest: lowest,
            sweep_oldest: oldest,
            tickets: shard.txns().tickets(),
        }
    }
}

fn in_place(fits: bool, key: PageKey) -> Result<(), RestoreError> {
    if fits { Ok(()) } else { Err(refused(format!("{key:?} is out of place"))) }
}

fn refused(why: impl Into<String>) -> RestoreError {
    RestoreError(why.into())
}

fn malformed(key: PageKey) -> impl Fn(CodecError) -> RestoreError {
    move |error| refused(format!("{key:?}: {error}"))
}

/// The state that the pages were made of. Which shards it has is theirs to say, `empty` gives the bounds.
pub(crate) fn restore(empty: Store, pages: &mut dyn Iterator<Item = Page>) -> Result<Store, RestoreError> {
    let first = pages.next().filter(|page| PageKey::decode(&page.key) == Some(PageKey::Header));
    let first = first.ok_or_else(|| refused("no header"))?;
    let header = read_header(&empty, &first.body)?;
    let mut store = Store::new(header.limits, header.shards, &[]);
    let mut last = first.key;
    let mut shard: Option<Building> = None;
    for page in pages {
        let key = PageKey::decode(&page.key).ok_or_else(|| refused("unknown kind of page"))?;
        if page.key <= last {
            return Err(refused(format!("{key:?} out of order")));
        }
        last.clone_from(&page.key);
        if let PageKey::Place(id) = key {
            finish(&mut store, shard.take())?;
            let body: PlacePage = codec::decode(&page.body).map_err(malformed(key))?;
            let building = Building::new(id, body);
            shard = Some(building.ok_or_else(|| refused(format!("{key:?}: no whole copy")))?);
        } else {
            let building = shard.as_mut().ok_or_else(|| refused(format!("{key:?} without a shard")))?;
            building.take(key, &page.body, header.shards)?;
        }
    }
    finish(&mut store, shard)?;
    store.log_time = header.log_time;
    store.unreadable = header.unreadable;
    store.retired = header.retired;
    let (found, written) = (store.state_hash(), header.state_hash);
    match found == written {
        true => Ok(store),
        false => Err(refused(format!(
            "pages are missing or damaged: state hash {found:032x}, written as {written:032x}"
        ))),
    }
}

fn read_header(empty: &Store, body: &[u8]) -> Result<Header, RestoreError> {
    let version = codec::decode_prefix::<u16>(body).map_err(malformed(PageKey::Header))?;
    if version != SNAPSHOT_VERSION {
        return Err(refused(format!("version {version}, this code knows {SNAPSHOT_VERSION}")));
    }
    let header: Header = codec::decode(body).map_err(malformed(PageKey::Header))?;
    if header.limits != *empty.limits() || header.shards != empty.shard_count() {
        return Err(refused("made under other replicated limits"));
    }
    Ok(header)
}

fn finish(store: &mut Store, building: Option<Building>) -> Result<(), RestoreError> {
    let Some(building) = building else { return Ok(()) };
    let id = building.id;
    match store.change(id, |place| *place = building.finish()) {
        Some(()) => Ok(()),
        None => Err(refused("shard out of range")),
    }
}

/// A place whose pages are coming in.
struct Building {
    id: ShardId,
    place: PlaceRecord,
    data: Data,
    sessions: Sessions,
    dirty: Dirty,
    txns: Txns,
}

impl Building {
    /// `None` if there are scalars without a copy, or a copy without, or counters that can't be.
    fn new(id: ShardId, page: PlacePage) -> Option<Building> {
        let PlacePage { place, scalars } = page;
        if place.copy.is_some() != scalars.is_some() {
            return None;
        }
        let (revision, sweep, tickets) = scalars.map_or((0, Sweep::default(), 0), |scalars| {
            let Scalars { revision, sweep_after, sweep_lowest, sweep_oldest, tickets } = scalars;
            (revision, Sweep { after: sweep_after, lowest: sweep_lowest, oldest: sweep_oldest }, tickets)
        });
        let changes = place.copy.as_ref().and_then(|copy| copy.phase.changes());
        if revision.max(tickets).max(changes.unwrap_or(0)) > COUNT_MAX {
            return None;
        }
        Some(Building {
            id,
            place,
            data: Data { pairs: Pairs::default(), revision },
            sessions: Sessions { rows: OrdMap::new(), sweep },
            dirty: Dirty::with_changes(changes.unwrap_or(0)),
            txns: Txns::with_tickets(tickets),
        })
    }

    fn take(&mut self, key: PageKey, body: &[u8], shards: u16) -> Result<(), RestoreError> {
        if self.place.copy.is_none() {
            return Err(refused(format!("{key:?} without a copy")));
        }
        match key {
            PageKey::Data(id, _) if id == self.id => {
                let pairs: Vec<PairRecord<'_>> = codec::decode_borrowed(body).map_err(malformed(key))?;
                pairs.into_iter().try_for_each(|pair| self.take_pair(&pair, shards))
            }
            PageKey::Sessions(id, _) if id == self.id => {
                let rows: Vec<(ClientId, SessionRow)> = codec::decode(body).map_err(malformed(key))?;
                rows.into_iter().try_for_each(|(client, row)| self.take_row(client, row))
            }
            PageKey::Dirty(id, _) if id == self.id => {
                let changes: Vec<(u64, DirtyRecord)> = codec::decode(body).map_err(malformed(key))?;
                changes.into_iter().try_for_each(|(change, item)| self.take_change(change, item))
            }
            PageKey::Records(id, _) if id == self.id => {
                let (number, record) = codec::decode(body).map_err(malformed(key))?;
                in_place(self.txns.restore_record(id, number, record), key)
            }
            PageKey::Locks(id, _) if id == self.id => {
                let (number, lock) = codec::decode(body).map_err(malformed(key))?;
                in_place(self.txns.restore_lock(id, number, lock), key)
            }
            PageKey::Parked(id, _) if id == self.id => {
                let (number, since, request): (u64, LogTime, Vec<u8>) =
                    codec::decode(body).map_err(malformed(key))?;
                let parked = Parked { since, request: request.into() };
                in_place(self.txns.restore_parked(id, number, parked), key)
            }
            PageKey::Header
            | PageKey::Place(_)
            | PageKey::Data(..)
            | PageKey::Sessions(..)
            | PageKey::Dirty(..)
            | PageKey::Records(..)
            | PageKey::Locks(..)
            | PageKey::Parked(..) => Err(refused(format!("{key:?} in shard {}", self.id.0))),
        }
    }

    fn take_pair(&mut self, pair: &PairRecord<'_>, shards: u16) -> Result<(), RestoreError> {
        let in_order = self.data.pairs.last_key().is_none_or(|last| last < pair.key);
        let fits = pair.key.len() <= KEY_BYTES_MAX && pair.value.len() <= VALUE_BYTES_MAX;
        if !in_order || !fits || shard_of(pair.key, shards) != self.id {
            return Err(refused(format!("a key of shard {} is out of place", self.id.0)));
        }
        self.data.pairs.push(pair.key, pair.version, pair.value);
        Ok(())
    }

    fn take_row(&mut self, client: ClientId, row: SessionRow) -> Result<(), RestoreError> {
        let in_order = self.sessions.rows.get_max().is_none_or(|(last, _)| *last < client);
        match in_order && row.is_ordered() {
            true => {
                self.sessions.rows.insert(client, Arc::new(Row::from(row)));
                Ok(())
            }
            false => Err(refused(format!("a session of shard {} is out of place", self.id.0))),
        }
    }

    fn take_change(&mut self, change: u64, item: DirtyRecord) -> Result<(), RestoreError> {
        match self.dirty.restore(self.id, change, DirtyItem::from(item)) {
            true => Ok(()),
            false => Err(refused(format!("a change of shard {} is out of place", self.id.0))),
        }
    }

    fn finish(self) -> Place {
        let Building { id, place, data, sessions, dirty, txns } = self;
        let copy = place.copy.map(|copy| Copy {
            epoch: copy.epoch,
            shard: Arc::new(Shard::from_parts(id, data, sessions, txns)),
            phase: copy.phase.into_phase(dirty),
        });
        Place { fence: place.fence, gone: place.gone, copy }
    }
}
