//! Refusals in the words of the two client protocols: a `Refusal` on the stream, a gRPC status for unary calls.

use paxos::ids::NodeId;
use runtime::api::{Refused, RefusedReason};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use wire::v1;

use super::directory::Directory;
use crate::command::{Refusal, Reply};
use crate::txn::TxnError;

/// Code of a refusal: `NOT_LEADER`, …
pub(crate) const CODE_KEY: &str = "synod-code";
/// `not executed`, `unknown` or `executed`.
pub(crate) const OUTCOME_KEY: &str = "synod-outcome";
/// `host:port` of the leader, where it is known.
pub(crate) const LEADER_KEY: &str = "synod-leader";
/// Operation of a transaction that couldn't be done, from 0.
pub(crate) const OPERATION_KEY: &str = "synod-operation";
/// Version of the value that a cas met.
pub(crate) const VERSION_KEY: &str = "synod-version";

/// Why a call wasn't handed to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Over a limit.
    TooLarge(&'static str),
    /// Not something that can be executed.
    Invalid(&'static str),
    /// No such group is known here.
    UnknownGroup,
    /// Too many calls in flight.
    Busy,
    /// The process is ending.
    Stopping,
}

fn refusal(code: v1::Code, message: &str) -> v1::Refusal {
    v1::Refusal { code: code.into(), message: message.to_string(), ..v1::Refusal::default() }
}

impl Directory {
    /// What a client is told of a call that the node refused.
    pub(crate) fn refused(&self, refused: Refused) -> v1::Refusal {
        let leader = refused
            .leader
            .filter(|leader| *leader != self.node || refused.reason != RefusedReason::NotLeader);
        let (code, message) = match (refused.reason, leader) {
            (RefusedReason::NotLeader, Some(_)) => (v1::Code::NotLeader, "another node leads the group"),
            (RefusedReason::NotLeader, None) => (v1::Code::NoLeader, "no leader of the group is known here"),
            (RefusedReason::UnknownGroup, _) => (v1::Code::WrongGroup, "no replica of the group is here"),
            (RefusedReason::Busy, _) => (v1::Code::Busy, "a queue of the node is full"),
            (RefusedReason::DiskFull, _) => (v1::Code::DiskFull, "the node's disk is full"),
            (RefusedReason::TooLarge, _) => (v1::Code::TooLarge, "the request doesn't fit a batch"),
            (RefusedReason::Stopping, _) => (v1::Code::Stopping, "the node is stopping"),
        };
        let outcome = if refused.outcome_unknown { v1::Outcome::Unknown } else { v1::Outcome::NotExecuted };
        v1::Refusal { outcome: outcome.into(), ..self.with_leader(refusal(code, message), leader) }
    }

    fn with_leader(&self, refusal: v1::Refusal, leader: Option<NodeId>) -> v1::Refusal {
        let Some(leader) = leader else { return refusal };
        let leader_address = self.table().client_address(leader).to_string();
        v1::Refusal { leader: leader.0, leader_address, ..refusal }
    }
}

/// What a client is told of a call that never came to the node.
pub(crate) fn refusal_of(rejected: &Rejected) -> v1::Refusal {
    match rejected {
        Rejected::TooLarge(what) => refusal(v1::Code::TooLarge, what),
        Rejected::Invalid(what) => refusal(v1::Code::Invalid, what),
        Rejected::Busy => refusal(v1::Code::Busy, "too many calls in flight"),
        Rejected::Stopping => refusal(v1::Code::Stopping, "the node is stopping"),
        Rejected::UnknownGroup => refusal(v1::Code::WrongGroup, "no such group is known here"),
    }
}

fn outcome_word(outcome: v1::Outcome) -> &'static str {
    match outcome {
        v1::Outcome::NotExecuted => "not executed",
        v1::Outcome::Unknown => "unknown",
        v1::Outcome::Executed => "executed",
    }
}

pub(crate) fn status(code: Code, message: &str, word: &str, outcome: v1::Outcome) -> Status {
    let mut metadata = MetadataMap::new();
    insert(&mut metadata, CODE_KEY, word);
    insert(&mut metadata, OUTCOME_KEY, outcome_word(outcome));
    Status::with_metadata(code, message, metadata)
}

fn insert(metadata: &mut MetadataMap, key: &'static str, text: &str) {
    // An address that isn't plain text is left out: the answer matters more.
    if let Ok(value) = MetadataValue::try_from(text) {
        metadata.insert(key, value);
    }
}

/// A refusal as the status of a unary call. An outcome that isn't known is never UNAVAILABLE: clients retry that by
/// themselves.
pub(crate) fn status_of(refusal: &v1::Refusal) -> Status {
    let outcome = refusal.outcome();
    let code = match refusal.code() {
        _ if outcome == v1::Outcome::Unknown => Code::Unknown,
        v1::Code::NotLeader
        | v1::Code::NoLeader
        | v1::Code::WrongGroup
        | v1::Code::Awaiting
        | v1::Code::Stopping => Code::Unavailable,
        v1::Code::Busy | v1::Code::DiskFull | v1::Code::TooLarge => Code::ResourceExhausted,
        v1::Code::Invalid => Code::InvalidArgument,
        v1::Code::Unspecified => Code::Internal,
    };
    let mut status = status(code, &refusal.message, refusal.code().as_str_name(), outcome);
    if !refusal.leader_address.is_empty() {
        insert(status.metadata_mut(), LEADER_KEY, &refusal.leader_address);
    }
    status
}

/// The status of a write that was answered, but not with what was asked for. `only_try`: this request was never
/// sent before, so that a session's refusal is certain.
pub(crate) fn status_of_reply(reply: &Reply, only_try: bool) -> Status {
    let executed = v1::Outcome::Executed;
    match reply {
        Reply::Mismatch { version } => {
            let message = format!("the value isn't as expected; its version is {version}");
            let mut status = status(Code::FailedPrecondition, &message, "MISMATCH", executed);
            insert(status.metadata_mut(), VERSION_KEY, &version.to_string());
            status
        }
        Reply::NotANumber => {
            let message = "the value isn't a number, or would pass its range";
            status(Code::FailedPrecondition, message, "NOT_A_NUMBER", executed)
        }
        Reply::ValueTooLarge => {
            status(Code::ResourceExhausted, "the value would be too large", "TOO_LARGE", executed)
        }
        Reply::TxnFailed { op, error } => {
            let (code, word) = match error {
                TxnError::NotANumber => (Code::FailedPrecondition, "NOT_A_NUMBER"),
                TxnError::Mismatch => (Code::FailedPrecondition, "MISMATCH"),
                TxnError::TooLarge => (Code::ResourceExhausted, "TOO_LARGE"),
            };
            let message = format!("operation {op}: {error}; the transaction had no effect");
            let mut status = status(code, &message, word, executed);
            insert(status.metadata_mut(), OPERATION_KEY, &op.to_string());
            status
        }
        Reply::Refused(refusal) => status_of_session(refusal, only_try),
        Reply::Written { .. }
        | Reply::Deleted { .. }
        | Reply::Number { .. }
        | Reply::Acked
        | Reply::Txn(_)
        | Reply::Between(_)
        | Reply::Handoff(_) => {
            status(Code::Internal, "an answer to another operation", "MISMATCHED_REPLY", v1::Outcome::Unknown)
        }
    }
}

/// The status of a request that a session table or a shard's phase refused.
pub(crate) fn status_of_session(refusal: &Refusal, only_try: bool) -> Status {
    let forgotten = if only_try { v1::Outcome::NotExecuted } else { v1::Outcome::Unknown };
    let not = v1::Outcome::NotExecuted;
    let (code, word, outcome) = match refusal {
        Refusal::AlreadyAcknowledged => (Code::Unknown, "ALREADY_ACKNOWLEDGED", forgotten),
        Refusal::SessionExpired => (Code::FailedPrecondition, "SESSION_EXPIRED", forgotten),
        Refusal::FromTheFuture => (Code::FailedPrecondition, "FROM_THE_FUTURE", not),
        Refusal::SequenceReused => (Code::InvalidArgument, "SEQUENCE_REUSED", not),
        Refusal::Busy(_) => (Code::ResourceExhausted, "BUSY", not),
        Refusal::WrongGroup { .. } => (Code::Unavailable, "WRONG_GROUP", not),
        Refusal::Awaiting => (Code::Unavailable, "AWAITING", not),
        Refusal::Conflict(_) => (Code::Aborted, "CONFLICT", not),
        Refusal::Invalid => (Code::InvalidArgument, "INVALID", not),
    };
    status(code, &refusal.to_string(), word, outcome)
}

/// The status of a call whose caller isn't known.
pub(crate) fn status_not_authenticated(message: &str) -> Status {
    status(Code::Unauthenticated, message, "NOT_AUTHENTICATED", v1::Outcome::NotExecuted)
}

/// The status of a call that took too long.
pub(crate) fn status_of_timeout(outcome: v1::Outcome) -> Status {
    status(Code::DeadlineExceeded, "no answer in time", "TIMEOUT", outcome)
}

#[cfg(test)]
mod tests {
    use super::super::directory::{NodeEntry, Table};
    use super::*;
    use crate::command::BusyReason;

    fn directory() -> Directory {
        let entry = |client: &str| NodeEntry { client: client.to_string(), ..NodeEntry::default() };
        let nodes = [(NodeId(1), entry("a:1")), (NodeId(2), entry("b:2"))];
        Directory::with(NodeId(1), Table::configured(4, 2, nodes))
    }

    fn refused(reason: RefusedReason, leader: Option<u32>, outcome_unknown: bool) -> v1::Refusal {
        directory().refused(Refused { reason, leader: leader.map(NodeId), outcome_unknown })
    }

    fn meta(status: &Status, key: &str) -> String {
        status.metadata().get(key).map_or(String::new(), |value| value.to_str().unwrap().to_string())
    }

    #[test]
    fn a_follower_names_the_leader_and_its_address() {
        let refusal = refused(RefusedReason::NotLeader, Some(2), false);
        assert_eq!((refusal.code(), refusal.leader), (v1::Code::NotLeader, 2));
        assert_eq!(refusal.leader_address, "b:2");
        assert_eq!(refusal.outcome(), v1::Outcome::NotExecuted);
        let status = status_of(&refusal);
        assert_eq!((status.code(), meta(&status, LEADER_KEY)), (Code::Unavailable, "b:2".to_string()));
        assert_eq!(meta(&status, OUTCOME_KEY), "not executed");
        assert_eq!(meta(&status, CODE_KEY), "NOT_LEADER");
    }

    #[test]
    fn without_a_leader_nobody_is_named() {
        assert_eq!(refused(RefusedReason::NotLeader, None, false).code(), v1::Code::NoLeader);
        let own = refused(RefusedReason::NotLeader, Some(1), false);
        assert_eq!((own.code(), own.leader), (v1::Code::NoLeader, 0), "never sends a client back to itself");
    }

    #[test]
    fn each_reason_has_a_code() {
        let cases = [
            (RefusedReason::UnknownGroup, v1::Code::WrongGroup, Code::Unavailable),
            (RefusedReason::Busy, v1::Code::Busy, Code::ResourceExhausted),
            (RefusedReason::DiskFull, v1::Code::DiskFull, Code::ResourceExhausted),
            (RefusedReason::TooLarge, v1::Code::TooLarge, Code::ResourceExhausted),
            (RefusedReason::Stopping, v1::Code::Stopping, Code::Unavailable),
        ];
        for (reason, code, grpc) in cases {
            let refusal = refused(reason, None, false);
            assert_eq!((refusal.code(), status_of(&refusal).code()), (code, grpc));
        }
    }

    #[test]
    fn an_unknown_outcome_is_never_retried_by_itself() {
        let refusal = refused(RefusedReason::NotLeader, Some(2), true);
        assert_eq!(refusal.outcome(), v1::Outcome::Unknown);
        let status = status_of(&refusal);
        assert_eq!((status.code(), meta(&status, OUTCOME_KEY)), (Code::Unknown, "unknown".to_string()));
    }

    #[test]
    fn what_never_came_to_the_node_is_not_executed() {
        let unknown = refusal_of(&Rejected::UnknownGroup);
        assert_eq!((unknown.code(), unknown.outcome()), (v1::Code::WrongGroup, v1::Outcome::NotExecuted));
        assert_eq!(status_of(&refusal_of(&Rejected::Invalid("no"))).code(), Code::InvalidArgument);
    }

    #[test]
    fn a_failed_compare_tells_the_version() {
        let status = status_of_reply(&Reply::Mismatch { version: 9 }, true);
        assert_eq!((status.code(), meta(&status, VERSION_KEY)), (Code::FailedPrecondition, "9".to_string()));
        assert_eq!(meta(&status, OUTCOME_KEY), "executed");
    }

    #[test]
    fn a_transaction_that_failed_names_the_operation() {
        let status = status_of_reply(&Reply::TxnFailed { op: 3, error: TxnError::Mismatch }, true);
        assert_eq!(
            (status.code(), meta(&status, CODE_KEY)),
            (Code::FailedPrecondition, "MISMATCH".to_string())
        );
        assert_eq!(
            (meta(&status, OPERATION_KEY), meta(&status, OUTCOME_KEY)),
            ("3".into(), "executed".into())
        );
        let conflict = Reply::Refused(Refusal::Conflict(crate::txn::Conflict::Older));
        let status = status_of_reply(&conflict, true);
        assert_eq!((status.code(), meta(&status, OUTCOME_KEY)), (Code::Aborted, "not executed".to_string()));
    }

    #[test]
    fn a_session_that_expired_is_certain_only_on_the_only_try() {
        let expired = Reply::Refused(Refusal::SessionExpired);
        assert_eq!(meta(&status_of_reply(&expired, true), OUTCOME_KEY), "not executed");
        assert_eq!(meta(&status_of_reply(&expired, false), OUTCOME_KEY), "unknown");
        let busy = status_of_reply(&Reply::Refused(Refusal::Busy(BusyReason::Window)), false);
        assert_eq!((busy.code(), meta(&busy, CODE_KEY)), (Code::ResourceExhausted, "BUSY".to_string()));
    }
}
