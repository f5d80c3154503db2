//! What `status` tells of the shards that a group serves.

use crate::command::ShardId;
use crate::store::Store;

/// What `status` tells of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Keys in it.
    pub keys: u64,
    /// Writes to it so far.
    pub revision: u64,
    /// Clients it remembers.
    pub sessions: u64,
    /// Memory, about, in bytes.
    pub bytes: u64,
    /// Incremental hash of all it holds: data, sessions, revision.
    pub digest: u128,
}

impl Store {
    /// Keys in all shards.
    pub fn keys(&self) -> u64 {
        self.served().map(|shard| shard.data().pairs.len() as u64).sum()
    }

    /// Session rows in all shards: one for each client and shard.
    pub fn sessions(&self) -> u64 {
        self.served().map(|shard| shard.sessions().rows.len() as u64).sum()
    }

    /// Keys, revision and session rows of a shard; `None` if it isn't served here.
    pub fn shard_status(&self, shard: ShardId) -> Option<ShardStatus> {
        let shard = self.shard(shard).ok()?;
        Some(ShardStatus {
            keys: shard.data().pairs.len() as u64,
            revision: shard.data().revision,
            sessions: shard.sessions().rows.len() as u64,
            bytes: shard.tally().bytes,
            digest: shard.tally().hash,
        })
    }
}
