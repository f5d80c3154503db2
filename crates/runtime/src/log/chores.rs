//! Work on whole files, beside the log: making spare segments ahead of need, deleting what nobody needs.
//!
//! A spare is handed to the log only after its contents, its length and its name are durable. It is made of zeros, or of a
//! segment that nobody needs: then every sector in it is blank or of that segment. Spares are made in order and removed in
//! reverse, so that a gap always means a lost segment. A full disk and a want of file handles are waited out;
//! every other error ends the process, as in the log itself.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use tokio::time::Instant;

use crate::fs::{is_full, is_scarce};

use super::error::FatalError;
use super::queue::{Chore, Spare};
use super::segment::{self, SegmentFile, SpareHeader};
use super::shared::Shared;
use super::spare;

/// Segments that become spares are cleared in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

impl Shared {
    /// The background thread.
    pub(super) fn run_chores(&self) {
        let mut queue = self.queue.lock();
        while !queue.failed && !queue.stop_chores {
            match queue.next_chore() {
                Some(chore) => MutexGuard::unlocked(&mut queue, || self.do_chore(chore)),
                None => match queue.full_until.filter(|_| queue.lacks_spares()) {
                    Some(at) => {
                        self.chores.wait_until(&mut queue, at.into_std());
                    }
                    None => self.chores.wait(&mut queue),
                },
            }
        }
    }

    /// Does all work on files that can be done now, a full disk tried once; for logs without threads.
    pub(super) fn do_chores(&self) {
        self.queue.lock().full_until = None;
        loop {
            let mut queue = self.queue.lock();
            if queue.failed || queue.full_until.is_some() {
                return;
            }
            let Some(chore) = queue.next_chore() else { return };
            drop(queue);
            self.do_chore(chore);
        }
    }

    fn do_chore(&self, chore: Chore) {
        let (number, done) = match chore {
            Chore::Delete(number, bytes) => (number, self.delete(number, bytes)),
            Chore::Cut(number, bytes, end) => (number, self.cut(number, bytes, end)),
            Chore::Adopt(number, bytes) => (number, self.adopt(number, bytes)),
            Chore::Create(number, bytes) => (number, self.create(number, bytes)),
            Chore::Recycle(file, number) => (file.number, self.recycle(file, number)),
        };
        if let Err(source) = done {
            if is_scarce(&source) && self.queue.lock().stop_chores {
                // The next start does it.
                return;
            }
            let path = segment::path(&self.dir, number);
            self.fail(FatalError { operation: chore.name(), path, source });
        }
    }

    /// Tries again while the process has no file handle left: a flood of connections must not end the node.
    fn patiently<T>(&self, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match call() {
                Err(error) if is_scarce(&error) && !self.queue.lock().stop_chores => {
                    tracing::warn!(%error, "work on the files of the log is put off");
                    std::thread::sleep(self.options.retry);
                }
                done => return done,
            }
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        self.patiently(|| self.fs.sync_dir(&self.dir))
    }

    fn delete(&self, number: u64, bytes: u64) -> io::Result<()> {
        self.patiently(|| self.fs.remove(&segment::path(&self.dir, number)))?;
        self.sync_names()?;
        self.room_returned(bytes);
        Ok(())
    }

    fn cut(&self, number: u64, bytes: u64, end: u64) -> io::Result<()> {
        self.patiently(|| self.fs.open(&segment::path(&self.dir, number)))?.truncate(end)?;
        self.room_returned(bytes - end);
        Ok(())
    }

    fn room_returned(&self, bytes: u64) {
        self.disk_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        let now = Instant::now();
        queue.full_until = queue.full_until.map(|_| now);
        queue.stalled_until = queue.stalled_until.map(|_| now);
        self.work.notify_one();
    }

    /// Takes over a spare of an earlier life if it is as it was made; else removes it and those after it.
    fn adopt(&self, number: u64, bytes: u64) -> io::Result<()> {
        let file = self.patiently(|| self.fs.open(&segment::path(&self.dir, number)))?;
        let is_meant = |header: &SpareHeader| bytes == self.options.segment_bytes && header.number == number;
        let recycled_from = match spare::header(&*file, number)?.filter(is_meant) {
            Some(header) if !spare::any_written(&*file, header.recycled_from, |_| true)? => {
                header.recycled_from
            }
            _ => return self.remove_old_spares(number, bytes),
        };
        file.sync_data()?;
        self.sync_names()?;
        self.ready(Spare { number, recycled_from, file, length: bytes });
        Ok(())
    }

    /// Makes a spare of a segment that nobody needs. Up to the new name it is a file that recovery deletes.
    fn recycle(&self, segment: SegmentFile, number: u64) -> io::Result<()> {
        let SegmentFile { number: old, salt: recycled_from, end, length } = segment;
        let file = self.patiently(|| self.fs.open(&segment::path(&self.dir, old)))?;
        // What lives before left beyond the end would be taken for damage.
        let mut cleared = end;
        while cleared < length {
            let piece = usize::try_from(length - cleared).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            file.write_at(&vec![0; piece], cleared)?;
            file.sync_data()?;
            cleared += piece as u64;
        }
        file.write_at(&SpareHeader { number, recycled_from }.encode(), 0)?;
        file.sync_data()?;
        let (old, new) = (segment::path(&self.dir, old), segment::path(&self.dir, number));
        self.patiently(|| self.fs.rename(&old, &new))?;
        self.sync_names()?;
        self.ready(Spare { number, recycled_from, file, length });
        Ok(())
    }

    fn remove_old_spares(&self, number: u64, bytes: u64) -> io::Result<()> {
        let mut old = std::mem::take(&mut self.queue.lock().old_spares);
        old.push_front((number, bytes));
        for (number, bytes) in old.into_iter().rev() {
            self.delete(number, bytes)?;
        }
        Ok(())
    }

    fn create(&self, number: u64, bytes: u64) -> io::Result<()> {
        match self.try_create(number, bytes) {
            Ok(spare) => {
                self.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.ready(spare);
                Ok(())
            }
            Err(error) if is_full(&error) => {
                match self.fs.remove(&segment::path(&self.dir, number)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => self.sync_names()?,
                }
                let mut queue = self.queue.lock();
                queue.full_until = Some(Instant::now() + self.options.retry);
                self.refresh_full(&queue);
                // The log thread may be about to stop, and not wait for this spare.
                self.work.notify_one();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn try_create(&self, number: u64, bytes: u64) -> io::Result<Spare> {
        let file = self.patiently(|| self.fs.create(&segment::path(&self.dir, number)))?;
        file.preallocate(bytes)?;
        file.sync_data()?;
        self.sync_names()?;
        Ok(Spare { number, recycled_from: 0, file, length: bytes })
    }

    fn ready(&self, spare: Spare) {
        let mut queue = self.queue.lock();
        debug_assert_eq!(spare.number, queue.next_spare, "spares are made in order");
        queue.next_spare = spare.number + 1;
        queue.spares.push_back(spare);
        queue.full_until = None;
        self.refresh_full(&queue);
        self.work.notify_one();
    }
}

impl Chore {
    fn name(self) -> &'static str {
        match self {
            Chore::Delete(..) => "removing",
            Chore::Cut(..) => "cutting",
            Chore::Adopt(..) => "taking over",
            Chore::Create(..) => "creating",
            Chore::Recycle(..) => "recycling",
        }
    }
}
