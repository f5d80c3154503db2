//! The spare, read: a file in which no sector was written since it ceased to be a segment, if it was one.

use std::io;

use crate::fs::{FsFile, SECTOR_BYTES};

use super::sector::is_unwritten;
use super::segment::{FirstSector, SEGMENT_HEADER_BYTES, SpareHeader};

/// Spares are read in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

/// What the first sector of the file under this number says, if it is that of a spare.
pub(super) fn header(file: &dyn FsFile, number: u64) -> io::Result<Option<SpareHeader>> {
    let mut first = [0; SEGMENT_HEADER_BYTES];
    file.read_at(&mut first, 0)?;
    Ok(match FirstSector::decode(&first) {
        Ok(FirstSector::Blank) => Some(SpareHeader { number, recycled_from: 0 }),
        Ok(FirstSector::Spare(header)) => Some(header),
        Ok(FirstSector::Segment(_)) | Err(_) => None,
    })
}

/// Whether any sector behind the first that isn't as it is in a spare recycled from this salt is like that.
pub(super) fn any_written(
    file: &dyn FsFile,
    recycled_from: u64,
    is_meant: impl Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    loop {
        let read = file.read_at(&mut piece, offset)?;
        let mut sectors = (offset..).step_by(SECTOR_BYTES).zip(piece[..read].chunks(SECTOR_BYTES));
        if sectors.any(|(at, sector)| !is_unwritten(sector, recycled_from, at) && is_meant(sector)) {
            return Ok(true);
        }
        if read < piece.len() {
            return Ok(false);
        }
        offset += read as u64;
    }
}
