//! What the runtime asks of a file system, said once, so that a simulated disk can stand in for the real one.
//!
//! The calls are few and their promises are those of POSIX, no more: bytes written are durable once `sync_data` of
//! their file returned, a name is durable once `sync_dir` of its directory returned, and whatever wasn't synced may be
//! there after a crash, or not, or in parts ([`sim::SimFs`] chooses the worst). Nothing here retries: a failed sync
//! leaves the pages of the kernel in an unknown state, and a second one that succeeds says nothing about them.

use std::cell::RefCell;
use std::fs::{OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

pub mod sim;

/// Grain at which disks are assumed to write atomically, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// Zeros are written in pieces of this size, each synced, so that a log that syncs meanwhile waits for one piece only.
const ZEROS_BYTES: usize = 1 << 20;

/// An open file, for reading and writing at offsets.
pub trait FsFile: Send + Sync {
    /// Reads up to `bytes.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the operating system reports.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes at `offset`, growing the file where needed. Durable only after [`FsFile::sync_data`].
    ///
    /// # Errors
    /// What the operating system reports; part of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Grows the file to `length` bytes with zeros that are really written, so that later writes into them change no
    /// metadata and cost no journal. The zeros are durable on return. Never shrinks.
    ///
    /// # Errors
    /// What the operating system reports; the file may have grown by a part.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Cuts the file to `length` bytes, giving the room back. Never grows.
    ///
    /// # Errors
    /// What the operating system reports.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes all bytes written so far, and the length, durable (`fdatasync`).
    ///
    /// # Errors
    /// What the operating system reports. Must not be retried: the process has to end.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the operating system reports.
    fn length(&self) -> io::Result<u64>;
}

/// Held for as long as it lives; a lock also ends with its process.
pub trait FsLock: Send + Sync {}

/// A file system.
pub trait Fs: Send + Sync {
    /// Creates a directory and its parents where missing, durable in their parents on return.
    ///
    /// # Errors
    /// What the operating system reports.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a file that must not exist. Its name is durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists`, or what the operating system reports.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;

    /// Opens a file that must exist.
    ///
    /// # Errors
    /// `NotFound`, or what the operating system reports.
    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;

    /// Renames a file, replacing the target in one step. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// What the operating system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Fs::sync_dir`].
    ///
    /// # Errors
    /// What the operating system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted.
    ///
    /// # Errors
    /// What the operating system reports.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the operating system reports. Must not be retried.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock that `path` names, creating the file if needed.
    ///
    /// # Errors
    /// `WouldBlock` if it is held, by this process or another.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>>;
}

/// Whether the error says that the disk has no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Whether the error says that the process or the machine has no file handle or memory for the call, so that nothing was
/// done, and it may be tried again. Not asked about writes and syncs.
pub fn is_scarce(error: &io::Error) -> bool {
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| scarce.iter().any(|errno| errno.raw_os_error() == code))
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// A file, and the same past the kernel's cache where the file system has that: what a log writes is read again only at a
/// start, and through the cache each write costs a copy and the kernel's work for pages that it has to keep.
struct RealFile {
    file: std::fs::File,
    direct: Option<std::fs::File>,
    refused: AtomicBool,
}

/// Memory is handed to a disk from multiples of this address on, in pieces of this size.
const DIRECT_ALIGNMENT: usize = 4096;
const DIRECT_BYTES: usize = 256 << 10;

thread_local! {
    static ALIGNED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn write_direct(file: &std::fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    ALIGNED.with_borrow_mut(|buffer| {
        buffer.resize(DIRECT_BYTES + DIRECT_ALIGNMENT, 0);
        let start = buffer.as_ptr().align_offset(DIRECT_ALIGNMENT);
        let aligned = &mut buffer[start..start + DIRECT_BYTES];
        for (at, piece) in (offset..).step_by(DIRECT_BYTES).zip(bytes.chunks(DIRECT_BYTES)) {
            aligned[..piece.len()].copy_from_slice(piece);
            file.write_all_at(&aligned[..piece.len()], at)?;
        }
        Ok(())
    })
}

impl RealFile {
    fn open(options: &OpenOptions, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = options.open(path)?;
        let direct =
            OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
        Ok(Box::new(RealFile { file, direct: direct.ok(), refused: AtomicBool::new(false) }))
    }
}

/// An open file that carries `flock`; closing it gives the lock back.
struct RealLock {
    _held: std::fs::File,
}

impl FsLock for RealLock {}

impl FsFile for RealFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let grain = SECTOR_BYTES as u64;
        let is_whole = offset.is_multiple_of(grain) && (bytes.len() as u64).is_multiple_of(grain);
        if let Some(direct) =
            self.direct.as_ref().filter(|_| is_whole && !self.refused.load(Ordering::Relaxed))
        {
            match write_direct(direct, bytes, offset) {
                // Sectors may be larger here, or the file system has no such thing.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];
        let mut end = self.length()?;
        while end < length {
            let piece = usize::try_from(length - end).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
            self.file.write_all_at(&ZEROS[..piece], end)?;
            self.file.sync_data()?;
            end += piece as u64;
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        if length < self.length()? { self.file.set_len(length) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Fs for RealFs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir(parent)?;
        }
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_dir(parent.unwrap_or(Path::new("."))),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        RealFile::open(OpenOptions::new().read(true).write(true).create_new(true), path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        RealFile::open(OpenOptions::new().read(true).write(true), path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _held: file })),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refuses_to_go_past_the_cache_goes_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join("a")).unwrap();
        // Answers EINVAL to whatever isn't a number, as file systems do to sectors that are too small.
        let refuses = OpenOptions::new().write(true).open("/proc/self/oom_score_adj").unwrap();
        assert_eq!(write_direct(&refuses, &[7; 512], 0).unwrap_err().kind(), ErrorKind::InvalidInput);
        let file = RealFile { file, direct: Some(refuses), refused: AtomicBool::new(false) };
        for (byte, offset) in [(7, 0), (8, 512)] {
            file.write_at(&[byte; 512], offset).unwrap();
        }
        let mut found = [0; 1024];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), 1024);
        assert!(found[..512] == [7; 512] && found[512..] == [8; 512]);
    }
}
