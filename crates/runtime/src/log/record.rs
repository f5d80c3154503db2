//! The records inside a frame: opaque bytes of the owner, with what trimming has to know about them.
//!
//! Layout: flags (1 byte, bit 0: has a slot), length of the bytes (4, little endian), then group, generation and, if
//! there is one, slot as LEB128 numbers, then the bytes.

use paxos::ids::{Generation, GroupId, Slot};

/// Bytes before the numbers.
const FIXED_BYTES: usize = 5;
/// Flag: the record has a slot.
const HAS_SLOT: u8 = 1;

/// A record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The group that it belongs to.
    pub group: GroupId,
    /// Which life of the group.
    pub generation: Generation,
    /// The slot that it is about: the record is needed until a checkpoint covers it. `None` for what the State records
    /// at the beginning of each segment repeat (promises, ends): such a record never keeps a segment alive.
    pub slot: Option<Slot>,
    /// The owner's bytes, at most `u32::MAX` less a few.
    pub bytes: &'a [u8],
}

/// A [`Record`] that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordBuf {
    /// See [`Record::group`].
    pub group: GroupId,
    /// See [`Record::generation`].
    pub generation: Generation,
    /// See [`Record::slot`].
    pub slot: Option<Slot>,
    /// See [`Record::bytes`].
    pub bytes: Vec<u8>,
}

impl RecordBuf {
    /// The record, borrowed.
    pub fn as_record(&self) -> Record<'_> {
        Record { group: self.group, generation: self.generation, slot: self.slot, bytes: &self.bytes }
    }
}

/// Appends a record whose bytes `encode` appends.
///
/// # Panics
/// If the bytes are more than a length of 32 bits can tell.
pub(super) fn put(
    buffer: &mut Vec<u8>,
    group: GroupId,
    generation: Generation,
    slot: Option<Slot>,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let start = buffer.len();
    buffer.extend_from_slice(&[if slot.is_some() { HAS_SLOT } else { 0 }, 0, 0, 0, 0]);
    put_number(buffer, u64::from(group.0));
    put_number(buffer, generation.0);
    if let Some(slot) = slot {
        put_number(buffer, slot.0);
    }
    let bytes_start = buffer.len();
    encode(buffer);
    let length = u32::try_from(buffer.len() - bytes_start).expect("limits keep records far below 4 GiB");
    buffer[start + 1..start + FIXED_BYTES].copy_from_slice(&length.to_le_bytes());
}

fn put_number(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// The records of a frame's payload. Yields `None` inside once, as the last, if the rest isn't a record.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Records<'a> {
        Records { rest: payload }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let flags = self.take(1)?[0];
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        let group = GroupId(u32::try_from(self.number()?).ok()?);
        let generation = Generation(self.number()?);
        let slot = match flags {
            0 => None,
            HAS_SLOT => Some(Slot(self.number()?)),
            _ => return None,
        };
        let bytes = self.take(usize::try_from(length).ok()?)?;
        Some(Record { group, generation, slot, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_put() {
        let records = [
            (GroupId(0), Generation(0), None, vec![]),
            (GroupId(u32::MAX), Generation(u64::MAX), Some(Slot(u64::MAX)), vec![7; 1000]),
            (GroupId(128), Generation(1 << 35), Some(Slot(127)), vec![0]),
        ];
        let mut buffer = Vec::new();
        for (group, generation, slot, bytes) in &records {
            put(&mut buffer, *group, *generation, *slot, |buffer| buffer.extend_from_slice(bytes));
        }
        let read: Vec<_> = Records::new(&buffer)
            .map(|record| {
                let record = record.unwrap();
                (record.group, record.generation, record.slot, record.bytes.to_vec())
            })
            .collect();
        assert_eq!(read, records);
    }

    #[test]
    fn any_cut_or_change_of_a_record_is_read_without_panic() {
        let mut buffer = Vec::new();
        put(&mut buffer, GroupId(300), Generation(1 << 40), Some(Slot(1 << 50)), |b| b.extend([1, 2, 3]));
        for end in 1..buffer.len() {
            assert_eq!(Records::new(&buffer[..end]).last(), Some(None), "cut at {end}");
        }
        for at in 0..buffer.len() {
            for bit in 0..8 {
                let mut changed = buffer.clone();
                changed[at] ^= 1 << bit;
                let _ = Records::new(&changed).count();
            }
        }
    }
}
