//! Reads of the store. A scan merges its shards by key and stops at the first pair that doesn't fit, so what it leaves
//! out is always above what it returns, and the client can merge pages and go on. It touches what it returns and one
//! path from the root in each shard.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Bound;

use crate::command::{KEY_BYTES_MAX, ShardId};
use crate::pairs::Value;
use crate::query::{Answer, Pair, SCAN_BYTES_MAX, SCAN_PAIRS_MAX, ShardCursor, ShardPage};
use crate::shard::Shard;
use crate::store::Store;

/// The value of a key.
pub(crate) fn get(store: &Store, shard: ShardId, key: &[u8]) -> Answer {
    match store.shard(shard) {
        Err(elsewhere) => elsewhere.answer(shard),
        Ok(found) => Answer::Value(
            found.data().pairs.get(key).map(|value| (value.as_bytes().to_vec(), value.version())),
        ),
    }
}

/// The next pairs of several shards.
pub(crate) fn scan(
    store: &Store,
    cursors: &[ShardCursor],
    prefix: &[u8],
    limit: u32,
    keys_only: bool,
) -> Answer {
    let ids: BTreeSet<ShardId> = cursors.iter().map(|cursor| cursor.shard).collect();
    let longest = cursors.iter().filter_map(|c| c.after.as_ref()).map(Vec::len).max().unwrap_or(0);
    if ids.len() != cursors.len() || longest.max(prefix.len()) > KEY_BYTES_MAX {
        return Answer::Invalid;
    }
    if let Some(answer) = ids.into_iter().find_map(|id| Some(store.shard(id).err()?.answer(id))) {
        return answer;
    }
    let mut rest: Vec<_> = cursors
        .iter()
        .filter_map(|cursor| {
            Some(pairs_after(store.shard(cursor.shard).ok()?, prefix, cursor.after.as_deref()))
        })
        .collect();
    let mut pages: Vec<ShardPage> =
        cursors.iter().map(|c| ShardPage { shard: c.shard, pairs: Vec::new(), end: false }).collect();

    // The next pair of each shard, lowest key first.
    let mut next: BinaryHeap<_> = rest
        .iter_mut()
        .enumerate()
        .filter_map(|(at, pairs)| pairs.next().map(|p| Reverse((p, at))))
        .collect();
    let mut room = Room::new(limit);
    while let Some(Reverse((pair, at))) = next.peek()
        && room.take(pair, keys_only)
    {
        let at = *at;
        pages[at].pairs.push(pair.to_pair(keys_only));
        next.pop();
        next.extend(rest[at].next().map(|pair| Reverse((pair, at))));
    }
    let unfinished: BTreeSet<usize> = next.iter().map(|Reverse((_, at))| *at).collect();
    for (at, page) in pages.iter_mut().enumerate() {
        page.end = !unfinished.contains(&at);
    }
    Answer::Page(pages)
}

/// How much a page may still hold.
struct Room {
    pairs: u32,
    bytes: usize,
    empty: bool,
}

impl Room {
    fn new(limit: u32) -> Room {
        Room { pairs: limit.min(SCAN_PAIRS_MAX), bytes: SCAN_BYTES_MAX, empty: true }
    }

    /// Takes the room of a pair, if there is enough. One pair always fits.
    fn take(&mut self, pair: &Found<'_>, keys_only: bool) -> bool {
        let bytes = pair.key.len() + if keys_only { 0 } else { pair.value.as_bytes().len() };
        let fits = self.pairs > 0 && (self.empty || bytes <= self.bytes);
        if fits {
            self.pairs -= 1;
            self.bytes = self.bytes.saturating_sub(bytes);
            self.empty = false;
        }
        fits
    }
}

/// A pair in its shard, ordered by key.
struct Found<'a> {
    key: &'a [u8],
    value: Value<'a>,
}

impl Found<'_> {
    fn to_pair(&self, keys_only: bool) -> Pair {
        let value = if keys_only { Vec::new() } else { self.value.as_bytes().to_vec() };
        Pair { key: self.key.to_vec(), value, version: self.value.version() }
    }
}

impl PartialEq for Found<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Found<'_> {}

impl PartialOrd for Found<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(other.key)
    }
}

/// The pairs of a prefix after a key, in key order.
fn pairs_after<'a>(
    shard: &'a Shard,
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
) -> impl Iterator<Item = Found<'a>> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    shard
        .data()
        .pairs
        .iter_from(from)
        .map(|(key, value)| Found { key, value })
        .take_while(move |found| found.key.starts_with(prefix))
}
