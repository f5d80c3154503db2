//! What a checkpoint needs of an embedded store, and sled as the one that is used.
//!
//! Records stand in one file, in chunks; sled holds where each chunk is. So sled's tree stays small: what it moves when it splits
//! and merges its nodes isn't the records (L. Lu et al., "WiscKey: Separating Keys from Values in SSD-conscious Storage", 2016).
//!
//! sled 0.34 syncs nothing, may write when it is opened, and may panic on damaged files. So the caller syncs and sums
//! the files itself, and opens only what it has verified; catching panics is the second line.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use paxos::codec;

use crate::checkpoint::layout::Record;

/// The file of the records, beside sled's own.
const RECORDS: &str = "records";

/// Memory for sled's cache, in bytes: far more than its tree takes.
const CACHE_BYTES: u64 = 1 << 20;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[error("store: {0}")]
pub struct StoreError(io::Error);

impl StoreError {
    /// A failure of a store.
    pub fn new(error: io::Error) -> StoreError {
        StoreError(error)
    }

    /// Whether the disk has no room.
    pub fn is_full(&self) -> bool {
        crate::fs::is_full(&self.0)
    }
}

/// Records that can be read.
pub trait Pages {
    /// The records from `first` to `last`, both included, in order.
    fn range<'a>(
        &'a self,
        first: &[u8],
        last: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Record, StoreError>> + 'a>;
}

/// A store of records, written once in ascending order of keys, closed, and read.
pub trait PageStore: Pages + Sized {
    /// Makes a store in an empty directory.
    ///
    /// # Errors
    /// [`StoreError`].
    fn create(dir: &Path) -> Result<Self, StoreError>;

    /// Opens a store that was closed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn open(dir: &Path) -> Result<Self, StoreError>;

    /// Adds records above all there are, in ascending order.
    ///
    /// # Errors
    /// [`StoreError`]; the store is unusable then.
    fn put(&mut self, records: Vec<Record>) -> Result<(), StoreError>;

    /// Hands all of it to the operating system and lets go of the files. Syncing is the caller's.
    ///
    /// # Errors
    /// [`StoreError`].
    fn close(self) -> Result<(), StoreError>;
}

/// A store that was dropped in this process lets go of its lock a moment later, on a thread of its own: so often it is
/// opened again.
const LOCK_TRIES: u32 = 100;
/// Pause before that.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The embedded default. A chunk is what one [`PageStore::put`] brought; sled has it by its last key.
pub struct SledStore {
    chunks: sled::Db,
    records: File,
    /// Where the next chunk goes.
    end: u64,
}

fn failed(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => StoreError(error),
        other => StoreError(io::Error::other(other)),
    }
}

fn caught<T>(what: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(what)) {
        Ok(result) => result.map_err(failed),
        Err(panic) => Err(StoreError(io::Error::other(panic_text(panic.as_ref())))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_string())
}

/// Offset and length, as sled holds them.
fn place(offset: u64, length: u64) -> [u8; 16] {
    (u128::from(offset) << 64 | u128::from(length)).to_be_bytes()
}

impl SledStore {
    /// The records of a chunk.
    fn read(&self, place: &[u8]) -> Result<Vec<Record>, StoreError> {
        let malformed = || StoreError(io::Error::other("a chunk isn't where it is said to be"));
        let place = u128::from_be_bytes(place.try_into().map_err(|_| malformed())?);
        // The casts cut off what the other keeps.
        let (offset, length) = ((place >> 64) as u64, place as u64);
        if offset.checked_add(length).is_none_or(|end| end > self.end) {
            return Err(malformed());
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| malformed())?];
        self.records.read_exact_at(&mut bytes, offset).map_err(StoreError)?;
        codec::decode(&bytes).map_err(|_| malformed())
    }
}

impl Pages for SledStore {
    fn range<'a>(
        &'a self,
        first: &[u8],
        last: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Record, StoreError>> + 'a> {
        let (first, last) = (first.to_vec(), last.to_vec());
        let mut chunks = self.chunks.range(first.clone()..);
        let mut next = move || caught(|| chunks.next().transpose()).transpose();
        let chunks = std::iter::from_fn(move || next().map(|found| self.read(&found?.1)));
        let records = chunks.flat_map(|chunk| match chunk {
            Ok(records) => records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let is_before = move |record: &Result<Record, _>| record.as_ref().is_ok_and(|(key, _)| *key < first);
        let is_beyond = move |record: &Result<Record, _>| record.as_ref().is_ok_and(|(key, _)| *key > last);
        Box::new(records.skip_while(is_before).take_while(move |record| !is_beyond(record)))
    }
}

impl PageStore for SledStore {
    fn create(dir: &Path) -> Result<SledStore, StoreError> {
        File::create_new(dir.join(RECORDS)).map_err(StoreError)?;
        SledStore::open(dir)
    }

    fn open(dir: &Path) -> Result<SledStore, StoreError> {
        let records =
            OpenOptions::new().read(true).append(true).open(dir.join(RECORDS)).map_err(StoreError)?;
        let end = records.metadata().map_err(StoreError)?.len();
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .use_compression(false)
            .mode(sled::Mode::HighThroughput);
        for _ in 0..LOCK_TRIES {
            match caught(|| config.open()) {
                Err(StoreError(error)) if error.to_string().contains("could not acquire lock") => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => return opened.map(|chunks| SledStore { chunks, records, end }),
            }
        }
        caught(|| config.open()).map(|chunks| SledStore { chunks, records, end })
    }

    fn put(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let Some((last, _)) = records.last() else { return Ok(()) };
        let bytes = codec::encode(&records);
        self.records.write_all(&bytes).map_err(StoreError)?;
        let length = bytes.len() as u64;
        caught(|| self.chunks.insert(last, &place(self.end, length)))?;
        self.end += length;
        Ok(())
    }

    fn close(self) -> Result<(), StoreError> {
        let SledStore { chunks, .. } = self;
        let flushed = caught(|| chunks.flush());
        let dropped = caught(|| {
            drop(chunks);
            Ok(())
        });
        flushed.and(dropped)
    }
}
