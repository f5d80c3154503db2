//! Whether a request took effect, joined over all its tries.
//!
//! Only refusals say "not executed"; a try that ended without an answer leaves the request *unknown* until the session
//! table answers it, since the try may sit in a log and be chosen later.

use std::fmt;

/// Whether a request took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It didn't, and never will.
    NotExecuted,
    /// Nobody can say; it may still take effect until the session has moved on.
    Unknown,
    /// It did.
    Executed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NotExecuted => "not executed",
            Outcome::Unknown => "unknown",
            Outcome::Executed => "executed",
        })
    }
}
