//! The operations.

use std::time::Duration;

use paxos::ids::{ClientId, Sequence};

use crate::error::{Error, ErrorKind};
use crate::options::{ClientOptions, Consistency, ScanOptions};
use crate::routing::Routing;
use crate::scan::Scan;

/// A value that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Its version: only grows, also over deletes.
    pub version: u64,
}

/// A value that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its length now, in bytes.
    pub length: u64,
    /// Its version now.
    pub version: u64,
}

/// A number that was added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The number now.
    pub value: i64,
    /// Its version now.
    pub version: u64,
}

/// A connection to a cluster: cheap to clone, all clones share streams, session and routing table.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Connects, and learns the routing table from the first endpoint that answers.
    pub async fn connect(_options: ClientOptions) -> Result<Client, Error> {
        missing()
    }
    /// Reads a key.
    pub async fn get(&self, _key: &[u8], _consistency: Consistency) -> Result<Option<Versioned>, Error> {
        missing()
    }
    /// Sets a key.
    pub async fn put(&self, _key: &[u8], _value: &[u8]) -> Result<Written, Error> {
        missing()
    }
    /// Adds to the end of a value.
    pub async fn append(&self, _key: &[u8], _value: &[u8]) -> Result<Written, Error> {
        missing()
    }
    /// Removes a key; whether it was there.
    pub async fn delete(&self, _key: &[u8]) -> Result<bool, Error> {
        missing()
    }
    /// Sets a key if its value is as expected.
    pub async fn cas(&self, _key: &[u8], _expected: Option<&[u8]>, _value: &[u8]) -> Result<Written, Error> {
        missing()
    }
    /// Adds to a number.
    pub async fn incr(&self, _key: &[u8], _by: i64) -> Result<Number, Error> {
        missing()
    }
    /// Scans keys in order.
    pub fn scan(&self, prefix: &[u8], options: ScanOptions) -> Scan {
        Scan::new(self.clone(), prefix, options)
    }
    /// The routing table as this client knows it.
    pub async fn routing(&self) -> Routing {
        Routing::default()
    }
    /// The session: its id and the next sequence.
    pub fn session(&self) -> (ClientId, Sequence) {
        (ClientId(0), Sequence(0))
    }
    /// The cluster's id.
    pub fn cluster(&self) -> u128 {
        0
    }
    /// How long an operation may take, as chosen at connect.
    pub fn timeout(&self) -> Duration {
        Duration::ZERO
    }
    /// Acknowledges and disconnects.
    pub async fn close(self) {}
}

fn missing<T>() -> Result<T, Error> {
    Err(Error::not_executed(ErrorKind::Unavailable, "not written yet"))
}
