//! Reading a log at start: every frame that was durable, in order, or a refusal (P6).
//!
//! A bad frame at the end of the newest segment is a tear if some sector of it wasn't written and no later frame was
//! begun: frame n+2 is written only once n+1 is durable. Any other bad frame is corruption. Older segments must be
//! whole up to the end that their successor names, since the successor began after it was durable.
//! Nothing is changed here but that what was found is synced: it may have been in the kernel's memory only.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use paxos::mutants::{self, Mutant};

use crate::fs::{Fs, FsFile, SECTOR_BYTES};

use super::error::{LogError, Reason};
use super::frame::{Header, is_blank};
use super::options::{FrameNo, LogOptions, Recovery, SegmentNo, TornTail};
use super::record::{Record, Records};
use super::segment::{self, Predecessor, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::trim::Segments;

/// What the rest of the log goes on from.
pub(super) struct Found {
    pub(super) recovery: Recovery,
    /// What the next segment names.
    pub(super) predecessor: Predecessor,
    pub(super) first_live: u64,
    pub(super) segments: Segments,
    /// Number and length of each live segment.
    pub(super) files: Vec<(u64, u64)>,
    /// Segments below the first live one that are still there.
    pub(super) dead: Vec<(u64, u64)>,
    /// Segments after the newest, never used.
    pub(super) spares: Vec<(u64, u64)>,
}

struct SegmentFile {
    number: u64,
    length: u64,
    header: Option<SegmentHeader>,
}

/// Where the frames of a segment end.
struct End {
    offset: u64,
    frame: u64,
    torn: bool,
}

type OnRecord<'a> = &'a mut dyn FnMut(FrameNo, Record<'_>);

/// Reads the log in `dir` and hands out its records.
pub(super) fn recover(
    fs: &dyn Fs,
    dir: &Path,
    options: &LogOptions,
    on_record: OnRecord<'_>,
) -> Result<Found, LogError> {
    let (used, spares) = survey(fs, dir)?;
    let first_live = used.last().map_or(1, |(_, header)| header.first_live);
    let (dead, live): (Vec<_>, Vec<_>) = used.into_iter().partition(|(file, _)| file.number < first_live);
    check_chain(&live, options.owner)?;
    let mut scan = Scan {
        fs,
        dir,
        on_record,
        recovery: Recovery { is_new: live.is_empty(), ..Recovery::default() },
        segments: Segments::default(),
        first_live,
        buffer: Vec::new(),
    };
    let mut predecessor = Predecessor { number: 0, end: 0, last_frame: 0, salt: 0 };
    for (at, (file, header)) in live.iter().enumerate() {
        let successor = live.get(at + 1).map(|(_, next)| next.predecessor);
        let end = scan.segment(header, successor)?;
        let (number, salt) = (file.number, header.salt);
        predecessor = Predecessor { number, end: end.offset, last_frame: end.frame, salt };
        if end.torn {
            let (segment, frame) = (SegmentNo(number), FrameNo(end.frame + 1));
            scan.recovery.torn_tail = Some(TornTail { segment, offset: end.offset, frame });
        }
    }
    let Scan { mut recovery, mut segments, first_live, .. } = scan;
    if let Some((oldest, _)) = live.first().filter(|(oldest, _)| oldest.number > first_live) {
        return Err(corrupt(oldest.number - 1, 0, Reason::Missing));
    }
    // The last frames may let go of more than the newest header does.
    segments.drop_below(first_live);
    let all = dead.iter().chain(&live).map(|(file, _)| (file.number, file.length));
    let (dead, files): (Vec<_>, Vec<_>) = all.partition(|(number, _)| *number < first_live);
    recovery.segments = files.len();
    recovery.last_frame = FrameNo(predecessor.last_frame);
    Ok(Found { recovery, predecessor, first_live, segments, files, dead, spares })
}

/// The segments in use, and after them the spares.
#[expect(clippy::type_complexity, reason = "two lists, named by the function")]
fn survey(fs: &dyn Fs, dir: &Path) -> Result<(Vec<(SegmentFile, SegmentHeader)>, Vec<(u64, u64)>), LogError> {
    let names = fs.list(dir).map_err(|source| LogError::Io { path: dir.to_owned(), source })?;
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    let mut used = Vec::new();
    let mut spares: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        let file = look_at(fs, dir, number)?;
        match file.header {
            Some(header) => {
                if let Some((blank, _)) = spares.first() {
                    return Err(corrupt(*blank, 0, Reason::BlankHeader));
                }
                used.push((file, header));
            }
            None => spares.push((number, file.length)),
        }
    }
    let newest = used.last().map_or(0, |(file, _)| file.number);
    for (expected, (number, _)) in (newest + 1..).zip(&spares) {
        // Spares are made in order and removed in reverse, so a gap is a segment that was lost.
        if *number != expected {
            return Err(corrupt(expected, 0, Reason::Missing));
        }
    }
    Ok((used, spares))
}

fn look_at(fs: &dyn Fs, dir: &Path, number: u64) -> Result<SegmentFile, LogError> {
    let path = segment::path(dir, number);
    let mut start = [0; 2 * SECTOR_BYTES];
    let read = fs.open(&path).and_then(|file| Ok((file.read_at(&mut start, 0)?, file.length()?)));
    let (read, length) = read.map_err(|source| LogError::Io { path, source })?;
    let mut sector = [0; SECTOR_BYTES];
    if read >= SECTOR_BYTES {
        sector.copy_from_slice(&start[..SECTOR_BYTES]);
    }
    let header = SegmentHeader::decode(&sector).map_err(|reason| match reason {
        Reason::Version(found) => LogError::Version { segment: number, found, supported: segment::VERSION },
        Reason::NotASegment => LogError::Foreign { segment: number, reason },
        _ => corrupt(number, 0, reason),
    })?;
    if header.is_none() && !is_blank(&start[SECTOR_BYTES..]) {
        return Err(corrupt(number, 0, Reason::BlankHeader));
    }
    Ok(SegmentFile { number, length, header })
}

fn check_chain(live: &[(SegmentFile, SegmentHeader)], owner: u64) -> Result<(), LogError> {
    let foreign = |segment, reason| Err(LogError::Foreign { segment, reason });
    for (file, header) in live {
        if header.number != file.number {
            return foreign(file.number, Reason::Number);
        }
        if header.owner != owner {
            return foreign(file.number, Reason::Owner);
        }
    }
    for pair in live.windows(2) {
        let ((_, before), (_, header)) = (&pair[0], &pair[1]);
        if header.number != before.number + 1 {
            return Err(corrupt(before.number + 1, 0, Reason::Missing));
        }
        if (header.predecessor.number, header.predecessor.salt) != (before.number, before.salt) {
            return foreign(header.number, Reason::Predecessor);
        }
    }
    Ok(())
}

fn corrupt(segment: u64, offset: u64, reason: Reason) -> LogError {
    LogError::Corrupt { segment, offset, reason }
}

struct Scan<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    on_record: OnRecord<'a>,
    recovery: Recovery,
    segments: Segments,
    first_live: u64,
    buffer: Vec<u8>,
}

impl Scan<'_> {
    /// Reads the frames of a segment; up to the end that its successor names, if it has one.
    fn segment(&mut self, header: &SegmentHeader, successor: Option<Predecessor>) -> Result<End, LogError> {
        self.segments.roll(header.number);
        let present = self.load(header.number, successor)?;
        let bytes = std::mem::take(&mut self.buffer);
        let mut end =
            End { offset: SEGMENT_HEADER_BYTES as u64, frame: header.predecessor.last_frame, torn: false };
        let last = loop {
            match self.frame(header, &bytes, present, &mut end) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(_) if mutants::is_on(Mutant::CorruptionIsTail) => {
                    end.torn = true;
                    break Ok(());
                }
                Err(reason) => break Err(reason),
            }
        };
        let fits = successor.is_none_or(|named| (named.end, named.last_frame) == (end.offset, end.frame));
        self.buffer = bytes;
        match last {
            Err(reason) => Err(corrupt(header.number, end.offset, reason)),
            // All the bytes that count are there, so none of them may be torn, nor name another end.
            Ok(()) if !fits => Err(corrupt(header.number, end.offset, Reason::Frame)),
            Ok(()) => Ok(end),
        }
    }

    /// Reads the bytes of a segment that count, rounded up to sectors; returns how many of them the file has.
    fn load(&mut self, number: u64, successor: Option<Predecessor>) -> Result<usize, LogError> {
        let path = segment::path(self.dir, number);
        let mut read = || -> io::Result<usize> {
            let file = self.fs.open(&path)?;
            let length = match successor {
                // A file that is shorter than that has lost frames, which the scan will notice.
                Some(named) => named.end.min(file.length()?),
                None => self.load_newest(&*file)?,
            };
            let length = usize::try_from(length).map_err(io::Error::other)?;
            self.buffer.clear();
            self.buffer.resize(length.next_multiple_of(SECTOR_BYTES), 0);
            file.read_at(&mut self.buffer[..length], 0)
        };
        read().map_err(|source| LogError::Io { path, source })
    }

    /// What the newest segment holds may not be on the disk yet, if only the process died.
    fn load_newest(&self, file: &dyn FsFile) -> io::Result<u64> {
        file.sync_data()?;
        self.fs.sync_dir(self.dir)?;
        file.length()
    }

    /// Takes the frame at `end`; false if none is there.
    fn frame(
        &mut self,
        segment: &SegmentHeader,
        bytes: &[u8],
        present: usize,
        end: &mut End,
    ) -> Result<bool, Reason> {
        let offset = end.offset as usize;
        let expected = end.frame + 1;
        let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) else { return Ok(false) };
        let present = present.saturating_sub(offset);
        let Some(header) = Header::decode(rest, segment.salt) else {
            // A sector is there wholly or not at all, and one that the file ends in was never written.
            if present >= SECTOR_BYTES && !is_blank(&rest[..SECTOR_BYTES]) {
                return Err(Reason::FrameHeader);
            }
            end.torn = !is_blank(rest);
            return no_frame_after(rest, segment.salt, expected).map(|()| false);
        };
        if header.number != expected {
            return Err(Reason::FrameNumber { found: header.number, expected });
        }
        let frame = &rest[..header.frame_bytes().min(rest.len())];
        let missing = header.frame_bytes() - frame.len();
        let Some(payload) = header.payload(frame, segment.salt).filter(|_| missing == 0) else {
            no_frame_after(rest, segment.salt, expected)?;
            end.torn = missing > 0 || header.is_torn(frame, present);
            return if end.torn { Ok(false) } else { Err(Reason::Frame) };
        };
        for record in Records::new(payload) {
            let record = record.ok_or(Reason::Record)?;
            self.recovery.records += 1;
            self.segments.note((record.group, record.generation), record.slot);
            (self.on_record)(FrameNo(header.number), record);
        }
        self.recovery.frames += 1;
        self.first_live = self.first_live.max(header.first_live);
        end.offset += header.frame_bytes() as u64;
        end.frame = header.number;
        Ok(true)
    }
}

/// Refuses if a frame after `torn` was begun: then `torn` had been durable.
fn no_frame_after(rest: &[u8], salt: u64, torn: u64) -> Result<(), Reason> {
    for sector in rest.chunks(SECTOR_BYTES).skip(1) {
        if let Some(header) = Header::decode(sector, salt).filter(|header| header.number > torn) {
            return Err(Reason::Followed(header.number));
        }
    }
    Ok(())
}
