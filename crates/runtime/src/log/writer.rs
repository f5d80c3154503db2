//! Writes frames into the newest segment, one at a time, each synced before the next (P0).
//!
//! A segment's header is written and synced before its first frame, so a header that is missing means that nothing else is
//! there either. Frames normally fall on blocks that are already written on the disk; where a frame is larger than its segment,
//! the segment is first made larger.

use std::io;
use std::path::PathBuf;

use crate::fs::{FsFile, is_full};

use super::error::FatalError;
use super::frame::{self, Kind};
use super::queue::{Frame, Spare, enlarged};
use super::sector::{Place, STREAM_BYTES, on_disk};
use super::segment::{self, Predecessor, SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader};

/// A frame is cut into sectors and written in pieces of so many: one for nearly all frames, and no buffer for the largest.
const PIECE_SECTORS: usize = 512;

/// The end of the log on disk.
pub(super) struct Writer {
    dir: PathBuf,
    owner: u64,
    /// The newest segment, as its successor will name it.
    newest: Predecessor,
    /// Its file, if it was begun in this life.
    file: Option<Box<dyn FsFile>>,
    length: u64,
    /// What the last durable frame said. Only that may stand in the next header, which is durable before the State
    /// records that make older segments superfluous.
    first_live: u64,
    /// The piece that is being written.
    sectors: Vec<u8>,
}

/// Why a frame wasn't written.
pub(super) enum WriteError {
    /// No room to make the segment larger; nothing was written, and it may be tried again.
    Full,
    /// The end.
    Fatal(FatalError),
}

impl Writer {
    pub(super) fn new(dir: PathBuf, owner: u64, newest: Predecessor, length: u64, first_live: u64) -> Writer {
        Writer { dir, owner, newest, file: None, length, first_live, sectors: Vec::new() }
    }

    pub(super) fn last_frame(&self) -> u64 {
        self.newest.last_frame
    }

    pub(super) fn segment(&self) -> u64 {
        self.newest.number
    }

    /// The newest segment as it stands.
    pub(super) fn newest(&self) -> SegmentFile {
        let Predecessor { number, end, salt, .. } = self.newest;
        SegmentFile { number, salt, end, length: self.length }
    }

    fn fatal(&self, operation: &'static str, source: io::Error) -> WriteError {
        WriteError::Fatal(self.fatal_error(operation, source))
    }

    fn fatal_error(&self, operation: &'static str, source: io::Error) -> FatalError {
        let path = segment::path(&self.dir, self.newest.number);
        FatalError { operation, path, source }
    }

    /// Begins the next segment.
    pub(super) fn roll(&mut self, spare: Spare, salt: u64) -> Result<(), WriteError> {
        assert_eq!(spare.number, self.newest.number + 1, "P6: segments follow each other");
        let (number, owner, predecessor) = (spare.number, self.owner, self.newest);
        let (first_live, recycled_from) = (self.first_live, spare.recycled_from);
        let header = SegmentHeader { number, salt, owner, predecessor, first_live, recycled_from };
        self.newest = Predecessor { number, end: SEGMENT_HEADER_BYTES as u64, salt, ..predecessor };
        self.length = spare.length;
        let file = self.file.insert(spare.file);
        let done = file.write_at(&header.encode(), 0).and_then(|()| file.sync_data());
        done.map_err(|source| self.fatal("writing the header", source))
    }

    /// Writes a frame; where it ends. Nothing else may be written before it is synced.
    pub(super) fn write(&mut self, frame: &mut Frame, kind: Kind) -> Result<u64, WriteError> {
        assert_eq!(frame.number, self.newest.last_frame + 1, "P0: frames become durable in order");
        let (start, salt) = (self.newest.end, self.newest.salt);
        let end = start + on_disk(frame.buffer.len()) as u64;
        let Some(file) = self.file.as_ref() else {
            return Err(self.fatal("writing", io::Error::other("no segment was begun")));
        };
        if end > self.length {
            match file.preallocate(enlarged(end)) {
                Ok(()) => self.length = enlarged(end),
                Err(error) if is_full(&error) => return Err(WriteError::Full),
                Err(error) => return Err(self.fatal("enlarging", error)),
            }
        }
        frame::seal(&mut frame.buffer, kind, frame.number, frame.first_live);
        let (mut offset, mut place) = (start, Place::First);
        for piece in frame.buffer.chunks(PIECE_SECTORS * STREAM_BYTES) {
            self.sectors.clear();
            frame::cut(&mut self.sectors, salt, offset, place, piece);
            if let Err(error) = file.write_at(&self.sectors, offset) {
                return Err(self.fatal("writing", error));
            }
            (offset, place) = (offset + self.sectors.len() as u64, Place::Later);
        }
        Ok(end)
    }

    /// Syncs the frame that was written last.
    pub(super) fn sync(&mut self, frame: &Frame, end: u64) -> Result<(), FatalError> {
        let synced = match self.file.as_ref() {
            Some(file) => file.sync_data(),
            None => Err(io::Error::other("no segment was begun")),
        };
        synced.map_err(|source| self.fatal_error("syncing", source))?;
        self.newest.end = end;
        self.newest.last_frame = frame.number;
        self.first_live = frame.first_live;
        Ok(())
    }
}
