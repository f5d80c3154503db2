//! What the owner, the log thread and the background thread share: frames on their way to the disk, segments on their way
//! in and out.
//!
//! Everything changes under one short lock. The lock isn't held during IO: who writes takes the [`Writer`] out of the
//! queue and puts it back, so that one frame at a time is written, whichever thread does it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::fs::{FsFile, SECTOR_BYTES};

use super::frame::{HEADER_BYTES, Kind};
use super::sector::on_disk;
use super::segment::{SEGMENT_HEADER_BYTES, SegmentFile};
use super::writer::Writer;

/// Buffers kept for reuse, and the largest that is.
const FREE_BUFFERS: usize = 3;
const FREE_BUFFER_BYTES: usize = 1 << 20;

/// A frame that is being filled or waits to be written.
pub(super) struct Frame {
    pub(super) number: u64,
    /// Room for the header, then the payload.
    pub(super) buffer: Vec<u8>,
    /// Begins a segment.
    pub(super) rolls: bool,
    /// Something waits for it.
    pub(super) urgent: bool,
    /// Segments below may go once it is durable. Set while it is the open frame, so every record that makes them
    /// superfluous is in it or before it.
    pub(super) first_live: u64,
}

/// A file that a segment can be begun in: written from end to end and synced, name included.
pub(super) struct Spare {
    pub(super) number: u64,
    /// Salt of the segment that it was before, 0 if it is all zeros.
    pub(super) recycled_from: u64,
    pub(super) file: Box<dyn FsFile>,
    pub(super) length: u64,
}

/// Work on whole files, beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Delete a segment of this many bytes.
    Delete(u64, u64),
    /// Cut a segment of this many bytes to these.
    Cut(u64, u64, u64),
    /// Take over a spare of an earlier life, of this many bytes, if it is as it should be.
    Adopt(u64, u64),
    /// Make a spare of this many bytes.
    Create(u64, u64),
    /// Make a spare, of this number, of a segment that nobody needs.
    Recycle(SegmentFile, u64),
}

/// A frame to write, and what it takes.
pub(super) struct Job {
    pub(super) writer: Writer,
    pub(super) frame: Frame,
    pub(super) kind: Kind,
    pub(super) spare: Option<Spare>,
}

/// The shared state.
pub(super) struct Queue {
    /// Full frames, oldest first.
    pub(super) sealed: VecDeque<Frame>,
    /// The frame that is being filled.
    pub(super) open: Frame,
    /// Away while a frame is written.
    pub(super) writer: Option<Writer>,
    /// Frame that covers every urgent record so far.
    pub(super) covered: u64,
    free: Vec<Vec<u8>>,

    /// Where the frames taken or sealed so far end in the newest segment, and where it should end; 0 before the first.
    placed_end: u64,
    capacity: u64,
    pub(super) segment_bytes: u64,
    /// Capacity of the first segment of this life, smaller if it has to be made first.
    first_capacity: u64,

    pub(super) spares: VecDeque<Spare>,
    pub(super) spares_wanted: usize,
    /// Segments that nobody needs become spares up to this many.
    pub(super) spares_max: usize,
    /// Number of the next spare to make, and of the first of this life.
    pub(super) next_spare: u64,
    first_spare: u64,
    /// Spares of the life before, to be adopted or deleted; in order.
    pub(super) old_spares: VecDeque<(u64, u64)>,
    /// Live segments; of the newest, where it ends isn't kept here.
    pub(super) files: VecDeque<SegmentFile>,
    /// Segments that nobody needs.
    pub(super) unneeded: VecDeque<SegmentFile>,
    pub(super) chores: VecDeque<Chore>,
    /// The disk had no room for a spare; tried again at this time.
    pub(super) full_until: Option<Instant>,
    /// The disk had no room for the frame that is next; tried again at this time.
    pub(super) stalled_until: Option<Instant>,

    /// When the last frame that needs a successor was written.
    pub(super) unmarked_since: Option<Instant>,
    /// A mark should be written without waiting.
    pub(super) mark_wanted: bool,
    /// The log thread sleeps without an end.
    pub(super) asleep: bool,
    /// The log thread ends when it has written what waits; then the background thread does.
    pub(super) stop: bool,
    pub(super) stop_chores: bool,
    /// A write failed: nothing becomes durable any more.
    pub(super) failed: bool,
}

impl Frame {
    fn new(number: u64, first_live: u64, buffer: Vec<u8>) -> Frame {
        Frame { number, buffer, rolls: false, urgent: false, first_live }
    }

    /// Bytes of the records.
    pub(super) fn payload_bytes(&self) -> usize {
        self.buffer.len() - HEADER_BYTES
    }
}

/// Bytes of a segment that is made larger for a frame that ends there: with room for a mark.
pub(super) fn enlarged(end: u64) -> u64 {
    end + SECTOR_BYTES as u64
}

/// A buffer with room for a frame's header.
pub(super) fn empty_buffer() -> Vec<u8> {
    vec![0; HEADER_BYTES]
}

impl Queue {
    pub(super) fn new(writer: Writer, first_live: u64, segment_bytes: u64, first_capacity: u64) -> Queue {
        let last_frame = writer.last_frame();
        Queue {
            sealed: VecDeque::new(),
            open: Frame::new(last_frame + 1, first_live, empty_buffer()),
            next_spare: writer.segment() + 1,
            first_spare: writer.segment() + 1,
            writer: Some(writer),
            covered: last_frame,
            free: Vec::new(),
            placed_end: 0,
            capacity: 0,
            segment_bytes,
            first_capacity,
            spares: VecDeque::new(),
            spares_wanted: 0,
            spares_max: 0,
            old_spares: VecDeque::new(),
            files: VecDeque::new(),
            unneeded: VecDeque::new(),
            chores: VecDeque::new(),
            full_until: None,
            stalled_until: None,
            unmarked_since: None,
            mark_wanted: false,
            asleep: false,
            stop: false,
            stop_chores: false,
            failed: false,
        }
    }

    /// Whether this many more bytes of payload don't fit the segment, with a mark after them.
    pub(super) fn must_roll(&self, payload_bytes: usize) -> bool {
        let frame = on_disk(self.open.buffer.len() + payload_bytes) as u64;
        self.placed_end + frame + SECTOR_BYTES as u64 > self.capacity
    }

    /// Begins a segment: what is open goes into the old one, what comes next into the new one.
    pub(super) fn roll(&mut self) {
        self.seal_open();
        self.capacity = if self.capacity == 0 { self.first_capacity } else { self.segment_bytes };
        self.placed_end = SEGMENT_HEADER_BYTES as u64;
        self.open.rolls = true;
    }

    /// Closes the open frame, unless it is empty, and opens the next.
    pub(super) fn seal_open(&mut self) {
        if self.open.payload_bytes() > 0 {
            let frame = self.take_open();
            self.sealed.push_back(frame);
        }
    }

    fn take_open(&mut self) -> Frame {
        let buffer = self.free.pop().unwrap_or_else(empty_buffer);
        let next = Frame::new(self.open.number + 1, self.open.first_live, buffer);
        self.placed_end += on_disk(self.open.buffer.len()) as u64;
        if self.placed_end > self.capacity {
            self.capacity = enlarged(self.placed_end);
        }
        self.mark_wanted = false;
        std::mem::replace(&mut self.open, next)
    }

    /// Adds a commit of the owner to the open frame, without a copy if that is empty. Leaves an empty buffer.
    pub(super) fn add(&mut self, batch: &mut Vec<u8>, urgent: bool) {
        if self.open.payload_bytes() == 0 {
            std::mem::swap(&mut self.open.buffer, batch);
        } else {
            self.open.buffer.extend_from_slice(&batch[HEADER_BYTES..]);
        }
        batch.truncate(HEADER_BYTES);
        if urgent {
            self.open.urgent = true;
            self.covered = self.open.number;
        }
    }

    /// When the mark is due that the last frame needs; `None` if it needs none.
    pub(super) fn mark_due(&self, idle: Duration) -> Option<Instant> {
        self.unmarked_since.map(|since| since + idle)
    }

    /// The next frame to write, if nobody is writing, there is one, and its segment is ready.
    pub(super) fn take(&mut self, with_mark: bool) -> Option<Job> {
        let rolls = match self.sealed.front() {
            Some(frame) => frame.rolls,
            None if self.open.urgent || (with_mark && self.can_mark()) => self.open.rolls,
            None => return None,
        };
        let stalled = self.stalled_until.is_some_and(|until| Instant::now() < until);
        if self.writer.is_none() || self.failed || stalled || (rolls && self.spares.is_empty()) {
            return None;
        }
        let frame = match self.sealed.pop_front() {
            Some(frame) => frame,
            None => self.take_open(),
        };
        let kind = if frame.urgent || frame.rolls { Kind::Data } else { Kind::Mark };
        let spare = if frame.rolls { self.spares.pop_front() } else { None };
        let begun =
            |spare: &Spare| SegmentFile { number: spare.number, salt: 0, end: 0, length: spare.length };
        self.files.extend(spare.as_ref().map(begun));
        self.writer.take().map(|writer| Job { writer, frame, kind, spare })
    }

    /// Whether a frame waits that can be written soon: all but a full disk is.
    pub(super) fn has_hope(&self) -> bool {
        let is_full = self.full_until.is_some() || self.stalled_until.is_some();
        (self.open.urgent || !self.sealed.is_empty()) && !is_full
    }

    /// A mark needs room that is there already, or a full disk would hold up all that comes after it; without, the next frame
    /// does for one. Before the first segment of this life, which begins with State records, there is none.
    fn can_mark(&self) -> bool {
        let has_room = self.placed_end + on_disk(self.open.buffer.len()) as u64 <= self.capacity;
        has_room && (self.unmarked_since.is_some() || self.mark_wanted)
    }

    /// Keeps a buffer for a later frame.
    pub(super) fn keep(&mut self, mut buffer: Vec<u8>) {
        if self.free.len() < FREE_BUFFERS && buffer.capacity() <= FREE_BUFFER_BYTES {
            buffer.truncate(HEADER_BYTES);
            self.free.push(buffer);
        }
    }

    /// Segments below `first_live` may go.
    pub(super) fn drop_below(&mut self, first_live: u64) {
        let unneeded = self.files.partition_point(|file| file.number < first_live);
        self.unneeded.extend(self.files.drain(..unneeded));
    }

    /// This is what a live segment is now; returns the length that it had.
    pub(super) fn update(&mut self, now: SegmentFile) -> u64 {
        let file = self.files.iter_mut().rev().find(|file| file.number == now.number);
        file.map_or(now.length, |file| std::mem::replace(file, now).length)
    }

    /// Whether spares are missing.
    pub(super) fn lacks_spares(&self) -> bool {
        self.spares.len() < self.spares_wanted
    }

    /// The next work on files: giving room back comes before taking it.
    pub(super) fn next_chore(&mut self) -> Option<Chore> {
        if let Some(chore) = self.chores.pop_front() {
            return Some(chore);
        }
        if let Some(chore) = self.make_use_of_unneeded().or_else(|| self.give_spares_back()) {
            return Some(chore);
        }
        if !self.lacks_spares() || self.full_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let number = self.next_spare;
        match self.old_spares.front().copied() {
            Some((old, length)) => {
                self.old_spares.pop_front();
                debug_assert_eq!(old, number, "spares are contiguous");
                Some(Chore::Adopt(old, length))
            }
            None if number == self.first_spare => Some(Chore::Create(number, self.first_capacity)),
            None => Some(Chore::Create(number, self.segment_bytes)),
        }
    }

    /// What nobody needs becomes a spare, if there is to be one more and it has the size of one; else it goes.
    fn make_use_of_unneeded(&mut self) -> Option<Chore> {
        let file = *self.unneeded.front()?;
        let is_wanted = self.spares.len() + self.old_spares.len() < self.spares_max;
        if is_wanted && file.length == self.segment_bytes && self.stalled_until.is_none() {
            // The next number is known only when those of an earlier life are taken over.
            if let Some((old, length)) = self.old_spares.pop_front() {
                return Some(Chore::Adopt(old, length));
            }
            self.unneeded.pop_front();
            return Some(Chore::Recycle(file, self.next_spare));
        }
        self.unneeded.pop_front();
        Some(Chore::Delete(file.number, file.length))
    }

    /// While a frame waits for room, no more spares are kept than would be made.
    fn give_spares_back(&mut self) -> Option<Chore> {
        let spares = self.spares.len() + self.old_spares.len();
        if self.stalled_until.is_none() || spares <= self.spares_wanted {
            return None;
        }
        if let Some((number, length)) = self.old_spares.pop_back() {
            return Some(Chore::Delete(number, length));
        }
        let Spare { number, length, .. } = self.spares.pop_back()?;
        self.next_spare = number;
        Some(Chore::Delete(number, length))
    }
}
