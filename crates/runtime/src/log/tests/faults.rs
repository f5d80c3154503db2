//! FAULTS rows 8 and 9: a failed sync ends it, a full disk is waited out.

use super::*;
use crate::fs::sim::Loss;

#[test]
fn a_failed_sync_is_fatal_wherever_it_comes() {
    let (mut fired, mut more) = (0, 0);
    for nth in 1..200 {
        let fs = SimFs::new(6);
        let mut opened = open(&fs);
        fs.fail_sync(nth);
        let mut acknowledged = 0;
        for slot in 0..40 {
            opened.log.append(vote(slot, 700).as_record(), false);
            match opened.log.commit_inline(states) {
                Committed::Durable(_) => acknowledged = slot + 1,
                Committed::Queued(_) => panic!("nobody else writes"),
                Committed::Failed => break,
            }
            // Segments go, and are recycled.
            opened.log.release(GROUP, LIFE, Slot(acknowledged - 1));
        }
        let log = &mut opened.log;
        if !log.has_failed() {
            assert_eq!(acknowledged, 40);
            break;
        }
        fired += 1;
        let durable = log.durable();
        assert_eq!(opened.fatal.lock().len(), 1, "said once: {:?}", opened.fatal.lock());
        assert!(opened.fatal.lock()[0].contains("injected EIO"));
        // It isn't tried again, whatever comes.
        log.append(vote(99, 1).as_record(), false);
        assert_eq!(log.commit_inline(states), Committed::Failed);
        log.append(vote(99, 1).as_record(), false);
        assert!(log.commit(states) > durable, "it never covers what comes later");
        assert!(!log.work() && !log.mark());
        assert_eq!(log.durable(), durable);
        let lost = fs.fork(nth).crash(Loss::Random);
        let found = votes(&open(&lost).records);
        assert!(found.last().map_or(0, |last| last.slot.unwrap().0 + 1) >= acknowledged);
        // Only the process dies. What the next one reads it may act on, so the power takes none of it any more.
        let fs = fs.crash(Loss::Nothing);
        let read = votes(&open(&fs).records);
        more += u64::from(read.last().is_some_and(|last| last.slot.unwrap().0 + 1 > acknowledged));
        assert_eq!(votes(&open(&fs.crash(Loss::All)).records).last(), read.last());
    }
    assert!(fired > 50 && more > 20, "{fired}, {more}");
}

#[test]
fn a_full_disk_is_reported_while_spares_are_left_and_ends_by_itself() {
    let fs = SimFs::new(6);
    let mut log = open(&fs).log;
    put(&mut log, &vote(0, 100));
    fs.set_capacity(Some(fs.used_bytes()));
    let mut slot = 0;
    while !log.disk_full() {
        slot += 1;
        put(&mut log, &vote(slot, 700));
    }
    // The owner refuses writes of clients now; promises go on.
    for round in 0..20 {
        put(&mut log, &state(&round.to_string()));
    }
    assert!(log.disk_full());
    log.release(GROUP, LIFE, Slot(slot + 1));
    assert!(log.mark());
    put(&mut log, &state("more"));
    assert!(!log.disk_full(), "the segments that went made room for a spare");
}

/// A log without a byte of room, whose newest segment is full up to its end: with a mark, or by a frame larger than it.
fn full_to_the_end(by_a_mark: bool) -> (SimFs, Log) {
    let fs = SimFs::new(6);
    let mut log = open(&fs).log;
    // The first segment is smaller.
    put(&mut log, &vote(0, 6500));
    put(&mut log, &vote(1, if by_a_mark { 6870 } else { 30_000 }));
    assert_eq!(log.segments.newest(), 2);
    assert!(log.mark());
    let (at, bytes) = *frames(&fs.contents(&segment(2))).last().unwrap();
    assert_eq!(at + bytes, fs.contents(&segment(2)).len());
    fs.set_capacity(Some(fs.used_bytes()));
    (fs, log)
}

#[test]
fn a_mark_without_room_holds_up_nothing() {
    for by_a_mark in [true, false] {
        let (fs, mut log) = full_to_the_end(by_a_mark);
        log.release(GROUP, LIFE, Slot(1));
        assert!(!log.mark(), "there is no room for one more");
        // Promises go on into the spares, and say what a mark would have said.
        put(&mut log, &state("a promise"));
        assert!(
            !fs.paths().contains(&segment(1))
                || first_sector(&fs.contents(&segment(1))) == FirstSector::Blank
        );
        assert!(!log.has_failed());
    }
}

#[test]
fn a_full_disk_without_spares_stalls_and_goes_on_without_loss() {
    let fs = SimFs::new(6);
    let retry = std::time::Duration::from_nanos(1);
    let mut log = try_open_in(&dir(), &fs, LogOptions { retry, ..options() }).unwrap().log;
    put(&mut log, &vote(0, 100));
    fs.set_capacity(Some(fs.used_bytes()));
    let mut slot = 1;
    let queued = loop {
        log.append(vote(slot, 700).as_record(), false);
        slot += 1;
        match log.commit_inline(states) {
            Committed::Durable(_) => {}
            Committed::Queued(frame) => break frame,
            Committed::Failed => panic!("a full disk is no failure"),
        }
    };
    assert!(log.disk_full() && !log.has_failed());
    log.append(vote(slot, 20_000).as_record(), false);
    let large = log.commit(states);
    assert!(!log.work() && log.durable() < queued);
    // Room for spares, but not for the large frame.
    fs.set_capacity(Some(fs.used_bytes() + 3 * 8192));
    while log.work() {}
    assert!(log.durable() >= queued && log.durable() < large && log.disk_full());
    fs.set_capacity(None);
    while log.work() {}
    assert!(log.durable() >= large && !log.disk_full());
    drop(log);
    let fs = fs.crash(Loss::All);
    assert_eq!(votes(&open(&fs).records).len() as u64, slot + 1);
}

#[test]
fn spares_that_are_only_kept_are_given_back_to_a_frame_that_needs_the_room() {
    let fs = SimFs::new(6);
    let retry = std::time::Duration::from_nanos(1);
    let mut log = try_open_in(&dir(), &fs, LogOptions { retry, ..options() }).unwrap().log;
    for slot in 0..60 {
        put(&mut log, &vote(slot, 700));
    }
    log.release(GROUP, LIFE, Slot(60));
    assert!(log.mark());
    let used = fs.used_bytes();
    assert_eq!(used, 6 * 8192, "the newest segment and five spares");
    fs.set_capacity(Some(used));
    log.append(vote(60, 20_000).as_record(), false);
    let large = log.commit(states);
    log.work();
    assert!(log.disk_full());
    while log.work() {}
    assert!(log.durable() >= large && fs.used_bytes() <= used);
    fs.set_capacity(None);
    for slot in 61..90 {
        put(&mut log, &vote(slot, 700));
    }
    assert!(!log.disk_full());
    assert_eq!(log.disk_bytes(), fs.used_bytes());
    drop(log);
    assert_eq!(votes(&open(&fs.crash(Loss::All)).records).last(), Some(&vote(89, 700)));
}

#[test]
fn a_disk_that_is_full_at_the_start_opens_and_writes_once_there_is_room() {
    let fs = SimFs::new(6);
    put(&mut open(&fs).log, &vote(0, 100));
    fs.put(&segment(2), None);
    fs.put(&segment(3), None);
    fs.set_capacity(Some(fs.used_bytes()));
    let mut opened = open(&fs);
    assert_eq!(votes(&opened.records).len(), 1);
    opened.log.append(vote(1, 100).as_record(), false);
    assert!(matches!(opened.log.commit_inline(states), Committed::Queued(_)));
    assert!(opened.log.disk_full());
    fs.set_capacity(None);
    assert!(opened.log.work());
    assert!(!opened.log.disk_full());
}
