//! The files of a checkpoint as plain bytes: their sums, and their way to the disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bincode::{Decode, Encode};

use crate::checkpoint::CheckpointError;

/// A file is read in pieces of this size, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// What a file held when it was synced.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct FileSum {
    /// Path below the checkpoint's directory.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) length: u64,
    /// crc32c of its bytes.
    pub(crate) crc: u32,
}

/// The sums of all files below a directory, by path.
pub(crate) fn sums(dir: &Path) -> Result<Vec<FileSum>, CheckpointError> {
    let mut sums = Vec::new();
    walk(dir, &mut |path| {
        if !path.is_dir() {
            let (length, crc) = sum(path)?;
            let path = path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned();
            sums.push(FileSum { path, length, crc });
        }
        Ok(())
    })?;
    sums.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(sums)
}

/// Compares the files below a directory with what they were.
pub(crate) fn verify(dir: &Path, expected: &[FileSum]) -> Result<(), CheckpointError> {
    if !dir.is_dir() {
        return Err(CheckpointError::Corrupt(dir.to_owned()));
    }
    let found = sums(dir)?;
    let differs =
        |a: &[FileSum], b: &[FileSum]| a.iter().find(|file| !b.contains(file)).map(|f| f.path.clone());
    match differs(expected, &found).or_else(|| differs(&found, expected)) {
        Some(path) => Err(CheckpointError::Corrupt(dir.join(path))),
        None => Ok(()),
    }
}

/// Syncs every file below a directory, and every directory.
pub(crate) fn sync_all(dir: &Path) -> Result<(), CheckpointError> {
    walk(dir, &mut |path| {
        File::open(path).and_then(|file| file.sync_all()).map_err(CheckpointError::io(path))
    })?;
    sync_directory(dir)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(CheckpointError::io(dir))
}

/// Visits what is below a directory, the contents of a directory before itself.
fn walk(
    dir: &Path,
    visit: &mut dyn FnMut(&Path) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    for entry in std::fs::read_dir(dir).map_err(CheckpointError::io(dir))? {
        let path = entry.map_err(CheckpointError::io(dir))?.path();
        if path.is_dir() {
            walk(&path, visit)?;
        }
        visit(&path)?;
    }
    Ok(())
}

fn sum(path: &Path) -> Result<(u64, u32), CheckpointError> {
    let mut file = File::open(path).map_err(CheckpointError::io(path))?;
    let mut piece = vec![0; PIECE_BYTES];
    let (mut length, mut crc) = (0, 0);
    loop {
        match file.read(&mut piece).map_err(CheckpointError::io(path))? {
            0 => return Ok((length, crc)),
            read => {
                length += read as u64;
                crc = crc32c::crc32c_append(crc, &piece[..read]);
            }
        }
    }
}
