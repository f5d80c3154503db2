//! How pages stand in the store: as pieces that no store needs to put elsewhere, each with a checksum over key and bytes.
//!
//! Key `group u32 | page u64 | piece u32`, big-endian, so that order in the store is order of writing. Value
//! `crc32c u32 | last u8 | bytes`; the pieces of a page together are `key length u32 | page key | page body`.

use paxos::ids::GroupId;
use paxos::rsm::state_machine::Page;

use crate::checkpoint::{CheckpointError, Pages};

/// Largest piece, in bytes: a common page is one piece, and sled keeps values up to 8 kB in its own file.
const PIECE_BYTES: usize = 6000;
const KEY_BYTES: usize = 16;

/// A record of the store.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

fn key(group: GroupId, page: u64, piece: u32) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..12].copy_from_slice(&page.to_be_bytes());
    key[12..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn crc(key: &[u8], last: u8, bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &[last]), bytes).to_le_bytes()
}

/// The records of a page, `number`th of its group.
pub(crate) fn records(group: GroupId, number: u64, page: &Page) -> Vec<Record> {
    let key_length = u32::try_from(page.key.len()).unwrap_or(u32::MAX);
    let whole = [&key_length.to_le_bytes()[..], &page.key, &page.body].concat();
    let pieces = whole.chunks(PIECE_BYTES);
    let count = pieces.len();
    let record = |(at, bytes): (u32, &[u8])| {
        let key = key(group, number, at);
        let last = u8::from(at as usize + 1 == count);
        (key.to_vec(), [&crc(&key, last, bytes)[..], &[last], bytes].concat())
    };
    (0..).zip(pieces).map(record).collect()
}

/// The pages of a group, in order. Ends at the first error.
pub(crate) fn pages<P: Pages>(
    store: &P,
    group: GroupId,
) -> impl Iterator<Item = Result<Page, CheckpointError>> + '_ {
    let mut records = store.range(&key(group, 0, 0), &key(group, u64::MAX, u32::MAX)).peekable();
    let mut number = 0;
    std::iter::from_fn(move || {
        records.peek()?;
        let page = next_page(group, number, &mut records);
        number += 1;
        Some(page)
    })
}

fn next_page(
    group: GroupId,
    number: u64,
    records: &mut dyn Iterator<Item = Result<Record, super::StoreError>>,
) -> Result<Page, CheckpointError> {
    let mut whole = Vec::new();
    for piece in 0.. {
        let damaged = || CheckpointError::pages(group, format!("page {number}, piece {piece}"));
        let (found, value) = records.next().ok_or_else(damaged)??;
        let (sum, rest) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (last, bytes) = rest.split_first().ok_or_else(damaged)?;
        let expected = key(group, number, piece);
        if found != expected || *sum != crc(&expected, *last, bytes) {
            return Err(damaged());
        }
        whole.extend_from_slice(bytes);
        if *last == 1 {
            break;
        }
    }
    let unpacked = whole.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (key, body) = rest.split_at_checked(length)?;
        Some(Page { key: key.to_vec(), body: body.to_vec() })
    });
    unpacked.ok_or_else(|| CheckpointError::pages(group, format!("page {number}")))
}
