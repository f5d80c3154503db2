//! What stands in a slot of the log, in words.

use std::fmt::Write as _;

use bytes::Bytes;
use paxos::ids::GroupId;
use paxos::rsm::batch::BatchView;
use shardmaster::command::Command;
use shardmaster::ids::SHARDMASTER;

use crate::entry::{GroupCommand, GroupRequest, is_group_request};
use crate::handoff::HandoffCommand;
use crate::request::{OpView, RequestView};
use crate::txn::{Decision, Txn, TxnCommand};

/// Longest part of a key or value that is shown, in bytes.
const SHOWN_BYTES: usize = 40;

/// One line a request of a batch, after a line with its stamp: `put "k" (100 B) by c1234abcd#7`.
pub(crate) fn lines(group: GroupId, batch: &Bytes) -> Vec<String> {
    let view = match BatchView::new(batch) {
        Ok(view) => view,
        Err(error) => return vec![format!("unreadable: {error}")],
    };
    let stamp = format!("batch at {}", view.time);
    let requests = view.map(|request| match request {
        Ok(bytes) if group == SHARDMASTER => master_line(bytes),
        Ok(bytes) if is_group_request(bytes) => group_line(bytes),
        Ok(bytes) => line(bytes),
        Err(error) => format!("unreadable: {error}"),
    });
    std::iter::once(stamp).chain(requests).collect()
}

fn unreadable(request: &[u8]) -> String {
    format!("unreadable request ({} B)", request.len())
}

fn master_line(request: &[u8]) -> String {
    let Ok(request) = shardmaster::command::Request::decode(request) else { return unreadable(request) };
    match request.command {
        Command::Join { group, nodes } => {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            format!("join {group} on {}", nodes.join(" "))
        }
        Command::Leave { group } => format!("leave {group}"),
        Command::Move { shards, to } => {
            let shards: Vec<String> = shards.iter().map(|shard| shard.0.to_string()).collect();
            format!("move {} to {to}", shards.join(" "))
        }
        Command::Swap { a, b } => format!("swap {a} and {b}"),
        Command::Register(node) => format!("register {} at {}", node.node, node.client),
        Command::Report { from, report } => format!("{from} reports {report:?}"),
        Command::SetPaused(paused) => format!("pause {paused}"),
        Command::SetPolicy(policy) => format!("policy {policy:?}"),
    }
}

fn group_line(request: &[u8]) -> String {
    let Ok(request) = GroupRequest::decode(request) else { return unreadable(request) };
    match request.command {
        GroupCommand::Handoff(command) => handoff_line(command),
        GroupCommand::Txn(command) => txn_line(&command),
    }
}

fn txn_line(command: &TxnCommand) -> String {
    let attempt = command.attempt();
    let txn = format!(
        "txn {}{} try {}/{}",
        attempt.age.client, attempt.age.sequence, attempt.home.0, attempt.number
    );
    match command {
        TxnCommand::Prepare { shard, keys, .. } => format!("{txn}: prepare {shard}, {} keys", keys.len()),
        TxnCommand::Vote { shard, grant, .. } => format!("{txn}: {shard} has voted, lock {}", grant.lock),
        TxnCommand::Refuse { shard, conflict, .. } => format!("{txn}: {shard} refused, {conflict}"),
        TxnCommand::Expire { .. } => format!("{txn}: too late"),
        TxnCommand::Decide { shard, decision: Decision::Commit { lock, writes }, .. } => {
            format!("{txn}: commit {shard}, {} writes, lock {lock}", writes.len())
        }
        TxnCommand::Decide { shard, decision: Decision::Abort, .. } => format!("{txn}: abort {shard}"),
        TxnCommand::Acked { shard, .. } => format!("{txn}: {shard} is done"),
    }
}

fn handoff_line(command: HandoffCommand) -> String {
    match command {
        HandoffCommand::Order(order) => format!("order {order:?}"),
        HandoffCommand::Start { shard, epoch, to } => format!("start {shard} {epoch} to {to}"),
        HandoffCommand::Freeze { shard, epoch, staged } => {
            format!("freeze {shard} {epoch}, staged through change {staged}")
        }
        HandoffCommand::Chunk(chunk) => {
            let (shard, epoch, items) = (chunk.shard, chunk.epoch, chunk.items.len());
            let last = if chunk.is_last() { ", the last one" } else { "" };
            format!("chunk of {items} items of {shard} {epoch}{last}")
        }
    }
}

fn line(request: &[u8]) -> String {
    match RequestView::read(request) {
        Ok(view) => format!("{} by {}{}", operation(&view.op), view.client, view.sequence),
        Err(_) => unreadable(request),
    }
}

fn operation(op: &OpView<'_>) -> String {
    match op {
        OpView::Put { key, value } => format!("put {} ({} B)", quoted(key), value.len()),
        OpView::Append { key, value } => format!("append {} ({} B)", quoted(key), value.len()),
        OpView::Delete { key } => format!("delete {}", quoted(key)),
        OpView::Cas { key, expected: None, value } => {
            format!("cas {} absent -> ({} B)", quoted(key), value.len())
        }
        OpView::Cas { key, expected: Some(expected), value } => {
            format!("cas {} ({} B) -> ({} B)", quoted(key), expected.len(), value.len())
        }
        OpView::Incr { key, by } => format!("incr {} {by:+}", quoted(key)),
        OpView::Txn(txn) => transaction(txn),
        OpView::Ack => "ack".to_string(),
    }
}

fn transaction(txn: &Txn) -> String {
    let keys = txn.accesses().len();
    let (compares, then, otherwise) = (txn.compares.len(), txn.then.len(), txn.otherwise.len());
    let first = quoted(txn.first_key().unwrap_or_default());
    format!("txn {first}, {keys} keys: {compares} compares, {then} then, {otherwise} else")
}

/// Bytes in quotes, on one line whatever they are, cut if long.
fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let mut text = format!("\"{}\"", shown.escape_ascii());
    if bytes.len() > SHOWN_BYTES {
        let _infallible = write!(text, "… ({} B)", bytes.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use paxos::codec;
    use paxos::ids::{ClientId, LogTime, Sequence};
    use paxos::rsm::batch::BatchBuilder;

    use super::*;
    use crate::command::{Op, Request, ShardId};
    use crate::txn::{Access, Age, Attempt, Conflict, Grant, TxnOp};

    fn explained(ops: Vec<Op>) -> Vec<String> {
        let mut batch = BatchBuilder::default();
        for (sequence, op) in (7..).zip(ops) {
            let client = ClientId(0x1234_abcd << 96);
            let (ack_through, sent_at) = (Sequence(0), LogTime(0));
            let request =
                Request { client, sequence: Sequence(sequence), ack_through, sent_at, shard: ShardId(0), op };
            batch.push(&codec::encode(&request));
        }
        lines(GroupId(1), &batch.finish(LogTime(42)).into())
    }

    #[test]
    fn every_operation_reads_as_a_line() {
        let key = || b"k".to_vec();
        let lines = explained(vec![
            Op::Put { key: key(), value: vec![0; 100] },
            Op::Append { key: key(), value: vec![0; 3] },
            Op::Delete { key: key() },
            Op::Cas { key: key(), expected: None, value: vec![0; 2] },
            Op::Cas { key: key(), expected: Some(vec![0]), value: vec![0; 2] },
            Op::Incr { key: key(), by: -5 },
            Op::Ack,
        ]);
        let expected = [
            "batch at t42",
            "put \"k\" (100 B) by c1234abcd#7",
            "append \"k\" (3 B) by c1234abcd#8",
            "delete \"k\" by c1234abcd#9",
            "cas \"k\" absent -> (2 B) by c1234abcd#10",
            "cas \"k\" (1 B) -> (2 B) by c1234abcd#11",
            "incr \"k\" -5 by c1234abcd#12",
            "ack by c1234abcd#13",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_transaction_and_its_steps_read_as_a_line() {
        let copy = |key: &[u8], from: &[u8]| TxnOp::Copy { key: key.to_vec(), from: from.to_vec() };
        let swap = Txn { then: vec![copy(b"a", b"b"), copy(b"b", b"a")], ..Txn::default() };
        let line = "txn \"a\", 2 keys: 0 compares, 2 then, 0 else by c1234abcd#7";
        assert_eq!(explained(vec![Op::Txn(Box::new(swap))])[1], line);

        let client = ClientId(0x1234_abcd << 96);
        let age = Age { sent_at: LogTime(1), client, sequence: Sequence(7) };
        let attempt = Attempt { home: ShardId(3), number: 12, age };
        let shard = ShardId(9);
        let grant = Grant { lock: 4, found: Vec::new() };
        let commit = Decision::Commit { lock: 4, writes: vec![(b"b".to_vec(), None)] };
        let commands = [
            TxnCommand::Prepare { attempt, shard, keys: vec![(b"b".to_vec(), Access::default())] },
            TxnCommand::Vote { attempt, shard, grant },
            TxnCommand::Refuse { attempt, shard, conflict: Conflict::Moving },
            TxnCommand::Expire { attempt },
            TxnCommand::Decide { attempt, shard, decision: commit },
            TxnCommand::Decide { attempt, shard, decision: Decision::Abort },
            TxnCommand::Acked { attempt, shard },
        ];
        let expected = [
            "prepare shard 9, 1 keys",
            "shard 9 has voted, lock 4",
            "shard 9 refused, a shard of the transaction is about to move",
            "too late",
            "commit shard 9, 1 writes, lock 4",
            "abort shard 9",
            "shard 9 is done",
        ];
        let mut batch = BatchBuilder::default();
        for command in commands {
            let (client, sequence) = (ClientId(1), Sequence(1));
            batch.push(&GroupRequest { client, sequence, command: command.into() }.encode());
        }
        let lines = lines(GroupId(1), &batch.finish(LogTime(42)).into());
        let expected: Vec<String> =
            expected.iter().map(|words| format!("txn c1234abcd#7 try 3/12: {words}")).collect();
        assert_eq!(lines[1..], expected);
    }

    #[test]
    fn bytes_that_arent_text_stay_on_one_line() {
        let lines =
            explained(vec![Op::Delete { key: vec![b'\n', 0xff, b'"'] }, Op::Delete { key: vec![b'x'; 50] }]);
        assert_eq!(lines[1], "delete \"\\n\\xff\\\"\" by c1234abcd#7");
        assert_eq!(lines[2], format!("delete \"{}\"… (50 B) by c1234abcd#8", "x".repeat(40)));
    }

    #[test]
    fn what_cant_be_read_is_said_so() {
        assert_eq!(lines(GroupId(1), &Bytes::from_static(b"junk")), ["unreadable: batch is cut short"]);
        let mut batch = BatchBuilder::default();
        batch.push(b"\xff\xff\xff");
        assert_eq!(lines(GroupId(1), &batch.finish(LogTime(1)).into())[1], "unreadable request (3 B)");
    }
}
