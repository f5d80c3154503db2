//! The write-ahead log: the memory of all acceptors of a node (P0, P6).
//!
//! The owner, the thread that steps the replicas, [`Log::append`]s what a step writes and [`Log::commit`]s; it never waits
//! for the disk. A log thread gathers what was committed into one *frame*, writes it, syncs it, advances
//! [`Log::durable`] and wakes the owner. What was appended between two commits is in one frame: after a crash all of it is
//! there or none. Frames are in *segments*, each of which begins with the State records of every replica, so that
//! old ones can go once checkpoints cover their slots ([`Log::release`]).
//!
//! The format, and how a torn end is told from damage, is in `docs/storage.md`. A failed write or sync ends the
//! process: it is never tried again, and nothing is reported durable after it.

mod chores;
mod driver;
pub mod error;
mod frame;
pub mod options;
mod queue;
pub mod record;
mod recovery;
mod sector;
mod segment;
mod shared;
mod spare;
mod trim;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use paxos::ids::{Generation, GroupId, Slot};
use tokio::sync::Notify;

use crate::fs::{Fs, FsLock};

pub(crate) use self::driver::Driver;
use self::error::LogError;
use self::frame::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use self::options::{FrameNo, Hooks, LogOptions, Recovery, SegmentNo};
use self::queue::{Chore, Queue, empty_buffer};
use self::record::{Record, RecordBuf};
use self::recovery::Found;
use self::shared::{Performed, Shared};
use self::trim::{Key, Segments};
use self::writer::Writer;

/// The first segment of a life is no larger than this if it has to be made before anything can be written, in bytes.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Buffers above this size aren't kept for the next commit, in bytes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// The owner's side of the log. Dropping it ends the threads, which first write what was committed, and a mark, unless
/// the disk is full.
pub struct Log {
    shared: Arc<Shared>,
    /// Appended since the last commit.
    batch: Batch,
    segments: Segments,
    first_live: u64,
    threads: Vec<JoinHandle<()>>,
    /// Wakes the task that stands in the place of the threads.
    task: Option<Arc<Notify>>,
    /// The frame that holds what was last committed, lazy or not.
    newest: FrameNo,
    _lock: Box<dyn FsLock>,
}

struct Batch {
    buffer: Vec<u8>,
    urgent: bool,
    /// Highest slot of each run of records of one group.
    touched: Vec<(Key, Slot)>,
}

/// What came of [`Log::commit_inline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Everything committed so far, but for lazy records, is durable.
    Durable(FrameNo),
    /// The log thread has it: durable once [`Log::durable`] reaches this frame.
    Queued(FrameNo),
    /// The log has failed, nothing more becomes durable.
    Failed,
}

/// Why the oldest segment can't go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// These groups have records in it that weren't released.
    pub groups: Vec<(GroupId, Generation)>,
    /// To be given to [`Log::reappended`].
    pub since: SegmentNo,
}

impl Log {
    /// Opens the log in `dir`, creating both if missing, and hands every record that survives to `on_record`, in the
    /// order of appending. State records, and records already released, are among them. What was lost at the end, if
    /// anything, had not been durable.
    ///
    /// # Errors
    /// [`LogError`]. After `Corrupt`, `Foreign` and `Version` no replica of the node may vote; the records handed out
    /// until then must be forgotten.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: LogOptions,
        hooks: Hooks,
        on_record: &mut dyn FnMut(FrameNo, Record<'_>),
    ) -> Result<(Log, Recovery), LogError> {
        options.validate()?;
        let lock = lock(&*fs, dir)?;
        let found = recovery::recover(&*fs, dir, &options, on_record)?;
        let Found { recovery, predecessor, first_live, segments, files, dead, spares } = found;

        let length = files.last().map_or(0, |file| file.length);
        let writer = Writer::new(dir.to_owned(), options.owner, predecessor, length, first_live);
        let others = dead.iter().chain(&spares).map(|(_, length)| length);
        let disk_bytes = files.iter().map(|file| &file.length).chain(others).sum();
        // A spare that an earlier life left is most likely good; else a small segment is made more quickly.
        let has_spare = spares.first().is_some_and(|(_, length)| *length == options.segment_bytes);
        let first_bytes =
            if has_spare { options.segment_bytes } else { options.segment_bytes.min(FIRST_SEGMENT_BYTES) };
        let mut queue = Queue::new(writer, first_live, options.segment_bytes, first_bytes);
        queue.spares_wanted = options.spares;
        queue.spares_max = options.spares_max;
        queue.files = files.into();
        queue.chores = dead.into_iter().map(|(number, length)| Chore::Delete(number, length)).collect();
        queue.old_spares = VecDeque::from(spares);

        let shared = Arc::new(Shared {
            fs,
            dir: dir.to_owned(),
            hooks,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            chores: Condvar::new(),
            published: Condvar::new(),
            durable: AtomicU64::new(predecessor.last_frame),
            unsynced_bytes: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(disk_bytes),
            disk_full: AtomicBool::new(false),
            options,
        });
        let batch = Batch { buffer: empty_buffer(), urgent: false, touched: Vec::new() };
        let mut log = Log {
            shared,
            batch,
            segments,
            first_live,
            threads: Vec::new(),
            task: None,
            newest: FrameNo(predecessor.last_frame),
            _lock: lock,
        };
        log.start_threads()?;
        Ok((log, recovery))
    }

    fn start_threads(&mut self) -> Result<(), LogError> {
        if !self.shared.options.threads {
            return Ok(());
        }
        self.start("log", Shared::run_log)?;
        self.start("log-files", Shared::run_chores)
    }

    fn start(&mut self, name: &str, run: fn(&Shared)) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared));
        self.threads.push(thread.map_err(LogError::Thread)?);
        Ok(())
    }

    /// Adds a record to the next commit. A *lazy* one causes no sync of its own: it becomes durable with whatever is
    /// written next.
    ///
    /// # Panics
    /// If what is appended between two commits exceeds 1 GiB.
    pub fn append(&mut self, record: Record<'_>, lazy: bool) {
        let Record { group, generation, slot, bytes } = record;
        self.append_with(group, generation, slot, lazy, |buffer| buffer.extend_from_slice(bytes));
    }

    /// [`Log::append`] of the bytes that `encode` appends to the buffer that is going to be written, without a copy.
    /// `encode` must leave alone what is in the buffer.
    ///
    /// # Panics
    /// If what is appended between two commits exceeds 1 GiB.
    pub fn append_with(
        &mut self,
        group: GroupId,
        generation: Generation,
        slot: Option<Slot>,
        lazy: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let batch = &mut self.batch;
        record::put(&mut batch.buffer, group, generation, slot, encode);
        assert!(batch.buffer.len() <= PAYLOAD_BYTES_MAX, "a commit must fit a frame");
        batch.urgent |= !lazy;
        let Some(slot) = slot else { return };
        match batch.touched.last_mut().filter(|(key, _)| *key == (group, generation)) {
            Some((_, highest)) => *highest = slot.max(*highest),
            None => batch.touched.push(((group, generation), slot)),
        }
    }

    /// Hands everything appended since the last commit to the log thread, as one unit. Returns the frame whose
    /// durability covers every record appended so far but the lazy ones; it is durable already if there were no others,
    /// and never will be after a failure.
    ///
    /// `states` gives the State records of all replicas of the node as they stand after what was appended. It is called
    /// where a segment begins, and its records go into the same frame.
    pub fn commit(&mut self, states: impl FnOnce() -> Vec<RecordBuf>) -> FrameNo {
        let covered = self.place(states);
        if covered > self.durable() {
            self.wake_writer();
        }
        covered
    }

    fn wake_writer(&self) {
        self.shared.work.notify_one();
        if let Some(task) = &self.task {
            task.notify_one();
        }
    }

    /// The frame that holds what was last committed, lazy records included.
    pub(crate) fn newest(&self) -> FrameNo {
        self.newest
    }

    /// What does the work of the threads as a task, for a log without threads: once.
    pub(crate) fn driver(&mut self) -> Driver {
        let task = self.task.insert(Arc::new(Notify::new()));
        Driver::new(self.shared.clone(), task.clone())
    }

    /// [`Log::commit`], but if nobody is writing, the calling thread writes and syncs, which saves two wake-ups. Blocks
    /// for the disk then. The waker isn't called for what became durable in here.
    pub fn commit_inline(&mut self, states: impl FnOnce() -> Vec<RecordBuf>) -> Committed {
        let covered = self.place(states);
        while covered > self.durable() {
            match self.write_one(false) {
                Some(Performed::Durable) => {}
                Some(Performed::Failed) => return Committed::Failed,
                Some(Performed::Full) => break,
                None if self.shared.queue.lock().failed => return Committed::Failed,
                None => break,
            }
        }
        if covered <= self.durable() {
            return Committed::Durable(covered);
        }
        self.shared.work.notify_one();
        Committed::Queued(covered)
    }

    /// [`Log::commit`], then waits until what it covers is durable, whoever writes it and however long that takes: for the few
    /// things that nothing may follow before they are durable. Never [`Committed::Queued`] where the log has threads.
    pub fn commit_and_wait(&mut self, states: impl FnOnce() -> Vec<RecordBuf>) -> Committed {
        let outcome = self.commit_inline(states);
        let Committed::Queued(covered) = outcome else { return outcome };
        let mut queue = self.shared.queue.lock();
        while self.shared.options.threads && covered > self.durable() && !queue.failed {
            self.shared.published.wait(&mut queue);
        }
        match covered <= self.durable() {
            true => Committed::Durable(covered),
            false if queue.failed => Committed::Failed,
            false => outcome,
        }
    }

    /// Writes the next frame on the calling thread, if there is one that something waits for, and does the work on files
    /// that is due. Returns whether more became durable. Only for logs without threads.
    pub fn work(&mut self) -> bool {
        debug_assert!(!self.shared.options.threads, "the log's threads do its work");
        self.shared.do_chores();
        self.write_one(false) == Some(Performed::Durable)
    }

    /// Writes a mark if the last frame has none yet, or if room is to be returned, without waiting for the idle time.
    /// Returns whether the calling thread wrote one; where the log has threads they do it.
    pub fn mark(&mut self) -> bool {
        if self.shared.options.threads {
            self.shared.queue.lock().mark_wanted = true;
            self.shared.work.notify_one();
            return false;
        }
        self.write_one(true) == Some(Performed::Durable)
    }

    fn write_one(&mut self, with_mark: bool) -> Option<Performed> {
        let has_threads = self.shared.options.threads;
        if !has_threads && self.shared.queue.lock().spares.is_empty() {
            self.shared.do_chores();
        }
        let job = self.shared.queue.lock().take(with_mark)?;
        let performed = self.shared.perform(job);
        if !has_threads {
            self.shared.do_chores();
        }
        Some(performed)
    }

    /// Puts the batch into the open frame, in a new segment if it doesn't fit the old one.
    fn place(&mut self, states: impl FnOnce() -> Vec<RecordBuf>) -> FrameNo {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock();
        let bytes = self.batch.buffer.len() - HEADER_BYTES;
        if bytes == 0 || queue.failed {
            self.batch.clear();
            return FrameNo(queue.covered);
        }
        if queue.open.payload_bytes() + bytes > shared.options.frame_bytes_max {
            queue.seal_open();
        }
        if queue.must_roll(bytes) {
            queue.roll();
            self.segments.roll(self.segments.newest() + 1);
            for state in states() {
                let RecordBuf { group, generation, slot, bytes } = state;
                debug_assert_eq!(slot, None, "State records keep no segment alive");
                record::put(&mut queue.open.buffer, group, generation, slot, |b| b.extend_from_slice(&bytes));
            }
            shared.unsynced_bytes.fetch_add(queue.open.payload_bytes() as u64, Ordering::Relaxed);
        }
        for (key, slot) in self.batch.touched.drain(..) {
            self.segments.note(key, Some(slot));
        }
        shared.unsynced_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        queue.add(&mut self.batch.buffer, self.batch.urgent);
        self.newest = FrameNo(queue.open.number);
        let covered = FrameNo(queue.covered);
        drop(queue);
        self.batch.clear();
        self.trim();
        covered
    }

    /// The last durable frame: it and all before it survive any crash.
    pub fn durable(&self) -> FrameNo {
        FrameNo(self.shared.durable.load(Ordering::Acquire))
    }

    /// Bytes appended and not durable yet, lazy ones included.
    pub fn unsynced_bytes(&self) -> u64 {
        let pending = self.batch.buffer.len() - HEADER_BYTES;
        self.shared.unsynced_bytes.load(Ordering::Relaxed) + pending as u64
    }

    /// Whether the disk is full: only what was set aside is left, which promises, marks and re-appended records
    /// may use, and client writes may not. Ends by itself when there is room for all spares again.
    pub fn disk_full(&self) -> bool {
        self.shared.disk_full.load(Ordering::Acquire)
    }

    /// Whether a write or sync has failed: nothing becomes durable any more.
    pub fn has_failed(&self) -> bool {
        self.shared.queue.lock().failed
    }

    /// A durable checkpoint covers all slots of the group below `durable_end`: its records below aren't needed any more.
    /// With `Slot(u64::MAX)` for a group, or a generation of it, that is gone from this node. Never moves back.
    pub fn release(&mut self, group: GroupId, generation: Generation, durable_end: Slot) {
        self.segments.release((group, generation), durable_end);
        self.trim();
    }

    /// If more than `newest` segments live (at least 1), who needs the oldest. For each of these groups the owner
    /// appends every record again that is still live in memory, in one commit or more, then says [`Log::reappended`].
    pub fn pinned(&self, newest: usize) -> Option<Pinned> {
        let groups = self.segments.pinned(newest)?;
        Some(Pinned { groups, since: SegmentNo(self.segments.newest()) })
    }

    /// Every live record of the group that segments before `since` hold was appended again since
    /// [`Log::pinned`] named `since`. The old ones may go as soon as the new ones are durable.
    pub fn reappended(&mut self, group: GroupId, generation: Generation, since: SegmentNo) {
        self.segments.reappended((group, generation), since.0);
        self.trim();
    }

    /// Lets the segments go that nobody needs, once the next frame is durable; a mark if there is no other.
    fn trim(&mut self) {
        // What was appended and not committed may be what makes a segment superfluous: `place` comes back here.
        if self.batch.buffer.len() > HEADER_BYTES {
            return;
        }
        let first_live = self.segments.trim().filter(|number| *number > self.first_live);
        if let Some(first_live) = first_live {
            self.first_live = first_live;
            let mut queue = self.shared.queue.lock();
            queue.open.first_live = first_live;
            queue.mark_wanted = true;
            drop(queue);
            self.wake_writer();
        }
    }

    /// Bytes of all files of the log, spares included.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    /// Live segments.
    pub fn segments(&self) -> usize {
        self.segments.count()
    }
}

impl Batch {
    fn clear(&mut self) {
        self.buffer.truncate(HEADER_BYTES);
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = empty_buffer();
        }
        self.urgent = false;
        self.touched.clear();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.work.notify_all();
        self.wake_writer();
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
            // The log thread is the first, and needs the other until it has ended.
            self.shared.queue.lock().stop_chores = true;
            self.shared.chores.notify_all();
        }
    }
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn FsLock>, LogError> {
    let path = dir.join("LOCK");
    let locked = fs.create_dir(dir).and_then(|()| fs.lock(&path));
    locked.map_err(|source| match source.kind() {
        ErrorKind::WouldBlock => LogError::Locked(dir.to_owned()),
        _ => LogError::Io { path, source },
    })
}
