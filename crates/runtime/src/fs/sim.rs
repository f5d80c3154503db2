//! A disk in memory that keeps its promises and not one more, for tests and the simulator.
//!
//! What was synced survives [`SimFs::crash`]. What wasn't is decided by a seeded generator, sector by sector and name
//! by name, in any order: there, or not. So torn writes, reordered sectors, lost renames and files of the wrong length
//! all come up. Faults are set ahead of time: the nth sync fails, the power goes at the nth operation, the disk fills,
//! a bit flips, syncs stall. The same seed and calls give the same disk. Clones share one disk; [`SimFs::fork`] copies it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

mod disk;

use self::disk::{Disk, FileData, power_off};
use super::{Fs, FsFile, FsLock};

/// The simulated disk, as seen by one life of a machine: after [`SimFs::crash`] it only fails, and the next life goes on
/// with what that returned.
#[derive(Clone)]
pub struct SimFs {
    shared: Arc<Shared>,
    life: u64,
}

struct Shared {
    disk: Mutex<Disk>,
    syncs_released: Condvar,
}

/// What a crash does to un-synced data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Each un-synced sector and name survives or not, by the seed: sometimes nearly all, sometimes nearly none.
    Random,
    /// Nothing un-synced survives.
    All,
    /// Nothing is lost yet, as when only the process dies; un-synced data stays un-synced.
    Nothing,
}

struct SimFile {
    shared: Arc<Shared>,
    file: u64,
    life: u64,
}

struct SimLock {
    shared: Arc<Shared>,
    path: PathBuf,
    life: u64,
}

impl SimFs {
    /// An empty disk. Equal seeds and calls give equal disks.
    pub fn new(seed: u64) -> SimFs {
        SimFs::from_disk(Disk::new(seed))
    }

    fn from_disk(disk: Disk) -> SimFs {
        let life = disk.life;
        SimFs { shared: Arc::new(Shared { disk: Mutex::new(disk), syncs_released: Condvar::new() }), life }
    }

    /// A copy of the disk as it stands, un-synced parts included, that goes its own way under another seed.
    /// Handles and locks stay with the original.
    #[must_use]
    pub fn fork(&self, seed: u64) -> SimFs {
        let mut disk = self.shared.disk.lock().clone();
        disk.fork(seed);
        SimFs::from_disk(disk)
    }

    /// Power fails and comes back: un-synced data is lost as `loss` says, locks are free, this value and the files
    /// opened through it are dead. Faults that were set are cleared, but not the capacity.
    #[must_use]
    pub fn crash(&self, loss: Loss) -> SimFs {
        let mut disk = self.shared.disk.lock();
        disk.crash(loss);
        self.shared.syncs_released.notify_all();
        SimFs { shared: Arc::clone(&self.shared), life: disk.life }
    }

    /// The power goes at the nth operation from now on that changes anything (1 is the next one): it and all later
    /// ones fail, and the data of a write may or may not have reached the disk, until [`SimFs::crash`].
    pub fn power_off_at(&self, nth: u64) {
        let mut disk = self.shared.disk.lock();
        disk.power_off_at = Some(disk.operations + nth);
    }

    /// Whether the power went.
    pub fn is_off(&self) -> bool {
        self.shared.disk.lock().off
    }

    /// Operations so far that change anything: writes, syncs, and changes of names.
    pub fn operations(&self) -> u64 {
        self.shared.disk.lock().operations
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.shared.disk.lock().syncs
    }

    /// The nth sync of a file from now on (1 is the next one) fails with EIO, once. What it covered can be read until a
    /// crash, which loses it or not, and no later sync covers it: so do kernels that take it for written then.
    pub fn fail_sync(&self, nth: u64) {
        let mut disk = self.shared.disk.lock();
        disk.sync_fails_at = Some(disk.syncs + nth);
    }

    /// The sync that was to fail doesn't.
    pub fn spare_sync(&self) {
        self.shared.disk.lock().sync_fails_at = None;
    }

    /// Bounds the bytes of all files; `None` lifts the bound. What is above it already stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.disk.lock().capacity_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.shared.disk.lock().used_bytes()
    }

    /// The next `count` calls that need a file handle (open, create, sync of a directory) fail with EMFILE.
    pub fn refuse_handles(&self, count: u64) {
        self.shared.disk.lock().handles_refused = count;
    }

    /// While held, syncs of files block. Ends at [`SimFs::crash`], too.
    pub fn hold_syncs(&self, held: bool) {
        self.shared.disk.lock().syncs_held = held;
        self.shared.syncs_released.notify_all();
    }

    /// Syncs that block now, see [`SimFs::hold_syncs`].
    pub fn syncs_blocked(&self) -> usize {
        self.shared.disk.lock().syncs_blocked
    }

    /// Flips bit `bit` of the byte at `offset`, durably.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, offset: usize, bit: u32) {
        self.edit(path, |bytes| bytes[offset] ^= 1 << bit);
    }

    /// What the file holds now.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn contents(&self, path: &Path) -> Vec<u8> {
        let disk = self.shared.disk.lock();
        disk.files[&disk.names[path]].bytes.clone()
    }

    /// Changes a file behind the back of its users, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.shared.disk.lock();
        let id = disk.names[path];
        let file = disk.files.entry(id).or_default();
        edit(&mut file.bytes);
        file.touch(0, file.bytes.len());
        file.sync();
    }

    /// Removes a file durably, or puts one there, behind the back of its users.
    pub fn put(&self, path: &Path, contents: Option<Vec<u8>>) {
        let mut disk = self.shared.disk.lock();
        let id = contents.map(|bytes| disk.add_file(bytes));
        disk.set_name(path, id);
        disk.sync_names(path.parent().unwrap_or(Path::new("")));
    }

    /// All files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.shared.disk.lock().names.keys().cloned().collect()
    }

    /// Runs an operation that changes something, unless the power is or goes off.
    fn change<T>(&self, change: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.shared.disk.lock();
        let goes_off = disk.begin(self.life)?;
        let done = change(&mut disk)?;
        if goes_off { Err(power_off()) } else { Ok(done) }
    }

    /// The disk, for an operation that changes nothing.
    fn look(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.shared.disk.lock();
        if disk.off || disk.life != self.life { Err(power_off()) } else { Ok(disk) }
    }

    fn handle(&self, file: u64) -> Box<dyn FsFile> {
        Box::new(SimFile { shared: Arc::clone(&self.shared), file, life: self.life })
    }
}

impl SimFile {
    fn change(&self, change: impl FnOnce(&mut Disk) -> io::Result<()>) -> io::Result<()> {
        let mut disk = self.shared.disk.lock();
        let goes_off = disk.begin(self.life)?;
        change(&mut disk)?;
        if goes_off { Err(power_off()) } else { Ok(()) }
    }

    fn read<T>(&self, read: impl FnOnce(&FileData) -> T) -> io::Result<T> {
        let disk = self.shared.disk.lock();
        if disk.off || disk.life != self.life {
            return Err(power_off());
        }
        Ok(read(&disk.files[&self.file]))
    }
}

impl FsFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(|file| {
            let start = usize::try_from(offset).map_or(file.bytes.len(), |at| at.min(file.bytes.len()));
            let read = bytes.len().min(file.bytes.len() - start);
            bytes[..read].copy_from_slice(&file.bytes[start..start + read]);
            read
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|disk| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start + bytes.len();
            disk.grow(self.file, end)?;
            let file = disk.files.entry(self.file).or_default();
            file.bytes[start..end].copy_from_slice(bytes);
            file.touch(start, end);
            Ok(())
        })
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.change(|disk| disk.grow(self.file, length))?;
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.change(|disk| {
            let file = disk.files.entry(self.file).or_default();
            file.cut |= length < file.bytes.len();
            file.bytes.truncate(length);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.shared.disk.lock();
        disk.syncs_blocked += 1;
        while disk.syncs_held && disk.life == self.life {
            self.shared.syncs_released.wait(&mut disk);
        }
        disk.syncs_blocked -= 1;
        if disk.begin(self.life)? {
            return Err(power_off());
        }
        disk.syncs += 1;
        if disk.sync_fails_at == Some(disk.syncs) {
            disk.files.entry(self.file).or_default().fail_sync();
            return Err(io::Error::other("injected EIO"));
        }
        disk.files.entry(self.file).or_default().sync();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.read(|file| file.bytes.len() as u64)
    }
}

impl FsLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.shared.disk.lock();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

impl Fs for SimFs {
    /// Directories exist as soon as they are named.
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.change(|disk| {
            disk.take_handle()?;
            if disk.names.contains_key(path) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            let id = disk.add_file(Vec::new());
            disk.set_name(path, Some(id));
            Ok(id)
        })?;
        Ok(self.handle(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let mut disk = self.look()?;
        disk.take_handle()?;
        match disk.names.get(path) {
            Some(id) => Ok(self.handle(*id)),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|disk| {
            let id = disk.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
            disk.set_names(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            if !disk.names.contains_key(path) {
                return Err(ErrorKind::NotFound.into());
            }
            disk.set_name(path, None);
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.look()?;
        let here = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.shared.disk.lock();
        if disk.begin(self.life)? {
            return Err(power_off());
        }
        disk.take_handle()?;
        disk.sync_names(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FsLock>> {
        if !self.look()?.locks.insert(path.to_owned()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { shared: Arc::clone(&self.shared), path: path.to_owned(), life: self.life }))
    }
}
