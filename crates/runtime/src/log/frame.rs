//! The frame: one group commit, the unit that is written, synced, and either there or not.
//!
//! Layout (little endian): magic (4), kind (1), zeros (3), frame number (8), first live segment (8), payload bytes (4),
//! blank sectors (4), CRC of the payload (4), CRC of the header (4), payload, zeros up to the next sector. Both CRCs
//! begin with the segment's salt, and the header's covers the payload's, so a frame of another segment, or one that
//! a value happens to contain, is never taken for one of this.
//!
//! *Blank sectors* is how many sectors after the first are all zeros as written. A torn frame has more of them than
//! that, since sectors are written whole or not at all and segments begin as zeros; a damaged one doesn't. So the two
//! can be told apart whatever the payload (P6).

use crate::fs::SECTOR_BYTES;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 40;
/// Largest payload, in bytes; far above what limits allow an owner to put into one commit.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"SynF";
static BLANK: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something waits for it.
    Data,
    /// Gives the last data frame a successor.
    Mark,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) number: u64,
    /// Segments below may be deleted once this frame is durable.
    pub(super) first_live: u64,
    pub(super) payload_bytes: u32,
    blank_sectors: u32,
    payload_crc: u32,
}

/// Bytes that a frame takes in its segment.
pub(super) fn padded(frame_bytes: usize) -> usize {
    frame_bytes.next_multiple_of(SECTOR_BYTES)
}

/// Whether all bytes are zero.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(SECTOR_BYTES).all(|chunk| chunk == &BLANK[..chunk.len()])
}

/// Fills in the header, for which `buffer` has left room, and pads the frame.
pub(super) fn seal(buffer: &mut Vec<u8>, kind: Kind, number: u64, first_live: u64, salt: u64) {
    let payload = &buffer[HEADER_BYTES..];
    let payload_bytes =
        u32::try_from(payload.len()).expect("commit() bounds the payload by PAYLOAD_BYTES_MAX");
    let payload_crc = salted(salt, payload);
    buffer.resize(padded(buffer.len()), 0);
    let blank_sectors = blank_sectors(buffer);
    let header = Header { kind, number, first_live, payload_bytes, blank_sectors, payload_crc };
    buffer[..HEADER_BYTES].copy_from_slice(&header.encode(salt));
    debug_assert_eq!(Header::decode(buffer, salt), Some(header), "a header reads back");
}

fn salted(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

/// Sectors after the first that are all zeros.
fn blank_sectors(frame: &[u8]) -> u32 {
    let sectors = frame.chunks(SECTOR_BYTES).skip(1);
    sectors.filter(|sector| sector[0] == 0 && is_blank(sector)).count() as u32
}

impl Header {
    fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.kind {
            Kind::Data => 1,
            Kind::Mark => 2,
        };
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_live.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.blank_sectors.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = salted(salt, &bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begin with, if they do.
    pub(super) fn decode(bytes: &[u8], salt: u64) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if bytes[..4] != MAGIC || salted(salt, &bytes[..36]) != u32_at(bytes, 36) {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Data,
            2 => Kind::Mark,
            _ => return None,
        };
        Some(Header {
            kind,
            number: u64_at(bytes, 8),
            first_live: u64_at(bytes, 16),
            payload_bytes: u32_at(bytes, 24),
            blank_sectors: u32_at(bytes, 28),
            payload_crc: u32_at(bytes, 32),
        })
    }

    /// Bytes that the frame takes in its segment.
    pub(super) fn frame_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.payload_bytes as usize)
    }

    /// The payload of a whole frame, if it is as written.
    pub(super) fn payload<'a>(&self, frame: &'a [u8], salt: u64) -> Option<&'a [u8]> {
        let end = HEADER_BYTES + self.payload_bytes as usize;
        let (payload, padding) = (frame.get(HEADER_BYTES..end)?, frame.get(end..)?);
        (salted(salt, payload) == self.payload_crc && is_blank(padding)).then_some(payload)
    }

    /// Whether a bad frame is torn: some sector that was written isn't there. `present` is how many bytes of `frame` the
    /// file has; a sector that isn't wholly among them counts as blank.
    pub(super) fn is_torn(&self, frame: &[u8], present: usize) -> bool {
        let whole = present - present % SECTOR_BYTES;
        let missing = (frame.len() - whole.min(frame.len())) / SECTOR_BYTES;
        missing > 0 || blank_sectors(frame) > self.blank_sectors
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
