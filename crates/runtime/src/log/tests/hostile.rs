//! FAULTS rows 4, 5 and 30: whatever becomes of the bytes of a segment, a log opens with what was durable, or says what is
//! wrong.

use ::fuzz::run::{Target, Verdict};

use super::*;
use crate::log::frame::HEADER_BYTES;
use crate::log::record::{Records, put as put_record};
use crate::log::sector::{self, Place, STREAM_BYTES, is_blank, is_unwritten, on_disk};

fn small() -> LogOptions {
    LogOptions { segment_bytes: 8192, ..options() }
}

/// A vote whose bytes are short to write down.
fn even(slot: u64, bytes: usize) -> RecordBuf {
    RecordBuf { bytes: vec![slot as u8 + 1; bytes], ..vote(slot, 0) }
}

/// Two live segments, the last frame of which is a mark, in files that were segments before; and the number of the newest.
fn disk() -> (SimFs, u64) {
    let fs = SimFs::new(4);
    let mut log = try_open_in(&dir(), &fs, small()).unwrap().log;
    for slot in 0..50 {
        put(&mut log, &even(slot, 600));
        log.release(GROUP, LIFE, Slot(slot + 1));
    }
    let mut slot = 50;
    while log.segments() < 2 {
        put(&mut log, &even(slot, 200 + 150 * (slot - 50) as usize));
        slot += 1;
    }
    put(&mut log, &even(slot, 700));
    log.mark();
    assert_eq!(log.segments(), 2);
    let (newest, is_recycled) = newest(&fs).unwrap();
    assert!(is_recycled);
    let (end, bytes) =
        (frames(&bytes_of(&fs, newest)).last().unwrap().0 + SECTOR_BYTES, bytes_of(&fs, newest));
    assert!(!is_blank(&bytes[end..end + SECTOR_BYTES]), "something of the life before follows");
    (fs, newest)
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
    let (fs, newest) = disk();
    let (whole, before) = (bytes_of(&fs, newest), opened(&fs, newest, None).unwrap());
    let frames = frames(&whole);
    Target::new("log_newest", vec![whole.clone()]).memory(|_| 1 << 20).run(|bytes| {
        let after = opened(&fs, newest, Some(bytes));
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
    let (fs, newest) = disk();
    let (older, before) = (newest - 1, opened(&fs, newest, None).unwrap());
    Target::new("log_older", vec![bytes_of(&fs, older)]).memory(|_| 1 << 20).run(|bytes| {
        let after = opened(&fs, older, Some(bytes));
        if let Ok(after) = &after {
            assert_eq!(after.records, before.records, "an older segment is whole, or the log doesn't open");
            assert_eq!(after.recovery.torn_tail, None);
        }
        Verdict::of(&after.map(|_| ()))
    });
}

/// Sums that fit whatever was made of the bytes: what looks like a frame becomes one, but for what the life before left.
fn forge(bytes: &mut [u8]) {
    if bytes.len() < 2 * SECTOR_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&bytes[8..SECTOR_BYTES - 4]);
    bytes[SECTOR_BYTES - 4..SECTOR_BYTES].copy_from_slice(&crc.to_le_bytes());
    let (salt, before) = (number_at(bytes, 24, 8), number_at(bytes, 80, 8));
    let mut frame_end = 0;
    let sectors = (0..).step_by(SECTOR_BYTES).zip(bytes.chunks_exact_mut(SECTOR_BYTES)).skip(1);
    for (at, bytes) in sectors {
        let mut place = Place::Later;
        if at >= frame_end {
            if !bytes.starts_with(b"SynF") || is_unwritten(bytes, before, at as u64) {
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
    let (fs, newest) = disk();
    Target::new("log_forged", vec![bytes_of(&fs, newest)]).memory(|_| 1 << 20).run(|bytes| {
        let mut bytes = bytes.to_vec();
        forge(&mut bytes);
        Verdict::of(&opened(&fs, newest, Some(&bytes)).map(|_| ()))
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
