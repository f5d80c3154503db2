//! A segment that nobody needs becomes a spare, and what it held before is never taken for anything but what wasn't written.

use super::*;
use crate::fs::sim::Loss;
use crate::log::sector::{is_blank, is_of, is_unwritten};
use crate::log::segment::{SegmentHeader, SpareHeader};

fn header(fs: &SimFs, number: u64) -> SegmentHeader {
    match first_sector(&fs.contents(&segment(number))) {
        FirstSector::Segment(header) => header,
        other => panic!("segment {number} begins with {other:?}"),
    }
}

/// Fills segments and lets go of all but the last few slots, as checkpoints do. Segments begun in files that were one before.
fn work(fs: &SimFs, log: &mut Log, slots: std::ops::Range<u64>, bytes: impl Fn(u64) -> usize) -> usize {
    let mut recycled = std::collections::BTreeSet::new();
    for slot in slots {
        put(log, &vote(slot, bytes(slot)));
        if slot % 25 == 24 {
            log.release(GROUP, LIFE, Slot(slot - 3));
        }
        let newest = log.segments.newest();
        if header(fs, newest).recycled_from != 0 {
            recycled.insert(newest);
        }
    }
    recycled.len()
}

/// A log whose newest segment is in a file that was full of frames of the same size before, and the next slot.
fn recycled_log() -> (SimFs, u64) {
    let fs = SimFs::new(3);
    let mut log = open(&fs).log;
    assert!(work(&fs, &mut log, 0..200, |_| 700) > 5);
    let mut slot = 200;
    // To the beginning of the next.
    for newest in log.segments.newest().. {
        while log.segments.newest() == newest {
            put(&mut log, &vote(slot, 700));
            slot += 1;
        }
        if header(&fs, newest + 1).recycled_from != 0 {
            break;
        }
        assert!(slot < 300);
    }
    drop(log);
    (fs, slot)
}

/// The newest segment, where its frames end, and what is at that place: a frame of the life before.
fn end_of_newest(fs: &SimFs) -> (u64, usize) {
    let (newest, is_recycled) = newest(fs).unwrap();
    assert!(is_recycled);
    let end = frames(&fs.contents(&segment(newest))).last().map(|(at, length)| at + length).unwrap();
    (newest, end)
}

#[test]
fn a_steady_load_recycles_nearly_all_and_takes_no_more_room_than_before() {
    let mut peaks = Vec::new();
    for spares_max in [2, 6] {
        let fs = SimFs::new(3);
        let mut log = try_open_in(&dir(), &fs, LogOptions { spares_max, ..options() }).unwrap().log;
        let (mut peak, mut recycled) = (0, 0);
        for round in 0..20 {
            recycled += work(&fs, &mut log, round * 25..round * 25 + 25, |_| 700);
            peak = peak.max(fs.used_bytes());
            assert_eq!(log.disk_bytes(), fs.used_bytes());
        }
        let begun = log.segments.newest() as usize;
        match spares_max {
            6 => assert!(recycled >= begun - 6, "{recycled} of {begun}"),
            _ => assert!(recycled < begun - 6, "{recycled} of {begun}: what nobody needs is deleted"),
        }
        peaks.push(peak);
    }
    assert!(peaks[1] <= peaks[0], "{peaks:?}");
}

#[test]
fn frames_as_large_as_a_load_gathers_are_recycled_too() {
    let fs = SimFs::new(3);
    let mut log = try_open_in(&dir(), &fs, LogOptions { spares_max: 20, ..options() }).unwrap().log;
    // What is left of each segment doesn't hold one more, and is too little to be cut.
    let recycled = work(&fs, &mut log, 0..200, |_| 8192 / 4);
    let begun = log.segments.newest() as usize;
    assert!(recycled >= begun - 20, "{recycled} of {begun}");
}

#[test]
fn a_recycled_spare_holds_zeros_and_its_last_life_only() {
    let fs = SimFs::new(3);
    // Segments of some room and frames of many lengths, so that they end at other places in each life.
    let mut log = try_open_in(&dir(), &fs, LogOptions { segment_bytes: 32 << 10, ..options() }).unwrap().log;
    let recycled = work(&fs, &mut log, 0..1000, |slot| 100 + (slot * 7919 % 1500) as usize);
    assert!(recycled > 20, "{recycled}");
    log.release(GROUP, LIFE, Slot(1000));
    log.mark();
    let mut spares = 0;
    for number in numbers(&fs) {
        let bytes = fs.contents(&segment(number));
        let FirstSector::Spare(SpareHeader { number: named, recycled_from }) = first_sector(&bytes) else {
            continue;
        };
        assert_eq!(named, number);
        let sectors = || (0..).step_by(SECTOR_BYTES).zip(bytes.chunks(SECTOR_BYTES)).skip(1);
        assert!(sectors().all(|(at, sector)| is_unwritten(sector, recycled_from, at)));
        assert!(sectors().any(|(at, sector)| is_of(sector, recycled_from, at)), "it was in use");
        spares += 1;
    }
    assert!(spares >= 2, "{spares}");
}

#[test]
fn an_old_frame_at_the_very_place_of_the_next_one_is_none() {
    let (fs, slot) = recycled_log();
    let (newest, end) = end_of_newest(&fs);
    let (bytes, before) = (fs.contents(&segment(newest)), header(&fs, newest).recycled_from);
    let old = Header::read(&bytes[end..], before, end as u64).expect("old frames begin where new ones do");
    assert!(is_of(&bytes[end + 512..], before, end as u64 + 512), "and are whole");
    let opened = open(&fs);
    assert_eq!(opened.recovery.torn_tail, None);
    assert!(opened.recovery.last_frame.0 > old.number);
    assert_eq!(votes(&opened.records).last().unwrap().slot, Some(Slot(slot - 1)));
}

#[test]
fn a_frame_torn_over_an_old_one_is_dropped_whichever_sectors_are_missing() {
    let (fs, slot) = recycled_log();
    let (newest, end) = end_of_newest(&fs);
    let before = fs.contents(&segment(newest));
    let count = open(&fs.fork(0)).records.len();
    // As the disk would be if the process had gone on: the frame is written where the old ones are.
    let whole = {
        let mut frame = vec![0; crate::log::frame::HEADER_BYTES];
        let RecordBuf { group, generation, slot, bytes } = vote(slot, 2500);
        crate::log::record::put(&mut frame, group, generation, slot, |b| b.extend_from_slice(&bytes));
        let number = open(&fs.fork(0)).recovery.last_frame.0 + 1;
        crate::log::frame::seal(&mut frame, crate::log::frame::Kind::Data, number, 1);
        let mut sectors = Vec::new();
        let first = crate::log::sector::Place::First;
        crate::log::frame::cut(&mut sectors, header(&fs, newest).salt, end as u64, first, &frame);
        sectors
    };
    let sectors = whole.len() / SECTOR_BYTES;
    assert!(sectors == 5 && before.len() > end + whole.len());
    for there in 0..1 << sectors {
        let mut bytes = before.clone();
        for sector in (0..sectors).filter(|sector| there >> sector & 1 == 1) {
            let at = sector * SECTOR_BYTES;
            bytes[end + at..][..SECTOR_BYTES].copy_from_slice(&whole[at..][..SECTOR_BYTES]);
        }
        let torn = fs.fork(0);
        torn.put(&segment(newest), Some(bytes.clone()));
        let opened = open(&torn);
        let is_whole = there == (1 << sectors) - 1;
        assert_eq!(opened.records.len(), count + usize::from(is_whole), "{there:b}");
        assert_eq!(opened.recovery.torn_tail.is_some(), there != 0 && !is_whole, "{there:b}");
        drop(opened);
        // A flipped bit in any of its sectors that are there is damage, if its first one is.
        for sector in (0..sectors).filter(|sector| there >> sector & 1 == 1 && there & 1 == 1) {
            let damaged = torn.fork(0);
            damaged.flip_bit(&segment(newest), end + sector * SECTOR_BYTES + 77, 5);
            let reason = if sector == 0 { Reason::FrameHeader } else { Reason::Frame };
            assert_eq!(refused(&damaged), (newest, reason), "{there:b}");
        }
    }
}

#[test]
fn a_flipped_bit_in_what_the_last_life_left_matters_only_where_the_next_frame_would_begin() {
    let (fs, _) = recycled_log();
    let (newest, end) = end_of_newest(&fs);
    let length = fs.contents(&segment(newest)).len();
    let records = open(&fs.fork(0)).records;
    for at in (end..length).step_by(61) {
        let fs = fs.fork(0);
        fs.flip_bit(&segment(newest), at, (at % 8) as u32);
        if at < end + SECTOR_BYTES {
            // It may be the first sector of a frame that was durable.
            assert_eq!(refused(&fs), (newest, Reason::FrameHeader));
        } else {
            assert_eq!(open(&fs).records, records, "byte {at}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_frame_of_a_recycled_segment_is_corruption() {
    let (fs, _) = recycled_log();
    let (newest, end) = end_of_newest(&fs);
    for at in frames(&fs.contents(&segment(newest))).last().unwrap().0..end {
        let fs = fs.fork(0);
        fs.flip_bit(&segment(newest), at, (at % 8) as u32);
        assert!(matches!(refused(&fs), (number, Reason::FrameHeader | Reason::Frame) if number == newest));
    }
}

#[test]
fn power_that_goes_while_segments_are_recycled_leaves_a_log_that_goes_on() {
    let (mut points, mut left) = (0, 0);
    for loss in [Loss::Random, Loss::All, Loss::Nothing] {
        for nth in 1.. {
            let fs = SimFs::new(nth);
            let mut log = open(&fs).log;
            work(&fs, &mut log, 0..60, |slot| 300 + (slot * 37 % 900) as usize);
            log.release(GROUP, LIFE, Slot(58));
            fs.power_off_at(nth);
            log.mark();
            let is_over = !fs.is_off();
            drop(log);
            let fs = fs.crash(loss);
            let is_left = |number: &u64| match first_sector(&fs.contents(&segment(*number))) {
                FirstSector::Spare(spare) => spare.number != *number,
                _ => false,
            };
            left += numbers(&fs).iter().filter(|number| is_left(number)).count();
            let mut log = open(&fs).log;
            log.release(GROUP, LIFE, Slot(58));
            assert!(work(&fs, &mut log, 60..160, |_| 700) > 0);
            assert!(!numbers(&fs).iter().any(is_left));
            assert_eq!(log.disk_bytes(), fs.used_bytes());
            drop(log);
            let found = votes(&open(&fs).records);
            let slots: Vec<_> = found.iter().map(|record| record.slot.unwrap().0).collect();
            assert_eq!(slots, (slots[0]..160).collect::<Vec<_>>());
            points += 1;
            if is_over {
                break;
            }
        }
    }
    assert!(points > 25 && left > 3, "{points}, {left}");
}

#[test]
fn spares_of_the_life_before_are_taken_over_and_a_bad_one_goes_with_those_after_it() {
    let fs = SimFs::new(3);
    let mut log = open(&fs).log;
    work(&fs, &mut log, 0..200, |_| 700);
    log.release(GROUP, LIFE, Slot(200));
    log.mark();
    drop(log);
    let is_recycled = |fs: &SimFs, number| {
        fs.paths().contains(&segment(number))
            && matches!(first_sector(&fs.contents(&segment(number))), FirstSector::Spare(_))
    };
    let spare = *numbers(&fs).iter().find(|number| is_recycled(&fs, **number)).unwrap();
    assert!(is_recycled(&fs, spare + 1));
    let whole = fs.fork(0);
    put(&mut open(&whole).log, &vote(200, 10));
    assert_ne!(header(&whole, spare).recycled_from, 0);
    assert!(is_recycled(&whole, spare + 1));
    // A bit, or a sector of a life before the last.
    for stale in [false, true] {
        let fs = fs.fork(0);
        fs.edit(&segment(spare), |bytes| match stale {
            false => bytes[3000] ^= 1,
            true => {
                let mut sector = Vec::new();
                crate::log::sector::put(&mut sector, 99, 4096, crate::log::sector::Place::First, b"SynF");
                bytes[4096..4608].copy_from_slice(&sector);
            }
        });
        let mut log = open(&fs).log;
        put(&mut log, &vote(200, 10));
        assert_eq!(header(&fs, spare).recycled_from, 0);
        assert!(is_blank(&fs.contents(&segment(spare + 1))));
        assert_eq!(log.disk_bytes(), fs.used_bytes());
    }
}

#[test]
fn a_live_segment_that_reads_as_a_spare_is_missed() {
    let (fs, _) = recycled_log();
    let (newest, _) = end_of_newest(&fs);
    let first_live = header(&fs, newest).first_live;
    assert!(first_live < newest);
    for number in first_live..=newest {
        let (salt, before) = (header(&fs, number).salt, header(&fs, number).recycled_from);
        for (named, recycled_from) in [(newest + 9, salt), (number, salt), (number, before)] {
            let fs = fs.fork(0);
            let spare = SpareHeader { number: named, recycled_from };
            fs.edit(&segment(number), |bytes| bytes[..SECTOR_BYTES].copy_from_slice(&spare.encode()));
            if number == newest && recycled_from == salt {
                continue; // No such header was ever written, and a spare is all that this can be.
            }
            let (_, reason) = refused(&fs);
            assert!(matches!(reason, Reason::Missing | Reason::BlankHeader), "{number}: {reason}");
        }
    }
}
