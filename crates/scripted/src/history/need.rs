//! What a result says of the values before and after its operation. An operation whose needs nobody left can fulfil shows
//! that an order has gone wrong, long before its turn comes.

use std::collections::BTreeMap;

use kvserver::txn::{Condition, Relation, TxnOp, TxnResult};

use super::Outcome;
use super::part::{Op, Step};
use super::spec::number;

/// What must be in a key before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// Just this.
    Is(Option<&'a [u8]>),
    /// A value or none.
    Present(bool),
    /// The text of this number, or nothing for 0.
    Number(i64),
    /// A value of so many bytes, or nothing for 0.
    Length(u64),
}

/// What is in a key after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make<'a> {
    /// Just this.
    Is(Option<&'a [u8]>),
    /// The text of this number.
    Number(i64),
    /// A value of so many bytes.
    Length(u64),
    /// A value that ends so.
    End(&'a [u8]),
    /// Anything.
    Any,
}

impl Need<'_> {
    /// Whether this value fulfils it.
    pub(super) fn holds(self, value: Option<&[u8]>) -> bool {
        match self {
            Need::Is(needed) => needed == value,
            Need::Present(present) => present == value.is_some(),
            Need::Number(needed) => value.map_or(Some(0), number) == Some(needed),
            Need::Length(needed) => value.map_or(0, <[u8]>::len) as u64 == needed,
        }
    }

    /// Whether this value, or one that begins with it, fulfils it.
    pub(super) fn may_hold_once_grown(self, value: Option<&[u8]>) -> bool {
        match self {
            Need::Is(None) | Need::Present(false) => value.is_none(),
            Need::Is(Some(needed)) => needed.starts_with(value.unwrap_or_default()),
            Need::Length(needed) => value.map_or(0, <[u8]>::len) as u64 <= needed,
            Need::Present(true) | Need::Number(_) => true,
        }
    }

    /// Whether what an operation leaves may fulfil it.
    pub(super) fn may_hold(self, made: Make<'_>) -> bool {
        match (made, self) {
            (Make::Is(value), need) => need.holds(value),
            (Make::Any, _) => true,
            (Make::End(end), Need::Is(value)) => value.is_some_and(|value| value.ends_with(end)),
            (Make::End(end), Need::Length(needed)) => end.len() as u64 <= needed,
            (Make::End(_), Need::Present(present)) => present,
            (Make::End(_), Need::Number(_)) => true,
            (Make::Number(made), Need::Number(needed)) => made == needed,
            (Make::Number(made), Need::Is(value)) => value.and_then(number) == Some(made),
            (Make::Length(made), Need::Length(needed)) => made == needed,
            (Make::Length(made), Need::Is(value)) => value.is_some_and(|value| value.len() as u64 == made),
            (Make::Number(_) | Make::Length(_), Need::Present(present)) => present,
            (Make::Number(_), Need::Length(_)) | (Make::Length(_), Need::Number(_)) => true,
        }
    }
}

type Needs<'a> = Vec<(usize, Need<'a>)>;
type Makes<'a> = Vec<(usize, Make<'a>)>;

/// The needs and the makes of an operation, as far as they follow from its outcome.
pub(super) fn infer<'a>(op: &Op<'a>) -> (Needs<'a>, Makes<'a>) {
    let (mut needs, makes) = of_outcome(op);
    needs.sort_by_key(|(key, _)| *key);
    (needs, makes)
}

fn of_outcome<'a>(op: &Op<'a>) -> (Needs<'a>, Makes<'a>) {
    match op.outcome {
        Outcome::Replied(reply) => {
            let mut needs = of_compares(op, reply.held);
            let mut after = BTreeMap::new();
            for (step, result) in op.steps(reply.held).iter().zip(&reply.results) {
                after_step(step, result, &mut needs, &mut after);
            }
            let makes = op.writes.iter().map(|key| (*key, after.get(key).copied().unwrap_or(Make::Any)));
            (needs, makes.collect())
        }
        Outcome::Failed { .. } | Outcome::NotExecuted => (Vec::new(), Vec::new()),
        Outcome::Unknown => {
            let alone = op.compares.is_empty() && op.then.len() == 1;
            let make = |key| match op.then.first().map(|step| step.op) {
                Some(TxnOp::Put { value, .. } | TxnOp::Cas { value, .. }) if alone => {
                    (key, Make::Is(Some(value)))
                }
                Some(TxnOp::Append { value, .. }) if alone => (key, Make::End(value)),
                Some(TxnOp::Delete { .. }) if alone => (key, Make::Is(None)),
                _ => (key, Make::Any),
            };
            (Vec::new(), op.writes.iter().map(|key| make(*key)).collect())
        }
    }
}

fn of_compares<'a>(op: &Op<'a>, held: bool) -> Needs<'a> {
    let sole = op.compares.len() == 1;
    let need = |condition: &&'a Condition| match condition {
        Condition::Present(present) if held || sole => Some(Need::Present(*present == held)),
        Condition::Value(Relation::Equal, value) if held => Some(Need::Is(Some(value))),
        Condition::Value(Relation::NotEqual, value) if sole && !held => Some(Need::Is(Some(value))),
        _ => None,
    };
    op.compares.iter().filter_map(|(key, condition)| Some((*key, need(condition)?))).collect()
}

/// What a step and its result add. `after` has what the steps so far have left.
fn after_step<'a>(
    step: &Step<'a>,
    result: &'a TxnResult,
    needs: &mut Needs<'a>,
    after: &mut BTreeMap<usize, Make<'a>>,
) {
    let written = after.contains_key(&step.key);
    let mut need = |needed| needs.extend((!written).then_some((step.key, needed)));
    match (step.op, result) {
        (TxnOp::Get { .. }, TxnResult::Value(found)) => {
            need(Need::Is(found.as_ref().map(|(value, _)| &value[..])));
        }
        (TxnOp::Put { value, .. }, _) => drop(after.insert(step.key, Make::Is(Some(value)))),
        (TxnOp::Append { value, .. }, TxnResult::Written { length }) => {
            need(Need::Length(length.saturating_sub(value.len() as u64)));
            after.insert(step.key, Make::Length(*length));
        }
        (TxnOp::Delete { .. }, TxnResult::Deleted { existed }) => {
            need(Need::Present(*existed));
            after.insert(step.key, Make::Is(None));
        }
        (TxnOp::Incr { by, .. }, TxnResult::Number { value }) => {
            if let Some(before) = value.checked_sub(*by) {
                need(Need::Number(before));
            }
            after.insert(step.key, Make::Number(*value));
        }
        (TxnOp::Cas { expected, value, .. }, _) => {
            need(Need::Is(expected.as_deref()));
            after.insert(step.key, Make::Is(Some(value)));
        }
        (TxnOp::Copy { .. }, TxnResult::Copied { existed }) => {
            // It reads what was there before the transaction.
            needs.push((step.from, Need::Present(*existed)));
            let absent = Make::Is(None);
            after.insert(step.key, if *existed { Make::Any } else { absent });
        }
        // A result of another kind: it never matches.
        _ => {}
    }
}
