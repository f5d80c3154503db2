//! Who a data directory is: node, incarnation, boot number, and the cluster it belongs to once Genesis is known.
//!
//! The directory is locked before anything in it is read: two processes on one directory would vote as one node. The
//! incarnation is drawn when the directory is created, so a wiped node isn't mistaken for the one it was; the boot number
//! is raised and synced at each start, so peers notice an older copy of the directory. Ids of nodes aren't reused.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{Decode, Encode};
use paxos::codec;
use paxos::ids::{Incarnation, NodeId};

use crate::fs::{Fs, FsLock};
use crate::sealed::{Seal, SealError};

const SEAL: Seal = Seal { name: "identity", magic: *b"synod-id", version: 1 };
const LOCK: &str = "lock";

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process, or this one, has it open.
    #[error("data directory {0} is in use")]
    Locked(PathBuf),
    /// It is another node's.
    #[error("data directory belongs to node {found}, not to node {expected}")]
    ForeignNode {
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// It belongs to another cluster.
    #[error("data directory belongs to cluster {found:032x}, not to {expected:032x}")]
    ForeignCluster {
        /// Whose it is.
        found: u128,
        /// Who asked.
        expected: u128,
    },
    /// There is a log or a checkpoint, but the file that says whose is gone.
    #[error("data directory {0} has data but no identity: this node must not vote")]
    Missing(PathBuf),
    /// The file can't be read or written, or isn't what was written.
    #[error("identity: {0}")]
    File(#[from] SealError),
    /// The directory can't be created, locked or listed.
    #[error("data directory {dir}: {error}")]
    Directory {
        /// Which.
        dir: PathBuf,
        /// What was reported.
        error: io::Error,
    },
}

/// A data directory, locked for as long as this lives, or whoever took a share of its lock.
pub struct Identity {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    record: Record,
    lock: Arc<dyn FsLock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct Record {
    cluster: Option<u128>,
    node: NodeId,
    incarnation: Incarnation,
    boot: u64,
}

impl Identity {
    /// Locks the directory, creating it if missing, and counts this start; `fresh` is the incarnation of a directory that is
    /// new.
    ///
    /// # Errors
    /// [`IdentityError`]; a refused start isn't counted.
    pub fn open_on(
        fs: Arc<dyn Fs>,
        dir: &Path,
        node: NodeId,
        fresh: Incarnation,
    ) -> Result<Identity, IdentityError> {
        let failed = |error| IdentityError::Directory { dir: dir.to_owned(), error };
        fs.create_dir(dir).map_err(failed)?;
        let lock = fs.lock(&dir.join(LOCK)).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => IdentityError::Locked(dir.to_owned()),
            _ => failed(error),
        })?;
        let found = match SEAL.read(fs.as_ref(), dir)? {
            None if has_data(fs.as_ref(), dir).map_err(failed)? => {
                return Err(IdentityError::Missing(dir.to_owned()));
            }
            None => None,
            Some(body) => match codec::decode::<Record>(&body) {
                Ok(record) => Some(record),
                Err(_) => return Err(SealError::Corrupt(dir.join(SEAL.name)).into()),
            },
        };
        let mut record = found.unwrap_or(Record { cluster: None, node, incarnation: fresh, boot: 0 });
        if record.node != node {
            return Err(IdentityError::ForeignNode { found: record.node, expected: node });
        }
        // No directory was started so often.
        record.boot = record.boot.checked_add(1).ok_or_else(|| SealError::Corrupt(dir.join(SEAL.name)))?;
        let mut identity = Identity { fs, dir: dir.to_owned(), record, lock: lock.into() };
        identity.replace(record)?;
        Ok(identity)
    }

    /// Says once and for all which cluster the directory belongs to. Durable on return.
    ///
    /// # Errors
    /// [`IdentityError::ForeignCluster`] if it belongs to another; [`IdentityError::File`].
    pub fn set_cluster(&mut self, cluster: u128) -> Result<(), IdentityError> {
        match self.record.cluster {
            None => self.replace(Record { cluster: Some(cluster), ..self.record }),
            Some(found) if found == cluster => Ok(()),
            Some(found) => Err(IdentityError::ForeignCluster { found, expected: cluster }),
        }
    }

    /// The cluster; `None` until its Genesis was seen.
    pub fn cluster(&self) -> Option<u128> {
        self.record.cluster
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.record.node
    }

    /// Drawn when the directory was created.
    pub fn incarnation(&self) -> Incarnation {
        self.record.incarnation
    }

    /// For work that writes into the directory and may outlive the node: until it ends, nobody else may begin there.
    pub(crate) fn lock(&self) -> Arc<dyn FsLock> {
        self.lock.clone()
    }

    /// How often the directory was started, this time included.
    pub fn boot(&self) -> u64 {
        self.record.boot
    }

    fn replace(&mut self, record: Record) -> Result<(), IdentityError> {
        SEAL.replace(self.fs.as_ref(), &self.dir, &codec::encode(&record))?;
        self.record = record;
        Ok(())
    }
}

/// Whether the directory holds what only a started node leaves: a log, or a checkpoint.
fn has_data(fs: &dyn Fs, dir: &Path) -> io::Result<bool> {
    let log_has_files = match fs.list(&dir.join("log")) {
        Ok(names) => !names.is_empty(),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(log_has_files || fs.list(dir)?.iter().any(|name| name == crate::checkpoint::CURRENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;
    use crate::fs::sim::{Loss, SimFs};

    const NODE: NodeId = NodeId(3);

    fn open(dir: &Path, node: NodeId) -> Result<Identity, IdentityError> {
        Identity::open_on(Arc::new(RealFs), dir, node, Incarnation(rand::random()))
    }

    fn refusal(dir: &Path, node: NodeId) -> IdentityError {
        open(dir, node).err().unwrap()
    }

    #[test]
    fn a_directory_keeps_its_identity_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        let mut first = open(&path, NODE).unwrap();
        assert_eq!((first.cluster(), first.boot(), first.node()), (None, 1, NODE));
        first.set_cluster(7).unwrap();
        let incarnation = first.incarnation();
        drop(first);
        let mut second = open(&path, NODE).unwrap();
        assert_eq!((second.cluster(), second.incarnation(), second.boot()), (Some(7), incarnation, 2));
        assert!(second.set_cluster(7).is_ok());
        assert!(matches!(
            second.set_cluster(8),
            Err(IdentityError::ForeignCluster { found: 7, expected: 8 })
        ));
    }

    #[test]
    fn a_new_directory_is_another_incarnation() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = open(one.path(), NODE).unwrap();
        let other = open(other.path(), NODE).unwrap();
        assert_ne!(one.incarnation(), other.incarnation());
    }

    #[test]
    fn a_directory_in_use_and_one_of_another_node_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let held = open(dir.path(), NODE).unwrap();
        assert!(matches!(refusal(dir.path(), NODE), IdentityError::Locked(_)));
        drop(held);
        let foreign = refusal(dir.path(), NodeId(4));
        assert!(matches!(foreign, IdentityError::ForeignNode { found: NODE, expected: NodeId(4) }));
        assert_eq!(open(dir.path(), NODE).unwrap().boot(), 2, "refused starts don't count");
    }

    #[test]
    fn a_directory_stays_locked_until_the_last_work_in_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), NODE).unwrap();
        let work = node.lock();
        drop(node);
        assert!(matches!(refusal(dir.path(), NODE), IdentityError::Locked(_)));
        drop(work);
        assert_eq!(open(dir.path(), NODE).unwrap().boot(), 2);
    }

    #[test]
    fn a_corrupt_identity_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), NODE).unwrap());
        let file = dir.path().join(SEAL.name);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[12] ^= 4;
        std::fs::write(&file, &bytes).unwrap();
        assert!(matches!(refusal(dir.path(), NODE), IdentityError::File(SealError::Corrupt(_))));
    }

    #[test]
    fn data_without_an_identity_is_not_a_first_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        drop(open(dir.path(), NODE).unwrap());
        std::fs::remove_file(dir.path().join(SEAL.name)).unwrap();
        std::fs::write(dir.path().join("log/1"), b"frames").unwrap();
        assert!(matches!(refusal(dir.path(), NODE), IdentityError::Missing(_)));
    }

    #[test]
    fn a_start_that_was_told_of_is_never_forgotten() {
        let dir = Path::new("/data");
        for nth in 1..8 {
            let fs = SimFs::new(nth);
            let open = |fs: &SimFs| Identity::open_on(Arc::new(fs.clone()), dir, NODE, Incarnation(nth));
            drop(open(&fs).unwrap());
            fs.power_off_at(nth);
            let told = open(&fs).map_or(1, |identity| identity.boot());
            let fs = fs.crash(Loss::Random);
            let next = open(&fs).unwrap();
            assert!(next.boot() > told, "boot {} after {told}", next.boot());
            assert_eq!(next.incarnation(), Incarnation(nth));
        }
    }
}
