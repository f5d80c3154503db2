//! The state as pages of about 4 KiB, for checkpoints and for replicas that lag, and back.
//!
//! Pages come in ascending order of their keys: a header (format version, scalars, state hash), then for each shard its
//! scalars, its pairs in key order, its session rows in client order. Restoring makes every hash from scratch and
//! refuses pages whose state hash isn't the header's, so a page that is lost, doubled or damaged is noticed (P5).

use std::collections::VecDeque;
use std::iter::{self, Peekable};
use std::sync::Arc;

use bincode::{BorrowDecode, Decode, Encode};
use imbl::OrdMap;
use paxos::codec::{self, CodecError};
use paxos::ids::{ClientId, LogTime, Sequence};
use paxos::rsm::state_machine::{Page, RestoreError, StateMachine};

use crate::command::{Reply, ShardId, shard_of};
use crate::genesis::Limits;
use crate::key::Key;
use crate::session::{Outcome, Row, Sessions, Sweep};
use crate::shard::{Data, Shard};
use crate::store::Store;
use crate::value::Value;

/// Version of the pages.
pub(crate) const SNAPSHOT_VERSION: u16 = 1;
/// A page takes records up to this many bytes; one record is always allowed.
pub(crate) const PAGE_BYTES: usize = 4 << 10;

#[derive(Encode, Decode)]
struct Header {
    version: u16,
    limits: Limits,
    shards: u16,
    log_time: LogTime,
    unreadable: u64,
    state_hash: u128,
}

/// What a page holds, and its place among the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageKey {
    Header,
    Scalars(ShardId),
    Data(ShardId, u32),
    Sessions(ShardId, u32),
}

#[derive(Encode, Decode)]
struct Scalars {
    revision: u64,
    sweep_after: Option<ClientId>,
    sweep_lowest: LogTime,
    sweep_oldest: LogTime,
}

#[derive(Encode, BorrowDecode)]
struct PairRecord<'a> {
    key: &'a [u8],
    version: u64,
    value: &'a [u8],
}

#[derive(Encode, Decode)]
struct RowRecord {
    client: ClientId,
    ack_through: Sequence,
    newest_sent_at: LogTime,
    outcomes: Vec<OutcomeRecord>,
}

#[derive(Encode, Decode)]
struct OutcomeRecord {
    sequence: Sequence,
    sent_at: LogTime,
    request_hash: u64,
    reply: Reply,
}

impl PageKey {
    /// Bytes that sort as shard, then table, then page.
    fn encode(self) -> Vec<u8> {
        let (shard, table, index) = match self {
            PageKey::Header => return vec![0],
            PageKey::Scalars(shard) => (shard, 0, 0),
            PageKey::Data(shard, index) => (shard, 1, index),
            PageKey::Sessions(shard, index) => (shard, 2, index),
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
                    (0, 0) => Some(PageKey::Scalars(shard)),
                    (1, _) => Some(PageKey::Data(shard, index)),
                    (2, _) => Some(PageKey::Sessions(shard, index)),
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
    let header = Header {
        version: SNAPSHOT_VERSION,
        limits: store.limits().clone(),
        shards: store.shard_count(),
        log_time: store.log_time,
        unreadable: store.unreadable,
        state_hash: store.state_hash(),
    };
    iter::once(page(PageKey::Header, &header)).chain(store.served().flat_map(shard_pages))
}

fn shard_pages(shard: &Shard) -> impl Iterator<Item = Page> + '_ {
    let id = shard.id();
    let sweep = shard.sessions().sweep;
    let scalars = Scalars {
        revision: shard.data().revision,
        sweep_after: sweep.after,
        sweep_lowest: sweep.lowest,
        sweep_oldest: sweep.oldest,
    };
    let pairs = shard.data().map.iter().map(|(key, value)| PairRecord {
        key: key.as_bytes(),
        version: value.version(),
        value: value.as_bytes(),
    });
    let rows = shard.sessions().rows.iter().map(|(client, row)| RowRecord::new(*client, row));
    let data = packed(pairs, |pair| pair.key.len() + pair.value.len() + 16);
    let sessions = packed(rows, |row| 40 + row.outcomes.len() * 48);
    iter::once(page(PageKey::Scalars(id), &scalars))
        .chain((0..).zip(data).map(move |(index, pairs)| page(PageKey::Data(id, index), &pairs)))
        .chain((0..).zip(sessions).map(move |(index, rows)| page(PageKey::Sessions(id, index), &rows)))
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

impl RowRecord {
    fn new(client: ClientId, row: &Row) -> RowRecord {
        let outcomes = row.outcomes.iter().map(|outcome| OutcomeRecord {
            sequence: outcome.sequence,
            sent_at: outcome.sent_at,
            request_hash: outcome.request_hash,
            reply: outcome.reply.clone(),
        });
        let outcomes = outcomes.collect();
        RowRecord { client, ack_through: row.ack_through, newest_sent_at: row.newest_sent_at, outcomes }
    }

    /// The row, if its outcomes are in order and above its floor.
    fn into_row(self) -> Option<Row> {
        let mut last = self.ack_through;
        let mut outcomes = VecDeque::with_capacity(self.outcomes.len().max(1));
        for OutcomeRecord { sequence, sent_at, request_hash, reply } in self.outcomes {
            if sequence <= last {
                return None;
            }
            last = sequence;
            outcomes.push_back(Outcome { sequence, sent_at, request_hash, reply });
        }
        Some(Row { ack_through: self.ack_through, newest_sent_at: self.newest_sent_at, outcomes })
    }
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
        if let PageKey::Scalars(id) = key {
            finish(&mut store, shard.take())?;
            shard = Some(Building::new(id, codec::decode(&page.body).map_err(malformed(key))?));
        } else {
            let building = shard.as_mut().ok_or_else(|| refused(format!("{key:?} without a shard")))?;
            building.take(key, &page.body, header.shards)?;
        }
    }
    finish(&mut store, shard)?;
    store.log_time = header.log_time;
    store.unreadable = header.unreadable;
    match store.state_hash() == header.state_hash {
        true => Ok(store),
        false => Err(refused("state hash differs: pages are missing or damaged")),
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

fn finish(store: &mut Store, shard: Option<Building>) -> Result<(), RestoreError> {
    match shard.is_none_or(|building| store.install(building.finish())) {
        true => Ok(()),
        false => Err(refused("shard out of range")),
    }
}

/// A shard whose pages are coming in.
struct Building {
    id: ShardId,
    data: Data,
    sessions: Sessions,
}

impl Building {
    fn new(id: ShardId, scalars: Scalars) -> Building {
        let sweep =
            Sweep { after: scalars.sweep_after, lowest: scalars.sweep_lowest, oldest: scalars.sweep_oldest };
        Building {
            id,
            data: Data { map: OrdMap::new(), revision: scalars.revision },
            sessions: Sessions { rows: OrdMap::new(), sweep },
        }
    }

    fn take(&mut self, key: PageKey, body: &[u8], shards: u16) -> Result<(), RestoreError> {
        match key {
            PageKey::Data(id, _) if id == self.id => {
                let pairs: Vec<PairRecord<'_>> = codec::decode_borrowed(body).map_err(malformed(key))?;
                pairs.into_iter().try_for_each(|pair| self.take_pair(&pair, shards))
            }
            PageKey::Sessions(id, _) if id == self.id => {
                let rows: Vec<RowRecord> = codec::decode(body).map_err(malformed(key))?;
                rows.into_iter().try_for_each(|row| self.take_row(row))
            }
            PageKey::Header | PageKey::Scalars(_) | PageKey::Data(..) | PageKey::Sessions(..) => {
                Err(refused(format!("{key:?} in shard {}", self.id.0)))
            }
        }
    }

    fn take_pair(&mut self, pair: &PairRecord<'_>, shards: u16) -> Result<(), RestoreError> {
        let in_order = self.data.map.get_max().is_none_or(|(last, _)| last.as_bytes() < pair.key);
        let known_version = (1..=self.data.revision).contains(&pair.version);
        if !in_order || !known_version || shard_of(pair.key, shards) != self.id {
            return Err(refused(format!("a key of shard {} is out of place", self.id.0)));
        }
        self.data.map.insert(Key::from(pair.key), Value::new(pair.version, pair.value));
        Ok(())
    }

    fn take_row(&mut self, record: RowRecord) -> Result<(), RestoreError> {
        let client = record.client;
        let in_order = self.sessions.rows.get_max().is_none_or(|(last, _)| *last < client);
        match record.into_row().filter(|_| in_order) {
            Some(row) => {
                self.sessions.rows.insert(client, Arc::new(row));
                Ok(())
            }
            None => Err(refused(format!("a session of shard {} is out of place", self.id.0))),
        }
    }

    fn finish(self) -> Shard {
        Shard::from_parts(self.id, self.data, self.sessions)
    }
}
