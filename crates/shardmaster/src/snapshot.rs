//! The state as pages of about 4 KiB, for checkpoints and for replicas that lag, and back; and the state hash.
//!
//! Pages come in ascending order of their keys: a header, then the tables one after the other, each a byte of the table
//! and the number of the page in it. Restoring refuses pages whose state hash isn't the header's, so that a page
//! that is lost, doubled or damaged is noticed (P5), and states that break an invariant.

use bincode::{Decode, Encode};
use imbl::{OrdMap, Vector};
use paxos::codec;
use paxos::ids::LogTime;
use paxos::rsm::state_machine::{Page, RestoreError};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::command::Policy;
use crate::group::{Group, NodeInfo};
use crate::history::{History, Record};
use crate::limits::Limits;
use crate::master::{Master, Row};
use crate::memory::{Memory, Remembered};
use crate::moves::{Move, Remnant};

/// Version of the pages.
pub(crate) const SNAPSHOT_VERSION: u16 = 1;
/// A page takes records up to this many bytes; one record is always allowed.
const PAGE_BYTES: usize = 4 << 10;

const HEADER: u8 = 0;
const ROWS: u8 = 1;
const GROUPS: u8 = 2;
const NODES: u8 = 3;
const MOVES: u8 = 4;
const REMNANTS: u8 = 5;
const MEMORY: u8 = 6;
const HISTORY: u8 = 7;

#[derive(Encode, Decode)]
struct Header {
    version: u16,
    limits: Limits,
    scalars: Scalars,
    state_hash: u128,
}

#[derive(Encode, Decode)]
struct Scalars {
    shards: u16,
    log_time: LogTime,
    unreadable: u64,
    routing_version: u64,
    paused: bool,
    policy: Policy,
}

impl Scalars {
    fn of(master: &Master) -> Scalars {
        Scalars {
            shards: master.shard_count(),
            log_time: master.log_time,
            unreadable: master.unreadable,
            routing_version: master.routing_version,
            paused: master.paused,
            policy: master.policy,
        }
    }
}

/// Hash of the whole state: equal at equal slots. The history has its own, so this is linear in the rest.
pub(crate) fn state_hash(master: &Master) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&codec::encode(&(Scalars::of(master), &master.limits, master.history.hash())));
    hash_table(&mut hasher, ROWS, master.rows.iter());
    hash_table(&mut hasher, GROUPS, master.groups.values());
    hash_table(&mut hasher, NODES, master.nodes.values());
    hash_table(&mut hasher, MOVES, master.moves.values());
    hash_table(&mut hasher, REMNANTS, master.remnants.values());
    hash_table(&mut hasher, MEMORY, master.memory.entries());
    hasher.digest128()
}

fn hash_table<'a, T: Encode + 'a>(hasher: &mut Xxh3, table: u8, records: impl Iterator<Item = &'a T>) {
    let mut bytes = vec![table];
    for record in records {
        codec::encode_into(record, &mut bytes);
    }
    hasher.update(&xxh3_128(&bytes).to_le_bytes());
}

/// The pages of a state.
pub(crate) fn pages(master: &Master) -> impl Iterator<Item = Page> + '_ {
    let header = Header {
        version: SNAPSHOT_VERSION,
        limits: master.limits.clone(),
        scalars: Scalars::of(master),
        state_hash: state_hash(master),
    };
    std::iter::once(Page { key: page_key(HEADER, 0), body: codec::encode(&header) })
        .chain(table(ROWS, master.rows.iter()))
        .chain(table(GROUPS, master.groups.values()))
        .chain(table(NODES, master.nodes.values()))
        .chain(table(MOVES, master.moves.values()))
        .chain(table(REMNANTS, master.remnants.values()))
        .chain(table(MEMORY, master.memory.entries()))
        .chain(table(HISTORY, master.history.records()))
}

fn page_key(table: u8, index: u32) -> Vec<u8> {
    [&[table][..], &index.to_be_bytes()].concat()
}

/// Neighbouring records, as many as fit a page: their number, then the records.
fn table<'a, T: Encode + 'a>(
    table: u8,
    records: impl Iterator<Item = &'a T> + 'a,
) -> impl Iterator<Item = Page> + 'a {
    let mut records = records.map(codec::encode).peekable();
    (0..).map_while(move |index| {
        let (mut count, mut body) = (1_u64, records.next()?);
        while let Some(record) = records.next_if(|record| body.len() + record.len() <= PAGE_BYTES) {
            body.extend_from_slice(&record);
            count += 1;
        }
        let mut page = codec::encode(&count);
        page.append(&mut body);
        Some(Page { key: page_key(table, index), body: page })
    })
}

fn refused(why: impl Into<String>) -> RestoreError {
    RestoreError(why.into())
}

fn records<T: Decode<()>>(page: &Page) -> Result<Vec<T>, RestoreError> {
    codec::decode(&page.body).map_err(|error| refused(format!("page {:?}: {error}", page.key)))
}

/// The state that the pages were made of. `fresh` gives the bounds and the number of shards.
pub(crate) fn restore(fresh: Master, pages: &mut dyn Iterator<Item = Page>) -> Result<Master, RestoreError> {
    let first = pages.next().filter(|page| page.key == page_key(HEADER, 0));
    let header = read_header(&fresh, &first.ok_or_else(|| refused("no header"))?)?;
    let mut master = emptied(fresh, &header.scalars);
    let mut last = page_key(HEADER, 0);
    for page in pages {
        if page.key <= last {
            return Err(refused(format!("page {:?} out of order", page.key)));
        }
        take(&mut master, &page, usize::from(header.scalars.shards))?;
        last = page.key;
    }
    let (found, written) = (state_hash(&master), header.state_hash);
    if found != written {
        return Err(refused(format!(
            "pages are missing or damaged: state hash {found:032x}, written as {written:032x}"
        )));
    }
    master.check().map_err(|broken| refused(format!("the state breaks an invariant: {broken}")))?;
    Ok(master)
}

fn read_header(fresh: &Master, page: &Page) -> Result<Header, RestoreError> {
    let malformed = |error: codec::CodecError| refused(format!("header: {error}"));
    let version = codec::decode_prefix::<u16>(&page.body).map_err(malformed)?;
    if version != SNAPSHOT_VERSION {
        return Err(refused(format!("version {version}, this code knows {SNAPSHOT_VERSION}")));
    }
    let header: Header = codec::decode(&page.body).map_err(malformed)?;
    if header.limits != fresh.limits || header.scalars.shards != fresh.shard_count() {
        return Err(refused("made under other replicated limits"));
    }
    Ok(header)
}

fn emptied(fresh: Master, scalars: &Scalars) -> Master {
    Master {
        limits: fresh.limits,
        log_time: scalars.log_time,
        unreadable: scalars.unreadable,
        history: History::new(),
        rows: Vector::new(),
        groups: OrdMap::new(),
        nodes: OrdMap::new(),
        moves: OrdMap::new(),
        remnants: OrdMap::new(),
        routing_version: scalars.routing_version,
        paused: scalars.paused,
        policy: scalars.policy,
        memory: Memory::default(),
    }
}

fn take(master: &mut Master, page: &Page, shards: usize) -> Result<(), RestoreError> {
    match page.key.first().copied() {
        Some(ROWS) => master.rows.extend(records::<Row>(page)?),
        Some(GROUPS) => master.groups.extend(records::<Group>(page)?.into_iter().map(|g| (g.at.group, g))),
        Some(NODES) => master.nodes.extend(records::<NodeInfo>(page)?.into_iter().map(|n| (n.node, n))),
        Some(MOVES) => master.moves.extend(records::<Move>(page)?.into_iter().map(|m| (m.shard, m))),
        Some(REMNANTS) => {
            let placed = |remnant: Remnant| ((remnant.shard, remnant.at), remnant);
            master.remnants.extend(records::<Remnant>(page)?.into_iter().map(placed));
        }
        Some(MEMORY) => {
            records::<Remembered>(page)?.into_iter().for_each(|entry| master.memory.push(entry));
        }
        Some(HISTORY) => {
            for record in records::<Record>(page)? {
                if !master.history.restore(record, shards) {
                    return Err(refused("a ShardMap is out of place"));
                }
            }
        }
        Some(_) | None => return Err(refused("unknown kind of page")),
    }
    Ok(())
}
