//! The client library of Synod.
mod admin;
mod client;
mod error;
mod options;
mod outcome;
mod routing;
mod scan;

pub use admin::admin;
pub use client::{Client, Number, Versioned, Written};
pub use error::{Error, ErrorKind};
pub use options::{ClientOptions, Consistency, ScanOptions};
pub use outcome::Outcome;
pub use routing::{Group, Location, Member, Routing};
pub use scan::{Cursors, Pair, Scan};
