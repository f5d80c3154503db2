//! What a transaction came to: a line an operation, or one object.

use client::{Txn, TxnOp, TxnReply, TxnResult};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, json_bytes, quoted};
use crate::records::escape;

/// Shows a reply; `txn` is what it answers.
pub(crate) fn reply(txn: &Txn, reply: &TxnReply, context: &Context) -> Result<(), Failure> {
    let (name, branch) = if reply.held { ("then", &txn.then) } else { ("else", &txn.otherwise) };
    let done = || branch.iter().zip(&reply.results);
    if context.is_json() {
        let results: Vec<Json> = done().map(|(op, result)| object(op, result)).collect();
        return output::object(json!({ "held": reply.held, "branch": name, "results": results }));
    }
    let mut lines = Vec::new();
    if !txn.compares.is_empty() && !branch.is_empty() {
        lines.extend(format!("{name}:\n").into_bytes());
    }
    for (op, result) in done() {
        line(op, result, &mut lines);
        lines.push(b'\n');
    }
    output::data(&lines)
}

fn line(op: &TxnOp, result: &TxnResult, to: &mut Vec<u8>) {
    let key = quoted(op.key());
    let text = match result {
        TxnResult::Value(Some((value, version))) => {
            to.extend(format!("{key} = ").into_bytes());
            escape(value, to);
            if *version == 0 { String::new() } else { format!(" (version {version})") }
        }
        TxnResult::Value(None) => format!("{key} is absent"),
        TxnResult::Written { length } => format!("{key} {length} bytes"),
        TxnResult::Deleted { existed: true } => format!("{key} removed"),
        TxnResult::Deleted { existed: false } => format!("{key} was absent"),
        TxnResult::Number { value } => format!("{key} = {value}"),
        TxnResult::Copied { existed } => match op {
            TxnOp::Copy { from, .. } if *existed => format!("{key} copied from {}", quoted(from)),
            TxnOp::Copy { from, .. } => format!("{key} removed, as {} was absent", quoted(from)),
            _ => key,
        },
    };
    to.extend(text.into_bytes());
}

fn object(op: &TxnOp, result: &TxnResult) -> Json {
    let verb = match op {
        TxnOp::Get { .. } => "get",
        TxnOp::Put { .. } => "put",
        TxnOp::Append { .. } => "append",
        TxnOp::Delete { .. } => "del",
        TxnOp::Incr { .. } => "incr",
        TxnOp::Cas { .. } => "cas",
        TxnOp::Copy { .. } => "copy",
    };
    let mut told = json!({ "op": verb, "key": json_bytes(op.key()) });
    match result {
        TxnResult::Value(found) => {
            told["found"] = json!(found.is_some());
            if let Some((value, version)) = found {
                told["value"] = json_bytes(value);
                // What the transaction wrote itself has none yet.
                told["version"] = json!((*version != 0).then_some(version));
            }
        }
        TxnResult::Written { length } => told["length"] = json!(length),
        TxnResult::Deleted { existed } | TxnResult::Copied { existed } => told["existed"] = json!(existed),
        TxnResult::Number { value } => told["value"] = json!(value),
    }
    if let TxnOp::Copy { from, .. } = op {
        told["from"] = json_bytes(from);
    }
    told
}
