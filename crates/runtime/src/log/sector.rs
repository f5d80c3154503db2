//! The sector: what a disk writes wholly or not at all, and so the unit that is checked.
//!
//! A sector of a frame is 508 bytes of the frame and 4 bytes of check, CRC-32C over the segment's salt, the sector's offset in
//! the segment, and the 508 bytes. The lowest bit of the offset, which is 0 in any offset of a sector, is set for the first
//! sector of a frame, so that nothing that a value contains is ever taken for the beginning of a frame.
//!
//! A segment's file may have been a segment before. So a sector that wasn't written in this life is blank, or its check
//! holds under the salt of the life before; a damaged one is neither. Whatever a frame says, a torn one can be told
//! from a damaged one, sector by sector (P6).

use crate::fs::SECTOR_BYTES;

/// Bytes of a frame in each sector.
pub(super) const STREAM_BYTES: usize = SECTOR_BYTES - 4;

static BLANK: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Which sector of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It begins with the frame's header.
    First,
    /// Any other.
    Later,
}

/// The salts of a file: of its life as this segment, and of the one before, 0 if it was made of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salts {
    pub(super) own: u64,
    pub(super) before: u64,
}

/// Whether all bytes are zero.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(SECTOR_BYTES).all(|chunk| chunk == &BLANK[..chunk.len()])
}

/// Bytes that so many bytes of a frame take in a segment.
pub(super) fn on_disk(stream_bytes: usize) -> usize {
    stream_bytes.div_ceil(STREAM_BYTES) * SECTOR_BYTES
}

/// Never 0, so that no written sector is blank.
fn check(salt: u64, offset: u64, place: Place, stream: &[u8]) -> u32 {
    let at = offset | u64::from(place == Place::First);
    let seed = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &at.to_le_bytes());
    crc32c::crc32c_append(seed, stream).max(1)
}

/// Appends the sector at `offset` of a segment: at most [`STREAM_BYTES`] of a frame, and zeros behind them.
pub(super) fn put(out: &mut Vec<u8>, salt: u64, offset: u64, place: Place, stream: &[u8]) {
    let start = out.len();
    out.extend_from_slice(stream);
    out.resize(start + STREAM_BYTES, 0);
    let check = check(salt, offset, place, &out[start..]);
    out.extend_from_slice(&check.to_le_bytes());
}

/// What a sector says, if it was written under this salt, at this offset, in this place.
pub(super) fn read(sector: &[u8], salt: u64, offset: u64, place: Place) -> Option<&[u8]> {
    let (stream, found) = sector.get(..SECTOR_BYTES)?.split_at(STREAM_BYTES);
    (check(salt, offset, place, stream).to_le_bytes() == *found).then_some(stream)
}

/// Whether a sector was written under this salt, in any place.
pub(super) fn is_of(sector: &[u8], salt: u64, offset: u64) -> bool {
    [Place::First, Place::Later].into_iter().any(|place| read(sector, salt, offset, place).is_some())
}

/// Whether a sector is as it was before the present life of its segment; `before` is the salt of the life before, or 0.
pub(super) fn is_unwritten(sector: &[u8], before: u64, offset: u64) -> bool {
    is_blank(sector) || (before != 0 && is_of(sector, before, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_read_under_its_salt_and_at_its_offset_and_place_only() {
        let mut sector = Vec::new();
        put(&mut sector, 7, 1024, Place::First, b"frame");
        assert_eq!(sector.len(), SECTOR_BYTES);
        assert!(read(&sector, 7, 1024, Place::First).is_some_and(|stream| stream.starts_with(b"frame\0")));
        assert_eq!(read(&sector, 8, 1024, Place::First), None);
        assert_eq!(read(&sector, 7, 512, Place::First), None);
        assert_eq!(read(&sector, 7, 1024, Place::Later), None);
        assert!(is_unwritten(&sector, 7, 1024) && !is_unwritten(&sector, 0, 1024));
        for at in 0..SECTOR_BYTES {
            let mut damaged = sector.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(!is_of(&damaged, 7, 1024) && !is_unwritten(&damaged, 7, 1024), "byte {at}");
        }
    }

    #[test]
    fn a_sector_of_zeros_is_not_blank_once_it_is_written() {
        let mut sector = Vec::new();
        put(&mut sector, 7, 512, Place::Later, &[]);
        assert!(!is_blank(&sector) && is_of(&sector, 7, 512));
        assert!(
            is_blank(&[0; 700])
                && is_unwritten(&[0; SECTOR_BYTES], 7, 512)
                && !is_of(&[0; SECTOR_BYTES], 7, 512)
        );
    }
}
