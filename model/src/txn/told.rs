//! States and actions as lines that people read.

use kvserver::command::{Op, ShardId};
use kvserver::handoff::CopyStatus;
use kvserver::txn::{Attempt, Decision, Grant, TxnCommand, TxnOp, TxnStatus};

use crate::groups::name;
use crate::txn::bounds::{Bounds, first_owner};
use crate::txn::clients::ClientOp;
use crate::txn::world::{Action, State};

/// What happens.
pub(crate) fn action(bounds: &Bounds, action: &Action) -> String {
    match action {
        Action::Deliver { letter, to } => format!("{} <- {}", name(*to), command(&letter.message)),
        Action::Request { op: n, to } => {
            let what = bounds.ops.get(*n).map(op).unwrap_or_default();
            format!("{} <- client: operation {n}, {what}", name(*to))
        }
        Action::Expire { at, letter } => format!("{}: {}", name(*at), command(&letter.message)),
        Action::Move(of) => format!("{} moves to {}", shard(*of), name(1 - first_owner(*of))),
        Action::Cancel(of) => format!("the move of {} is cancelled", shard(*of)),
        Action::LoseLocks(at) => format!("{}: a new leader knows of no locks", name(*at)),
    }
}

/// The groups and the clients.
pub(crate) fn machines(state: &State) -> Vec<String> {
    let mut lines = Vec::new();
    for (at, held) in state.stores.iter().enumerate() {
        lines.extend(held.copies.iter().map(|status| format!("  {}: {}", name(at), copy(status))));
        lines.extend(held.txns.iter().map(|status| format!("  {}: {}", name(at), txn(status))));
    }
    let heard = state.heard.iter().enumerate().filter_map(|(n, heard)| Some((n, heard.as_ref()?)));
    lines.extend(heard.map(|(n, reply)| format!("  operation {n} was answered {reply:?}")));
    lines
}

/// A shard by the group that had it first.
fn shard(shard: ShardId) -> String {
    format!("the shard of {}", name(first_owner(shard)))
}

fn attempt(attempt: &Attempt) -> String {
    format!("client {}'s try {} at {}", attempt.age.client.0, attempt.number, shard(attempt.home))
}

fn copy(copy: &CopyStatus) -> String {
    let CopyStatus { epoch, keys, sessions, revision, .. } = copy;
    format!(
        "{} {epoch} {}, {keys} keys, {sessions} sessions, revision {revision}",
        shard(copy.shard),
        copy.phase.word()
    )
}

fn txn(status: &TxnStatus) -> String {
    let keys: Vec<String> = status.keys.iter().map(|key| text(key)).collect();
    let waits: Vec<String> = status.waits_for.iter().map(|of| shard(*of)).collect();
    let keys = if keys.is_empty() { String::new() } else { format!(", keys {}", keys.join(" ")) };
    let waits = if waits.is_empty() { String::new() } else { format!(", waits for {}", waits.join(", ")) };
    let (of, word) = (attempt(&status.attempt), status.state.word());
    format!("in {}, {of} is {word}{keys}{waits}", shard(status.shard))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn op(asked: &ClientOp) -> String {
    match &asked.op {
        Op::Txn(txn) => {
            let steps: Vec<String> = txn.then.iter().map(step).collect();
            steps.join(", ")
        }
        Op::Append { key, value } => format!("append {} to {}", text(value), text(key)),
        other => format!("{other:?}"),
    }
}

fn step(op: &TxnOp) -> String {
    match op {
        TxnOp::Get { key } => format!("get {}", text(key)),
        TxnOp::Append { key, value } => format!("append {} to {}", text(value), text(key)),
        TxnOp::Copy { key, from } => format!("copy {} to {}", text(from), text(key)),
        other => format!("{other:?}"),
    }
}

/// A message.
pub(crate) fn command(command: &TxnCommand) -> String {
    let of = attempt(&command.attempt());
    match command {
        TxnCommand::Prepare { shard: part, keys, .. } => {
            let keys: Vec<String> = keys
                .iter()
                .map(|(key, access)| format!("{}{}", text(key), if access.writes { "!" } else { "" }))
                .collect();
            format!("prepare {} for {of}: {}", shard(*part), keys.join(" "))
        }
        TxnCommand::Vote { shard: part, grant, .. } if grant.found.is_empty() => {
            format!("{} asks about {of}, lock {}", shard(*part), grant.lock)
        }
        TxnCommand::Vote { shard: part, grant, .. } => {
            format!("{} votes for {of}: {}", shard(*part), found(grant))
        }
        TxnCommand::Refuse { shard: part, conflict, .. } => {
            format!("{} refuses {of}: {conflict}", shard(*part))
        }
        TxnCommand::Expire { .. } => format!("{of} takes too long"),
        TxnCommand::Decide { shard: part, decision, .. } => {
            format!("{} hears of {of}: {}", shard(*part), told_decision(decision))
        }
        TxnCommand::Acked { shard: part, .. } => format!("{} knows how {of} ended", shard(*part)),
    }
}

fn found(grant: &Grant) -> String {
    let values: Vec<String> = grant
        .found
        .iter()
        .map(|found| {
            found.as_ref().map_or("-".to_string(), |(value, version)| format!("{}@{version}", text(value)))
        })
        .collect();
    format!("lock {}, found {}", grant.lock, values.join(" "))
}

fn told_decision(decision: &Decision) -> String {
    match decision {
        Decision::Abort => "abort".to_string(),
        Decision::Commit { lock, writes } => {
            let write = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
                format!("{}={}", text(key), value.as_ref().map_or("-".to_string(), |value| text(value)))
            };
            let writes: Vec<String> = writes.iter().map(write).collect();
            format!("commit under lock {} [{}]", lock, writes.join(", "))
        }
    }
}
