//! Transactions in the words of scripts: `if 0/a = 5, 1/b absent then incr 0/a -5, incr 1/b 5 else get 0/a`.

use kvserver::command::shard_of;
use kvserver::txn::{
    Attempt, Compare, Condition, Decision, Grant, Relation, Txn, TxnAnswer, TxnCommand, TxnDuty, TxnOp,
    TxnReply, TxnResult,
};

use crate::shard::text;

/// What words say; `nothing` is a branch without an operation.
pub(crate) fn parse(words: &[&str], shards: u16) -> Result<Txn, String> {
    let all = words.join(" ");
    let (compares, rest) = match all.strip_prefix("if ") {
        Some(rest) => rest.split_once(" then ").ok_or_else(|| "an if needs a then".to_string())?,
        None => ("", all.as_str()),
    };
    let (then, otherwise) = rest.split_once(" else ").unwrap_or((rest, "nothing"));
    let parts = |text: &str| -> Vec<String> {
        text.split(',').map(|part| part.trim().to_string()).filter(|part| !part.is_empty()).collect()
    };
    let ops = |text: &str| -> Result<Vec<TxnOp>, String> {
        let ops = parts(text).iter().map(|part| op(part, shards)).collect::<Result<Vec<_>, _>>()?;
        Ok(ops.concat())
    };
    let compares = parts(compares).iter().map(|part| compare(part, shards)).collect::<Result<_, _>>()?;
    let txn = Txn { compares, then: ops(then)?, otherwise: ops(otherwise)? };
    if txn.first_key().is_none() { Err("a transaction names a key".to_string()) } else { Ok(txn) }
}

fn compare(text: &str, shards: u16) -> Result<Compare, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let relation = |word: &str| match word {
        "=" => Ok(Relation::Equal),
        "!=" => Ok(Relation::NotEqual),
        "<" => Ok(Relation::Less),
        ">" => Ok(Relation::Greater),
        _ => Err(format!("{word} is no relation")),
    };
    let (key, condition) = match words[..] {
        [key, "present"] => (key, Condition::Present(true)),
        [key, "absent"] => (key, Condition::Present(false)),
        [key, word, version] if version.starts_with('v') && version.len() > 1 => {
            let number = version[1..].parse().map_err(|_| format!("{version} is no version"))?;
            (key, Condition::Version(relation(word)?, number))
        }
        [key, word, value] => (key, Condition::Value(relation(word)?, value.as_bytes().to_vec())),
        _ => return Err(format!("no compare: {text}")),
    };
    Ok(Compare { key: text::key(key, shards)?, condition })
}

fn op(part: &str, shards: u16) -> Result<Vec<TxnOp>, String> {
    let words: Vec<&str> = part.split_whitespace().collect();
    let key = |word: &str| text::key(word, shards);
    let value = |word: &str| word.as_bytes().to_vec();
    Ok(match words[..] {
        ["nothing"] => Vec::new(),
        ["get", k] => vec![TxnOp::Get { key: key(k)? }],
        ["put", k, v] => vec![TxnOp::Put { key: key(k)?, value: value(v) }],
        ["append", k, v] => vec![TxnOp::Append { key: key(k)?, value: value(v) }],
        ["delete", k] => vec![TxnOp::Delete { key: key(k)? }],
        ["incr", k, by] => vec![TxnOp::Incr { key: key(k)?, by: amount(by)? }],
        ["cas", k, old, new] => {
            vec![TxnOp::Cas { key: key(k)?, expected: expected(old), value: value(new) }]
        }
        ["copy", k, from] => vec![TxnOp::Copy { key: key(k)?, from: key(from)? }],
        ["swap", a, b] => {
            let (a, b) = (key(a)?, key(b)?);
            vec![TxnOp::Copy { key: a.clone(), from: b.clone() }, TxnOp::Copy { key: b, from: a }]
        }
        _ => return Err(format!("no operation: {part}")),
    })
}

/// What a cas expects: `-` is an absent key.
pub(crate) fn expected(word: &str) -> Option<Vec<u8>> {
    (word != "-").then(|| word.as_bytes().to_vec())
}

/// What an incr adds.
pub(crate) fn amount(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn lossy(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The words of a transaction.
pub(crate) fn txn(txn: &Txn, shards: u16) -> String {
    let key = |key: &[u8]| full_key(key, shards);
    let op = |op: &TxnOp| match op {
        TxnOp::Get { key: k } => format!("get {}", key(k)),
        TxnOp::Put { key: k, value } => format!("put {} {}", key(k), lossy(value)),
        TxnOp::Append { key: k, value } => format!("append {} {}", key(k), lossy(value)),
        TxnOp::Delete { key: k } => format!("delete {}", key(k)),
        TxnOp::Incr { key: k, by } => format!("incr {} {by}", key(k)),
        TxnOp::Cas { key: k, expected, value } => {
            let old = expected.as_deref().map_or("-".to_string(), lossy);
            format!("cas {} {old} {}", key(k), lossy(value))
        }
        TxnOp::Copy { key: k, from } => format!("copy {} {}", key(k), key(from)),
    };
    let branch = |ops: &[TxnOp]| match ops.is_empty() {
        true => "nothing".to_string(),
        false => ops.iter().map(op).collect::<Vec<_>>().join(", "),
    };
    let compare = |compare: &Compare| match &compare.condition {
        Condition::Present(true) => format!("{} present", key(&compare.key)),
        Condition::Present(false) => format!("{} absent", key(&compare.key)),
        Condition::Value(relation, value) => {
            format!("{} {} {}", key(&compare.key), sign(*relation), lossy(value))
        }
        Condition::Version(relation, version) => {
            format!("{} {} v{version}", key(&compare.key), sign(*relation))
        }
    };
    if txn.compares.is_empty() {
        return branch(&txn.then);
    }
    let compares: Vec<String> = txn.compares.iter().map(compare).collect();
    format!("if {} then {} else {}", compares.join(", "), branch(&txn.then), branch(&txn.otherwise))
}

fn sign(relation: Relation) -> &'static str {
    match relation {
        Relation::Equal => "=",
        Relation::NotEqual => "!=",
        Relation::Less => "<",
        Relation::Greater => ">",
    }
}

/// `0/a`.
pub(crate) fn full_key(key: &[u8], shards: u16) -> String {
    format!("{}/{}", shard_of(key, shards).0, text::name(key))
}

/// `then [5 v3, number 7]`.
pub(crate) fn reply(reply: &TxnReply) -> String {
    let result = |result: &TxnResult| match result {
        TxnResult::Value(Some((value, version))) => format!("{} v{version}", lossy(value)),
        TxnResult::Value(None) => "absent".to_string(),
        TxnResult::Written { length } => format!("length={length}"),
        TxnResult::Deleted { existed } => format!("existed={existed}"),
        TxnResult::Number { value } => format!("number={value}"),
        TxnResult::Copied { existed } => format!("copied={existed}"),
    };
    let results: Vec<String> = reply.results.iter().map(result).collect();
    format!("ran {} [{}]", if reply.held { "then" } else { "else" }, results.join(", "))
}

/// `c1 #3 try 0.7`: the request, and the seventh number of shard 0.
pub(crate) fn attempt(attempt: &Attempt) -> String {
    let age = &attempt.age;
    format!("{} {} try {}.{}", text::client(age.client), age.sequence, attempt.home.0, attempt.number)
}

/// The word that scripts use for a command.
pub(crate) fn command_word(command: &TxnCommand) -> &'static str {
    match command {
        TxnCommand::Prepare { .. } => "Prepare",
        TxnCommand::Vote { grant, .. } if grant.found.is_empty() => "Ask",
        TxnCommand::Vote { .. } => "Vote",
        TxnCommand::Refuse { .. } => "Refuse",
        TxnCommand::Expire { .. } => "Expire",
        TxnCommand::Decide { .. } => "Decide",
        TxnCommand::Acked { .. } => "Acked",
    }
}

/// A command, with its word.
pub(crate) fn command(command: &TxnCommand) -> String {
    let (word, attempt) = (command_word(command), attempt(&command.attempt()));
    match command {
        TxnCommand::Prepare { shard, keys, .. } => {
            let keys: Vec<String> = keys
                .iter()
                .map(|(key, access)| {
                    let reads = if access.reads { "r" } else { "" };
                    format!("{} {reads}{}", text::name(key), if access.writes { "w" } else { "" })
                })
                .collect();
            format!("{word} {shard} {attempt} [{}]", keys.join(", "))
        }
        TxnCommand::Vote { shard, grant, .. } => format!("{word} {shard} {attempt}{}", granted(grant)),
        TxnCommand::Refuse { shard, conflict, .. } => format!("{word} {shard} {attempt}: {conflict}"),
        TxnCommand::Expire { .. } => format!("{word} {attempt}"),
        TxnCommand::Decide { shard, decision: is, .. } => {
            format!("{word} {shard} {attempt} {}", decision(is))
        }
        TxnCommand::Acked { shard, .. } => format!("{word} {shard} {attempt}"),
    }
}

fn granted(grant: &Grant) -> String {
    let found = grant.found.iter().map(|found| match found {
        Some((value, version)) => format!("{} v{version}", lossy(value)),
        None => "-".to_string(),
    });
    match grant.found.is_empty() {
        true => format!(" lock {}", grant.lock),
        false => format!(" lock {} [{}]", grant.lock, found.collect::<Vec<_>>().join(", ")),
    }
}

fn decision(decision: &Decision) -> String {
    let Decision::Commit { lock, writes } = decision else { return "abort".to_string() };
    let write = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| match value {
        Some(value) => format!("{}={}", text::name(key), lossy(value)),
        None => format!("{} gone", text::name(key)),
    };
    format!("commit lock {lock} [{}]", writes.iter().map(write).collect::<Vec<_>>().join(", "))
}

/// The word that scripts use for an answer.
pub(crate) fn answer_word(answer: &TxnAnswer) -> &'static str {
    match answer {
        TxnAnswer::Granted(_) => "Granted",
        TxnAnswer::Waiting => "Waiting",
        TxnAnswer::Refused(_) => "Refused",
        TxnAnswer::Undecided => "Undecided",
        TxnAnswer::Decided(_) => "Decided",
        TxnAnswer::Done => "Done",
        TxnAnswer::WrongGroup(_) => "WrongGroup",
        TxnAnswer::Later => "Later",
    }
}

/// An answer to a command, with its word.
pub(crate) fn answer(duty: &TxnDuty, answer: &TxnAnswer) -> String {
    let about = match participant(&duty.command) {
        Some(shard) => format!("{} {shard} {}", answer_word(answer), attempt(&duty.command.attempt())),
        None => format!("{} {}", answer_word(answer), attempt(&duty.command.attempt())),
    };
    match answer {
        TxnAnswer::Granted(grant) => format!("{about}{}", granted(grant)),
        TxnAnswer::Refused(conflict) => format!("{about}: {conflict}"),
        TxnAnswer::Decided(is) => format!("{about} {}", decision(is)),
        TxnAnswer::WrongGroup(owner) => format!("{about}, {}", text::wrong_group(*owner)),
        TxnAnswer::Waiting | TxnAnswer::Undecided | TxnAnswer::Done | TxnAnswer::Later => about,
    }
}

/// An answer that has no consequence.
pub(crate) fn answer_words(answer: &TxnAnswer) -> String {
    match answer {
        TxnAnswer::Waiting => "waits".to_string(),
        TxnAnswer::Undecided => "undecided".to_string(),
        TxnAnswer::Later => "later".to_string(),
        TxnAnswer::WrongGroup(owner) => text::wrong_group(*owner),
        other => answer_word(other).to_lowercase(),
    }
}

/// The participant that a command is about.
pub(crate) fn participant(command: &TxnCommand) -> Option<kvserver::command::ShardId> {
    match command {
        TxnCommand::Prepare { shard, .. }
        | TxnCommand::Vote { shard, .. }
        | TxnCommand::Refuse { shard, .. }
        | TxnCommand::Decide { shard, .. }
        | TxnCommand::Acked { shard, .. } => Some(*shard),
        TxnCommand::Expire { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        let same = [
            "get 0/a",
            "incr 0/a -5, incr 1/b 5",
            "if 0/a = 5, 1/b absent then put 0/a x else nothing",
            "if 0/a != v3, 0/b > x, 1/b present then append 1/b x, delete 0/a else cas 0/a - x, copy 0/b 1/b",
        ];
        for words in same {
            let read = parse(&words.split(' ').collect::<Vec<_>>(), 2);
            assert_eq!(read.map(|read| txn(&read, 2)), Ok(words.to_string()));
        }
        for words in ["", "nothing", "dance 0/a", "if 0/a = 5 put 0/a x", "if 0/a then get 0/a", "incr 0/a x"]
        {
            assert!(parse(&words.split(' ').collect::<Vec<_>>(), 2).is_err(), "{words}");
        }
    }
}
