//! Where a frame becomes durable, and the thread that does it.
//!
//! [`Shared::perform`] is the only place that advances `durable`: after the sync returned, in the order of numbers
//! (P0), and never again after a failure. The log thread takes what has gathered, writes it, publishes and wakes the
//! owner; when nothing has come for a while it writes a mark.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::fs::Fs;

use super::error::FatalError;
use super::frame::Kind;
use super::options::{Hooks, LogOptions};
use super::queue::{Chore, Job, Queue};
use super::segment::SegmentFile;
use super::writer::WriteError;

/// A segment that was left is cut to its frames if this part of a segment, or more, is unused. Of the default sizes, frames gather
/// up to a quarter of a segment, so that no load that goes on leaves as much.
const WASTE_PART: u64 = 3;

/// The frame that covers what is committed after a failure.
const NEVER: u64 = u64::MAX;

/// The part of a log that its owner and its threads share.
pub(super) struct Shared {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) hooks: Hooks,
    pub(super) queue: Mutex<Queue>,
    /// Wakes the log thread.
    pub(super) work: Condvar,
    /// Wakes the background thread.
    pub(super) chores: Condvar,
    /// Wakes an owner that waits for the disk.
    pub(super) published: Condvar,
    /// The last durable frame.
    pub(super) durable: AtomicU64,
    pub(super) unsynced_bytes: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
    pub(super) disk_full: AtomicBool,
}

/// What came of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Performed {
    /// It is on the disk.
    Durable,
    /// There was no room; it is the next again.
    Full,
    /// The log has failed.
    Failed,
}

/// A frame that is written and not synced: a crash may lose or tear it.
pub(super) struct Written {
    job: Job,
    end: u64,
}

impl Shared {
    /// The log thread.
    pub(super) fn run_log(&self) {
        let mut queue = self.queue.lock();
        while !queue.failed {
            let now = Instant::now();
            let mark_at = queue.mark_due(self.options.idle);
            let with_mark = queue.stop || queue.mark_wanted || mark_at.is_some_and(|at| at <= now);
            if let Some(job) = queue.take(with_mark) {
                MutexGuard::unlocked(&mut queue, || {
                    if self.perform(job) == Performed::Durable {
                        (self.hooks.waker)();
                    }
                });
                continue;
            }
            if queue.stop && !queue.has_hope() {
                return;
            }
            // What is due and can't be done now (another thread writes, no spare) is announced by a notification.
            let wake_at = [mark_at, queue.stalled_until].into_iter().flatten().filter(|at| *at > now).min();
            queue.asleep = wake_at.is_none();
            match wake_at {
                Some(at) => {
                    self.work.wait_until(&mut queue, at.into_std());
                }
                None => self.work.wait(&mut queue),
            }
            queue.asleep = false;
        }
    }

    /// Writes a frame, syncs it and publishes that it is durable.
    pub(super) fn perform(&self, job: Job) -> Performed {
        self.write(job).map_or_else(|performed| performed, |written| self.sync(written))
    }

    /// Writes a frame; what came of it, if that didn't do.
    pub(super) fn write(&self, mut job: Job) -> Result<Written, Performed> {
        let rolled = match job.spare.take() {
            Some(spare) => {
                let (left, salt) = (job.writer.newest(), self.salt(spare.number));
                job.writer.roll(spare, salt).inspect(|()| self.leave(left))
            }
            None => Ok(()),
        };
        match rolled.and_then(|()| job.writer.write(&mut job.frame, job.kind)) {
            Ok(end) => Ok(Written { job, end }),
            Err(WriteError::Full) => Err(self.give_back(job)),
            Err(WriteError::Fatal(error)) => Err(self.fail(error)),
        }
    }

    /// Makes a written frame durable, and says so.
    pub(super) fn sync(&self, written: Written) -> Performed {
        let Written { mut job, end } = written;
        match job.writer.sync(&job.frame, end) {
            Ok(()) => self.publish(job),
            Err(error) => self.fail(error),
        }
    }

    fn salt(&self, segment: u64) -> u64 {
        let salt: u64 = match self.options.salt_seed {
            Some(seed) => SmallRng::seed_from_u64(seed ^ segment).random(),
            None => rand::random(),
        };
        // 0 is that of no segment.
        salt.max(1)
    }

    fn publish(&self, job: Job) -> Performed {
        let Job { writer, frame, kind, .. } = job;
        let mut queue = self.queue.lock();
        if queue.failed {
            return Performed::Failed;
        }
        let previous = self.durable.swap(frame.number, Ordering::Release);
        assert_eq!(previous + 1, frame.number, "P0: frames become durable in order");
        self.unsynced_bytes.fetch_sub(frame.payload_bytes() as u64, Ordering::Relaxed);
        self.published.notify_all();
        queue.unmarked_since = (kind == Kind::Data).then(Instant::now);
        queue.stalled_until = None;

        let newest = writer.newest();
        let old_length = queue.update(newest);
        self.disk_bytes.fetch_add(newest.length - old_length, Ordering::Relaxed);
        queue.drop_below(frame.first_live);
        queue.writer = Some(writer);
        queue.keep(frame.buffer);
        self.refresh_full(&queue);
        if queue.lacks_spares() || !queue.chores.is_empty() || !queue.unneeded.is_empty() {
            self.chores.notify_one();
        }
        if queue.asleep {
            self.work.notify_one();
        }
        Performed::Durable
    }

    /// Gives back what a recovered segment, or one left early, doesn't need. Its end is named by its successor now, so
    /// what is beyond doesn't count.
    fn leave(&self, left: SegmentFile) {
        let SegmentFile { number, end, length, .. } = left;
        let is_cut = number > 0 && length.saturating_sub(end) >= self.options.segment_bytes / WASTE_PART;
        let mut queue = self.queue.lock();
        queue.update(SegmentFile { length: if is_cut { end } else { length }, ..left });
        if is_cut {
            queue.chores.push_back(Chore::Cut(number, length, end));
        }
    }

    fn give_back(&self, mut job: Job) -> Performed {
        let mut queue = self.queue.lock();
        // If it was to begin a segment, it has; and it is no mark.
        job.frame.urgent |= std::mem::take(&mut job.frame.rolls);
        queue.sealed.push_front(job.frame);
        queue.writer = Some(job.writer);
        queue.stalled_until = Some(Instant::now() + self.options.retry);
        self.refresh_full(&queue);
        // There may be spares to give back.
        self.chores.notify_one();
        Performed::Full
    }

    /// Says whether the disk is full: from the first refusal until all spares are there again.
    pub(super) fn refresh_full(&self, queue: &Queue) {
        let refused = queue.stalled_until.is_some() || queue.full_until.is_some();
        let was_full = self.disk_full.load(Ordering::Relaxed);
        self.disk_full.store(refused || (was_full && queue.lacks_spares()), Ordering::Release);
    }

    /// Ends it all, once.
    pub(super) fn fail(&self, error: FatalError) -> Performed {
        let mut queue = self.queue.lock();
        let is_first = !std::mem::replace(&mut queue.failed, true);
        queue.covered = NEVER;
        self.work.notify_all();
        self.chores.notify_all();
        self.published.notify_all();
        drop(queue);
        if is_first {
            (self.hooks.on_fatal)(error);
        }
        Performed::Failed
    }
}
