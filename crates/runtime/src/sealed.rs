//! Small files that are replaced as a whole: `magic (8) | version u16 | body | crc32c u32` of all before it, integers
//! little-endian. Whatever instant the power fails at, the old contents or the new are found, and any damage is noticed.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::fs::Fs;

/// Longest sealed file, in bytes.
const BYTES_MAX: u64 = 16 << 20;

/// Where a sealed file lives, and which version of it this code writes and reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub(crate) name: &'static str,
    pub(crate) magic: [u8; 8],
    pub(crate) version: u16,
}

/// Why a sealed file can't be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file isn't what was written.
    #[error("{0} is corrupt")]
    Corrupt(PathBuf),
    /// Written by another version of the code.
    #[error("{path} has version {found}, this code knows {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The one that can be read.
        known: u16,
    },
    /// The operating system says no.
    #[error("{path}: {action}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What was reported.
        error: io::Error,
    },
}

impl Seal {
    /// The body; `None` if there is no file.
    pub(crate) fn read(&self, fs: &dyn Fs, dir: &Path) -> Result<Option<Vec<u8>>, SealError> {
        let path = dir.join(self.name);
        let failed = |action| {
            let path = path.clone();
            move |error| SealError::Io { path, action, error }
        };
        let file = match fs.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening")(error)),
        };
        let length = file.length().map_err(failed("measuring"))?;
        let mut bytes = vec![0; usize::try_from(length.min(BYTES_MAX + 1)).unwrap_or_default()];
        let read = file.read_at(&mut bytes, 0).map_err(failed("reading"))?;
        if read as u64 != length {
            return Err(SealError::Corrupt(path));
        }
        match self.open(&bytes) {
            None => Err(SealError::Corrupt(path)),
            Some((version, body)) if version == self.version => Ok(Some(body.to_vec())),
            Some((found, _)) => Err(SealError::Version { path, found, known: self.version }),
        }
    }

    /// Puts a new body in place of the old. Durable on return.
    pub(crate) fn replace(&self, fs: &dyn Fs, dir: &Path, body: &[u8]) -> Result<(), SealError> {
        let path = dir.join(self.name);
        let new = dir.join(format!("{}.tmp", self.name));
        let failed = |action| {
            let path = path.clone();
            move |error| SealError::Io { path, action, error }
        };
        match fs.remove(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("removing a leftover")(error));
            }
            _ => {}
        }
        let file = fs.create(&new).map_err(failed("creating"))?;
        file.write_at(&self.close(body), 0).map_err(failed("writing"))?;
        file.sync_data().map_err(failed("syncing"))?;
        fs.rename(&new, &path).map_err(failed("renaming"))?;
        fs.sync_dir(dir).map_err(failed("syncing the directory"))
    }

    fn open<'a>(&self, bytes: &'a [u8]) -> Option<(u16, &'a [u8])> {
        let (sealed, crc) = bytes.split_last_chunk()?;
        if crc32c::crc32c(sealed) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (version, body) = sealed.strip_prefix(&self.magic)?.split_first_chunk()?;
        Some((u16::from_le_bytes(*version), body))
    }

    fn close(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = [&self.magic[..], &self.version.to_le_bytes(), body].concat();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim::{Loss, SimFs};

    const SEAL: Seal = Seal { name: "file", magic: *b"sealtest", version: 3 };

    #[test]
    fn every_flipped_bit_and_every_other_length_is_noticed() {
        let whole = SEAL.close(b"some body");
        assert_eq!(SEAL.open(&whole), Some((3, &b"some body"[..])));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SEAL.open(&bytes), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(SEAL.open(&whole[..length]), None, "length {length}");
        }
        assert_eq!(SEAL.open(&[&whole[..], &[0]].concat()), None);
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let (fs, dir) = (SimFs::new(1), Path::new("/data"));
        fs.create_dir(dir).unwrap();
        assert!(SEAL.read(&fs, dir).unwrap().is_none());
        Seal { version: 4, ..SEAL }.replace(&fs, dir, b"").unwrap();
        assert!(matches!(SEAL.read(&fs, dir), Err(SealError::Version { found: 4, known: 3, .. })));
    }

    #[test]
    fn power_lost_at_any_operation_leaves_the_old_or_the_new() {
        let dir = Path::new("/data");
        let (mut old, mut new) = (0, 0);
        for seed in 0..20 {
            for nth in 1..8 {
                let fs = SimFs::new(seed);
                fs.create_dir(dir).unwrap();
                SEAL.replace(&fs, dir, b"old").unwrap();
                fs.power_off_at(nth);
                let done = SEAL.replace(&fs, dir, b"new").is_ok();
                let fs = fs.crash(Loss::Random);
                match SEAL.read(&fs, dir).unwrap().as_deref() {
                    Some(b"old") if !done => old += 1,
                    Some(b"new") => new += 1,
                    other => panic!("{other:?} after operation {nth}, done: {done}"),
                }
                SEAL.replace(&fs, dir, b"next").unwrap();
                assert_eq!(SEAL.read(&fs, dir).unwrap().as_deref(), Some(&b"next"[..]));
            }
        }
        assert!(old > 20 && new > 20, "both came up: {old}, {new}");
    }
}
