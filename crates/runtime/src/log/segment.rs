//! The segment: a file of frames, and its first sector, which says where it belongs.
//!
//! Header (little endian): magic (8), version (4), zeros (4), number (8), salt (8), owner (8), predecessor's number (8),
//! end (8), last frame (8) and salt (8), first live segment (8), salt of the file's life before (8), zeros, CRC of all but
//! the magic (last 4 bytes of the sector). The salt is random, and the successor repeats it, so a segment of another node
//! or of an old backup breaks the chain even under the right number. Magic, version and CRC stand at the same places in
//! every version.
//!
//! A file that was a segment and is to be one again carries the header of a spare until then, with a magic of its own:
//! its next number (8) and the salt of its last life (8).

use std::path::{Path, PathBuf};

use crate::fs::SECTOR_BYTES;

use super::error::Reason;
use super::frame::{u32_at, u64_at};
use super::sector::{Salts, is_blank};

/// Bytes of the header, and offset of the first frame.
pub(super) const SEGMENT_HEADER_BYTES: usize = SECTOR_BYTES;
/// Version of the format that this code writes, and the only one that it reads.
pub(super) const VERSION: u32 = 2;

const MAGIC: [u8; 8] = *b"SynodLog";
const SPARE_MAGIC: [u8; 8] = *b"SynodSpr";
const CRC_AT: usize = SECTOR_BYTES - 4;

/// What the log was when a segment began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Predecessor {
    /// Number of the segment before, 0 if there is none.
    pub(super) number: u64,
    /// Where its last frame ends; bytes beyond it don't count.
    pub(super) end: u64,
    /// The frame before the first of this segment.
    pub(super) last_frame: u64,
    /// Salt of the segment before.
    pub(super) salt: u64,
}

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) owner: u64,
    pub(super) predecessor: Predecessor,
    pub(super) first_live: u64,
    /// Salt of the segment that the file was before; 0 if it was made of zeros.
    pub(super) recycled_from: u64,
}

/// The first sector of a file that was a segment and is a spare now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpareHeader {
    /// As which it will be used.
    pub(super) number: u64,
    /// Salt of the segment that it was.
    pub(super) recycled_from: u64,
}

/// What a first sector can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSector {
    /// A spare that was made of zeros.
    Blank,
    Spare(SpareHeader),
    Segment(SegmentHeader),
}

/// The file of a segment that isn't the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) salt: u64,
    /// Where its last frame ends.
    pub(super) end: u64,
    pub(super) length: u64,
}

fn sealed(magic: [u8; 8], numbers: &[u64]) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for (place, number) in bytes[16..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[8..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl SpareHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        sealed(SPARE_MAGIC, &[self.number, self.recycled_from])
    }
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let before = &self.predecessor;
        let numbers = [
            self.number,
            self.salt,
            self.owner,
            before.number,
            before.end,
            before.last_frame,
            before.salt,
            self.first_live,
            self.recycled_from,
        ];
        sealed(MAGIC, &numbers)
    }

    pub(super) fn salts(&self) -> Salts {
        Salts { own: self.salt, before: self.recycled_from }
    }
}

impl FirstSector {
    pub(super) fn decode(sector: &[u8; SEGMENT_HEADER_BYTES]) -> Result<FirstSector, Reason> {
        if is_blank(sector) {
            return Ok(FirstSector::Blank);
        }
        let (is_segment, is_spare) = (sector[..8] == MAGIC, sector[..8] == SPARE_MAGIC);
        let is_whole = crc32c::crc32c(&sector[8..CRC_AT]) == u32_at(sector, CRC_AT);
        let version = u32_at(sector, 8);
        match (is_segment || is_spare, is_whole) {
            (false, false) => return Err(Reason::NotASegment),
            (true, false) | (false, true) => return Err(Reason::SegmentHeader),
            (true, true) if version != VERSION => return Err(Reason::Version(version)),
            (true, true) => {}
        }
        let number = u64_at(sector, 16);
        if is_spare {
            return Ok(FirstSector::Spare(SpareHeader { number, recycled_from: u64_at(sector, 24) }));
        }
        Ok(FirstSector::Segment(SegmentHeader {
            number,
            salt: u64_at(sector, 24),
            owner: u64_at(sector, 32),
            predecessor: Predecessor {
                number: u64_at(sector, 40),
                end: u64_at(sector, 48),
                last_frame: u64_at(sector, 56),
                salt: u64_at(sector, 64),
            },
            first_live: u64_at(sector, 72),
            recycled_from: u64_at(sector, 80),
        }))
    }
}

/// The file of a segment.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.log"))
}

/// The number of the segment that a file name belongs to.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (format!("{number:012}.log") == name).then_some(number)
}
