//! What can go wrong, as something a program can act on: a kind, the outcome, and a sentence for people.
//!
//! The outcome is that of the *request* over all its tries (see [`crate::outcome`]), never that of the last try.

use std::fmt;

use kvserver::txn::TxnError;

use crate::outcome::Outcome;

/// An operation that didn't give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What happened.
    pub kind: ErrorKind,
    /// Whether the request took effect.
    pub outcome: Outcome,
    /// One sentence for people, without the outcome.
    pub message: String,
}

impl Error {
    /// An error of a request that surely had no effect.
    pub(crate) fn not_executed(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, outcome: Outcome::NotExecuted, message: message.into() }
    }

    /// The stable name of the kind, such as `"NO_LEADER"`.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No node that could answer was reachable until the deadline.
    Unavailable,
    /// Nodes didn't let this client in, or it doesn't trust them: the token, or a certificate. Not retried.
    NotAuthenticated,
    /// Nodes were reachable, but no answer came until the deadline.
    Timeout,
    /// The group had no leader until the deadline.
    NoLeader,
    /// A bound of a node, of the session table or of this client was full until the deadline.
    Busy,
    /// The leader had no room on its disk until the deadline.
    DiskFull,
    /// A key, a value or a transaction is over its limit.
    TooLarge,
    /// The node couldn't make sense of the request.
    Invalid,
    /// A cas found another value than expected. Executed, without a change.
    Mismatch {
        /// Version of the value that is there, 0 if absent.
        version: u64,
    },
    /// An incr found what isn't a decimal i64, or would leave its range. Executed, without a change.
    NotANumber,
    /// An operation of a transaction couldn't be done. Executed, without a change.
    TxnFailed {
        /// Which one of the branch that ran, from 0.
        op: u32,
        /// Why.
        error: TxnError,
    },
    /// Other transactions, or a shard about to move, were in the way of a transaction until the deadline.
    Conflict,
    /// The request is older than what the session table remembers.
    SessionExpired,
    /// The sequence belongs to another request: two processes use one session.
    SequenceReused,
    /// The session says that it knows the answer already.
    AlreadyAcknowledged,
    /// The shardmaster refuses: what it was asked for doesn't fit what is there.
    Precondition,
    /// This client may not do that.
    NotAllowed,
    /// The client was closed before the answer came.
    Cancelled,
    /// A node answered what this client doesn't understand.
    Protocol,
}

impl ErrorKind {
    /// The stable name, such as `"NO_LEADER"`.
    pub fn code(self) -> &'static str {
        match self {
            ErrorKind::Unavailable => "UNAVAILABLE",
            ErrorKind::NotAuthenticated => "NOT_AUTHENTICATED",
            ErrorKind::Timeout => "TIMEOUT",
            ErrorKind::NoLeader => "NO_LEADER",
            ErrorKind::Busy => "BUSY",
            ErrorKind::DiskFull => "DISK_FULL",
            ErrorKind::TooLarge => "TOO_LARGE",
            ErrorKind::Invalid => "INVALID",
            ErrorKind::Mismatch { .. } => "MISMATCH",
            ErrorKind::NotANumber => "NOT_A_NUMBER",
            ErrorKind::TxnFailed { error: TxnError::Mismatch, .. } => "MISMATCH",
            ErrorKind::TxnFailed { error: TxnError::NotANumber, .. } => "NOT_A_NUMBER",
            ErrorKind::TxnFailed { error: TxnError::TooLarge, .. } => "TOO_LARGE",
            ErrorKind::Conflict => "CONFLICT",
            ErrorKind::SessionExpired => "SESSION_EXPIRED",
            ErrorKind::SequenceReused => "SEQUENCE_REUSED",
            ErrorKind::AlreadyAcknowledged => "ALREADY_ACKNOWLEDGED",
            ErrorKind::Precondition => "PRECONDITION",
            ErrorKind::NotAllowed => "NOT_ALLOWED",
            ErrorKind::Cancelled => "CANCELLED",
            ErrorKind::Protocol => "PROTOCOL",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
