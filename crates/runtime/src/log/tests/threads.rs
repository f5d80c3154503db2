//! The log with its threads.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::fs::sim::Loss;

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log with threads, and what its waker says.
fn open_threaded(fs: &SimFs, idle: Duration) -> (Log, Receiver<()>, Arc<Mutex<Vec<String>>>) {
    let (wakes, woken) = channel();
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let hooks = Hooks { waker: Box::new(move || wakes.send(()).unwrap_or_default()), ..hooks(&fatal) };
    let retry = Duration::from_millis(1);
    let options = LogOptions { threads: true, idle, retry, ..options() };
    let (log, _) = Log::open(Arc::new(fs.clone()), &dir(), options, hooks, &mut |_, _| {}).unwrap();
    (log, woken, fatal)
}

fn wait_durable(log: &Log, woken: &Receiver<()>, frame: FrameNo) {
    while log.durable() < frame {
        woken.recv_timeout(PATIENCE).expect("the waker is called after each advance");
    }
}

const NEVER: Duration = Duration::from_secs(3600);

#[test]
fn the_log_thread_writes_and_wakes_the_owner() {
    let fs = SimFs::new(7);
    let (mut log, woken, _) = open_threaded(&fs, NEVER);
    for slot in 0..100 {
        log.append(vote(slot, 700).as_record(), false);
        let frame = log.commit(states);
        if slot % 3 == 0 {
            wait_durable(&log, &woken, frame);
        }
    }
    let frame = log.commit(states);
    wait_durable(&log, &woken, frame);
    assert_eq!(log.unsynced_bytes(), 0);
    drop(log);
    let fs = fs.crash(Loss::All);
    assert_eq!(votes(&open(&fs).records).len(), 100);
}

#[test]
fn what_comes_during_a_sync_becomes_one_frame_and_counts_as_unsynced() {
    let fs = SimFs::new(7);
    let (mut log, woken, _) = open_threaded(&fs, NEVER);
    log.append(vote(0, 10).as_record(), false);
    let first = log.commit(states);
    wait_durable(&log, &woken, first);
    // Only syncs of frames are to be held, not those of spares being made.
    while log.disk_bytes() < 3 * 8192 {
        std::thread::yield_now();
    }
    fs.hold_syncs(true);
    log.append(vote(1, 10).as_record(), false);
    let second = log.commit(states);
    while fs.syncs_blocked() == 0 {
        std::thread::yield_now();
    }
    let frames: Vec<_> = (2..20)
        .map(|slot| {
            log.append(vote(slot, 10).as_record(), false);
            log.commit(states).0
        })
        .collect();
    assert!(frames.iter().all(|frame| *frame == second.0 + 1), "{frames:?}");
    assert!(log.unsynced_bytes() > 190 && log.durable() == first);
    log.append(vote(20, 10).as_record(), false);
    let Committed::Queued(last) = log.commit_inline(states) else { panic!("waits behind no other sync") };
    fs.hold_syncs(false);
    wait_durable(&log, &woken, last);
    assert_eq!(log.unsynced_bytes(), 0);
}

#[test]
fn a_commit_that_waits_returns_when_it_is_durable_whoever_writes_it() {
    let fs = SimFs::new(7);
    let (mut log, _woken, fatal) = open_threaded(&fs, Duration::from_millis(1));
    for slot in 0..100 {
        log.append(vote(slot, 700).as_record(), false);
        if slot % 2 == 0 {
            log.commit(states);
        }
        let Committed::Durable(frame) = log.commit_and_wait(states) else { panic!("not durable") };
        assert!(log.durable() >= frame);
    }
    fs.fail_sync(1);
    log.append(vote(100, 700).as_record(), false);
    assert_eq!(log.commit_and_wait(states), Committed::Failed);
    assert_eq!(fatal.lock().len(), 1);
}

#[test]
fn an_idle_log_writes_one_mark() {
    let fs = SimFs::new(7);
    let (mut log, woken, _) = open_threaded(&fs, Duration::from_millis(2));
    for round in 0..5 {
        log.append(vote(round, 10).as_record(), false);
        let frame = if round % 2 == 0 {
            log.commit(states)
        } else {
            match log.commit_inline(states) {
                Committed::Durable(frame) | Committed::Queued(frame) => frame,
                Committed::Failed => panic!("failed"),
            }
        };
        wait_durable(&log, &woken, FrameNo(frame.0 + 1));
    }
    let durable = log.durable();
    assert!(woken.recv_timeout(Duration::from_millis(20)).is_err() || log.durable() == durable);
}

#[test]
fn inline_commits_and_the_log_thread_keep_one_order() {
    let fs = SimFs::new(7);
    let (mut log, woken, fatal) = open_threaded(&fs, Duration::from_millis(1));
    let mut inline = 0;
    for slot in 0..600 {
        log.append(vote(slot, 100).as_record(), false);
        if slot % 5 == 0 {
            let frame = log.commit(states);
            if slot % 20 == 0 {
                wait_durable(&log, &woken, frame);
            }
        } else if let Committed::Durable(frame) = log.commit_inline(states) {
            assert!(log.durable() >= frame);
            inline += 1;
        }
        if slot > 20 {
            log.release(GROUP, LIFE, Slot(slot - 20));
        }
    }
    let frame = log.commit(states);
    wait_durable(&log, &woken, frame);
    assert!(inline > 0);
    assert_eq!(*fatal.lock(), Vec::<String>::new());
    drop(log);
    let fs = fs.crash(Loss::All);
    let slots: Vec<_> = votes(&open(&fs).records).iter().map(|record| record.slot.unwrap().0).collect();
    assert_eq!(slots, (slots[0]..600).collect::<Vec<_>>());
    assert!(slots[0] <= 579);
}

#[test]
fn power_may_go_at_any_time_under_threads() {
    let mut recycled = 0;
    for seed in 0..60 {
        let fs = SimFs::new(seed);
        fs.power_off_at(20 + seed * 3);
        let (mut log, woken, fatal) = open_threaded(&fs, Duration::from_millis(1));
        let mut frames = Vec::new();
        for slot in 0..200 {
            log.append(vote(slot, 300).as_record(), false);
            let frame = if slot % 7 == 0 {
                match log.commit_inline(states) {
                    Committed::Durable(frame) | Committed::Queued(frame) => frame,
                    Committed::Failed => break,
                }
            } else {
                log.commit(states)
            };
            frames.push(frame);
            if slot % 4 == 0 {
                let _ = woken.recv_timeout(Duration::from_millis(1));
            }
            log.release(GROUP, LIFE, Slot(slot.saturating_sub(10)));
        }
        let durable = log.durable();
        let acknowledged = frames.iter().filter(|frame| **frame <= durable).count() as u64;
        let fs = fs.crash(Loss::Random);
        drop(log);
        assert!(fatal.lock().len() <= 1);
        let slots: Vec<_> = votes(&open(&fs).records).iter().map(|record| record.slot.unwrap().0).collect();
        let (first, end) = (slots.first().copied().unwrap_or(0), slots.last().map_or(0, |last| last + 1));
        assert_eq!(slots, (first..end).collect::<Vec<_>>(), "seed {seed}");
        assert!(end >= acknowledged, "seed {seed}: {end} of {acknowledged}");
        assert!(first <= (frames.len() as u64).saturating_sub(10), "seed {seed}: {first} is the first");
        recycled += usize::from(newest(&fs).is_some_and(|(_, is_recycled)| is_recycled));
    }
    assert!(recycled > 5, "{recycled}");
}

#[test]
fn a_full_disk_ends_by_itself() {
    let fs = SimFs::new(7);
    let (mut log, woken, _) = open_threaded(&fs, NEVER);
    log.append(vote(0, 10).as_record(), false);
    let frame = log.commit(states);
    wait_durable(&log, &woken, frame);
    fs.set_capacity(Some(0));
    log.append(vote(1, 100_000).as_record(), false);
    let frame = log.commit(states);
    while !log.disk_full() {
        std::thread::yield_now();
    }
    fs.set_capacity(None);
    wait_durable(&log, &woken, frame);
    while log.disk_full() {
        std::thread::yield_now();
    }
}

#[test]
fn a_want_of_file_handles_is_waited_out() {
    let fs = SimFs::new(7);
    let (mut log, _woken, fatal) = open_threaded(&fs, NEVER);
    for slot in 0..60 {
        fs.refuse_handles(slot % 4);
        log.append(vote(slot, 900).as_record(), false);
        assert!(matches!(log.commit_and_wait(states), Committed::Durable(_)));
        log.release(GROUP, LIFE, Slot(slot));
    }
    assert!(fatal.lock().is_empty());
}

#[test]
fn a_failed_sync_on_the_log_thread_is_fatal() {
    let fs = SimFs::new(7);
    let (mut log, woken, fatal) = open_threaded(&fs, NEVER);
    log.append(vote(0, 10).as_record(), false);
    let first = log.commit(states);
    wait_durable(&log, &woken, first);
    fs.fail_sync(1);
    for slot in 1..10 {
        log.append(vote(slot, 5000).as_record(), false);
        log.commit(states);
    }
    while fatal.lock().is_empty() {
        std::thread::yield_now();
    }
    assert!(log.has_failed());
    log.append(vote(10, 10).as_record(), false);
    log.commit(states);
    drop(log);
    assert_eq!(fatal.lock().len(), 1);
}
