//! Judges a history of appends and reads of whole lists: is it linearizable?
//!
//! Appended values are unique and a read returns the whole list, so the list at the end of a key is the order in which its
//! appends took effect. That makes the question easy: each operation has its place on a line, an append of the list's i-th
//! value at `2i`, a read of n values at `2n + 1`. The history is linearizable if and only if every acknowledged append is in
//! the list, every read is a prefix of it, and no operation that ended before another began has a later place.

use std::collections::{BTreeMap, HashMap};

/// Ends each value of a list.
pub const END: char = ';';

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// This value, which nobody else appends, without its end.
    Append(String),
    /// The whole list as it was read, with the values' ends.
    Read(String),
}

/// One operation on one key, in a time that all clients share.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// What it did.
    pub did: Did,
    /// When it began, in µs.
    pub began: u64,
    /// When it was answered; `None` if nobody knows whether it took effect. A read without an answer says nothing.
    pub ended: Option<u64>,
}

/// The lists at the end.
pub type Lists = BTreeMap<String, String>;

/// Says what is wrong first, if anything.
///
/// # Errors
/// The property that is broken, and by which operations.
pub fn judge(history: &[Operation], lists: &Lists) -> Result<(), String> {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    for (key, list) in lists {
        let operations = by_key.remove(key.as_str()).unwrap_or_default();
        judge_key(&operations, list).map_err(|wrong| format!("key {key}: {wrong}"))?;
    }
    match by_key.keys().next() {
        None => Ok(()),
        Some(key) => Err(format!("key {key}: nobody read its list at the end")),
    }
}

fn judge_key(operations: &[&Operation], list: &str) -> Result<(), String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, value) in list.split_terminator(END).enumerate() {
        if let Some(first) = places.insert(value, place + 1) {
            return Err(format!("append {value} took effect twice, as number {first} and {}", place + 1));
        }
    }
    let mut appended: HashMap<&str, &Operation> = HashMap::new();
    for operation in operations {
        if let Did::Append(value) = &operation.did {
            appended.insert(value, operation);
            if operation.ended.is_some() && !places.contains_key(value.as_str()) {
                return Err(format!("acknowledged append {value} is lost"));
            }
        }
    }
    if let Some(stranger) = places.keys().find(|value| !appended.contains_key(*value)) {
        return Err(format!("nobody appended {stranger}"));
    }
    let mut placed = Vec::new();
    for operation in operations {
        let place = match &operation.did {
            Did::Append(value) => places.get(value.as_str()).map(|place| 2 * place),
            Did::Read(_) if operation.ended.is_none() => None,
            Did::Read(read) => match list.starts_with(read.as_str()) && is_whole(read) {
                true => Some(2 * read.matches(END).count() + 1),
                false => {
                    return Err(format!("a read is no prefix of the list\n  read {read}\n  list {list}"));
                }
            },
        };
        placed.extend(place.map(|place| Placed { place, operation }));
    }
    in_real_time(placed)
}

fn is_whole(read: &str) -> bool {
    read.is_empty() || read.ends_with(END)
}

#[derive(Clone, Copy)]
struct Placed<'a> {
    place: usize,
    operation: &'a Operation,
}

/// No operation that ended before another began has a later place.
fn in_real_time(mut by_begin: Vec<Placed<'_>>) -> Result<(), String> {
    let mut by_end: Vec<_> =
        by_begin.iter().filter_map(|placed| placed.operation.ended.map(|ended| (ended, *placed))).collect();
    by_begin.sort_by_key(|placed| placed.operation.began);
    by_end.sort_by_key(|(ended, _)| *ended);
    let mut ended = by_end.into_iter().peekable();
    let mut furthest: Option<Placed<'_>> = None;
    for next in by_begin {
        while let Some((_, before)) = ended.next_if(|(at, _)| *at < next.operation.began) {
            if furthest.is_none_or(|furthest| furthest.place < before.place) {
                furthest = Some(before);
            }
        }
        if let Some(before) = furthest.filter(|before| before.place > next.place) {
            return Err(describe(before, next));
        }
    }
    Ok(())
}

fn describe(before: Placed<'_>, next: Placed<'_>) -> String {
    let wrong = match (&before.operation.did, &next.operation.did) {
        (Did::Append(_), Did::Append(_)) => "an append stands before one that had ended when it began",
        (Did::Append(_), Did::Read(_)) => "a read misses an append that had ended when it began",
        (Did::Read(_), Did::Append(_)) => "a read has an append that began after its end",
        (Did::Read(_), Did::Read(_)) => "a read has less than one that had ended when it began",
    };
    let tell = |placed: Placed<'_>| {
        let Operation { did, began, ended, .. } = placed.operation;
        let what = match did {
            Did::Append(value) => format!("append {value}, number {}", placed.place / 2),
            Did::Read(_) => format!("read of {} values", placed.place / 2),
        };
        format!("{what}, from {began} to {ended:?} us")
    };
    format!("{wrong}\n  first: {}\n  then:  {}", tell(before), tell(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(value: &str, began: u64, ended: impl Into<Option<u64>>) -> Operation {
        Operation { key: "k".into(), did: Did::Append(value.into()), began, ended: ended.into() }
    }

    fn read(list: &str, began: u64, ended: impl Into<Option<u64>>) -> Operation {
        Operation { key: "k".into(), did: Did::Read(list.into()), began, ended: ended.into() }
    }

    fn verdict(history: &[Operation], list: &str) -> String {
        let lists = Lists::from([("k".to_string(), list.to_string())]);
        judge(history, &lists).err().unwrap_or_default()
    }

    fn breaks(history: &[Operation], list: &str, words: &str) {
        let said = verdict(history, list);
        assert!(said.contains(words), "expected \"{words}\", it says \"{said}\"");
    }

    #[test]
    fn histories_without_fault() {
        assert_eq!(verdict(&[], ""), "");
        let one_after_another =
            [append("a", 1, 2), read("a;", 3, 4), append("b", 5, 6), read("a;b;", 7, 8), read("a;b;", 9, 10)];
        assert_eq!(verdict(&one_after_another, "a;b;"), "");
        let at_once =
            [append("a", 1, 9), append("b", 1, 9), read("", 2, 8), read("b;", 1, 9), read("b;a;", 2, 8)];
        assert_eq!(verdict(&at_once, "b;a;"), "");
        // What nobody knows of may take effect late, or never.
        let unknown = [append("a", 1, None), append("b", 2, 3), read("b;", 4, 5), append("c", 6, None)];
        assert_eq!(verdict(&unknown, "b;a;"), "");
        // A tie in time orders nothing.
        assert_eq!(verdict(&[append("a", 1, 5), read("", 5, 6)], "a;"), "");
    }

    #[test]
    fn lost_doubled_and_made_up_values_are_seen() {
        breaks(&[append("a", 1, 2)], "", "append a is lost");
        breaks(&[append("a", 1, 2)], "a;a;", "took effect twice");
        breaks(&[append("a", 1, None)], "a;a;", "took effect twice");
        breaks(&[], "a;", "nobody appended a");
        let elsewhere = Operation { key: "other".into(), ..append("a", 1, 2) };
        breaks(&[elsewhere], "", "nobody read its list");
    }

    #[test]
    fn reads_that_are_no_prefix_are_seen() {
        let appends = [append("a", 1, 9), append("bc", 1, 9)];
        for wrong in ["bc;", "bc;a;", "a;b", "a", "a;bc;d;"] {
            let mut history = appends.to_vec();
            history.push(read(wrong, 2, 3));
            breaks(&history, "a;bc;", "no prefix");
        }
    }

    #[test]
    fn each_kind_of_wrong_order_is_seen() {
        breaks(&[append("a", 1, 2), append("b", 3, 4)], "b;a;", "an append stands before one");
        breaks(&[append("a", 1, 2), read("", 3, 4)], "a;", "a read misses an append");
        breaks(&[read("a;", 1, 2), append("a", 3, 4)], "a;", "an append that began after its end");
        breaks(&[read("a;", 1, 2), append("a", 3, None)], "a;", "an append that began after its end");
        let stale = [append("a", 1, None), read("a;", 2, 3), read("", 4, 5)];
        breaks(&stale, "a;", "a read has less");
    }

    #[test]
    fn a_fault_is_seen_among_many_operations() {
        let mut history = Vec::new();
        let mut list = String::new();
        for n in 0..1000 {
            history.push(append(&n.to_string(), n * 10, n * 10 + 15));
            list += &format!("{n};");
            history.push(read(&list, n * 10 + 5, n * 10 + 16));
        }
        assert_eq!(verdict(&history, &list), "");
        history.push(read("0;1;", 3_000, 3_010));
        breaks(&history, &list, "a read has less");
    }
}
