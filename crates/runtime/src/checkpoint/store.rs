//! What a checkpoint needs of an embedded store, and sled as the one that is used.
//!
//! sled 0.34 syncs nothing, may write when it is opened, and may panic on damaged files. So the caller syncs and sums
//! the files itself, and opens only what it has verified; catching panics is the second line.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::checkpoint::layout::Record;

/// Memory for sled's cache, in bytes; each record is written once and read once.
const CACHE_BYTES: u64 = 16 << 20;

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

    /// Adds records above all there are.
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

/// The embedded default.
pub struct SledStore(sled::Db);

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

impl Pages for SledStore {
    fn range<'a>(
        &'a self,
        first: &[u8],
        last: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Record, StoreError>> + 'a> {
        let mut records = self.0.range(first.to_vec()..=last.to_vec());
        let mut next = move || caught(|| records.next().transpose()).transpose();
        Box::new(std::iter::from_fn(move || {
            next().map(|found| found.map(|(key, value)| (key.to_vec(), value.to_vec())))
        }))
    }
}

impl PageStore for SledStore {
    fn create(dir: &Path) -> Result<SledStore, StoreError> {
        SledStore::open(dir)
    }

    fn open(dir: &Path) -> Result<SledStore, StoreError> {
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
                opened => return opened.map(SledStore),
            }
        }
        caught(|| config.open()).map(SledStore)
    }

    fn put(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in records {
            batch.insert(key, value);
        }
        caught(|| self.0.apply_batch(batch))
    }

    fn close(self) -> Result<(), StoreError> {
        let SledStore(db) = self;
        let flushed = caught(|| db.flush());
        let dropped = caught(|| {
            drop(db);
            Ok(())
        });
        flushed.and(dropped)
    }
}
