//! Scans: pages of all shards, merged into global key order.
//!
//! A request names shards of one group, each with its own cursor. The group's answer has the lowest keys of these shards
//! together, so after it every one of them stands at the highest key of the answer, or at its end. What may be handed
//! out is what lies at or below the lowest place where an unfinished shard stands. Since keys are handed out in order
//! over all shards, the last one is all that is needed to go on elsewhere. A shard that moves keeps its place: the next
//! request goes to whoever serves it then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvserver::command::{KEY_BYTES_MAX, ShardId, shard_of};
use kvserver::query::{Query, SCAN_PAIRS_MAX, ShardCursor, ShardPage};
use paxos::ids::GroupId;
use tokio::time::Instant;

use crate::call::{self, Paged};
use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::options::ScanOptions;

/// How long to wait for a routing table that knows where a shard went: longer each time, within these bounds.
const MOVED_PAUSE: Duration = Duration::from_millis(2);
const MOVED_PAUSE_MAX: Duration = Duration::from_millis(20);
/// Redirects in a row that are followed at once.
const REDIRECTS: u32 = 4;

/// What asking brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    /// The scan went on.
    Some,
    /// Nothing yet, but now it is known whom to ask.
    Redirect,
    /// Nothing.
    Nothing,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty in a scan of keys only.
    pub value: Vec<u8>,
    /// Version of the value.
    pub version: u64,
}

/// How far a scan has come; enough to go on in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursors {
    /// The last key handed out: all keys up to it were, in every shard.
    pub after: Option<Vec<u8>>,
    /// Nothing is left.
    pub end: bool,
}

/// A scan in progress, see [`Client::scan`].
///
/// Each page of a shard is atomic; the scan as a whole isn't a snapshot: a key that is written or removed meanwhile may or
/// may not be seen in its new state. Every key that is there from beginning to end is handed out exactly once.
pub struct Scan {
    client: Client,
    options: ScanOptions,
    merge: Merge,
    left: u64,
}

impl Scan {
    pub(crate) fn new(client: Client, prefix: &[u8], mut options: ScanOptions) -> Scan {
        let cursors = options.cursors.take().unwrap_or_default();
        let left = options.limit.unwrap_or(u64::MAX);
        Scan { client, options, merge: Merge::new(prefix, cursors), left }
    }

    /// The next pairs in key order, at least one; `None` when nothing is left or the limit is reached.
    ///
    /// # Errors
    /// As a read. The scan stands where it stood, so the call may be repeated.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Pair>>, Error> {
        let deadline = Instant::now() + self.client.timeout();
        let shards = self.client.shared().with(|engine| engine.router().shards());
        self.merge.spread(shards)?;
        let (mut redirects, mut pause) = (0, MOVED_PAUSE);
        while self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.page());
            let pairs = self.merge.take(most);
            if !pairs.is_empty() {
                self.left = self.left.saturating_sub(u64::try_from(pairs.len()).unwrap_or(u64::MAX));
                return Ok(Some(pairs));
            }
            if self.merge.is_done() {
                return Ok(None);
            }
            let fetched = self.fetch().await?;
            if fetched == Fetched::Some {
                (redirects, pause) = (0, MOVED_PAUSE);
                continue;
            }
            if Instant::now() >= deadline {
                let message = "no node that serves the shards could be found";
                return Err(Error::not_executed(ErrorKind::Unavailable, message));
            }
            redirects += 1;
            if fetched == Fetched::Nothing || redirects > REDIRECTS {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MOVED_PAUSE_MAX);
            }
        }
        Ok(None)
    }

    /// Where to go on after the last page handed out, through [`ScanOptions::cursors`] with the same prefix.
    pub fn cursors(&self) -> Cursors {
        self.merge.cursors()
    }

    fn page(&self) -> usize {
        usize::try_from(self.options.page.clamp(1, SCAN_PAIRS_MAX)).unwrap_or(1)
    }

    /// Asks for what stands in the way.
    async fn fetch(&mut self) -> Result<Fetched, Error> {
        let limit = u64::from(self.options.page.clamp(1, SCAN_PAIRS_MAX)).min(self.left);
        let limit = u32::try_from(limit).unwrap_or(SCAN_PAIRS_MAX);
        let shared = self.client.shared();
        let mut by_group: BTreeMap<GroupId, Vec<ShardCursor>> = BTreeMap::new();
        let behind = self.merge.behind();
        let asked = behind.len();
        shared.with(|engine| {
            for cursor in behind {
                if let Some(group) = engine.router().owner(cursor.shard) {
                    by_group.entry(engine.router().group(group).id).or_default().push(cursor);
                }
            }
        });
        let known: usize = by_group.values().map(Vec::len).sum();
        let requests = by_group.into_iter().map(|(group, shards)| {
            let prefix = self.merge.prefix.clone();
            let query = Query::Scan { shards, prefix, limit, keys_only: self.options.keys_only };
            let consistency = self.options.consistency;
            async move { call::page(shared, group, &query, consistency).await }
        });
        let (mut came, mut known_now) = (false, false);
        let mut moved = known < asked;
        for answer in call::all(requests).await {
            match answer? {
                Paged::Pages(pages) => came |= self.merge.add(pages),
                Paged::Moved(shard, Some(owner)) => {
                    moved = true;
                    known_now |= shared.with(|engine| engine.redirected(shard, &owner, Instant::now()));
                }
                Paged::Moved(_, None) | Paged::Elsewhere => moved = true,
            }
        }
        if moved {
            shared.with(|engine| engine.want_refresh());
        }
        Ok(match (came, known_now) {
            (true, _) => Fetched::Some,
            (false, true) => Fetched::Redirect,
            (false, false) => Fetched::Nothing,
        })
    }
}

/// The pure part: where each shard stands, and what was fetched and not handed out.
#[derive(Debug)]
struct Merge {
    prefix: Vec<u8>,
    start: Option<Vec<u8>>,
    shards: Vec<Place>,
    fetched: VecDeque<Pair>,
    last: Option<Vec<u8>>,
    done: bool,
}

/// Where a shard stands.
#[derive(Debug)]
struct Place {
    shard: ShardId,
    after: Option<Vec<u8>>,
    end: bool,
}

impl Merge {
    fn new(prefix: &[u8], cursors: Cursors) -> Merge {
        Merge {
            prefix: prefix.to_vec(),
            start: cursors.after.clone(),
            shards: Vec::new(),
            fetched: VecDeque::new(),
            last: cursors.after,
            done: cursors.end,
        }
    }

    /// Once the number of shards is known.
    fn spread(&mut self, shards: u16) -> Result<(), Error> {
        if self.prefix.len() > KEY_BYTES_MAX {
            return Err(Error::not_executed(ErrorKind::TooLarge, "the prefix is longer than any key"));
        }
        if self.shards.is_empty() {
            let place = |shard| Place { shard, after: self.start.clone(), end: false };
            self.shards = match names_one_shard(&self.prefix) {
                true => vec![place(shard_of(&self.prefix, shards))],
                false => (0..shards).map(|shard| place(ShardId(shard))).collect(),
            };
        }
        Ok(())
    }

    /// The lowest place of an unfinished shard; everything at or below it is known. `None` once all are finished.
    fn known_to(&self) -> Option<&Option<Vec<u8>>> {
        self.shards.iter().filter(|place| !place.end).map(|place| &place.after).min()
    }

    /// The shards that hold the others back.
    fn behind(&self) -> Vec<ShardCursor> {
        let known_to = self.known_to().cloned();
        let behind = self.shards.iter().filter(|p| !p.end && Some(&p.after) == known_to.as_ref());
        behind.map(|p| ShardCursor { shard: p.shard, after: p.after.clone() }).collect()
    }

    /// An answer of one group; whether it brought the scan on.
    fn add(&mut self, pages: Vec<ShardPage>) -> bool {
        let highest = pages.iter().filter_map(|page| page.pairs.last()).map(|pair| pair.key.clone()).max();
        let mut on = false;
        for page in pages {
            let Some(place) = self.shards.iter_mut().find(|place| place.shard == page.shard) else {
                continue;
            };
            if place.end {
                continue;
            }
            place.end = page.end;
            on |= page.end || highest.is_some();
            if highest.is_some() {
                place.after.clone_from(&highest);
            }
            let pair = |p: kvserver::query::Pair| Pair { key: p.key, value: p.value, version: p.version };
            self.fetched.extend(page.pairs.into_iter().map(pair));
        }
        self.fetched.make_contiguous().sort_by(|a, b| a.key.cmp(&b.key));
        on
    }

    /// Hands out the next pairs, as far as they are known to be next.
    fn take(&mut self, most: usize) -> Vec<Pair> {
        let ready = match self.known_to() {
            None => self.fetched.len(),
            Some(None) => 0,
            Some(Some(to)) => self.fetched.partition_point(|pair| pair.key <= *to),
        };
        let pairs: Vec<Pair> = self.fetched.drain(..ready.min(most)).collect();
        if let Some(pair) = pairs.last() {
            self.last = Some(pair.key.clone());
        }
        pairs
    }

    fn is_done(&self) -> bool {
        self.done || (self.fetched.is_empty() && !self.shards.is_empty() && self.known_to().is_none())
    }

    fn cursors(&self) -> Cursors {
        Cursors { after: self.last.clone(), end: self.is_done() }
    }
}

/// Whether all keys with this prefix live in one shard: it holds a whole `{…}` that decides.
fn names_one_shard(prefix: &[u8]) -> bool {
    let Some(open) = prefix.iter().position(|b| *b == b'{') else { return false };
    prefix[open + 1..].iter().position(|b| *b == b'}').is_some_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SHARDS: u16 = 8;

    /// What a group answers: the lowest `limit` keys of the shards asked for.
    fn answer(keys: &BTreeSet<Vec<u8>>, shards: &[ShardCursor], limit: usize) -> Vec<ShardPage> {
        let in_shard = |c: &ShardCursor| {
            let after = c.after.clone();
            let shard = c.shard;
            let of = move |key: &&Vec<u8>| shard_of(key, SHARDS) == shard && Some(*key) > after.as_ref();
            keys.iter().filter(of).cloned().collect::<Vec<_>>()
        };
        let all: Vec<Vec<Vec<u8>>> = shards.iter().map(in_shard).collect();
        let mut merged: Vec<&Vec<u8>> = all.iter().flatten().collect();
        merged.sort();
        let cut = merged.get(limit).copied();
        let page = |(cursor, all): (&ShardCursor, &Vec<Vec<u8>>)| {
            let kept: Vec<_> = all.iter().filter(|key| cut.is_none_or(|cut| *key < cut)).collect();
            let end = kept.len() == all.len();
            let pair = |key: &Vec<u8>| kvserver::query::Pair { key: key.clone(), value: vec![], version: 1 };
            ShardPage { shard: cursor.shard, pairs: kept.into_iter().map(pair).collect(), end }
        };
        shards.iter().zip(&all).map(page).collect()
    }

    #[test]
    fn a_prefix_with_a_whole_tag_asks_one_shard() {
        let mut merge = Merge::new(b"{user1}.", Cursors::default());
        merge.spread(SHARDS).unwrap();
        assert_eq!(merge.shards.len(), 1);
        assert_eq!(merge.shards[0].shard, shard_of(b"{user1}.name", SHARDS));
        assert!(!names_one_shard(b"{}x") && !names_one_shard(b"{user"));
    }

    proptest! {
        /// Two groups whose shards move about between pages, and a scan that is taken up again elsewhere now and then:
        /// every key once, in order.
        #[test]
        fn every_key_once_in_order(
            keys in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..4), 0..200),
            limit in 1_usize..20, most in 1_usize..30, moves in prop::collection::vec(any::<u8>(), 1..20), resume: bool
        ) {
            let mut merge = Merge::new(b"", Cursors::default());
            let mut got: Vec<Vec<u8>> = Vec::new();
            for round in 0.. {
                merge.spread(SHARDS).unwrap();
                let pairs = merge.take(most);
                got.extend(pairs.into_iter().map(|pair| pair.key));
                if merge.is_done() {
                    break;
                }
                if resume && round % 5 == 4 {
                    merge = Merge::new(b"", merge.cursors());
                    continue;
                }
                let owners = moves[round % moves.len()];
                let (one, two): (Vec<_>, Vec<_>) =
                    merge.behind().into_iter().partition(|c| owners & (1 << c.shard.0) == 0);
                let went_on = merge.add(answer(&keys, &one, limit)) | merge.add(answer(&keys, &two, limit));
                prop_assert!(went_on || !merge.fetched.is_empty());
                prop_assert!(round < 2000);
            }
            prop_assert_eq!(got, keys.into_iter().collect::<Vec<_>>());
        }
    }
}
