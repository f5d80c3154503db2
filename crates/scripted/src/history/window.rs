//! The smallest part of a history that can't be ordered, and how it is shown.
//!
//! Before a point that all orders come to, a history is a state. After the moment that no order gets past, it doesn't matter.
//! Of what is between, each operation is set free: it may happen at any time after its call, with any result, or never. If
//! there still is no order, it wasn't to blame.

use std::collections::BTreeSet;
use std::fmt;

use kvserver::txn::{Compare, Condition, Relation, TxnOp, TxnResult};

use super::part::{Op, Part};
use super::search::{End, Point, Search};
use super::{History, Operation, Outcome, Window};

/// Steps for the question whether one operation is to blame.
const STEPS_EACH: u64 = 20_000;
/// Operations of a window that explains more than it needs to.
const WIDE: usize = 300;
/// Bytes of a value that are shown.
const SHOWN: usize = 40;

/// Of a part whose search got stuck.
pub(super) fn smallest(history: &History, part: &Part<'_>, stuck: &Search<'_, '_>) -> Window {
    let end = stuck.stuck_at();
    let narrow = cut(part, end, stuck.bottleneck(end.operation.invoked));
    // What is in flight when the last one is called may have happened already because of what was seen before: that
    // belongs to the explanation.
    let began = narrow.in_flight.iter().map(|op| op.operation.invoked).min();
    let wide = began.map(|began| cut(part, end, stuck.bottleneck(began)));
    let chosen = wide.filter(|wide| wide.part.ops.len() <= WIDE).unwrap_or(narrow);
    let (window, blamed) = blame(chosen.part);
    tell(history, &window, &blamed)
}

/// A history from a point on, up to the end of an operation.
struct Cut<'p, 'a> {
    part: Part<'a>,
    /// What was done at that point and not answered before the last operation was called.
    in_flight: Vec<&'p Op<'a>>,
}

fn cut<'p, 'a>(part: &'p Part<'a>, end: &Op<'_>, (boundary, point): (usize, Point)) -> Cut<'p, 'a> {
    let mut to_there = Search::until(part, boundary, point);
    let reached = to_there.run() == End::Stopped;
    let initial = if reached { to_there.values().to_vec() } else { part.initial.clone() };
    let is_done = |n: usize| reached && to_there.is_done(n);
    let in_time = |op: &Op<'_>| end.returned.is_none_or(|returned| op.operation.invoked <= returned);
    let left = part.ops.iter().enumerate().filter(|(n, op)| in_time(op) && !is_done(*n));
    let ops = left.map(|(_, op)| op.clone()).collect();
    let late = |op: &Op<'_>| op.returned.is_none_or(|returned| returned >= end.operation.invoked);
    let in_flight = part.ops.iter().enumerate().filter(|(n, op)| is_done(*n) && late(op));
    let in_flight = in_flight.map(|(_, op)| op).collect();
    Cut { part: Part { initial, ops, ..part.clone() }, in_flight }
}

/// Sets operations free, larger runs of them first. The part then, and which aren't free.
fn blame(mut part: Part<'_>) -> (Part<'_>, Vec<bool>) {
    let mut blamed: Vec<bool> = part.ops.iter().map(|op| op.returned.is_some()).collect();
    let mut run = (part.ops.len() / 2).max(1);
    loop {
        for start in (0..part.ops.len()).step_by(run) {
            let these: Vec<usize> = (start..part.ops.len().min(start + run)).filter(|n| blamed[*n]).collect();
            let mut freer = part.clone();
            these.iter().for_each(|n| freer.ops[*n] = freer.ops[*n].freed());
            if !these.is_empty() && Search::new(&freer, STEPS_EACH).run() == End::Stuck {
                part = freer;
                these.iter().for_each(|n| blamed[*n] = false);
            }
        }
        if run == 1 {
            return (part, blamed);
        }
        run /= 2;
    }
}

/// The operations to blame, and those that may have written what they name.
fn tell(history: &History, part: &Part<'_>, blamed: &[bool]) -> Window {
    let to_blame = || part.ops.iter().zip(blamed).filter(|(_, blamed)| **blamed).map(|(op, _)| op);
    let keys: BTreeSet<usize> =
        to_blame().flat_map(|op| op.reads.iter().chain(&op.writes)).copied().collect();
    let names: BTreeSet<&[u8]> = keys.iter().map(|key| part.keys[*key]).collect();
    let writes = |op: &Op<'_>| op.writes.iter().any(|key| keys.contains(key));
    let shown = part.ops.iter().zip(blamed).filter(|(op, blamed)| **blamed || writes(op));
    let operations: Vec<Operation> = shown.map(|(op, _)| op.operation.clone()).collect();
    let begin = operations.iter().map(|op| op.invoked).min().unwrap_or(0);
    let end = to_blame().map(|op| op.operation.returned).max().unwrap_or(u64::MAX);
    let meanwhile = history.operations.iter().filter(|op| op.outcome == Outcome::NotExecuted);
    let meanwhile = meanwhile.filter(|op| op.invoked <= end && op.returned >= begin);
    let same_keys = |op: &Operation| op.txn.accesses().keys().any(|key| names.contains(key));
    Window {
        before: keys.iter().map(|key| (part.keys[*key].to_vec(), part.initial[*key].clone())).collect(),
        operations,
        not_executed: meanwhile.filter(|op| same_keys(op)).cloned().collect(),
    }
}

/// As a table.
pub(super) fn print(window: &Window, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "no order of these operations explains their results")?;
    write!(f, "before:")?;
    for (key, value) in &window.before {
        write!(f, " {} = {}", text(key), optional(value.as_deref()))?;
    }
    writeln!(f, "\n{:>12} {:>12}  client  operation", "called", "answered")?;
    for op in window.operations.iter().chain(&window.not_executed) {
        let returned = match op.outcome {
            Outcome::Unknown => "-".to_string(),
            _ => op.returned.to_string(),
        };
        writeln!(f, "{:>12} {returned:>12}  {:>6}  {}", op.invoked, op.client, describe(op))?;
    }
    Ok(())
}

/// What was asked and answered, in one line.
fn describe(operation: &Operation) -> String {
    let txn = &operation.txn;
    let (held, results) = match &operation.outcome {
        Outcome::Replied(reply) => (Some(reply.held), &reply.results[..]),
        Outcome::Failed { .. } | Outcome::NotExecuted | Outcome::Unknown => (None, &[][..]),
    };
    let branch = |ops: &[TxnOp], ran: bool| -> String {
        let results = if ran { results } else { &[] };
        let step = |(n, op)| step_text(op, results.get(n));
        ops.iter().enumerate().map(step).collect::<Vec<_>>().join(", ")
    };
    let mut line = match held {
        Some(false) => branch(&txn.otherwise, true),
        Some(true) | None => branch(&txn.then, held.is_some()),
    };
    if !txn.compares.is_empty() {
        let compares: Vec<String> = txn.compares.iter().map(compare_text).collect();
        line = match held {
            Some(held) => format!("if {} ({held}): {line}", compares.join(" and ")),
            None => format!("if {}: {line}; else: {}", compares.join(" and "), branch(&txn.otherwise, false)),
        };
    }
    match &operation.outcome {
        Outcome::Replied(_) => line,
        Outcome::Failed { op, error } => format!("{line} -> step {op} failed: {error}"),
        Outcome::NotExecuted => format!("{line} -> not executed"),
        Outcome::Unknown => format!("{line} -> outcome unknown"),
    }
}

fn step_text(op: &TxnOp, result: Option<&TxnResult>) -> String {
    let key = text(op.key());
    let asked = match op {
        TxnOp::Get { .. } => format!("get {key}"),
        TxnOp::Put { value, .. } => format!("put {key} {}", text(value)),
        TxnOp::Append { value, .. } => format!("append {key} {}", text(value)),
        TxnOp::Delete { .. } => format!("delete {key}"),
        TxnOp::Incr { by, .. } => format!("incr {key} {by:+}"),
        TxnOp::Cas { expected, value, .. } => {
            format!("cas {key} {} {}", optional(expected.as_deref()), text(value))
        }
        TxnOp::Copy { from, .. } => format!("copy {key} from {}", text(from)),
    };
    let Some(result) = result else { return asked };
    let answered = match result {
        TxnResult::Value(found) => optional(found.as_ref().map(|(value, _)| &value[..])),
        TxnResult::Written { length } => format!("{length} bytes"),
        TxnResult::Deleted { existed: true } => "was there".to_string(),
        TxnResult::Deleted { existed: false } => "wasn't there".to_string(),
        TxnResult::Number { value } => value.to_string(),
        TxnResult::Copied { existed: true } => "copied".to_string(),
        TxnResult::Copied { existed: false } => "nothing to copy".to_string(),
    };
    format!("{asked} -> {answered}")
}

fn compare_text(compare: &Compare) -> String {
    let key = text(&compare.key);
    let sign = |relation: &Relation| match relation {
        Relation::Equal => "=",
        Relation::NotEqual => "!=",
        Relation::Less => "<",
        Relation::Greater => ">",
    };
    match &compare.condition {
        Condition::Present(true) => format!("{key} is there"),
        Condition::Present(false) => format!("{key} isn't there"),
        Condition::Value(relation, value) => format!("{key} {} {}", sign(relation), text(value)),
        Condition::Version(relation, version) => format!("version of {key} {} {version}", sign(relation)),
    }
}

fn optional(value: Option<&[u8]>) -> String {
    value.map_or_else(|| "absent".to_string(), |value| format!("\"{}\"", text(value)))
}

/// Bytes as text; of long ones the end, where appends are.
fn text(bytes: &[u8]) -> String {
    let cut = bytes.len().saturating_sub(SHOWN);
    let shown = String::from_utf8_lossy(&bytes[cut..]).escape_debug().to_string();
    if cut == 0 { shown } else { format!("({cut} bytes)…{shown}") }
}
