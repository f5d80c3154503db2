//! What is on the simulated disk, what isn't yet, and what a crash makes of it.
//!
//! Every file has two contents, as written and as synced, and the set of sectors that differ; names have the same. A
//! crash keeps of each pending change all or nothing, independently of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;

use super::Loss;
use crate::fs::SECTOR_BYTES;

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) rng: SmallRng,
    pub(super) files: BTreeMap<u64, FileData>,
    pub(super) next_file: u64,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their directory, each applied wholly or not at all.
    pub(super) pending_names: Vec<Vec<(PathBuf, Option<u64>)>>,
    pub(super) locks: BTreeSet<PathBuf>,
    /// Handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) operations: u64,
    pub(super) syncs: u64,
    pub(super) power_off_at: Option<u64>,
    pub(super) off: bool,
    pub(super) sync_fails_at: Option<u64>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) handles_refused: u64,
    pub(super) syncs_held: bool,
    pub(super) syncs_blocked: usize,
}

#[derive(Clone, Default)]
pub(super) struct FileData {
    pub(super) bytes: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Sectors that may differ from `durable`.
    pub(super) dirty: BTreeSet<usize>,
    /// Sectors that may differ, and that no sync covers any more, since one failed: only writing them again helps.
    pub(super) forgotten: BTreeSet<usize>,
    /// Whether the file was cut since the last sync.
    pub(super) cut: bool,
}

pub(super) fn power_off() -> io::Error {
    io::Error::other("the power is off")
}

impl Disk {
    /// Nothing on it.
    pub(super) fn new(seed: u64) -> Disk {
        Disk {
            rng: SmallRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            locks: BTreeSet::new(),
            life: 0,
            operations: 0,
            syncs: 0,
            power_off_at: None,
            off: false,
            sync_fails_at: None,
            capacity_bytes: None,
            handles_refused: 0,
            syncs_held: false,
            syncs_blocked: 0,
        }
    }

    /// Begins another life on a copy.
    pub(super) fn fork(&mut self, seed: u64) {
        self.rng = SmallRng::seed_from_u64(seed);
        self.life += 1;
        self.locks.clear();
        self.syncs_held = false;
        self.syncs_blocked = 0;
    }

    /// Counts an operation of a handle of `life`; true if the power goes in the middle of it.
    pub(super) fn begin(&mut self, life: u64) -> io::Result<bool> {
        if self.off || life != self.life {
            return Err(power_off());
        }
        self.operations += 1;
        self.off = self.power_off_at == Some(self.operations);
        Ok(self.off)
    }

    /// Stands at the beginning of every call that needs a file handle.
    pub(super) fn take_handle(&mut self) -> io::Result<()> {
        if self.handles_refused == 0 {
            return Ok(());
        }
        self.handles_refused -= 1;
        Err(Errno::MFILE.into())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names.values().map(|id| self.files[id].bytes.len() as u64).sum()
    }

    /// Refuses growth beyond the capacity.
    pub(super) fn grow(&mut self, file: u64, length: usize) -> io::Result<()> {
        let growth = length.saturating_sub(self.files[&file].bytes.len());
        let has_room = self.capacity_bytes.is_none_or(|bytes| self.used_bytes() + growth as u64 <= bytes);
        if growth > 0 && !has_room {
            return Err(ErrorKind::StorageFull.into());
        }
        let file = self.files.entry(file).or_default();
        let old = file.bytes.len();
        if length > old {
            file.bytes.resize(length, 0);
            file.touch(old, length);
        }
        Ok(())
    }

    pub(super) fn add_file(&mut self, bytes: Vec<u8>) -> u64 {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, FileData { durable: bytes.clone(), bytes, ..FileData::default() });
        id
    }

    pub(super) fn set_name(&mut self, path: &Path, id: Option<u64>) {
        self.set_names(vec![(path.to_owned(), id)]);
    }

    pub(super) fn set_names(&mut self, changes: Vec<(PathBuf, Option<u64>)>) {
        for change in &changes {
            apply_name(&mut self.names, change);
        }
        self.pending_names.push(changes);
    }

    pub(super) fn sync_names(&mut self, dir: &Path) {
        let (synced, pending) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition(|changes: &Vec<_>| changes.iter().any(|(path, _)| path.parent() == Some(dir)));
        self.pending_names = pending;
        for changes in synced {
            for change in &changes {
                apply_name(&mut self.durable_names, change);
            }
        }
        self.forget_lost_files();
    }

    pub(super) fn forget_lost_files(&mut self) {
        let pending = self.pending_names.iter().flatten().filter_map(|(_, id)| *id);
        let live: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().chain(pending).collect();
        self.files.retain(|id, _| live.contains(id));
    }

    pub(super) fn crash(&mut self, loss: Loss) {
        if loss != Loss::Nothing {
            self.lose(loss);
        }
        self.locks.clear();
        self.life += 1;
        self.off = false;
        self.power_off_at = None;
        self.sync_fails_at = None;
        self.handles_refused = 0;
        self.syncs_held = false;
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        let Disk { rng, files, durable_names, pending_names, .. } = self;
        let survival = match loss {
            Loss::Nothing => 1.0,
            Loss::All => 0.0,
            // Extremes are likely: all but one sector, or one alone, is what breaks recoveries.
            Loss::Random => *[0.02, 0.1, 0.5, 0.9, 0.98].get(rng.random_range(0..5)).unwrap_or(&0.5),
        };
        for changes in pending_names.drain(..) {
            if rng.random_bool(survival) {
                for change in &changes {
                    apply_name(durable_names, change);
                }
            }
        }
        for file in files.values_mut() {
            file.crash(rng, survival);
        }
        self.names = self.durable_names.clone();
        self.forget_lost_files();
    }
}

fn apply_name(names: &mut BTreeMap<PathBuf, u64>, (path, id): &(PathBuf, Option<u64>)) {
    match id {
        Some(id) => names.insert(path.clone(), *id),
        None => names.remove(path),
    };
}

impl FileData {
    pub(super) fn touch(&mut self, start: usize, end: usize) {
        if start < end {
            self.dirty.extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    /// A sync that failed: the kernel takes what it was to cover for written.
    pub(super) fn fail_sync(&mut self) {
        self.forgotten.append(&mut self.dirty);
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.forgotten.remove(&sector);
            let start = (sector * SECTOR_BYTES).min(self.bytes.len());
            let end = (start + SECTOR_BYTES).min(self.bytes.len());
            self.durable[start..end].copy_from_slice(&self.bytes[start..end]);
        }
        self.cut = false;
    }

    pub(super) fn crash(&mut self, rng: &mut SmallRng, survival: f64) {
        let mut kept = std::mem::take(&mut self.durable);
        let resized = self.bytes.len() != kept.len() || self.cut;
        if resized && rng.random_bool(survival) {
            kept.resize(self.bytes.len(), 0);
        }
        self.dirty.append(&mut self.forgotten);
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(kept.len()).min(self.bytes.len());
            if start < end && rng.random_bool(survival) {
                kept[start..end].copy_from_slice(&self.bytes[start..end]);
            }
        }
        self.bytes.clone_from(&kept);
        self.durable = kept;
        self.cut = false;
    }
}
