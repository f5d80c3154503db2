//! What a log promises when nothing fails: order, frames, gathering, lazy records, segments, opening.

use super::*;
use crate::fs::sim::Loss;

#[test]
fn what_was_committed_comes_back_in_order_under_its_frame() {
    let fs = SimFs::new(1);
    let mut opened = open(&fs);
    assert!(opened.recovery.is_new);
    let frames: Vec<_> = (0..40).map(|slot| put(&mut opened.log, &vote(slot, 700))).collect();
    assert!(opened.log.segments() > 3);
    drop(opened);
    let opened = open(&fs);
    assert_eq!(votes(&opened.records), (0..40).map(|slot| vote(slot, 700)).collect::<Vec<_>>());
    let found: Vec<_> =
        opened.records.iter().filter(|(_, r)| r.slot.is_some()).map(|(frame, _)| *frame).collect();
    assert_eq!(found, frames);
    assert_eq!(opened.log.durable(), *frames.last().unwrap());
    assert_eq!(opened.recovery.torn_tail, None);
    assert!(!opened.recovery.is_new);
}

#[test]
fn each_segment_begins_with_the_states_of_its_time() {
    let fs = SimFs::new(1);
    let mut log = open(&fs).log;
    for slot in 0..30 {
        log.append(vote(slot, 700).as_record(), false);
        assert!(matches!(log.commit_inline(|| vec![state(&slot.to_string())]), Committed::Durable(_)));
    }
    let segments = log.segments();
    drop(log);
    let records = open(&fs).records;
    let found: Vec<_> = records.iter().enumerate().filter(|(_, (_, record))| record.slot.is_none()).collect();
    assert_eq!(found.len(), segments);
    for (at, (frame, record)) in found {
        let (next_frame, next) = &records[at + 1];
        assert_eq!(*record, state(&next.slot.unwrap().0.to_string()), "taken with the record that rolled");
        assert_eq!(frame, next_frame, "in one frame with it");
    }
}

#[test]
fn a_commit_is_one_frame_even_over_the_end_of_a_segment() {
    let fs = SimFs::new(1);
    let mut log = open(&fs).log;
    for slot in 0..200 {
        for part in 0..4 {
            log.append(vote(slot * 4 + part, 300).as_record(), false);
        }
        log.commit(states);
    }
    while log.work() {}
    drop(log);
    let mut by_slot = std::collections::BTreeMap::new();
    for (frame, record) in open(&fs).records {
        if let Some(slot) = record.slot {
            let first = *by_slot.entry(slot.0 / 4).or_insert(frame);
            assert_eq!(first, frame);
        }
    }
    assert_eq!(by_slot.len(), 200);
}

#[test]
fn commits_gather_into_one_frame_up_to_its_bound() {
    let fs = SimFs::new(1);
    let options = LogOptions { frame_bytes_max: 1000, segment_bytes: 1 << 20, ..options() };
    let mut log = try_open_in(&dir(), &fs, options).unwrap().log;
    let frames: Vec<_> = (0..9)
        .map(|slot| {
            log.append(vote(slot, 280).as_record(), false);
            log.commit(states).0
        })
        .collect();
    // The first frame carries the State record, too.
    assert_eq!(frames, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    assert_eq!(log.durable(), FrameNo(0));
    assert!(log.unsynced_bytes() >= 9 * 280);
    assert!(log.work());
    assert_eq!(log.durable(), FrameNo(1));
    while log.work() {}
    assert_eq!((log.durable(), log.unsynced_bytes()), (FrameNo(3), 0));
}

#[test]
fn a_lazy_record_rides_along_and_causes_no_sync() {
    let fs = SimFs::new(1);
    let mut log = open(&fs).log;
    let first = put(&mut log, &vote(0, 10));
    let syncs = fs.syncs();
    log.append(vote(1, 10).as_record(), true);
    assert_eq!(log.commit(states), first, "nothing waits for it");
    assert_eq!(log.commit_inline(states), Committed::Durable(first));
    assert!(!log.work());
    assert_eq!(fs.syncs(), syncs);
    assert!(log.unsynced_bytes() > 0);
    put(&mut log, &vote(2, 10));
    assert_eq!((fs.syncs(), log.unsynced_bytes()), (syncs + 1, 0));
    log.append(vote(3, 10).as_record(), true);
    log.commit(states);
    assert!(log.mark());
    log.append(vote(4, 10).as_record(), true);
    log.commit(states);
    assert!(!log.mark(), "a mark needs no mark, and a lazy record none of its own");
    let fs = fs.crash(Loss::All);
    let found: Vec<_> = votes(&open(&fs).records).iter().map(|record| record.slot.unwrap().0).collect();
    assert_eq!(found, [0, 1, 2, 3]);
}

#[test]
fn a_record_larger_than_a_segment_gets_a_larger_segment() {
    let fs = SimFs::new(1);
    let mut log = open(&fs).log;
    let records =
        [vote(0, 100), vote(1, 100_000), vote(2, 100), vote(3, 1 << 20), vote(4, 1 << 20), vote(5, 1)];
    for record in &records {
        put(&mut log, record);
    }
    assert_eq!(log.disk_bytes(), fs.used_bytes());
    drop(log);
    let fs = fs.crash(Loss::All);
    assert_eq!(votes(&open(&fs).records), records);
}

#[test]
fn recovery_never_appends_to_an_old_segment() {
    let fs = SimFs::new(1);
    for life in 0..5 {
        let mut opened = open(&fs);
        assert_eq!(votes(&opened.records).len(), 2 * life);
        let before: Vec<_> = (1..=life as u64).map(|number| fs.contents(&segment(number))).collect();
        put(&mut opened.log, &vote(2 * life as u64, 100));
        put(&mut opened.log, &vote(2 * life as u64 + 1, 100));
        assert_eq!(opened.log.segments(), life + 1);
        for (number, before) in (1..).zip(before) {
            let now = fs.contents(&segment(number));
            assert_eq!(now, before[..now.len()], "at most cut to its frames");
            assert!(now.len() < 8192);
        }
        assert_eq!(opened.log.disk_bytes(), fs.used_bytes());
    }
}

#[test]
fn opening_changes_nothing_and_a_life_without_a_commit_leaves_nothing() {
    let fs = SimFs::new(1);
    put(&mut open(&fs).log, &vote(0, 100));
    let paths = fs.paths();
    for _ in 0..3 {
        let mut opened = open(&fs);
        assert_eq!(opened.recovery.segments, 1);
        assert!(!opened.log.mark() && !opened.log.work());
    }
    assert_eq!(fs.paths(), paths);
}

#[test]
fn what_only_the_kernel_held_is_synced_before_it_is_believed() {
    let fs = SimFs::new(1);
    let mut log = open(&fs).log;
    put(&mut log, &vote(0, 100));
    log.append(vote(1, 100).as_record(), false);
    // The process dies between write and sync; then, after the next start, the machine.
    fs.power_off_at(2);
    assert_eq!(log.commit_inline(states), Committed::Failed);
    let fs = fs.crash(Loss::Nothing);
    assert_eq!(votes(&open(&fs).records).len(), 2);
    let fs = fs.crash(Loss::All);
    assert_eq!(votes(&open(&fs).records).len(), 2);
}

#[test]
fn the_log_is_opened_once() {
    let fs = SimFs::new(1);
    let opened = open(&fs);
    assert!(matches!(try_open(&fs), Err(LogError::Locked(_))));
    drop(opened);
    open(&fs);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let options = LogOptions { segment_bytes: 100, ..options() };
    assert!(matches!(try_open_in(&dir(), &SimFs::new(1), options), Err(LogError::Options(_))));
}
