//! A checkpoint as one plain file on any file system: for simulated disks, where there is no sled.
//!
//! Pages stand in it as in the store; `CURRENT` names the file's number, length and sum, as it does for sled's. The order is
//! the same: the file and its name are durable before `CURRENT` is replaced, and only then the file before it goes. A file
//! that `CURRENT` doesn't name is never read.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use paxos::codec;
use paxos::ids::{Generation, GroupId};
use paxos::rsm::state_machine::StateMachine;

use super::files::FileSum;
use super::layout::{self, Record};
use super::store::{Pages, StoreError};
use super::{
    CheckpointError, Current, GroupMeta, GroupState, PREFIX, SEAL, directory, load_groups, read_current,
};
use crate::fs::Fs;

/// Records by key.
pub(super) struct Records(pub(super) BTreeMap<Vec<u8>, Vec<u8>>);

impl Pages for Records {
    fn range<'a>(
        &'a self,
        first: &[u8],
        last: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Record, StoreError>> + 'a> {
        let range = self.0.range(first.to_vec()..=last.to_vec());
        Box::new(range.map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

/// As [`super::write()`].
pub(crate) fn write<S: StateMachine>(
    fs: &dyn Fs,
    data_dir: &Path,
    states: Vec<GroupState<S>>,
) -> Result<(), CheckpointError> {
    let current = read_current(fs, data_dir)?;
    remove_others(fs, data_dir, current.as_ref())?;
    let number = current.as_ref().map_or(0, |current| current.number) + 1;
    let (mut groups, mut records) = (Vec::new(), Vec::new());
    for GroupState { group, generation, applied_end, state } in states {
        let mut pages = 0;
        for page in state.pages() {
            records.extend(layout::records(group, pages, &page));
            pages += 1;
        }
        groups.push(GroupMeta { group, generation, applied_end, state_hash: state.state_hash(), pages });
    }
    let bytes = codec::encode(&records);
    let path = directory(data_dir, number);
    put(fs, data_dir, &path, &bytes).map_err(CheckpointError::io(&path))?;
    let file = FileSum { path: String::new(), length: bytes.len() as u64, crc: crc32c::crc32c(&bytes) };
    let current = Current { number, groups, files: vec![file] };
    SEAL.replace(fs, data_dir, &codec::encode(&current))?;
    remove_others(fs, data_dir, Some(&current))
}

fn put(fs: &dyn Fs, data_dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = fs.create(path)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    fs.sync_dir(data_dir)
}

/// As [`super::load`].
pub(crate) fn load<S: StateMachine>(
    fs: &dyn Fs,
    data_dir: &Path,
    fresh: impl Fn(GroupId, Generation) -> Option<S>,
) -> Result<Vec<GroupState<S>>, CheckpointError> {
    let current = read_current(fs, data_dir)?;
    remove_others(fs, data_dir, current.as_ref())?;
    let Some(current) = current else { return Ok(Vec::new()) };
    let path = directory(data_dir, current.number);
    let records = read(fs, &path, &current)?;
    load_groups(&records, &current, fresh)
}

fn read(fs: &dyn Fs, path: &Path, current: &Current) -> Result<Records, CheckpointError> {
    let corrupt = || CheckpointError::Corrupt(path.to_owned());
    let file = fs.open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => corrupt(),
        _ => CheckpointError::io(path)(error),
    })?;
    let length = file.length().map_err(CheckpointError::io(path))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_at(&mut bytes, 0).map_err(CheckpointError::io(path))?;
    let sum = FileSum { path: String::new(), length, crc: crc32c::crc32c(&bytes) };
    if current.files != [sum] {
        return Err(corrupt());
    }
    let records: Vec<Record> = codec::decode(&bytes).map_err(|_| corrupt())?;
    Ok(Records(records.into_iter().collect()))
}

/// Removes the files of other checkpoints than the current one.
fn remove_others(fs: &dyn Fs, data_dir: &Path, current: Option<&Current>) -> Result<(), CheckpointError> {
    let keep: Option<PathBuf> = current.map(|current| directory(data_dir, current.number));
    for name in fs.list(data_dir).map_err(CheckpointError::io(data_dir))? {
        let path = data_dir.join(&name);
        if name.starts_with(PREFIX) && Some(&path) != keep.as_ref() {
            fs.remove(&path).map_err(CheckpointError::io(&path))?;
        }
    }
    Ok(())
}
