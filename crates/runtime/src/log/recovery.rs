//! Reading a log at start: every frame that was durable, in order, or a refusal (P6).
//!
//! A sector of a frame is written, or as it was before the segment began, or damaged (`sector.rs`). A bad frame at the end of
//! the newest segment is a tear if none of its sectors is damaged and no later frame was begun: frame n+2 is written only
//! once n+1 is durable. Any other bad frame is corruption. Older segments must be whole up to the end that their successor
//! names, since the successor began after it was durable.
//! Nothing is changed here, but the last frame, which may be in the kernel's memory only, is written again as it is and synced:
//! a sync alone says nothing if one has failed in the life before.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use paxos::mutants::{self, Mutant};

use crate::fs::{Fs, SECTOR_BYTES};

use super::error::{LogError, Reason};
use super::frame::{HEADER_BYTES, Header};
use super::options::{FrameNo, LogOptions, Recovery, SegmentNo, TornTail};
use super::record::{Record, Records};
use super::sector::{self, Place, Salts, is_unwritten};
use super::segment::{self, FirstSector, Predecessor, SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader};
use super::spare;
use super::trim::Segments;

/// What the rest of the log goes on from.
pub(super) struct Found {
    pub(super) recovery: Recovery,
    /// What the next segment names.
    pub(super) predecessor: Predecessor,
    pub(super) first_live: u64,
    pub(super) segments: Segments,
    /// The live segments.
    pub(super) files: Vec<SegmentFile>,
    /// Files below the first live segment that are still there, by number and length.
    pub(super) dead: Vec<(u64, u64)>,
    /// Files after the newest segment, to be begun.
    pub(super) spares: Vec<(u64, u64)>,
}

/// A segment in use, as its first sector has it.
struct Used {
    number: u64,
    length: u64,
    header: SegmentHeader,
}

/// The files by number and length, but for those in use.
#[derive(Default)]
struct Survey {
    used: Vec<Used>,
    spares: Vec<(u64, u64)>,
    /// Segments that were about to become spares under another number.
    leaving: Vec<(u64, u64)>,
}

/// Where the frames of a segment end.
struct End {
    offset: u64,
    frame: u64,
    torn: bool,
    /// Where the last frame begins.
    last: u64,
}

type OnRecord<'a> = &'a mut dyn FnMut(FrameNo, Record<'_>);

/// Reads the log in `dir` and hands out its records.
pub(super) fn recover(
    fs: &dyn Fs,
    dir: &Path,
    options: &LogOptions,
    on_record: OnRecord<'_>,
) -> Result<Found, LogError> {
    let Survey { used, spares, leaving } = survey(fs, dir)?;
    let first_live = used.last().map_or(1, |used| used.header.first_live);
    let (dead, live): (Vec<_>, Vec<_>) = used.into_iter().partition(|used| used.number < first_live);
    check_chain(&live, options.owner)?;
    let mut scan = Scan {
        fs,
        dir,
        on_record,
        recovery: Recovery { is_new: live.is_empty(), ..Recovery::default() },
        segments: Segments::default(),
        first_live,
        buffer: Vec::new(),
        frame: Vec::new(),
    };
    let mut predecessor = Predecessor { number: 0, end: 0, last_frame: 0, salt: 0 };
    let mut files = Vec::new();
    for (at, used) in live.iter().enumerate() {
        let successor = live.get(at + 1).map(|next| next.header.predecessor);
        let end = scan.segment(&used.header, successor)?;
        let (number, salt) = (used.number, used.header.salt);
        if successor.is_none() {
            scan.write_again(number, &end)?;
        }
        predecessor = Predecessor { number, end: end.offset, last_frame: end.frame, salt };
        files.push(SegmentFile { number, salt, end: end.offset, length: used.length });
        if end.torn {
            let (segment, frame) = (SegmentNo(number), FrameNo(end.frame + 1));
            scan.recovery.torn_tail = Some(TornTail { segment, offset: end.offset, frame });
        }
    }
    if let Some((spare, _)) = spares.first() {
        check_spare(fs, dir, *spare, predecessor.last_frame)?;
    }
    let Scan { mut recovery, mut segments, first_live, .. } = scan;
    let oldest = files.first().map(|oldest| oldest.number.saturating_sub(1));
    let missing = oldest.into_iter().chain(leaving.last().map(|(number, _)| *number)).max();
    if let Some(missing) = missing.filter(|missing| *missing >= first_live) {
        return Err(corrupt(missing, 0, Reason::Missing));
    }
    // The last frames may let go of more than the newest header does.
    segments.drop_below(first_live);
    let let_go = files.partition_point(|file| file.number < first_live);
    let let_go = files.drain(..let_go).map(|file| (file.number, file.length));
    let dead = leaving.into_iter().chain(dead.iter().map(|used| (used.number, used.length))).chain(let_go);
    let mut dead: Vec<_> = dead.collect();
    dead.sort_unstable();
    recovery.segments = files.len();
    recovery.last_frame = FrameNo(predecessor.last_frame);
    Ok(Found { recovery, predecessor, first_live, segments, files, dead, spares })
}

fn survey(fs: &dyn Fs, dir: &Path) -> Result<Survey, LogError> {
    let names = fs.list(dir).map_err(|source| LogError::Io { path: dir.to_owned(), source })?;
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    let mut survey = Survey::default();
    let mut unused: Vec<(u64, u64, FirstSector)> = Vec::new();
    for number in numbers {
        let (length, first) = look_at(fs, dir, number)?;
        let FirstSector::Segment(header) = first else {
            unused.push((number, length, first));
            continue;
        };
        // Before a segment there can be none that isn't begun, only some that the power kept from leaving.
        for (number, length, first) in unused.drain(..) {
            match first {
                FirstSector::Spare(spare) if spare.number != number => survey.leaving.push((number, length)),
                _ => return Err(corrupt(number, 0, Reason::BlankHeader)),
            }
        }
        survey.used.push(Used { number, length, header });
    }
    survey.spares = unused.into_iter().map(|(number, length, _)| (number, length)).collect();
    let newest = survey.used.last().map_or(0, |used| used.number);
    for (expected, (number, _)) in (newest + 1..).zip(&survey.spares) {
        // Spares are made in order and removed in reverse, so a gap is a segment that was lost.
        if *number != expected {
            return Err(corrupt(expected, 0, Reason::Missing));
        }
    }
    Ok(survey)
}

/// Length and first sector of a file.
fn look_at(fs: &dyn Fs, dir: &Path, number: u64) -> Result<(u64, FirstSector), LogError> {
    let path = segment::path(dir, number);
    let mut start = [0; 2 * SECTOR_BYTES];
    let read = fs.open(&path).and_then(|file| Ok((file.read_at(&mut start, 0)?, file.length()?)));
    let (read, length) = read.map_err(|source| LogError::Io { path, source })?;
    let mut sector = [0; SECTOR_BYTES];
    if read >= SECTOR_BYTES {
        sector.copy_from_slice(&start[..SECTOR_BYTES]);
    }
    let first = FirstSector::decode(&sector).map_err(|reason| match reason {
        Reason::Version(found) => LogError::Version { segment: number, found, supported: segment::VERSION },
        Reason::NotASegment => LogError::Foreign { segment: number, reason },
        _ => corrupt(number, 0, reason),
    })?;
    let before = match first {
        FirstSector::Segment(_) => return Ok((length, first)),
        FirstSector::Spare(spare) => spare.recycled_from,
        FirstSector::Blank => 0,
    };
    if !is_unwritten(&start[SECTOR_BYTES..], before, SECTOR_BYTES as u64) {
        return Err(corrupt(number, 0, Reason::BlankHeader));
    }
    Ok((length, first))
}

/// The file behind the newest segment, of which only the first sectors were looked at. If more of it was written, it may be a
/// segment that has lost its beginning. A spare that is damaged holds older frames at most.
fn check_spare(fs: &dyn Fs, dir: &Path, number: u64, last_frame: u64) -> Result<(), LogError> {
    let path = segment::path(dir, number);
    let is_newer = |sector: &[u8]| Header::decode(sector).is_some_and(|header| header.number > last_frame);
    let found = fs.open(&path).and_then(|file| {
        let recycled_from = spare::header(&*file, number)?.map_or(0, |header| header.recycled_from);
        spare::any_written(&*file, recycled_from, is_newer)
    });
    match found {
        Ok(true) => Err(corrupt(number, 0, Reason::BlankHeader)),
        Ok(false) => Ok(()),
        Err(source) => Err(LogError::Io { path, source }),
    }
}

fn check_chain(live: &[Used], owner: u64) -> Result<(), LogError> {
    let foreign = |segment, reason| Err(LogError::Foreign { segment, reason });
    for used in live {
        if used.header.number != used.number {
            return foreign(used.number, Reason::Number);
        }
        if used.header.owner != owner {
            return foreign(used.number, Reason::Owner);
        }
    }
    for pair in live.windows(2) {
        let (before, header) = (&pair[0].header, &pair[1].header);
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
    /// The whole sectors of a segment.
    buffer: Vec<u8>,
    /// A frame without the checks of its sectors.
    frame: Vec<u8>,
}

impl Scan<'_> {
    /// Reads the frames of a segment; up to the end that its successor names, if it has one.
    fn segment(&mut self, header: &SegmentHeader, successor: Option<Predecessor>) -> Result<End, LogError> {
        self.segments.roll(header.number);
        self.load(header.number, successor)?;
        let bytes = std::mem::take(&mut self.buffer);
        let mut end = End {
            offset: SEGMENT_HEADER_BYTES as u64,
            frame: header.predecessor.last_frame,
            torn: false,
            last: 0,
        };
        let last = loop {
            match self.frame(header.salts(), &bytes, &mut end) {
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

    /// Reads the sectors of a segment that count and that the file wholly has.
    fn load(&mut self, number: u64, successor: Option<Predecessor>) -> Result<(), LogError> {
        let path = segment::path(self.dir, number);
        let mut read = || -> io::Result<()> {
            let file = self.fs.open(&path)?;
            let length = match successor {
                // A file that is shorter than that has lost frames, which the scan will notice.
                Some(named) => named.end.min(file.length()?),
                None => file.length()?,
            };
            let length = usize::try_from(length).map_err(io::Error::other)?;
            self.buffer.clear();
            self.buffer.resize(length - length % SECTOR_BYTES, 0);
            let read = file.read_at(&mut self.buffer, 0)?;
            self.buffer.truncate(read - read % SECTOR_BYTES);
            Ok(())
        };
        read().map_err(|source| LogError::Io { path, source })
    }

    /// Makes the header and the last frame of the newest segment durable, which was loaded last; what is before them is, since a
    /// frame is begun only after that. If only the process died they may not be on the disk yet, and if a sync had failed
    /// the next one covers them only if they are written again: with equal bytes, so that it doesn't matter when the power goes.
    fn write_again(&self, number: u64, end: &End) -> Result<(), LogError> {
        let path = segment::path(self.dir, number);
        let write = || -> io::Result<()> {
            let file = self.fs.open(&path)?;
            file.write_at(&self.buffer[..SEGMENT_HEADER_BYTES], 0)?;
            file.write_at(&self.buffer[end.last as usize..end.offset as usize], end.last)?;
            file.sync_data()?;
            self.fs.sync_dir(self.dir)
        };
        write().map_err(|source| LogError::Io { path, source })
    }

    /// Takes the frame at `end`; false if none is there.
    fn frame(&mut self, salts: Salts, bytes: &[u8], end: &mut End) -> Result<bool, Reason> {
        let expected = end.frame + 1;
        let rest = bytes.get(end.offset as usize..).unwrap_or_default();
        let Some((first, _)) = rest.split_at_checked(SECTOR_BYTES) else { return Ok(false) };
        let Some(header) = Header::read(first, salts.own, end.offset) else {
            if !is_unwritten(first, salts.before, end.offset) {
                return Err(Reason::FrameHeader);
            }
            // How long a frame is that was torn there isn't known, and doesn't matter: the next segment names this end.
            end.torn = is_begun_after(rest, salts.own, end)?;
            return Ok(false);
        };
        if header.number != expected {
            return Err(Reason::FrameNumber { found: header.number, expected });
        }
        let frame = &rest[..header.frame_bytes().min(rest.len())];
        if !self.join(frame, header.frame_bytes(), salts, end.offset)? {
            is_begun_after(rest, salts.own, end)?;
            end.torn = true;
            return Ok(false);
        }
        let payload = self.frame.get(HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize);
        for record in Records::new(payload.ok_or(Reason::Frame)?) {
            let record = record.ok_or(Reason::Record)?;
            self.recovery.records += 1;
            self.segments.note((record.group, record.generation), record.slot);
            (self.on_record)(FrameNo(header.number), record);
        }
        self.recovery.frames += 1;
        self.first_live = self.first_live.max(header.first_live);
        end.last = end.offset;
        end.offset += header.frame_bytes() as u64;
        end.frame = header.number;
        Ok(true)
    }

    /// Puts the contents of a frame's sectors together. False if some of them weren't written.
    fn join(
        &mut self,
        sectors: &[u8],
        frame_bytes: usize,
        salts: Salts,
        offset: u64,
    ) -> Result<bool, Reason> {
        self.frame.clear();
        let mut is_whole = sectors.len() == frame_bytes;
        let mut place = Place::First;
        for (at, sector) in (offset..).step_by(SECTOR_BYTES).zip(sectors.chunks(SECTOR_BYTES)) {
            match sector::read(sector, salts.own, at, place) {
                Some(stream) => self.frame.extend_from_slice(stream),
                None if is_unwritten(sector, salts.before, at) => is_whole = false,
                None => return Err(Reason::Frame),
            }
            place = Place::Later;
        }
        Ok(is_whole)
    }
}

/// Whether anything of a frame was written after the sector at `end`. Refuses if that belongs to a frame after the one that
/// begins at `end`: then that one had been durable.
fn is_begun_after(rest: &[u8], salt: u64, end: &End) -> Result<bool, Reason> {
    let mut is_begun = false;
    for (at, sector) in (end.offset..).step_by(SECTOR_BYTES).zip(rest.chunks(SECTOR_BYTES)).skip(1) {
        match Header::read(sector, salt, at) {
            Some(header) if header.number > end.frame + 1 => return Err(Reason::Followed(header.number)),
            _ => is_begun = is_begun || sector::read(sector, salt, at, Place::Later).is_some(),
        }
    }
    Ok(is_begun)
}
