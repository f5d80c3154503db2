//! The operations. Each is one call of the engine; what they share is in [`crate::call`].

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use kvserver::command::{KEY_BYTES_MAX, Op, Reply, ShardId, VALUE_BYTES_MAX, shard_of};
use kvserver::query::{Answer, Query};
use paxos::ids::{ClientId, Sequence};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::call;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::options::{ClientOptions, Consistency, ScanOptions};
use crate::outcome::{LinkId, Outcome};
use crate::routing::Routing;
use crate::scan::Scan;
use crate::session::Session;
use crate::shardmaster::Shardmaster;
use crate::shared::Shared;

/// An endpoint that says nothing for so long isn't the only one asked any more.
const NEXT_ENDPOINT: Duration = Duration::from_millis(150);

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
///
/// Belongs to the tokio runtime that it was connected on. Each operation retries until [`ClientOptions::timeout`]; a
/// write takes effect at most once, however often it is retried. Dropping the future of a write gives it up: it may still
/// take effect until the session's next write to the same shard.
#[derive(Clone)]
pub struct Client {
    owned: Arc<Owned>,
}

/// Ends the tasks with the last clone.
struct Owned {
    shared: Arc<Shared>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Client {
    /// Connects, and learns the routing table from the first endpoint that answers.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), client::Error> {
    /// use client::{Client, ClientOptions};
    /// let endpoints = vec!["127.0.0.1:7001".to_string(), "127.0.0.1:7002".to_string()];
    /// let client = Client::connect(ClientOptions { endpoints, ..ClientOptions::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no endpoint knows a routing table within the timeout, [`ErrorKind::Invalid`] if none
    /// is given or a certificate can't be used, [`ErrorKind::NotAuthenticated`] if no node lets this client in.
    pub async fn connect(options: ClientOptions) -> Result<Client, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::not_executed(ErrorKind::Invalid, "no endpoint is given"));
        }
        options.access.check()?;
        let mut luck: StdRng = options.seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        let (id, next) = options.session.unwrap_or_else(|| (ClientId(luck.random()), Sequence(1)));
        let (timeout, endpoints) = (options.timeout, options.endpoints.clone());
        let engine = Engine::new(options, Session::new(id, next), luck.random(), Instant::now());
        let shared = Shared::new(engine);
        shared.start();
        let client = Client { owned: Arc::new(Owned { shared }) };
        match tokio::time::timeout(timeout, client.ready(endpoints.len())).await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(why)) => Err(Error::not_executed(ErrorKind::NotAuthenticated, why)),
            Err(_) => {
                let message = format!("no node answered at {}", endpoints.join(", "));
                Err(Error::not_executed(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Asks the endpoints one after another, again and again, until there is a routing table.
    async fn ready(&self, endpoints: usize) -> Result<(), String> {
        let shared = self.shared();
        for link in (0..endpoints).map(LinkId).cycle() {
            if shared.with(|engine| engine.router().is_ready()) {
                return Ok(());
            }
            if let Some(why) = shared.with(|engine| engine.locked_out()) {
                return Err(why);
            }
            shared.with(|engine| engine.want(link));
            let change = poll_fn(|context| shared.with(|engine| engine.poll_ready(context)));
            let _changed = tokio::time::timeout(NEXT_ENDPOINT, change).await;
        }
        Ok(())
    }

    /// Reads a key; `None` if it is absent.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// use client::Consistency;
    /// if let Some(found) = client.get(b"greeting", Consistency::Linearizable).await? {
    ///     println!("{} (version {})", String::from_utf8_lossy(&found.value), found.version);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An [`Error`] whose outcome is always [`Outcome::NotExecuted`]: a read has no effect.
    pub async fn get(&self, key: &[u8], consistency: Consistency) -> Result<Option<Versioned>, Error> {
        let shard = self.shard(key, &[])?;
        let query = Query::Get { shard, key: key.to_vec() };
        match call::read(self.shared(), shard, &query, consistency).await? {
            Answer::Value(found) => Ok(found.map(|(value, version)| Versioned { value, version })),
            Answer::Page(_)
            | Answer::WrongGroup { .. }
            | Answer::Awaiting { .. }
            | Answer::Pulled(_)
            | Answer::Duties(_)
            | Answer::Copies(_)
            | Answer::TxnDuties(_)
            | Answer::Txns(_) => Err(call::unexpected()),
            Answer::Invalid => Err(Error::not_executed(ErrorKind::Invalid, "the node refuses the query")),
        }
    }

    /// Sets a key.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// let written = client.put(b"greeting", b"hello").await?;
    /// assert_eq!(written.length, 5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Error`]; [`ErrorKind::TooLarge`] beyond 16 KiB of key or 8 MiB of value.
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<Written, Error> {
        let shard = self.shard(key, value)?;
        let op = Op::Put { key: key.to_vec(), value: value.to_vec() };
        written(call::write(self.shared(), shard, &op).await?)
    }

    /// Adds to the end of a value; an absent one counts as empty.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// println!("{} bytes now", client.append(b"log", b"one more line\n").await?.length);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Error`]; [`ErrorKind::TooLarge`] if the value would grow beyond 8 MiB.
    pub async fn append(&self, key: &[u8], value: &[u8]) -> Result<Written, Error> {
        let shard = self.shard(key, value)?;
        let op = Op::Append { key: key.to_vec(), value: value.to_vec() };
        written(call::write(self.shared(), shard, &op).await?)
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let shard = self.shard(key, &[])?;
        match call::write(self.shared(), shard, &Op::Delete { key: key.to_vec() }).await? {
            Reply::Deleted { existed } => Ok(existed),
            other => Err(failed(&other)),
        }
    }

    /// Sets a key if its value is as expected (`None`: if it is absent).
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// use client::ErrorKind;
    /// match client.cas(b"owner", None, b"me").await {
    ///     Ok(_) => println!("mine"),
    ///     Err(e) if matches!(e.kind, ErrorKind::Mismatch { .. }) => println!("taken"),
    ///     Err(e) => return Err(e),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] with the present version if it isn't; else see [`Error`].
    pub async fn cas(&self, key: &[u8], expected: Option<&[u8]>, value: &[u8]) -> Result<Written, Error> {
        let shard = self.shard(key, value)?;
        check(expected.unwrap_or_default(), VALUE_BYTES_MAX, "the expected value")?;
        let op = Op::Cas { key: key.to_vec(), expected: expected.map(<[u8]>::to_vec), value: value.to_vec() };
        written(call::write(self.shared(), shard, &op).await?)
    }

    /// Adds to a decimal number; an absent one counts as 0.
    ///
    /// # Errors
    /// [`ErrorKind::NotANumber`] if the value isn't a decimal i64 or would leave its range; else see [`Error`].
    pub async fn incr(&self, key: &[u8], by: i64) -> Result<Number, Error> {
        let shard = self.shard(key, &[])?;
        match call::write(self.shared(), shard, &Op::Incr { key: key.to_vec(), by }).await? {
            Reply::Number { value, version } => Ok(Number { value, version }),
            other => Err(failed(&other)),
        }
    }

    /// Scans the keys that begin with `prefix`, in order, over all shards. See [`Scan`].
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// let mut scan = client.scan(b"user/", client::ScanOptions::default());
    /// while let Some(pairs) = scan.next_page().await? {
    ///     pairs.iter().for_each(|pair| println!("{}", String::from_utf8_lossy(&pair.key)));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self, prefix: &[u8], options: ScanOptions) -> Scan {
        Scan::new(self.clone(), prefix, options)
    }

    /// The routing table as this client knows it, with what it learned since.
    pub async fn routing(&self) -> Routing {
        self.shared().with(|engine| engine.router().snapshot())
    }

    /// Who says which group serves which shard.
    pub fn shardmaster(&self) -> Shardmaster {
        Shardmaster::new(self.shared().clone())
    }

    /// The session: its id and the next sequence. With [`ClientOptions::session`] another client can go on with it.
    pub fn session(&self) -> (ClientId, Sequence) {
        self.shared().with(|engine| engine.session().position())
    }

    /// The cluster's id.
    pub fn cluster(&self) -> Option<u128> {
        self.shared().with(|engine| engine.cluster())
    }

    /// How long an operation may take, as chosen at connect.
    pub fn timeout(&self) -> Duration {
        self.shared().with(|engine| engine.options().timeout)
    }

    /// How many operations are in flight or waiting for room, over all clones.
    pub fn in_flight(&self) -> usize {
        self.shared().with(|engine| engine.calls())
    }

    /// Tells the shards that their answers were seen, so that they may forget them, and ends the streams. Operations of
    /// clones that are still in flight end with [`ErrorKind::Cancelled`]. Takes half a second at most.
    pub async fn close(self) {
        call::acknowledge(self.shared()).await;
        self.shared().stop();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owned.shared
    }

    fn shard(&self, key: &[u8], value: &[u8]) -> Result<ShardId, Error> {
        check(key, KEY_BYTES_MAX, "the key")?;
        check(value, VALUE_BYTES_MAX, "the value")?;
        Ok(shard_of(key, self.shared().with(|engine| engine.router().shards())))
    }
}

pub(crate) fn check(bytes: &[u8], most: usize, what: &str) -> Result<(), Error> {
    if bytes.len() <= most {
        return Ok(());
    }
    let message = format!("{what} has {} bytes, at most {most} are allowed", bytes.len());
    Err(Error::not_executed(ErrorKind::TooLarge, message))
}

fn written(reply: Reply) -> Result<Written, Error> {
    match reply {
        Reply::Written { length, version } => Ok(Written { length, version }),
        other => Err(failed(&other)),
    }
}

/// A reply that isn't what was hoped for. It came from the log, so the request was executed.
fn failed(reply: &Reply) -> Error {
    let (kind, message) = match reply {
        Reply::Mismatch { version } => (
            ErrorKind::Mismatch { version: *version },
            format!("the value is another one, version {version}"),
        ),
        Reply::NotANumber => (ErrorKind::NotANumber, "not a decimal i64, or past its range".to_string()),
        Reply::ValueTooLarge => {
            (ErrorKind::TooLarge, format!("the value would have more than {VALUE_BYTES_MAX} bytes"))
        }
        Reply::Written { .. }
        | Reply::Deleted { .. }
        | Reply::Number { .. }
        | Reply::Acked
        | Reply::Handoff(_)
        | Reply::Txn(_)
        | Reply::TxnFailed { .. }
        | Reply::Between(_)
        | Reply::Refused(_) => return Error { outcome: Outcome::Unknown, ..call::unexpected() },
    };
    Error { kind, outcome: Outcome::Executed, message }
}
