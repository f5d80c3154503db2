//! Segments go when nobody needs them, never with a live record or the only copy of a promise.

use super::*;
use crate::fs::sim::Loss;

const IDLE: GroupId = GroupId(9);

fn idle_vote(slot: u64) -> RecordBuf {
    RecordBuf { group: IDLE, ..vote(slot, 50) }
}

fn slots_of(records: &[(FrameNo, RecordBuf)], group: GroupId) -> Vec<u64> {
    votes(records).iter().filter(|r| r.group == group).map(|r| r.slot.unwrap().0).collect()
}

fn fill(log: &mut Log, slots: std::ops::Range<u64>) {
    for slot in slots {
        put(log, &vote(slot, 700));
    }
}

#[test]
fn released_segments_go_with_the_next_frame_and_live_records_stay() {
    let fs = SimFs::new(5);
    let mut log = open(&fs).log;
    fill(&mut log, 0..60);
    let (segments, bytes) = (log.segments(), log.disk_bytes());
    log.release(GROUP, LIFE, Slot(40));
    assert!(log.segments() < segments);
    assert_eq!(log.disk_bytes(), bytes, "not before it is durable that they may go");
    assert!(log.mark());
    assert!(log.disk_bytes() < bytes);
    assert_eq!(log.disk_bytes(), fs.used_bytes());
    drop(log);
    let fs = fs.crash(Loss::All);
    let opened = open(&fs);
    let slots = slots_of(&opened.records, GROUP);
    assert_eq!(slots, (slots[0]..60).collect::<Vec<_>>());
    assert!(slots[0] > 30 && slots[0] <= 40);
    assert_eq!(opened.records[0].1, state("of all"));
}

#[test]
fn a_release_never_moves_back_and_the_newest_segment_stays() {
    let fs = SimFs::new(5);
    let mut log = open(&fs).log;
    fill(&mut log, 0..30);
    log.release(GROUP, LIFE, Slot(u64::MAX));
    log.release(GROUP, LIFE, Slot(3));
    assert_eq!(log.segments(), 1);
    fill(&mut log, 30..60);
    assert_eq!(log.segments(), 1, "what is below the released end needs no segment");
}

#[test]
fn one_idle_group_pins_the_log_until_its_records_are_appended_again() {
    let fs = SimFs::new(5);
    let mut log = open(&fs).log;
    put(&mut log, &idle_vote(7));
    fill(&mut log, 0..60);
    log.release(GROUP, LIFE, Slot(60));
    assert!(log.segments() > 5);
    assert_eq!(log.pinned(100), None);
    let pinned = log.pinned(3).unwrap();
    assert_eq!(pinned.groups, [(IDLE, LIFE)]);

    log.append(idle_vote(7).as_record(), false);
    log.reappended(IDLE, LIFE, pinned.since);
    assert!(log.segments() > 5, "not before it is committed");
    log.commit(states);
    assert_eq!(log.segments(), 1);
    let bytes = log.disk_bytes();
    // Power goes before the frame with the copy is durable: the old one must be there.
    let fork = fs.fork(1);
    assert_eq!(slots_of(&open(&fork).records, IDLE), [7]);
    assert!(log.work());
    assert!(log.disk_bytes() < bytes);
    drop(log);
    let fs = fs.crash(Loss::All);
    let opened = open(&fs);
    assert_eq!(slots_of(&opened.records, IDLE), [7]);
    assert_eq!(opened.recovery.segments, 1);
}

#[test]
fn recovery_knows_what_pins_a_segment() {
    let fs = SimFs::new(5);
    let mut log = open(&fs).log;
    put(&mut log, &idle_vote(7));
    fill(&mut log, 0..30);
    drop(log);
    let mut log = open(&fs).log;
    log.release(GROUP, LIFE, Slot(30));
    assert_eq!(log.pinned(1).unwrap().groups, [(IDLE, LIFE)]);
    log.release(IDLE, LIFE, Slot(u64::MAX));
    assert_eq!(log.segments(), 1, "the newest stays until this life has one");
    put(&mut log, &vote(30, 1));
    assert_eq!(log.segments(), 1);
    drop(log);
    assert_eq!(slots_of(&open(&fs).records, GROUP), [30]);
}

#[test]
fn another_generation_is_another_group() {
    let fs = SimFs::new(5);
    let mut log = open(&fs).log;
    put(&mut log, &RecordBuf { generation: Generation(2), ..vote(0, 1) });
    fill(&mut log, 0..30);
    log.release(GROUP, LIFE, Slot(30));
    assert!(log.segments() > 1);
    log.release(GROUP, Generation(2), Slot(u64::MAX));
    assert_eq!(log.segments(), 1);
}

#[test]
fn the_idle_log_stays_small_over_many_restarts() {
    let fs = SimFs::new(5);
    for _ in 0..50 {
        let mut log = open(&fs).log;
        put(&mut log, &vote(0, 10));
        while let Some(pinned) = log.pinned(4) {
            log.append(vote(0, 10).as_record(), false);
            log.commit_inline(states);
            log.reappended(GROUP, LIFE, pinned.since);
        }
        log.mark();
        assert!(log.segments() <= 4 && log.disk_bytes() < 8 * 8192);
    }
}
