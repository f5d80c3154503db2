//! FAULTS rows 4-6: a cut is a tear, a flipped bit is corruption, what isn't ours is refused by name.

use super::*;
use crate::fs::sim::Loss;
use crate::log::segment::SpareHeader;

/// The frames of a segment: offset and length of each.
fn frames_of(fs: &SimFs, number: u64) -> Vec<(usize, usize)> {
    frames(&fs.contents(&segment(number)))
}

/// A record whose sectors are partly blank.
fn holey(slot: u64) -> RecordBuf {
    let mut record = vote(slot, 3000);
    record.bytes[600..2500].fill(0);
    record
}

#[test]
fn the_last_frame_cut_at_every_byte_boots_and_drops_only_that_frame() {
    let fs = SimFs::new(4);
    let mut log = open(&fs).log;
    for slot in 0..2 {
        put(&mut log, &vote(slot, 300));
    }
    put(&mut log, &holey(2));
    drop(log);
    let (start, length) = *frames_of(&fs, 1).last().unwrap();
    for end in start..=start + length {
        let fs = fs.fork(end as u64);
        fs.edit(&segment(1), |bytes| bytes.truncate(end));
        let mut opened = open(&fs);
        let whole = opened.records.len() == 4;
        assert!(opened.records.len() >= 3, "cut at {end}");
        assert_eq!(opened.recovery.torn_tail.is_some(), !whole && end >= start + 512, "cut at {end}");
        put(&mut opened.log, &vote(3, 10));
        let expected = if whole { vec![0, 1, 2, 3] } else { vec![0, 1, 3] };
        drop(opened);
        let fs = fs.crash(Loss::All);
        let opened = open(&fs);
        let slots: Vec<_> = votes(&opened.records).iter().map(|record| record.slot.unwrap().0).collect();
        assert_eq!(slots, expected, "cut at {end}");
        assert_eq!(opened.recovery.torn_tail, None, "a tear is settled once");
    }
}

#[test]
fn a_bit_flipped_anywhere_is_noticed() {
    let fs = SimFs::new(4);
    let options = LogOptions { segment_bytes: 4096, ..options() };
    let mut log = try_open_in(&dir(), &fs, options).unwrap().log;
    put(&mut log, &holey(0));
    put(&mut log, &vote(1, 1200));
    put(&mut log, &vote(2, 500));
    log.mark();
    drop(log);
    let mut flips = 0;
    for number in 1..=2 {
        let &(start, length) = frames_of(&fs, number).last().unwrap();
        for at in 0..start + length {
            let fs = fs.fork(0);
            fs.flip_bit(&segment(number), at, (at % 8) as u32);
            assert_eq!(refused(&fs).0, number, "byte {at}");
            flips += 1;
        }
    }
    assert!(flips > 4000);
}

#[test]
fn a_bit_flipped_in_the_last_synced_frame_is_no_tear_even_without_a_mark() {
    let fs = SimFs::new(4);
    let mut log = open(&fs).log;
    put(&mut log, &vote(0, 100));
    put(&mut log, &holey(1));
    drop(log);
    let (start, length) = frames_of(&fs, 1)[1];
    for at in start..start + length {
        let fs = fs.fork(0);
        fs.flip_bit(&segment(1), at, 3);
        assert!(matches!(refused(&fs).1, Reason::FrameHeader | Reason::Frame), "byte {at}");
    }
}

/// The usual unit of what a disk loses: the first block of the newest segment, or that one's whole beginning.
#[test]
fn a_newest_segment_that_lost_its_beginning_is_no_spare() {
    let fs = SimFs::new(4);
    let mut log = open(&fs).log;
    let is_filled = |newest: (u64, bool)| newest.1 && frames_of(&fs, newest.0).len() > 9;
    let mut slots = 0..300;
    while !newest(&fs).is_some_and(is_filled) {
        let slot = slots.next().unwrap();
        put(&mut log, &vote(slot, 300));
        if slot % 40 == 39 {
            log.release(GROUP, LIFE, Slot(slot - 30));
        }
    }
    drop(log);
    let newest = newest(&fs).unwrap();
    let FirstSector::Segment(header) = first_sector(&fs.contents(&segment(newest.0))) else { panic!() };
    let before = SpareHeader { number: newest.0, recycled_from: header.recycled_from };
    for bytes in [1024, 4096] {
        // Zeros, or what was there before the segment was begun.
        for is_blank in [true, false] {
            let fs = fs.fork(0);
            fs.edit(&segment(newest.0), |contents| {
                contents[..bytes].fill(0);
                if !is_blank {
                    contents[..SECTOR_BYTES].copy_from_slice(&before.encode());
                }
            });
            assert_eq!(refused(&fs), (newest.0, Reason::BlankHeader));
        }
    }
}

#[test]
fn a_sector_lost_below_a_mark_is_no_tear() {
    let fs = SimFs::new(4);
    let mut log = open(&fs).log;
    put(&mut log, &vote(0, 100));
    put(&mut log, &vote(1, 1500));
    log.mark();
    drop(log);
    let (start, length) = frames_of(&fs, 1)[1];
    assert!(length == 2048 && frames_of(&fs, 1).len() == 3);
    for sector in 0..4 {
        let fs = fs.fork(0);
        fs.edit(&segment(1), |bytes| bytes[start + sector * 512..][..512].fill(0));
        assert_eq!(refused(&fs), (1, Reason::Followed(3)));
    }
}

#[test]
fn a_torn_write_is_told_from_damage_whatever_was_in_it() {
    let mut torn = 0;
    for seed in 0..600 {
        let fs = SimFs::new(seed);
        let mut log = open(&fs).log;
        put(&mut log, &vote(0, 100));
        let last = if seed % 2 == 0 { vote(1, 5000) } else { holey(1) };
        log.append(last.as_record(), false);
        fs.power_off_at(1 + seed % 3 / 2);
        assert_eq!(log.commit_inline(states), Committed::Failed);
        let fs = fs.crash(Loss::Random);
        let opened = open(&fs);
        match votes(&opened.records).len() {
            1 => torn += usize::from(opened.recovery.torn_tail.is_some()),
            2 => assert_eq!(votes(&opened.records)[1], last),
            other => panic!("{other} records"),
        }
    }
    assert!(torn > 200, "{torn}");
}

/// A log of several segments.
fn long_log(fs: &SimFs, options: LogOptions) -> u64 {
    let mut log = try_open_in(&dir(), fs, options).unwrap().log;
    for slot in 0..40 {
        put(&mut log, &vote(slot, 700));
    }
    log.segments() as u64
}

#[test]
fn another_owners_log_is_refused() {
    let fs = SimFs::new(4);
    long_log(&fs, LogOptions { owner: 1, ..options() });
    assert_eq!(refused(&fs), (1, Reason::Owner));
}

#[test]
fn a_segment_of_another_log_or_of_another_place_is_refused() {
    let fs = SimFs::new(4);
    let newest = long_log(&fs, options());
    let other = SimFs::new(4);
    long_log(&other, LogOptions { salt_seed: Some(8), ..options() });
    for number in 1..=newest {
        let fs = fs.fork(0);
        fs.put(&segment(number), Some(other.contents(&segment(number))));
        let (at, reason) = refused(&fs);
        assert_eq!(reason, Reason::Predecessor);
        assert!(at == number || at == number + 1);
    }
    fs.put(&segment(2), Some(fs.contents(&segment(3))));
    assert_eq!(refused(&fs), (2, Reason::Number));
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_was() {
    let fs = SimFs::new(4);
    let newest = long_log(&fs, options());
    for number in 1..=newest {
        let fs = fs.fork(0);
        fs.put(&segment(number), None);
        assert_eq!(refused(&fs), (number, Reason::Missing));
    }
}

#[test]
fn a_blank_header_before_data_is_noticed() {
    let fs = SimFs::new(4);
    let newest = long_log(&fs, options());
    for number in 1..=newest {
        let fs = fs.fork(0);
        fs.edit(&segment(number), |bytes| bytes[..512].fill(0));
        assert_eq!(refused(&fs), (number, Reason::BlankHeader));
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let fs = SimFs::new(4);
    put(&mut open(&fs).log, &vote(0, 1));
    fs.edit(&segment(1), |bytes| {
        bytes[8] = 1;
        let crc = crc32c::crc32c(&bytes[8..508]);
        bytes[508..512].copy_from_slice(&crc.to_le_bytes());
    });
    let error = try_open(&fs).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "log segment 1 has format version 1, this program reads 2");
}

#[test]
fn a_file_that_is_no_segment_is_refused() {
    let fs = SimFs::new(4);
    fs.put(&segment(1), Some(vec![7; 5000]));
    assert_eq!(refused(&fs), (1, Reason::NotASegment));
}

#[test]
fn other_files_are_left_alone() {
    let fs = SimFs::new(4);
    let notes = dir().join("notes.log");
    fs.put(&notes, Some(vec![7; 5000]));
    put(&mut open(&fs).log, &vote(0, 1));
    assert_eq!(fs.contents(&notes).len(), 5000);
}
