//! The frame: one group commit, the unit that is written, synced, and either there or not.
//!
//! Layout (little endian): magic (4), kind (1), zeros (3), frame number (8), first live segment (8), payload bytes (4),
//! payload, zeros up to the end of the last sector. These bytes are cut into sectors, each with its own check (`sector.rs`).

use super::sector::{self, Place, STREAM_BYTES, on_disk};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 28;
/// Largest payload, in bytes; far above what limits allow an owner to put into one commit.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 4] = *b"SynF";

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
}

/// Fills in the header, for which `buffer` has left room.
pub(super) fn seal(buffer: &mut [u8], kind: Kind, number: u64, first_live: u64) {
    let payload_bytes =
        u32::try_from(buffer.len() - HEADER_BYTES).expect("commit() bounds the payload by PAYLOAD_BYTES_MAX");
    let header = Header { kind, number, first_live, payload_bytes };
    buffer[..HEADER_BYTES].copy_from_slice(&header.encode());
    debug_assert_eq!(Header::decode(buffer), Some(header), "a header reads back");
}

/// Cuts a sealed frame, or a part of one, into the sectors from `offset` on.
pub(super) fn cut(out: &mut Vec<u8>, salt: u64, offset: u64, first: Place, part: &[u8]) {
    let mut place = first;
    for (at, stream) in part.chunks(STREAM_BYTES).enumerate() {
        sector::put(out, salt, offset + on_disk(at * STREAM_BYTES) as u64, place, stream);
        place = Place::Later;
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.kind {
            Kind::Data => 1,
            Kind::Mark => 2,
        };
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_live.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// What the first bytes of a frame say, whether or not a check holds.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES).filter(|bytes| bytes[..4] == MAGIC)?;
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
        })
    }

    /// The header in the sector at `offset`, if a frame begins there.
    pub(super) fn read(sector: &[u8], salt: u64, offset: u64) -> Option<Header> {
        // Most sectors that are asked about are none, and that is seen more quickly than their check is made.
        let header = Header::decode(sector)?;
        sector::read(sector, salt, offset, Place::First).map(|_| header)
    }

    /// Bytes that the frame takes in its segment.
    pub(super) fn frame_bytes(&self) -> usize {
        on_disk(HEADER_BYTES + self.payload_bytes as usize)
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
