//! What went wrong, as a person and a script are told: a code, a hint, the outcome, and the exit code.

use std::io;

use client::{ErrorKind, Outcome, TxnError};

use crate::output;

/// Exit codes; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing to complain about.
    Done = 0,
    /// Failed, definitely.
    Failed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// Not found.
    NotFound = 3,
    /// A precondition didn't hold.
    Precondition = 4,
    /// Unavailable, definitely not executed.
    Unavailable = 5,
    /// It may have been executed, or not.
    Unknown = 6,
    /// Not authenticated or not allowed.
    NotAllowed = 7,
    /// Limit or quota.
    Limit = 8,
    /// A check failed.
    CheckFailed = 9,
    /// A check did not decide.
    Undecided = 10,
    /// Ctrl-C.
    Interrupted = 130,
}

/// Why a command didn't do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: String,
    message: String,
    hint: Option<String>,
    outcome: Option<&'static str>,
}

impl Exit {
    /// All of them.
    pub(crate) const ALL: [Exit; 12] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::NotFound,
        Exit::Precondition,
        Exit::Unavailable,
        Exit::Unknown,
        Exit::NotAllowed,
        Exit::Limit,
        Exit::CheckFailed,
        Exit::Undecided,
        Exit::Interrupted,
    ];
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure { exit, code: code.into(), message: message.into(), hint: None, outcome: None }
    }

    /// A mistake in how the command was called or configured.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, "USAGE", message)
    }

    /// Something of this machine (a file, a process) got in the way.
    pub(crate) fn local(what: impl std::fmt::Display, error: &io::Error) -> Failure {
        Failure::new(Exit::Failed, "IO", format!("{what}: {error}"))
    }

    /// Nodes don't let this client in, or it doesn't trust them.
    pub(crate) fn not_authenticated(message: &str) -> Failure {
        let message = message.to_owned();
        let (kind, outcome) = (ErrorKind::NotAuthenticated, Outcome::NotExecuted);
        Failure::from(client::Error { kind, outcome, message })
    }

    /// Ends a command without a word: it was told to stop, or nobody listens any more.
    pub(crate) fn silent(exit: Exit) -> Failure {
        Failure::new(exit, "", "")
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Puts where it happened before the message.
    #[must_use]
    pub(crate) fn at(mut self, place: impl std::fmt::Display) -> Failure {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Whether it took effect can't be said.
    #[must_use]
    pub(crate) fn unknown(mut self) -> Failure {
        self.outcome = Some("unknown");
        self
    }

    /// It took effect, but something after it failed.
    #[must_use]
    pub(crate) fn executed(mut self) -> Failure {
        self.outcome = Some("executed");
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for stderr; empty for a silent end.
    pub(crate) fn report(&self) -> String {
        if self.code.is_empty() {
            return String::new();
        }
        let mut text = format!("error[{}]: {}\n", self.code, self.message);
        if let Some(hint) = &self.hint {
            text += &format!("hint: {hint}\n");
        }
        if let Some(outcome) = self.outcome {
            text += &format!("outcome: {outcome}\n");
        }
        text
    }

    /// Shows it and gives the exit code to end with.
    pub(crate) fn tell(&self) -> u8 {
        output::message_raw(&self.report());
        self.exit as u8
    }
}

/// Shows what the command line parser has to say: help for whoever asked for it, or what is wrong with the usage.
pub(crate) fn tell_usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // A closed pipe is no reason to fail.
        let _ = error.print();
        return Exit::Done as u8;
    }
    let text = error.render().to_string();
    output::message_raw(&text.replacen("error: ", "error[USAGE]: ", 1));
    Exit::Usage as u8
}

/// An error while writing to stdout: a reader that went away (`kvctl scan | head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::silent(Exit::Done);
        }
        Failure::local("cannot write the output", &error)
    }
}

/// An error of an operation, with what is known about its outcome.
impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure {
            exit: exit_of(error.kind, error.outcome),
            code: error.code().to_owned(),
            hint: hint_of(error.kind, error.outcome).map(str::to_owned),
            outcome: Some(match error.outcome {
                Outcome::NotExecuted => "not executed",
                Outcome::Unknown => "unknown",
                Outcome::Executed => "executed",
            }),
            message: error.message,
        }
    }
}

fn exit_of(kind: ErrorKind, outcome: Outcome) -> Exit {
    match (kind, outcome) {
        (ErrorKind::TxnFailed { error: TxnError::TooLarge, .. }, _) => Exit::Limit,
        (ErrorKind::Mismatch { .. } | ErrorKind::NotANumber | ErrorKind::TxnFailed { .. }, _) => {
            Exit::Precondition
        }
        (ErrorKind::TooLarge, _) => Exit::Limit,
        (_, Outcome::Unknown) => Exit::Unknown,
        (ErrorKind::Precondition, _) => Exit::Precondition,
        (ErrorKind::NotAllowed, _) => Exit::NotAllowed,
        (ErrorKind::Invalid, _) => Exit::Usage,
        (ErrorKind::NotAuthenticated, _) => Exit::NotAllowed,
        (
            ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::NoLeader
            | ErrorKind::Busy
            | ErrorKind::DiskFull
            | ErrorKind::Conflict
            | ErrorKind::SessionExpired
            | ErrorKind::Cancelled,
            Outcome::NotExecuted,
        ) => Exit::Unavailable,
        (_, Outcome::NotExecuted | Outcome::Executed) => Exit::Failed,
    }
}

fn hint_of(kind: ErrorKind, outcome: Outcome) -> Option<&'static str> {
    match (kind, outcome) {
        (_, Outcome::Unknown) => Some("it may still take effect; read the key before trying again"),
        (ErrorKind::Unavailable, _) => {
            Some("is the cluster running, and are the --endpoints right? `kvctl demo` starts one")
        }
        (ErrorKind::NotAuthenticated, _) => Some(
            "which --token-file, --cacert, --cert and --key does the cluster take? see docs/operations.md",
        ),
        (ErrorKind::Timeout | ErrorKind::NoLeader, _) => Some("`kvctl status` shows which replicas are up"),
        (ErrorKind::Busy, _) => Some("try again later, or with a longer --timeout"),
        (ErrorKind::DiskFull, _) => Some("the leader's disk is full: `kvctl status` shows which node"),
        (ErrorKind::Conflict, _) => Some("`kvctl txn list` shows what is in the way"),
        (ErrorKind::TooLarge | ErrorKind::TxnFailed { error: TxnError::TooLarge, .. }, _) => Some(
            "a key has at most 16 KiB, a value at most 8 MiB, a transaction 128 keys and 8 MiB to read or write",
        ),
        (ErrorKind::NotANumber | ErrorKind::TxnFailed { error: TxnError::NotANumber, .. }, _) => {
            Some("incr works on decimal numbers of 64 bits")
        }
        _ => None,
    }
}

/// An error of an admin call to one node.
impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        use tonic::Code;
        let (exit, code) = match status.code() {
            Code::Unavailable => (Exit::Unavailable, "UNAVAILABLE"),
            Code::DeadlineExceeded | Code::Cancelled => (Exit::Unavailable, "TIMEOUT"),
            Code::InvalidArgument | Code::OutOfRange => (Exit::Usage, "INVALID"),
            Code::NotFound => (Exit::NotFound, "NOT_FOUND"),
            Code::FailedPrecondition | Code::AlreadyExists => (Exit::Precondition, "PRECONDITION"),
            Code::Unauthenticated => return Failure::not_authenticated(status.message()),
            Code::PermissionDenied => (Exit::NotAllowed, "NOT_ALLOWED"),
            Code::ResourceExhausted => (Exit::Limit, "LIMIT"),
            Code::Unimplemented => (Exit::Failed, "UNIMPLEMENTED"),
            _ => (Exit::Failed, "FAILED"),
        };
        Failure::new(exit, code, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: ErrorKind, outcome: Outcome) -> Failure {
        Failure::from(client::Error { kind, outcome, message: "group 2 has no leader".to_owned() })
    }

    #[test]
    fn a_failure_names_code_hint_and_outcome() {
        let text = failure(ErrorKind::NoLeader, Outcome::NotExecuted).report();
        let expected = "error[NO_LEADER]: group 2 has no leader\n\
            hint: `kvctl status` shows which replicas are up\noutcome: not executed\n";
        assert_eq!(text, expected);
        assert_eq!(Failure::silent(Exit::Interrupted).report(), "");
        assert_eq!(Failure::usage("no").report(), "error[USAGE]: no\n");
    }

    #[test]
    fn the_exit_code_follows_kind_and_outcome() {
        let code = |kind, outcome| failure(kind, outcome).exit() as u8;
        assert_eq!(code(ErrorKind::Mismatch { version: 1 }, Outcome::Executed), 4);
        assert_eq!(code(ErrorKind::NotANumber, Outcome::Executed), 4);
        assert_eq!(code(ErrorKind::TooLarge, Outcome::NotExecuted), 8);
        assert_eq!(code(ErrorKind::Timeout, Outcome::NotExecuted), 5);
        assert_eq!(code(ErrorKind::Timeout, Outcome::Unknown), 6);
        assert_eq!(code(ErrorKind::Busy, Outcome::Unknown), 6);
        assert_eq!(code(ErrorKind::Conflict, Outcome::NotExecuted), 5);
        assert_eq!(code(ErrorKind::Conflict, Outcome::Unknown), 6);
        let failed = |error| code(ErrorKind::TxnFailed { op: 0, error }, Outcome::Executed);
        assert_eq!([TxnError::Mismatch, TxnError::NotANumber, TxnError::TooLarge].map(failed), [4, 4, 8]);
        assert_eq!(code(ErrorKind::NotAuthenticated, Outcome::NotExecuted), 7);
        assert_eq!(code(ErrorKind::NotAuthenticated, Outcome::Unknown), 6);
        assert_eq!(code(ErrorKind::Protocol, Outcome::NotExecuted), 1);
        assert_eq!(Failure::from(tonic::Status::unavailable("x")).exit() as u8, 5);
        assert_eq!(Failure::from(tonic::Status::permission_denied("x")).exit() as u8, 7);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.report().as_str()), (Exit::Done, ""));
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit(), Exit::Failed);
    }

    #[test]
    fn every_exit_code_is_listed_once() {
        let codes: std::collections::BTreeSet<u8> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130].into());
    }
}
