//! The client library of Synod.
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
mod shared;
mod slab;
mod stream;
mod verdict;

pub use admin::admin;
pub use client::{Client, Number, Versioned, Written};
pub use error::{Error, ErrorKind};
pub use options::{ClientOptions, Consistency, ScanOptions};
pub use outcome::Outcome;
pub use routing::{Group, Location, Member, Routing};
pub use scan::{Cursors, Pair, Scan};
