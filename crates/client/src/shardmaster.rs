//! Asking the shardmaster: any node takes the question and asks whoever leads; one that can't is left for the next.
//!
//! A change may be asked for again: one that is made already is answered so. Until some try is answered, a change that was
//! sent may have been made, and an error says so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};
use wire::v1::shardmaster_client::ShardmasterClient;
use wire::v1::{
    ChangeResponse, JoinRequest, LeaveRequest, MigrationsRequest, MigrationsResponse, MoveRequest,
    QueryRequest, RebalanceRequest, RebalanceResponse, ShardMap,
};

use crate::access::{Access, Authorized};
use crate::error::{Error, ErrorKind};
use crate::outcome::Outcome;
use crate::shared::Shared;

/// How long one node may take, so that another can be asked in time.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds over all nodes.
const PAUSE: Duration = Duration::from_millis(50);
/// Where a node says whether what it refuses took effect.
const OUTCOME_KEY: &str = "synod-outcome";

/// The shardmaster of a cluster, see [`crate::Client::shardmaster`].
///
/// Each method tries the nodes one after another, until [`crate::ClientOptions::timeout`]. What a node refuses for good
/// (a group that isn't there, a map that was never made) is [`ErrorKind::Precondition`]. When no node lets this client in,
/// that is [`ErrorKind::NotAuthenticated`], at once.
#[derive(Clone)]
pub struct Shardmaster {
    shared: Arc<Shared>,
}

impl Shardmaster {
    pub(crate) fn new(shared: Arc<Shared>) -> Shardmaster {
        Shardmaster { shared }
    }

    /// A group comes, on these nodes, and gets its part of the shards.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if the group is there with other members, or a node isn't known; else as a write.
    pub async fn join(&self, group: u32, nodes: &[u32], dry_run: bool) -> Result<ChangeResponse, Error> {
        let request = JoinRequest { group, nodes: nodes.to_vec(), dry_run };
        self.ask(!dry_run, |mut node| {
            let request = request.clone();
            async move { node.join(request).await }
        })
        .await
    }

    /// A group goes, and its shards go to the others.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if there is no such group, or no other; else as a write.
    pub async fn leave(&self, group: u32, dry_run: bool) -> Result<ChangeResponse, Error> {
        let request = LeaveRequest { group, dry_run };
        self.ask(!dry_run, |mut node| async move { node.leave(request).await }).await
    }

    /// These shards are to be served by the group `to`.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if there is no such group or shard; else as a write.
    pub async fn move_shards(&self, shards: &[u32], to: u32, dry_run: bool) -> Result<ChangeResponse, Error> {
        let request = MoveRequest { shards: shards.to_vec(), to, dry_run };
        self.ask(!dry_run, |mut node| {
            let request = request.clone();
            async move { node.r#move(request).await }
        })
        .await
    }

    /// A ShardMap by its number; 0 for the newest.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if there is none of this number; else as a read.
    pub async fn query(&self, config: u64) -> Result<ShardMap, Error> {
        self.ask(false, |mut node| async move { node.query(QueryRequest { config }).await }).await
    }

    /// The shards that aren't where they are to be, and what is going on with each.
    ///
    /// # Errors
    /// As a read.
    pub async fn migrations(&self) -> Result<MigrationsResponse, Error> {
        self.ask(false, |mut node| async move { node.migrations(MigrationsRequest {}).await }).await
    }

    /// Sets what is set in the request, and tells how the rebalancing stands.
    ///
    /// # Errors
    /// As a write.
    pub async fn rebalance(&self, request: RebalanceRequest) -> Result<RebalanceResponse, Error> {
        let changes = request.paused.is_some() || request.policy.is_some() || request.run_once;
        self.ask(changes, |mut node| {
            let request = request.clone();
            async move { node.rebalance(request).await }
        })
        .await
    }

    async fn ask<T, F, Answering>(&self, changes: bool, ask: F) -> Result<T, Error>
    where
        F: Fn(ShardmasterClient<Authorized>) -> Answering,
        Answering: Future<Output = Result<Response<T>, Status>>,
    {
        let (timeout, access) =
            self.shared.with(|engine| (engine.options().timeout, engine.options().access.clone()));
        let end = Instant::now() + timeout;
        let mut lost = false;
        let mut last = Error::not_executed(ErrorKind::Unavailable, "no node is known");
        loop {
            let (mut locked_out, mut was_let_in) = (None, false);
            for address in self.shared.with(|engine| engine.reachable()) {
                let within = end.saturating_duration_since(Instant::now()).min(TRY_TIMEOUT);
                if within.is_zero() {
                    return Err(with_outcome(last, lost));
                }
                let refused = match try_once(&address, within, &access, &ask).await {
                    Ok(answer) => return Ok(answer),
                    Err(refused) => refused,
                };
                lost |= changes && refused.lost;
                last = refused.error;
                match refused.next {
                    Next::Nothing => return Err(with_outcome(last, lost)),
                    Next::NotHere => locked_out = Some(last.clone()),
                    Next::Unreached => {}
                    Next::Again => was_let_in = true,
                }
            }
            if let Some(error) = locked_out.filter(|_| !was_let_in) {
                // To repeat it would only let the deadline pass.
                return Err(with_outcome(error, lost));
            }
            if end.saturating_duration_since(Instant::now()) <= PAUSE {
                return Err(with_outcome(last, lost));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A try that gave no answer.
struct Refused {
    error: Error,
    /// It may have had an effect.
    lost: bool,
    next: Next,
}

/// What a try without an answer leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Another node would say the same.
    Nothing,
    /// This node doesn't let this client in; others may.
    NotHere,
    /// There was no connection.
    Unreached,
    /// This node or another may answer later.
    Again,
}

async fn try_once<T, F, Answering>(
    address: &str,
    within: Duration,
    access: &Access,
    ask: &F,
) -> Result<T, Refused>
where
    F: Fn(ShardmasterClient<Authorized>) -> Answering,
    Answering: Future<Output = Result<Response<T>, Status>>,
{
    let node = crate::shardmaster(address, within, access);
    // Nothing was sent before there is a connection.
    let unsent = |error: Error| {
        let next = if error.kind == ErrorKind::NotAuthenticated { Next::NotHere } else { Next::Unreached };
        Refused { error, lost: false, next }
    };
    let node = match tokio::time::timeout(within, node).await {
        Ok(connected) => connected.map_err(unsent)?,
        Err(_) => {
            let message = format!("{address} can't be reached");
            return Err(unsent(Error::not_executed(ErrorKind::Unavailable, message)));
        }
    };
    match tokio::time::timeout(within, ask(node)).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(|status| refused(address, &status)),
        Err(_) => {
            let message = format!("{address} didn't answer in time");
            let error = Error::not_executed(ErrorKind::Timeout, message);
            Err(Refused { error, lost: true, next: Next::Again })
        }
    }
}

fn refused(address: &str, status: &Status) -> Refused {
    let alert = Access::alert(status);
    let (kind, next) = match status.code() {
        _ if alert.is_some() => (ErrorKind::NotAuthenticated, Next::NotHere),
        Code::FailedPrecondition | Code::AlreadyExists | Code::NotFound => {
            (ErrorKind::Precondition, Next::Nothing)
        }
        Code::InvalidArgument | Code::OutOfRange => (ErrorKind::Invalid, Next::Nothing),
        Code::PermissionDenied => (ErrorKind::NotAllowed, Next::NotHere),
        Code::ResourceExhausted => (ErrorKind::Busy, Next::Again),
        Code::DeadlineExceeded | Code::Cancelled => (ErrorKind::Timeout, Next::Again),
        Code::Unimplemented => (ErrorKind::Protocol, Next::Nothing),
        Code::Unauthenticated => (ErrorKind::NotAuthenticated, Next::NotHere),
        Code::Ok | Code::Unknown | Code::Aborted | Code::Internal | Code::Unavailable | Code::DataLoss => {
            (ErrorKind::Unavailable, Next::Again)
        }
    };
    let said = status.metadata().get(OUTCOME_KEY).and_then(|outcome| outcome.to_str().ok());
    // What is refused for good wasn't done. Of the rest only the node itself can say so.
    let lost =
        said.map_or(next == Next::Again && kind != ErrorKind::Busy, |outcome| outcome != "not executed");
    let message = alert.unwrap_or_else(|| status.message().to_string());
    let message = if next == Next::NotHere { format!("{address}: {message}") } else { message };
    Refused { error: Error::not_executed(kind, message), lost, next }
}

fn with_outcome(error: Error, lost: bool) -> Error {
    let outcome = if lost { Outcome::Unknown } else { Outcome::NotExecuted };
    Error { outcome, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_node_vouches_for_is_not_executed() {
        let silent = refused("h:1", &Status::unavailable("the connection broke"));
        assert!(silent.lost && silent.next == Next::Again);
        let mut status = Status::unavailable("group 0 has no leader");
        status
            .metadata_mut()
            .insert(OUTCOME_KEY, tonic::metadata::MetadataValue::from_static("not executed"));
        assert!(!refused("h:1", &status).lost);
        let known = refused("h:1", &Status::failed_precondition("there is no group 9"));
        assert!(known.next == Next::Nothing && !known.lost && known.error.kind == ErrorKind::Precondition);
    }

    #[test]
    fn who_isnt_let_in_may_be_by_another_node() {
        let out = refused("h:1", &Status::unauthenticated("a token is needed"));
        assert!(out.next == Next::NotHere && !out.lost);
        assert_eq!(
            (out.error.kind, out.error.message.as_str()),
            (ErrorKind::NotAuthenticated, "h:1: a token is needed")
        );
        assert_eq!(refused("h:1", &Status::permission_denied("no")).error.kind, ErrorKind::NotAllowed);
    }
}
