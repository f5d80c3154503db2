//! The words of scripts and traces: groups, keys, positions, items, replies.

use kvserver::command::{Op, Refusal, Reply, shard_of};
use kvserver::handoff::{Base, Item, Position};
use paxos::ids::{ClientId, Generation, GroupId};
use shardmaster::ids::{GroupRef, Owner, ShardId};

use crate::shard::language;

/// `g1`, or `g3.2` for a group that the second ShardMap brought.
pub(crate) fn group(group: GroupRef) -> String {
    match group.generation {
        Generation(1) => group.group.to_string(),
        generation => format!("{}.{generation}", group.group),
    }
}

/// The bytes of the key `0/a`: one in shard 0, after a tag that leads there.
pub(crate) fn key(word: &str, shards: u16) -> Result<Vec<u8>, String> {
    let parts = word.split_once('/').and_then(|(shard, name)| Some((shard.parse::<u16>().ok()?, name)));
    let (shard, name) = parts.ok_or_else(|| format!("{word} is no key: 0/a is one in shard 0"))?;
    if shard >= shards {
        return Err(format!("there is no shard {shard}"));
    }
    let tag = (0_u32..).find(|tag| shard_of(format!("{{{tag}}}").as_bytes(), shards) == ShardId(shard));
    Ok(format!("{{{}}}{name}", tag.unwrap_or_default()).into_bytes())
}

/// `a`, the key without its tag: the shard is known where a key is named.
pub(crate) fn name(key: &[u8]) -> String {
    let text = String::from_utf8_lossy(key);
    text.split_once('}').map_or(text.to_string(), |(_, name)| name.to_string())
}

/// `c1`.
pub(crate) fn client(client: ClientId) -> String {
    format!("c{}", client.0)
}

/// How far a destination is.
pub(crate) fn position(at: &Position) -> String {
    match &at.base {
        Base::Keys(None) => "start".to_string(),
        Base::Keys(Some(key)) => name(key),
        Base::Sessions(None) => "keys".to_string(),
        Base::Sessions(Some(id)) => client(*id),
        Base::Done => format!("change {}", at.staged),
    }
}

/// `a=x v3`, `a gone`, `c1 #1 #2`.
pub(crate) fn item(item: &Item) -> String {
    match item {
        Item::Key { key, value: Some((version, value)) } => {
            format!("{}={} v{version}", name(key), String::from_utf8_lossy(value))
        }
        Item::Key { key, value: None } => format!("{} gone", name(key)),
        Item::Row { client: id, row: Some(row) } => {
            let outcomes: Vec<String> = row.outcomes.iter().map(|o| format!(" {}", o.sequence)).collect();
            format!("{}{}", client(*id), outcomes.concat())
        }
        Item::Row { client: id, row: None } => format!("{} gone", client(*id)),
        Item::Record { number, record: Some(_) } => format!("try {number}"),
        Item::Record { number, record: None } => format!("try {number} gone"),
    }
}

/// `put 0/a x`.
pub(crate) fn op(op: &Op, shards: u16) -> String {
    let shown = |word: &str, key: &[u8], value: &[u8]| {
        let (key, value) = (language::full_key(key, shards), String::from_utf8_lossy(value));
        format!("{word} {key} {value}").trim_end().to_string()
    };
    match op {
        Op::Put { key, value } => shown("put", key, value),
        Op::Append { key, value } => shown("append", key, value),
        Op::Delete { key } => shown("delete", key, b""),
        Op::Cas { key, value, .. } => shown("cas", key, value),
        Op::Incr { key, by } => shown("incr", key, by.to_string().as_bytes()),
        Op::Ack => "ack".to_string(),
        Op::Txn(txn) => format!("txn {}", language::txn(txn, shards)),
    }
}

/// What a client hears.
pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Written { length, version } => format!("written length={length} v{version}"),
        Reply::Deleted { existed } => format!("deleted existed={existed}"),
        Reply::Refused(Refusal::WrongGroup { owner }) => wrong_group(*owner),
        Reply::Refused(refusal) => format!("refused: {refusal}"),
        Reply::Txn(reply) => language::reply(reply),
        Reply::TxnFailed { op, error } => format!("failed at operation {op}: {error}"),
        Reply::Number { value, version } => format!("number={value} v{version}"),
        other => format!("{other:?}"),
    }
}

/// Where a shard went.
pub(crate) fn wrong_group(owner: Option<Owner>) -> String {
    match owner {
        Some(owner) => format!("refused: went to {} at {}", group(owner.group), owner.epoch),
        None => "refused: was never here".to_string(),
    }
}

/// `3` or `g3`.
pub(crate) fn group_id(word: &str) -> Result<GroupId, String> {
    let digits = word.strip_prefix('g').unwrap_or(word);
    digits.parse().map(GroupId).map_err(|_| format!("{word} is no group"))
}

/// `c1`.
pub(crate) fn client_id(word: &str) -> Result<ClientId, String> {
    let number = word.strip_prefix('c').and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    number.map(ClientId).ok_or_else(|| format!("{word} is no client"))
}
