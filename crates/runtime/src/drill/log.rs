//! The log of two groups over lives that end in crashes, on the simulated disk; in the end a bit of it flips (P6).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paxos::ids::{Generation, GroupId, Slot};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::fs::sim::{Loss, SimFs};
use crate::log::error::LogError;
use crate::log::options::{Hooks, LogOptions};
use crate::log::record::{Record, RecordBuf};
use crate::log::{Committed, Log};

const LIFE: Generation = Generation(1);
const LIVES: u64 = 4;

/// What is known of the log of one group. Its slots count up from 0.
#[derive(Default)]
struct Known {
    /// Slots appended.
    appended: u64,
    /// Of them, reported durable.
    durable: u64,
    /// Slots below may be gone.
    released: u64,
    /// Slots recovered.
    found: Vec<u64>,
}

struct Drill {
    rng: SmallRng,
    dir: PathBuf,
    groups: BTreeMap<GroupId, Known>,
}

/// Several lives on one disk.
///
/// # Errors
/// The first property that doesn't hold.
pub fn log(seed: u64) -> Result<(), String> {
    let mut drill = Drill {
        rng: SmallRng::seed_from_u64(seed),
        dir: PathBuf::from("/data/log"),
        groups: [GroupId(3), GroupId(9)].into_iter().map(|group| (group, Known::default())).collect(),
    };
    let mut fs = SimFs::new(seed);
    for life in 0..LIVES {
        let log =
            drill.open(&fs).map_err(|error| format!("P6: a crash keeps the log from opening: {error}"))?;
        drill.check()?;
        if life > 0 && drill.rng.random_bool(0.8) {
            fs.power_off_at(drill.rng.random_range(1..120));
        }
        drill.live(log);
        fs = fs.crash(Loss::Random);
    }
    let damaged = drill.damage(&fs);
    match drill.open(&fs) {
        // To refuse is right, and so is to have all that was durable: not every byte counts.
        Ok(_log) => drill.check().map_err(|broken| format!("{broken}, after a bit of {damaged} flipped")),
        Err(_refused) => Ok(()),
    }
}

impl Drill {
    fn open(&mut self, fs: &SimFs) -> Result<Log, LogError> {
        let options =
            LogOptions { segment_bytes: 8192, threads: false, salt_seed: Some(7), ..LogOptions::new(1) };
        // The power may go: what failed isn't reported durable, which is all that counts here.
        let hooks = Hooks { waker: Box::new(|| {}), on_fatal: Box::new(|_| {}) };
        self.groups.values_mut().for_each(|known| known.found.clear());
        let mut on_record = |record: Record<'_>| {
            let (Some(known), Some(slot)) = (self.groups.get_mut(&record.group), record.slot) else { return };
            if record.bytes == bytes(record.group, slot.0) {
                known.found.push(slot.0);
            }
        };
        let fs = Arc::new(fs.clone());
        let (mut log, _) = Log::open(fs, &self.dir, options, hooks, &mut |_, record| on_record(record))?;
        for (group, known) in &self.groups {
            log.release(*group, LIFE, Slot(known.released));
        }
        Ok(log)
    }

    /// Everything that was durable and isn't released is there, once, in order.
    fn check(&mut self) -> Result<(), String> {
        for (group, known) in &mut self.groups {
            let end = known.found.last().map_or(known.durable, |last| last + 1);
            let first = known.found.first().copied().unwrap_or(known.durable);
            let (released, durable) = (known.released, known.durable);
            if first > released || end < durable || !known.found.iter().copied().eq(first..end) {
                let found = known.found.len();
                return Err(format!(
                    "P6: of {group}, s{released}..s{durable} was durable; s{first}..s{end}, {found} in all, is there"
                ));
            }
            (known.appended, known.durable) = (end, end);
        }
        Ok(())
    }

    fn live(&mut self, mut log: Log) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for _ in 0..80 {
            let group = ids[self.rng.random_range(0..ids.len())];
            let Some(known) = self.groups.get_mut(&group) else { return };
            match self.rng.random_range(0..8) {
                0 => drop(log.mark()),
                1 => {
                    known.released =
                        known.released.max(known.durable.saturating_sub(self.rng.random_range(0..5)));
                    log.release(group, LIFE, Slot(known.released));
                }
                _ => {
                    let slot = known.appended;
                    let bytes = bytes(group, slot);
                    log.append(
                        Record { group, generation: LIFE, slot: Some(Slot(slot)), bytes: &bytes },
                        false,
                    );
                    known.appended += 1;
                    let states =
                        || vec![RecordBuf { group, generation: LIFE, slot: None, bytes: Vec::new() }];
                    if !matches!(log.commit_inline(states), Committed::Durable(_)) {
                        return;
                    }
                    known.durable = known.appended;
                }
            }
        }
    }

    /// Flips a bit where something was written. Where.
    fn damage(&mut self, fs: &SimFs) -> String {
        let written = |path: &Path| fs.contents(path).iter().rposition(|byte| *byte != 0);
        let files: Vec<(PathBuf, usize)> = fs
            .paths()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .filter_map(|path| Some((path.clone(), written(&path)?)))
            .collect();
        let Some((path, last)) = files.get(self.rng.random_range(0..files.len().max(1))) else {
            return String::new();
        };
        let at = self.rng.random_range(0..=*last);
        fs.flip_bit(path, at, self.rng.random_range(0..8));
        format!("{}, byte {at},", path.display())
    }
}

/// What a record says: nothing else is taken for it.
fn bytes(group: GroupId, slot: u64) -> Vec<u8> {
    let length = 100 + (slot * 137 % 2900) as usize;
    (0..length).map(|at| (u64::from(group.0) * 101 + slot * 31 + at as u64) as u8).collect()
}
