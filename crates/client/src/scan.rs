//! Scans: pages of all shards, merged into global key order.

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::options::ScanOptions;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty in a scan of keys only.
    pub value: Vec<u8>,
    /// Version of the value.
    pub version: u64,
}

/// How far a scan has come; enough to go on in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursors {
    /// The last key handed out: all keys up to it were, in every shard.
    pub after: Option<Vec<u8>>,
    /// Nothing is left.
    pub end: bool,
}

/// A scan in progress, see [`Client::scan`].
pub struct Scan {
    _client: Client,
    _options: ScanOptions,
    cursors: Cursors,
}

impl Scan {
    pub(crate) fn new(client: Client, _prefix: &[u8], options: ScanOptions) -> Scan {
        Scan { _client: client, _options: options, cursors: Cursors::default() }
    }

    /// The next pairs in key order, at least one; `None` when all shards are done or the limit is reached.
    ///
    /// # Errors
    /// As a read. The scan stands where it stood, so the call may be repeated.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Pair>>, Error> {
        Err(Error::not_executed(ErrorKind::Unavailable, "not written yet"))
    }

    /// Where to go on after the last page handed out.
    pub fn cursors(&self) -> Cursors {
        self.cursors.clone()
    }
}
