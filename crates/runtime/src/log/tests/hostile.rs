//! FAULTS rows 4, 5 and 30: whatever becomes of the bytes of a segment, a log opens with what was durable, or says what is
//! wrong.

use ::fuzz::run::{Target, Verdict};

use super::*;
use crate::log::frame::HEADER_BYTES;
use crate::log::record::{Records, put as put_record};
use crate::log::sector::{self, Place, STREAM_BYTES, on_disk};

fn small() -> LogOptions {
    LogOptions { segment_bytes: 4096, ..options() }
}

/// A vote whose bytes are short to write down.
fn even(slot: u64, bytes: usize) -> RecordBuf {
    RecordBuf { bytes: vec![slot as u8 + 1; bytes], ..vote(slot, 0) }
}

/// Two segments, the last frame of which is a mark.
fn disk() -> SimFs {
    let fs = SimFs::new(4);
    let mut log = try_open_in(&dir(), &fs, small()).unwrap().log;
    for slot in 0..6 {
        put(&mut log, &even(slot, 200 + 150 * slot as usize));
    }
    log.mark();
    assert_eq!(log.segments(), 2);
    fs
}

fn bytes_of(fs: &SimFs, number: u64) -> Vec<u8> {
    fs.contents(&segment(number))
}

/// What a log holds with these bytes in place of a segment; none of them: as it was.
fn opened(fs: &SimFs, number: u64, bytes: Option<&[u8]>) -> Result<Opened, LogError> {
    let fs = fs.fork(0);
    if let Some(bytes) = bytes {
        fs.put(&segment(number), Some(bytes.to_vec()));
    }
    try_open_in(&dir(), &fs, small())
}

fn number_at(bytes: &[u8], at: usize, width: usize) -> u64 {
    let bytes = bytes.iter().skip(at).take(width).rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A log that opens has nothing that wasn't written, and has lost frames only at the end, and none of those that the
/// first lost one had before it was durable: all that came after it must be gone, too.
#[test]
fn fuzz_the_newest_segment() {
    let fs = disk();
    let (whole, before) = (bytes_of(&fs, 2), opened(&fs, 2, None).unwrap());
    let frames = frames(&whole);
    Target::new("log_newest", vec![whole.clone()]).memory(|_| 1 << 20).run(|bytes| {
        let after = opened(&fs, 2, Some(bytes));
        if let Ok(after) = &after {
            assert!(before.records.starts_with(&after.records), "nothing that wasn't written");
            let missing = (before.recovery.last_frame.0 - after.recovery.last_frame.0) as usize;
            let lost = &frames[frames.len().saturating_sub(missing)..];
            for (at, _) in lost.iter().skip(1) {
                let sector = *at..at + SECTOR_BYTES;
                assert_ne!(bytes.get(sector.clone()), whole.get(sector), "a frame came after a lost one");
            }
        }
        Verdict::of(&after.map(|_| ()))
    });
}

#[test]
fn fuzz_an_older_segment() {
    let fs = disk();
    let before = opened(&fs, 1, None).unwrap();
    Target::new("log_older", vec![bytes_of(&fs, 1)]).memory(|_| 1 << 20).run(|bytes| {
        let after = opened(&fs, 1, Some(bytes));
        if let Ok(after) = &after {
            assert_eq!(after.records, before.records, "an older segment is whole, or the log doesn't open");
            assert_eq!(after.recovery.torn_tail, None);
        }
        Verdict::of(&after.map(|_| ()))
    });
}

/// Sums that fit whatever was made of the bytes: what looks like a frame becomes one.
fn forge(bytes: &mut [u8]) {
    if bytes.len() < 2 * SECTOR_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&bytes[8..SECTOR_BYTES - 4]);
    bytes[SECTOR_BYTES - 4..SECTOR_BYTES].copy_from_slice(&crc.to_le_bytes());
    let salt = number_at(bytes, 24, 8);
    let mut frame_end = 0;
    let sectors = (0..).step_by(SECTOR_BYTES).zip(bytes.chunks_exact_mut(SECTOR_BYTES)).skip(1);
    for (at, bytes) in sectors {
        let mut place = Place::Later;
        if at >= frame_end {
            if !bytes.starts_with(b"SynF") {
                return;
            }
            place = Place::First;
            frame_end = at + on_disk(HEADER_BYTES + number_at(bytes, 24, 4) as usize);
        }
        let mut forged = Vec::new();
        sector::put(&mut forged, salt, at as u64, place, &bytes[..STREAM_BYTES]);
        bytes.copy_from_slice(&forged);
    }
}

/// Not damage any more, but somebody's work: whatever it says, no panic.
#[test]
fn fuzz_a_forged_segment() {
    let fs = disk();
    Target::new("log_forged", vec![bytes_of(&fs, 2)]).memory(|_| 1 << 20).run(|bytes| {
        let mut bytes = bytes.to_vec();
        forge(&mut bytes);
        Verdict::of(&opened(&fs, 2, Some(&bytes)).map(|_| ()))
    });
}

#[test]
fn fuzz_records() {
    let mut payload = Vec::new();
    for (slot, length) in [(None, 0), (Some(Slot(3)), 5), (Some(Slot(1 << 40)), 12)] {
        put_record(&mut payload, GroupId(300), LIFE, slot, |bytes| bytes.resize(bytes.len() + length, 7));
    }
    Target::new("log_records", vec![payload]).memory(|bytes| 1024 + 64 * bytes).run(|bytes| {
        let records: Option<Vec<Record<'_>>> = Records::new(bytes).collect();
        if let Some(records) = &records {
            let mut again = Vec::new();
            for record in records {
                let Record { group, generation, slot, bytes } = *record;
                put_record(&mut again, group, generation, slot, |buffer| buffer.extend_from_slice(bytes));
            }
            let found: Option<Vec<Record<'_>>> = Records::new(&again).collect();
            assert_eq!(found.as_ref(), Some(records));
        }
        Verdict::of_option(&records)
    });
}
