//! The client library of Synod: linearizable operations on a sharded store, each exactly once.
//!
//! ```no_run
//! use client::{Client, ClientOptions, Consistency, ScanOptions};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), client::Error> {
//!     let endpoints = vec!["127.0.0.1:7001".to_string()];
//!     let client = Client::connect(ClientOptions { endpoints, ..ClientOptions::default() }).await?;
//!
//!     client.put(b"fruit/apple", b"red").await?;
//!     client.append(b"fruit/apple", b" or green").await?;
//!     println!("{} sold", client.incr(b"sold", 3).await?.value);
//!     let apple = client.get(b"fruit/apple", Consistency::Lease).await?;
//!     assert_eq!(apple.map(|found| found.value), Some(b"red or green".to_vec()));
//!
//!     let mut scan = client.scan(b"fruit/", ScanOptions::default());
//!     while let Some(pairs) = scan.next_page().await? {
//!         pairs.iter().for_each(|pair| println!("{}", String::from_utf8_lossy(&pair.key)));
//!     }
//!     client.close().await;
//!     Ok(())
//! }
//! ```
//!
//! # What happens to a call
//!
//! All callers of a [`Client`] and its clones share one long-lived stream a node. Calls that are made at the same
//! time travel in one frame, so the more callers there are, the less each costs. A call goes to the leader of the
//! group that serves its key; what isn't answered is repeated, bit for bit, until [`ClientOptions::timeout`]: after a
//! redirect or a broken stream at once, after a refusal with a growing random delay, after half a second without a
//! word from the node to whoever leads then. While a group elects, its calls wait in line and small probes ask the
//! members who leads.
//!
//! # Exactly once
//!
//! A client is a session. Each write carries the session's id and a sequence, and its shard remembers the reply until
//! the session says that it has seen it, so a repeated write is answered, not executed again. Every [`Error`] says in
//! [`Error::outcome`] whether the write took effect, judged over all its tries: [`Outcome::NotExecuted`] only if each
//! of them was refused. Dropping the future of a write gives the write up; it may take effect until the session has
//! written to the same shard again.
//!
//! # While shards move
//!
//! Each shard has an epoch, which grows with each move. A group that has given a shard away says where it went, and the
//! call follows at once; one that is about to get it says so, and is asked again a few milliseconds later. A client never
//! goes back to a lower epoch. [`Client::shardmaster`] asks for moves and tells how they stand.
//!
//! # Transactions
//!
//! A [`Transaction`] reads and changes up to 128 keys of any shards in one step:
//!
//! ```no_run
//! # async fn example(client: client::Client) -> Result<(), client::Error> {
//! use client::Transaction;
//! let buy = Transaction::new()
//!     .when_value(b"seat/12a", b"free")
//!     .put(b"seat/12a", b"ann")
//!     .incr(b"sold", 1)
//!     .otherwise()
//!     .get(b"seat/12a");
//! let reply = client.transact(buy).await?;
//! println!("{}", if reply.held { "yours" } else { "taken" });
//! # Ok(())
//! # }
//! ```
//!
//! It is a write like any other: repeated bit for bit, executed at most once. A try that gives way to another transaction
//! has no effect and is repeated after a millisecond or more; since it keeps its age, it can't lose for ever. What
//! [`Client::multi_get`], [`Client::multi_put`] and [`Client::swap`] do is a transaction too.
//!
//! # What isn't here
//!
//! Snapshots: a [`Scan`] is atomic only page by page and shard by shard. Transactions whose keys depend on what they read:
//! read first, then ask for the versions to be the same with [`Transaction::when_version`].

mod access;
mod admin;
mod backoff;
mod call;
mod client;
mod engine;
mod error;
mod options;
mod outcome;
mod router;
mod routing;
mod scan;
mod session;
mod shardmaster;
mod shared;
mod slab;
mod stream;
mod transaction;
mod verdict;

pub use access::{Access, Authorized, Bearer, Dialer, Identity, Tls, Token};
pub use admin::{admin, shardmaster};
pub use client::{Client, Number, Versioned, Written};
pub use error::{Error, ErrorKind};
pub use kvserver::txn::{Condition, Relation, Txn, TxnError, TxnOp, TxnReply, TxnResult};
pub use options::{ClientOptions, Consistency, ScanOptions};
pub use outcome::Outcome;
pub use routing::{Group, Location, Member, Routing};
pub use scan::{Cursors, Pair, Scan};
pub use shardmaster::Shardmaster;
pub use transaction::Transaction;
