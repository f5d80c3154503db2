//! FAULTS rows 2 and 3: a crash at every operation, with every kind of loss, over many lives.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::fs::sim::Loss;

/// What the owner knows. Slots are 0, 1, 2, … in the order of appending, so a list of slots is a check of the order.
#[derive(Default)]
struct Owner {
    /// Slots appended, and of them those up to the last that isn't lazy.
    appended: u64,
    covered: u64,
    /// Of them, how many were reported durable.
    acknowledged: u64,
    /// After which counts a commit ended: only these can be recovered.
    commit_ends: BTreeSet<u64>,
    /// Slots below may be gone.
    released: u64,
    /// The highest promise appended, and the highest reported durable.
    promised: u64,
    promised_durably: u64,
    /// Lives that found a newest segment whose file had been one before, and of them those that found a torn frame in it.
    recycled: u64,
    torn: u64,
}

impl Owner {
    /// One life on the disk: recovers, checks, and goes on until the power goes or `commits` are done.
    fn live(&mut self, fs: &SimFs, commits: u64, rng: &mut SmallRng) {
        let is_recycled = newest(fs).is_some_and(|(_, is_recycled)| is_recycled);
        let Ok(Opened { mut log, records, recovery, .. }) = try_open(fs) else {
            assert!(fs.is_off(), "only a crash stops a log from opening: {:?}", try_open(fs).map(|_| ()));
            return;
        };
        self.recycled += u64::from(is_recycled);
        self.torn += u64::from(is_recycled && recovery.torn_tail.is_some());
        self.check(&records);
        log.release(GROUP, LIFE, Slot(self.released));
        let mut waiting: Vec<(FrameNo, u64, u64)> = Vec::new();
        for _ in 0..commits {
            self.append(&mut log, rng);
            let promised = self.promised;
            let states = || vec![state(&promised.to_string())];
            self.commit_ends.insert(self.appended);
            let frame = if rng.random_bool(0.6) {
                match log.commit_inline(states) {
                    Committed::Durable(frame) | Committed::Queued(frame) => frame,
                    Committed::Failed => break,
                }
            } else {
                log.commit(states)
            };
            waiting.push((frame, self.covered, self.promised));
            if rng.random_bool(0.3) {
                log.work();
            }
            if rng.random_bool(0.1) {
                log.mark();
            }
            self.learn(&log, &mut waiting);
            if rng.random_bool(0.2) {
                self.released = self.released.max(self.acknowledged.saturating_sub(rng.random_range(0..10)));
                log.release(GROUP, LIFE, Slot(self.released));
            }
        }
        while log.work() {}
        self.learn(&log, &mut waiting);
    }

    fn append(&mut self, log: &mut Log, rng: &mut SmallRng) {
        for _ in 0..rng.random_range(1..4) {
            if rng.random_bool(0.2) {
                self.promised += 1;
                log.append(state(&self.promised.to_string()).as_record(), false);
                self.covered = self.appended;
            }
            let bytes = if rng.random_bool(0.05) { 9000 } else { rng.random_range(0..900) };
            // No vote is lazy in truth; here it shows that what isn't covered keeps its place, too.
            let lazy = rng.random_bool(0.2);
            log.append(vote(self.appended, bytes).as_record(), lazy);
            self.appended += 1;
            if !lazy {
                self.covered = self.appended;
            }
        }
    }

    fn learn(&mut self, log: &Log, waiting: &mut Vec<(FrameNo, u64, u64)>) {
        let durable = log.durable();
        for (_, covered, promised) in waiting.extract_if(.., |(frame, _, _)| *frame <= durable) {
            self.acknowledged = self.acknowledged.max(covered);
            self.promised_durably = self.promised_durably.max(promised);
        }
    }

    fn check(&mut self, records: &[(FrameNo, RecordBuf)]) {
        let votes = votes(records);
        let slots: Vec<_> = votes.iter().map(|record| record.slot.unwrap().0).collect();
        let first = slots.first().copied().unwrap_or(self.appended.min(self.acknowledged));
        assert!(first <= self.released, "P6: {first} is the first, {} isn't released", self.released);
        let end = slots.last().map_or(first, |last| last + 1);
        assert_eq!(slots, (first..end).collect::<Vec<_>>(), "P6: nothing that follows a gap");
        assert!(end >= self.acknowledged, "P6: {end} recovered, {} acknowledged", self.acknowledged);
        assert!(end == self.acknowledged || self.commit_ends.contains(&end), "a commit is there or not");
        assert!(votes.iter().all(|record| *record == vote(record.slot.unwrap().0, record.bytes.len())));
        let promises = records.iter().filter(|(_, record)| record.slot.is_none());
        let promised = promises
            .map(|(_, record)| {
                String::from_utf8_lossy(&record.bytes["state ".len()..]).parse::<u64>().unwrap()
            })
            .max();
        assert!(promised.unwrap_or(0) >= self.promised_durably, "P1: a promise went with its segment");
        (self.appended, self.covered) = (end, end);
        self.promised = promised.unwrap_or(0);
        self.commit_ends = self.commit_ends.range(..=end).copied().collect();
    }
}

/// Runs lives of a seed, with the power going at the `nth` operation of the first; returns operations so far, and what was
/// seen.
fn lives(seed: u64, nth: Option<u64>, loss: Loss) -> (u64, Owner) {
    let fs = SimFs::new(seed);
    let mut owner = Owner::default();
    let mut rng = SmallRng::seed_from_u64(seed);
    if let Some(nth) = nth {
        fs.power_off_at(nth);
    }
    owner.live(&fs, 40, &mut rng);
    let operations = fs.operations();
    let mut fs = fs.crash(loss);
    for _ in 0..2 {
        owner.live(&fs, 6, &mut rng);
        fs = fs.crash(loss);
    }
    owner.live(&fs, 1, &mut rng);
    (operations, owner)
}

#[test]
fn a_crash_at_every_operation_loses_nothing_that_was_durable() {
    let (mut points, mut recycled, mut torn) = (0, 0, 0);
    for seed in 0..10 {
        let (operations, _) = lives(seed, None, Loss::Random);
        for nth in 1..=operations {
            let (_, owner) = lives(seed, Some(nth), Loss::Random);
            (recycled, torn) = (recycled + owner.recycled, torn + owner.torn);
        }
        points += operations;
    }
    println!("{points} crashes, {recycled} in recycled segments, {torn} torn frames there");
    assert!(points >= 1500 && recycled >= 500 && torn >= 15, "{points}, {recycled}, {torn}");
}

#[test]
fn a_crash_that_loses_all_or_only_the_process_is_survived_too() {
    for loss in [Loss::All, Loss::Nothing] {
        for nth in (1..=lives(9, None, loss).0).step_by(3) {
            lives(9, Some(nth), loss);
        }
    }
}

#[test]
fn many_lives_that_each_end_in_a_crash_lose_nothing() {
    let (mut recycled, mut torn) = (0, 0);
    for seed in 0..40 {
        let mut fs = SimFs::new(seed);
        let mut owner = Owner::default();
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..25 {
            fs.power_off_at(rng.random_range(1..60));
            owner.live(&fs, 15, &mut rng);
            fs = fs.crash(*[Loss::Random, Loss::Random, Loss::Nothing].get(rng.random_range(0..3)).unwrap());
        }
        (recycled, torn) = (recycled + owner.recycled, torn + owner.torn);
    }
    println!("{recycled} crashes in recycled segments, {torn} torn frames there");
    assert!(recycled >= 50 && torn >= 5, "{recycled}, {torn}");
}
