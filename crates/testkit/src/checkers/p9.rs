//! P9: a request takes effect at most once. In the chosen logs every answer to it is the first one; and at the end, keys that were
//! only appended to hold every token once that was acknowledged, none twice, and counters the sum of what was added.

use std::collections::{BTreeMap, BTreeSet};

use kvserver::command::Reply;
use kvserver::txn::TxnOp;
use paxos::invariants::Violation;
use paxos::rsm::state_machine::RequestId;
use scripted::history::{History, Outcome};

use super::{Checker, violation};
use crate::observation::{Ending, Observation};

/// See the module.
#[derive(Default)]
pub struct P9 {
    answers: BTreeMap<RequestId, Reply>,
}

/// What was done to one key, if all of it was of one kind and outside of branches.
#[derive(Default)]
struct Tally<'a> {
    /// Each with whether it surely ran, surely didn't, or nobody knows.
    appended: Vec<(&'a [u8], Option<bool>)>,
    added: Vec<(i64, Option<bool>)>,
    others: bool,
}

/// Whether it took effect; `None` if nobody knows.
fn took_effect(outcome: &Outcome, held: &[TxnOp], op: &TxnOp) -> Option<bool> {
    match outcome {
        Outcome::Replied(reply) => Some(reply.held == held.contains(op)),
        Outcome::Failed { .. } | Outcome::NotExecuted => Some(false),
        Outcome::Unknown => None,
    }
}

fn tallies(history: &History) -> BTreeMap<&[u8], Tally<'_>> {
    let mut tallies: BTreeMap<&[u8], Tally<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let (then, otherwise) = (&operation.txn.then, &operation.txn.otherwise);
        for op in then.iter().chain(otherwise) {
            // One that stands in both branches can't be told.
            let both = then.contains(op) && otherwise.contains(op);
            let effect = took_effect(&operation.outcome, then, op).filter(|_| !both);
            match op {
                TxnOp::Get { .. } => {}
                TxnOp::Append { key, value } => {
                    tallies.entry(key).or_default().appended.push((value, effect));
                }
                TxnOp::Incr { key, by } => tallies.entry(key).or_default().added.push((*by, effect)),
                TxnOp::Put { key, .. } | TxnOp::Delete { key } | TxnOp::Cas { key, .. } => {
                    tallies.entry(key).or_default().others = true;
                }
                TxnOp::Copy { key, .. } => tallies.entry(key).or_default().others = true,
            }
        }
    }
    tallies
}

fn occurrences(content: &[u8], token: &[u8]) -> usize {
    if token.is_empty() { 0 } else { content.windows(token.len()).filter(|window| *window == token).count() }
}

fn shown(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn appended_once(key: &[u8], tally: &Tally<'_>, content: &[u8]) -> Result<(), Violation> {
    for (token, effect) in &tally.appended {
        let most = 1;
        let least = usize::from(*effect == Some(true));
        let most = if *effect == Some(false) { 0 } else { most };
        let found = occurrences(content, token);
        if found < least || found > most {
            let (key, token) = (shown(key), shown(token));
            let detail =
                format!("{key} holds {token} {found} times; it is to be there {least} to {most} times");
            return violation("P9", detail);
        }
    }
    Ok(())
}

/// The sum of what surely ran, with some of what may have run.
fn added_once(key: &[u8], tally: &Tally<'_>, content: &[u8]) -> Result<(), Violation> {
    let number: i64 = if content.is_empty() { 0 } else { shown(content).parse().unwrap_or(i64::MIN) };
    let of = |wanted| tally.added.iter().filter(move |(_, effect)| *effect == wanted).map(|(by, _)| *by);
    let mut sums = BTreeSet::from([of(Some(true)).sum::<i64>()]);
    for by in of(None) {
        let with: Vec<i64> = sums.iter().map(|sum| sum + by).collect();
        sums.extend(with);
    }
    if sums.contains(&number) {
        return Ok(());
    }
    let detail =
        format!("the counter {} is {}, which no set of its increments gives", shown(key), shown(content));
    violation("P9", detail)
}

fn at_the_end(ending: &Ending) -> Result<(), Violation> {
    for (key, tally) in tallies(&ending.history) {
        let content = ending.contents.get(key).map_or(&[][..], Vec::as_slice);
        match (tally.others, tally.appended.is_empty(), tally.added.is_empty()) {
            (false, false, true) => appended_once(key, &tally, content)?,
            (false, true, false) => added_once(key, &tally, content)?,
            // Overwritten, or both: only P7 can tell. But no token may be there twice, if nothing was copied.
            _ => {}
        }
    }
    Ok(())
}

impl Checker for P9 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Answered { group, id, reply, recorded: true, .. } => {
                if matches!(reply, Reply::Refused(_)) {
                    return Ok(());
                }
                let first = self.answers.entry(id).or_insert_with(|| reply.clone());
                if first == reply {
                    return Ok(());
                }
                let detail = format!("{id:?} was answered {first:?}, and now {reply:?} by {group}");
                violation("P9", detail)
            }
            Observation::Ended(ending) if ending.rest.is_ok() => at_the_end(ending),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvserver::command::ShardId;
    use kvserver::txn::TxnResult;
    use paxos::ids::{ClientId, Generation, GroupId, Sequence};
    use scripted::history::Operation;
    use shardmaster::ids::GroupRef;

    use super::*;
    use crate::checkers::fixture::{ending, property};

    fn append(token: &str, result: Option<u64>) -> Operation {
        let op = TxnOp::Append { key: b"log".to_vec(), value: token.as_bytes().to_vec() };
        match result {
            Some(length) => Operation::single(1, 0, 1, op, TxnResult::Written { length }),
            None => Operation::unknown(1, 0, op),
        }
    }

    fn incr(by: i64, result: Option<i64>) -> Operation {
        let op = TxnOp::Incr { key: b"n".to_vec(), by };
        match result {
            Some(value) => Operation::single(1, 0, 1, op, TxnResult::Number { value }),
            None => Operation::unknown(1, 0, op),
        }
    }

    fn ended(operations: Vec<Operation>, contents: &[(&str, &str)]) -> Option<&'static str> {
        let mut ending = ending();
        ending.history.operations = operations;
        let pairs = contents.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        ending.contents = pairs.collect();
        property(&P9::default().observe(&Observation::Ended(&ending)))
    }

    #[test]
    fn tokens_that_are_there_once_pass() {
        let history = || vec![append("a;", Some(2)), append("b;", None), append("c;", Some(4))];
        assert_eq!(ended(history(), &[("log", "a;c;")]), None);
        assert_eq!(ended(history(), &[("log", "b;a;c;")]), None);
    }

    #[test]
    fn a_token_twice_or_lost_or_refused_and_there_is_noticed() {
        assert_eq!(ended(vec![append("a;", Some(2))], &[("log", "a;a;")]), Some("P9"));
        assert_eq!(ended(vec![append("a;", None)], &[("log", "a;a;")]), Some("P9"));
        assert_eq!(ended(vec![append("a;", Some(2))], &[]), Some("P9"));
        let refused = Operation { outcome: Outcome::NotExecuted, ..append("a;", None) };
        assert_eq!(ended(vec![refused], &[("log", "a;")]), Some("P9"));
    }

    #[test]
    fn a_counter_that_no_increments_give_is_noticed() {
        let history = || vec![incr(1, Some(1)), incr(10, None)];
        assert_eq!(ended(history(), &[("n", "1")]), None);
        assert_eq!(ended(history(), &[("n", "11")]), None);
        assert_eq!(ended(history(), &[("n", "2")]), Some("P9"));
        assert_eq!(ended(history(), &[]), Some("P9"));
    }

    #[test]
    fn another_answer_to_a_retry_is_noticed() {
        let mut p9 = P9::default();
        let group = GroupRef { group: GroupId(1), generation: Generation(1) };
        let mut answer = |length, recorded| {
            let (id, reply) = (
                RequestId { client: ClientId(9), sequence: Sequence(1) },
                Reply::Written { length, version: 1 },
            );
            let seen = Observation::Answered { group, shard: ShardId(0), id, recorded, reply: &reply };
            property(&p9.observe(&seen))
        };
        assert_eq!([answer(1, true), answer(1, true)], [None; 2]);
        assert_eq!(answer(2, false), None, "a reading is done again");
        assert_eq!(answer(2, true), Some("P9"));
    }
}
