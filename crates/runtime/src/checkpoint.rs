//! Checkpoints: the state of all groups of a node on disk, so that the log below it can go (P6).
//!
//! Each is a fresh directory `checkpoint-<number>`; a directory that the file `CURRENT` doesn't name is incomplete, is
//! never read, and goes at the next start. Order: write all pages, close the store, open and close it until that changes
//! no file any more, sync every file and directory, take their sums, replace `CURRENT` (sums, and for each group
//! generation, `applied_end`, state hash, page count), sync the data directory, remove the old directory. Only then may
//! the log be trimmed. Every file's sum is checked before the store may open it, so damage is an error by name.

mod files;
pub(crate) mod flat;
mod layout;
mod store;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::ids::{Generation, GroupId, Slot};
use paxos::rsm::state_machine::{Page, RestoreError, StateMachine};

pub use self::store::{PageStore, Pages, SledStore, StoreError};
use crate::checkpoint::files::FileSum;
use crate::checkpoint::writer::Writer;
use crate::fs::{self, Fs, RealFs};
use crate::sealed::{Seal, SealError};

/// The file that names the checkpoint.
pub const CURRENT: &str = "CURRENT";
const SEAL: Seal = Seal { name: CURRENT, magic: *b"synod-cp", version: 2 };

/// The state of one group, up to a slot.
#[derive(Clone, Debug)]
pub struct GroupState<S> {
    /// The group.
    pub group: GroupId,
    /// Its generation.
    pub generation: Generation,
    /// All slots below are in the state.
    pub applied_end: Slot,
    /// A clone of the state.
    pub state: S,
}

/// Why a checkpoint can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No room: it was given up, and the last one still stands.
    #[error("checkpoint given up: the disk is full")]
    DiskFull,
    /// `CURRENT` can't be read or replaced, or isn't what was written.
    #[error("checkpoint: {0}")]
    Current(#[from] SealError),
    /// A file that `CURRENT` lists is gone or isn't what was written.
    #[error("checkpoint is corrupt: {0}")]
    Corrupt(PathBuf),
    /// The pages of a group aren't those that were written.
    #[error("checkpoint of group {group} is corrupt: {reason}")]
    Pages {
        /// The group.
        group: GroupId,
        /// What is wrong with them.
        reason: String,
    },
    /// The store failed.
    #[error("checkpoint: {0}")]
    Store(StoreError),
    /// The operating system says no.
    #[error("checkpoint: {path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was reported.
        error: io::Error,
    },
}

impl CheckpointError {
    fn io(path: &Path) -> impl Fn(io::Error) -> CheckpointError {
        move |error| match fs::is_full(&error) {
            true => CheckpointError::DiskFull,
            false => CheckpointError::Io { path: path.to_owned(), error },
        }
    }

    fn pages(group: GroupId, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Pages { group, reason: reason.into() }
    }
}

impl From<StoreError> for CheckpointError {
    fn from(error: StoreError) -> CheckpointError {
        if error.is_full() { CheckpointError::DiskFull } else { CheckpointError::Store(error) }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of the checkpoint; grows.
    pub number: u64,
    /// Pages of all groups.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Bytes of its files on disk.
    pub disk_bytes: u64,
}

/// The body of `CURRENT`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Current {
    number: u64,
    groups: Vec<GroupMeta>,
    files: Vec<FileSum>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct GroupMeta {
    group: GroupId,
    generation: Generation,
    applied_end: Slot,
    state_hash: u128,
    pages: u64,
}

/// Writes a checkpoint of all groups of a node, at most `bytes_per_s` of pages on average, and removes the one before.
/// Takes long: for a thread of its own. The data directory must be locked, and only one may be written at a time.
///
/// # Errors
/// [`CheckpointError`]; what was written is removed again, and the last checkpoint still stands, unless `CURRENT` was
/// replaced already and only the old directory couldn't be removed, which the next start makes up for.
pub fn write<S: StateMachine>(
    data_dir: &Path,
    states: Vec<GroupState<S>>,
    bytes_per_s: u64,
) -> Result<Written, CheckpointError> {
    write_in::<SledStore, S>(data_dir, states, bytes_per_s)
}

/// As [`write()`], with another store.
///
/// # Errors
/// As [`write()`].
pub fn write_in<P: PageStore, S: StateMachine>(
    data_dir: &Path,
    states: Vec<GroupState<S>>,
    bytes_per_s: u64,
) -> Result<Written, CheckpointError> {
    let current = read_current(&RealFs, data_dir)?;
    remove_others(data_dir, current.as_ref())?;
    let number = current.as_ref().map_or(0, |current| current.number) + 1;
    let dir = directory(data_dir, number);
    let written = write_new::<P, S>(data_dir, number, states, bytes_per_s);
    match &written {
        // The best that can be done; the next start tries again.
        Err(_) => drop(std::fs::remove_dir_all(&dir)),
        Ok((current, _)) => remove_others(data_dir, Some(current))?,
    }
    written.map(|(_, written)| written)
}

fn write_new<P: PageStore, S: StateMachine>(
    data_dir: &Path,
    number: u64,
    mut states: Vec<GroupState<S>>,
    bytes_per_s: u64,
) -> Result<(Current, Written), CheckpointError> {
    // The order of the store's keys.
    states.sort_by_key(|state| state.group);
    let mut writer = Writer::<P>::create(&directory(data_dir, number), bytes_per_s)?;
    for state in states {
        writer.write_group(state)?;
    }
    let finished = writer.finish()?;
    let written = Written {
        number,
        pages: finished.groups.iter().map(|meta| meta.pages).sum(),
        page_bytes: finished.page_bytes,
        disk_bytes: finished.files.iter().map(|file| file.length).sum(),
    };
    let current = Current { number, groups: finished.groups, files: finished.files };
    publish(data_dir, &current)?;
    Ok((current, written))
}

/// Makes a directory the checkpoint: what `CURRENT` names from now on.
fn publish(data_dir: &Path, current: &Current) -> Result<(), CheckpointError> {
    // The new directory's own name must be durable before anything points to it.
    files::sync_directory(data_dir)?;
    SEAL.replace(&RealFs, data_dir, &codec::encode(current))?;
    Ok(())
}

/// The states of the checkpoint, and removes directories that aren't part of it. `fresh` makes the empty state of a group
/// in one of its lives, or nothing if this node has no replica of that life: it is left out then.
///
/// # Errors
/// [`CheckpointError`] if there is a checkpoint but not as it was written.
pub fn load<S: StateMachine>(
    data_dir: &Path,
    fresh: impl Fn(GroupId, Generation) -> Option<S>,
) -> Result<Vec<GroupState<S>>, CheckpointError> {
    load_in::<SledStore, S>(data_dir, fresh)
}

/// As [`load`], with another store.
///
/// # Errors
/// As [`load`].
pub fn load_in<P: PageStore, S: StateMachine>(
    data_dir: &Path,
    fresh: impl Fn(GroupId, Generation) -> Option<S>,
) -> Result<Vec<GroupState<S>>, CheckpointError> {
    let current = read_current(&RealFs, data_dir)?;
    remove_others(data_dir, current.as_ref())?;
    let Some(current) = current else { return Ok(Vec::new()) };
    let dir = directory(data_dir, current.number);
    files::verify(&dir, &current.files)?;
    let store = P::open(&dir)?;
    let states = load_groups(&store, &current, fresh);
    store.close()?;
    states
}

fn load_groups<S: StateMachine>(
    pages: &impl Pages,
    current: &Current,
    fresh: impl Fn(GroupId, Generation) -> Option<S>,
) -> Result<Vec<GroupState<S>>, CheckpointError> {
    let wanted = current.groups.iter().filter_map(|meta| Some((meta, fresh(meta.group, meta.generation)?)));
    wanted.map(|(meta, fresh)| load_group(pages, meta, fresh)).collect()
}

fn load_group<P: Pages, S: StateMachine>(
    store: &P,
    meta: &GroupMeta,
    fresh: S,
) -> Result<GroupState<S>, CheckpointError> {
    let mut failed = None;
    let mut count = 0;
    let mut pages = layout::pages(store, meta.group)
        .inspect(|_| count += 1)
        .map_while(|page: Result<Page, CheckpointError>| page.map_err(|error| failed = Some(error)).ok());
    let restored = fresh.restore(&mut pages);
    drop(pages);
    if let Some(error) = failed {
        return Err(error);
    }
    let state = restored.map_err(|RestoreError(reason)| CheckpointError::pages(meta.group, reason))?;
    if count != meta.pages || state.state_hash() != meta.state_hash {
        return Err(CheckpointError::pages(meta.group, "the state isn't the one that was written"));
    }
    let GroupMeta { group, generation, applied_end, .. } = *meta;
    Ok(GroupState { group, generation, applied_end, state })
}

fn read_current(fs: &dyn Fs, data_dir: &Path) -> Result<Option<Current>, CheckpointError> {
    let Some(body) = SEAL.read(fs, data_dir)? else { return Ok(None) };
    let current = codec::decode(&body).map_err(|_| SealError::Corrupt(data_dir.join(CURRENT)))?;
    Ok(Some(current))
}

const PREFIX: &str = "checkpoint-";

fn directory(data_dir: &Path, number: u64) -> PathBuf {
    data_dir.join(format!("{PREFIX}{number}"))
}

/// Removes checkpoint directories other than the current one.
fn remove_others(data_dir: &Path, current: Option<&Current>) -> Result<(), CheckpointError> {
    let keep = current.map(|current| directory(data_dir, current.number));
    for entry in std::fs::read_dir(data_dir).map_err(CheckpointError::io(data_dir))? {
        let path = entry.map_err(CheckpointError::io(data_dir))?.path();
        let is_checkpoint = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if is_checkpoint && Some(&path) != keep.as_ref() {
            std::fs::remove_dir_all(&path).map_err(CheckpointError::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
