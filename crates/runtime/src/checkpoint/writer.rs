//! Writes the directory of one checkpoint, at a bounded pace and synced as it goes, so that the log, which shares the
//! disk, never waits behind a large write.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use paxos::rsm::state_machine::StateMachine;

use crate::checkpoint::files::{self, FileSum};
use crate::checkpoint::layout::{self, Record};
use crate::checkpoint::{CheckpointError, GroupMeta, GroupState, PageStore, Pages, StoreError};

/// Records go to the store in batches of this size, in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Files are synced after this many bytes of pages.
const SYNC_BYTES: u64 = 1 << 20;
/// How often the store is opened at most until that changes no file any more. Two or three times were seen to do.
const SETTLE_ROUNDS: usize = 10;

/// A checkpoint being written.
pub(crate) struct Writer<P: PageStore> {
    dir: PathBuf,
    store: P,
    /// Of all records so far.
    sum: u64,
    batch: Vec<Record>,
    batch_bytes: usize,
    groups: Vec<GroupMeta>,
    page_bytes: u64,
    synced_bytes: u64,
    pace: Pace,
}

/// A directory whose files are durable.
pub(crate) struct Finished {
    pub(crate) groups: Vec<GroupMeta>,
    pub(crate) files: Vec<FileSum>,
    pub(crate) page_bytes: u64,
}

impl<P: PageStore> Writer<P> {
    /// Begins in a directory that isn't there yet.
    pub(crate) fn create(dir: &Path, bytes_per_s: u64) -> Result<Writer<P>, CheckpointError> {
        std::fs::create_dir(dir).map_err(CheckpointError::io(dir))?;
        Ok(Writer {
            dir: dir.to_owned(),
            store: P::create(dir)?,
            sum: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            groups: Vec::new(),
            page_bytes: 0,
            synced_bytes: 0,
            pace: Pace { start: Instant::now(), bytes_per_s },
        })
    }

    /// Writes the pages of a group.
    pub(crate) fn write_group<S: StateMachine>(
        &mut self,
        state: GroupState<S>,
    ) -> Result<(), CheckpointError> {
        let GroupState { group, generation, applied_end, state } = state;
        let state_hash = state.state_hash();
        let (mut pages, mut outcome) = (0, Ok(()));
        state.into_pages(&mut |page| {
            outcome =
                layout::records(group, pages, &page).into_iter().try_for_each(|record| self.put(record));
            pages += 1;
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.groups.push(GroupMeta { group, generation, applied_end, state_hash, pages });
        outcome
    }

    fn put(&mut self, record: Record) -> Result<(), CheckpointError> {
        let bytes = record.0.len() + record.1.len();
        self.sum = sum_with(self.sum, &record);
        self.batch.push(record);
        self.batch_bytes += bytes;
        self.page_bytes += bytes as u64;
        if self.batch_bytes >= BATCH_BYTES {
            self.put_batch()?;
            self.pace.wait(self.page_bytes);
        }
        Ok(())
    }

    fn put_batch(&mut self) -> Result<(), CheckpointError> {
        self.batch_bytes = 0;
        self.store.put(std::mem::take(&mut self.batch))?;
        if self.page_bytes - self.synced_bytes >= SYNC_BYTES {
            self.synced_bytes = self.page_bytes;
            files::sync_all(&self.dir)?;
        }
        Ok(())
    }

    /// Closes the store and makes its files durable.
    pub(crate) fn finish(mut self) -> Result<Finished, CheckpointError> {
        self.put_batch()?;
        self.store.close()?;
        let files = settle::<P>(&self.dir, self.sum)?;
        files::sync_all(&self.dir)?;
        Ok(Finished { groups: self.groups, files, page_bytes: self.page_bytes })
    }
}

/// Opens and closes a store until that changes none of its files any more, and then once more and reads all of it, so that
/// their sums hold for good. What is read must be what was put, by the sum of the records. Returns the sums of the files.
fn settle<P: PageStore>(dir: &Path, records: u64) -> Result<Vec<FileSum>, CheckpointError> {
    let mut sums = files::sums(dir)?;
    let mut reads = false;
    for _ in 0..SETTLE_ROUNDS {
        let store = P::open(dir)?;
        let found = if reads { sum_of(&store) } else { Ok(records) };
        store.close()?;
        if found? != records {
            return Err(StoreError::new(io::Error::other("it doesn't give back what was put")).into());
        }
        let before = mem::replace(&mut sums, files::sums(dir)?);
        match sums == before {
            true if reads => return Ok(sums),
            is_settled => reads |= is_settled,
        }
    }
    Err(StoreError::new(io::Error::other("opening it changes its files without end")).into())
}

/// The sum of all records of a store.
fn sum_of(store: &impl Pages) -> Result<u64, StoreError> {
    store.range(&[], &[u8::MAX; 32]).try_fold(0, |sum, record| Ok(sum_with(sum, &record?)))
}

/// In whatever order they come.
fn sum_with(sum: u64, (key, value): &Record) -> u64 {
    sum.wrapping_add(crc32c::crc32c_append(crc32c::crc32c(key), value).into())
}

/// Keeps an average.
struct Pace {
    start: Instant,
    bytes_per_s: u64,
}

impl Pace {
    /// Waits until so many bytes are due.
    fn wait(&self, bytes: u64) {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64);
        thread::sleep(due.saturating_sub(self.start.elapsed()));
    }
}
