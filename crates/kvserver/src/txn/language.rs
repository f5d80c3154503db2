//! What a transaction says: compares, and what to do if they all hold, or if one doesn't. Shared with the client.
//!
//! A transaction is atomic: it reads one state of all its keys and changes them in one step (strict serializability).
//! The form is that of etcd's `Txn` and of Sinfonia's minitransactions (M. Aguilera et al., SOSP 2007, §3), whose keys
//! are known beforehand; that is what lets it be executed without a lock that waits for a client.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use crate::command::{KEY_BYTES_MAX, ShardId, shard_of};

/// Keys that one transaction may name, unless the cluster is created with another bound.
pub const TXN_KEYS_MAX: u64 = 128;
/// Bytes that a transaction may carry, may read, and may write: each by itself, unless the cluster is created with
/// another bound.
pub const TXN_BYTES_MAX: u64 = 8 << 20;
/// Operations in one branch, and compares.
pub const TXN_OPS_MAX: usize = 256;

/// Reads and writes of any keys, in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Txn {
    /// They decide which branch runs. None: they hold.
    pub compares: Vec<Compare>,
    /// Runs if all compares hold.
    pub then: Vec<TxnOp>,
    /// Runs if one doesn't.
    pub otherwise: Vec<TxnOp>,
}

/// A condition on one key, judged before any operation runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Compare {
    /// The key.
    pub key: Vec<u8>,
    /// What must hold.
    pub condition: Condition,
}

/// What a compare asks of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Condition {
    /// Whether it is there.
    Present(bool),
    /// Of its value, in the order of bytes. An absent key has no value: only `NotEqual` holds of it.
    Value(Relation, Vec<u8>),
    /// Of its version. An absent key has version 0.
    Version(Relation, u64),
}

/// How the present value or version stands to the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
}

/// One step of a branch. Steps run in order and see what earlier ones did, but for [`TxnOp::Copy`]. If one can't be done,
/// the transaction has no effect at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum TxnOp {
    /// Reads a key.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Sets the value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Adds to the end of the value; an absent value counts as empty.
    Append {
        /// The key.
        key: Vec<u8>,
        /// What to add.
        value: Vec<u8>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Adds to a decimal number (i64); an absent value counts as 0.
    Incr {
        /// The key.
        key: Vec<u8>,
        /// What to add.
        by: i64,
    },
    /// Sets the value if it is as expected; else the transaction fails.
    Cas {
        /// The key.
        key: Vec<u8>,
        /// The expected value, `None` for absent.
        expected: Option<Vec<u8>>,
        /// The new value.
        value: Vec<u8>,
    },
    /// Sets the key to what another key was **before the transaction**; if that was absent, the key is removed. Two
    /// copies swap.
    Copy {
        /// The key.
        key: Vec<u8>,
        /// Where its new value comes from.
        from: Vec<u8>,
    },
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct TxnReply {
    /// Whether all compares held, so which branch ran.
    pub held: bool,
    /// One an operation of that branch, in order.
    pub results: Vec<TxnResult>,
}

/// What an operation of a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum TxnResult {
    /// Of a get: value and version, `None` if absent. The version is 0 if the transaction itself wrote the value: its
    /// version is given when the transaction is installed.
    Value(Option<(Vec<u8>, u64)>),
    /// Of a put, an append, a cas: length of the value now, in bytes.
    Written {
        /// The length.
        length: u64,
    },
    /// Of a delete: whether the key was there.
    Deleted {
        /// It was.
        existed: bool,
    },
    /// Of an incr: the number now.
    Number {
        /// The number.
        value: i64,
    },
    /// Of a copy: whether there was a value to copy.
    Copied {
        /// There was.
        existed: bool,
    },
}

/// Why an operation couldn't be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum TxnError {
    /// An incr of something that isn't a decimal i64, or that would leave its range.
    #[error("the value isn't a number, or would pass its range")]
    NotANumber,
    /// A cas that met another value.
    #[error("the value isn't as expected")]
    Mismatch,
    /// A value would be larger than values may be, or all that is read or written together larger than a transaction may
    /// carry.
    #[error("too large")]
    TooLarge,
}

/// Which stated bound a transaction breaks. Such a one is never run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// It names no key.
    #[error("the transaction names no key")]
    NoKey,
    /// More than [`TXN_OPS_MAX`] compares, or operations in a branch.
    #[error("the transaction has more than {TXN_OPS_MAX} compares, or operations in a branch")]
    Operations,
    /// A key above [`KEY_BYTES_MAX`].
    #[error("a key of the transaction is larger than {KEY_BYTES_MAX} bytes")]
    Key,
    /// More keys than a transaction may name.
    #[error("the transaction names more keys than the {0} that it may")]
    Keys(u64),
    /// Keys and values together.
    #[error("the transaction carries more bytes than the {0} that it may")]
    Bytes(u64),
}

/// How a transaction uses a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Access {
    /// Its value or presence matters.
    pub reads: bool,
    /// Some branch may change it.
    pub writes: bool,
}

impl Txn {
    /// The keys it names, ascending, each with its use over both branches.
    pub fn accesses(&self) -> BTreeMap<&[u8], Access> {
        let mut keys: BTreeMap<&[u8], Access> = BTreeMap::new();
        let mut touch = |key, reads, writes| {
            let access = keys.entry(key).or_default();
            access.reads |= reads;
            access.writes |= writes;
        };
        for compare in &self.compares {
            touch(&compare.key, true, false);
        }
        for op in self.then.iter().chain(&self.otherwise) {
            match op {
                TxnOp::Get { key } => touch(key, true, false),
                TxnOp::Put { key, .. } => touch(key, false, true),
                TxnOp::Append { key, .. }
                | TxnOp::Delete { key }
                | TxnOp::Incr { key, .. }
                | TxnOp::Cas { key, .. } => touch(key, true, true),
                TxnOp::Copy { key, from } => {
                    touch(key, false, true);
                    touch(from, true, false);
                }
            }
        }
        keys
    }

    /// Whether it keeps the bounds that can be judged without a state: asked by the client, and by whoever runs it.
    /// `keys_max` and `bytes_max` are those of the cluster: [`TXN_KEYS_MAX`] and [`TXN_BYTES_MAX`] if it has no others.
    ///
    /// # Errors
    /// The bound that it breaks.
    pub fn check(&self, keys_max: u64, bytes_max: u64) -> Result<(), Unfit> {
        // First, so that what follows takes a bounded time.
        if [self.compares.len(), self.then.len(), self.otherwise.len()].iter().any(|n| *n > TXN_OPS_MAX) {
            return Err(Unfit::Operations);
        }
        let keys = self.accesses();
        if keys.is_empty() {
            return Err(Unfit::NoKey);
        }
        if keys.keys().any(|key| key.len() > KEY_BYTES_MAX) {
            return Err(Unfit::Key);
        }
        if keys.len() as u64 > keys_max {
            return Err(Unfit::Keys(keys_max));
        }
        if self.bytes() > bytes_max { Err(Unfit::Bytes(bytes_max)) } else { Ok(()) }
    }

    /// Bytes that it carries: of all keys and values, as often as it names them.
    pub fn bytes(&self) -> u64 {
        let compares = self.compares.iter().map(|Compare { key, condition }| {
            key.len()
                + match condition {
                    Condition::Value(_, value) => value.len(),
                    Condition::Present(_) | Condition::Version(..) => 0,
                }
        });
        let ops = self.then.iter().chain(&self.otherwise).map(|op| {
            op.key().len()
                + match op {
                    TxnOp::Put { value, .. } | TxnOp::Append { value, .. } => value.len(),
                    TxnOp::Cas { expected, value, .. } => expected.as_ref().map_or(0, Vec::len) + value.len(),
                    TxnOp::Copy { from, .. } => from.len(),
                    TxnOp::Get { .. } | TxnOp::Delete { .. } | TxnOp::Incr { .. } => 0,
                }
        });
        compares.chain(ops).map(|bytes| bytes as u64).sum()
    }

    /// The first key it names: the one that chooses its home shard. `None` of a transaction that names none.
    pub fn first_key(&self) -> Option<&[u8]> {
        let compared = self.compares.first().map(|compare| &compare.key[..]);
        compared.or_else(|| self.then.iter().chain(&self.otherwise).next().map(TxnOp::key))
    }

    /// Whether neither branch can change anything. Such a transaction isn't remembered: it is run again.
    pub fn is_read_only(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| matches!(op, TxnOp::Get { .. }))
    }

    /// The shards of its keys, ascending, each with its keys.
    pub fn parts(&self, shards: u16) -> BTreeMap<ShardId, Vec<(Vec<u8>, Access)>> {
        let mut parts: BTreeMap<ShardId, Vec<(Vec<u8>, Access)>> = BTreeMap::new();
        for (key, access) in self.accesses() {
            parts.entry(shard_of(key, shards)).or_default().push((key.to_vec(), access));
        }
        parts
    }
}

impl TxnOp {
    /// The key that it reads or changes.
    pub fn key(&self) -> &[u8] {
        match self {
            TxnOp::Get { key }
            | TxnOp::Put { key, .. }
            | TxnOp::Append { key, .. }
            | TxnOp::Delete { key }
            | TxnOp::Incr { key, .. }
            | TxnOp::Cas { key, .. }
            | TxnOp::Copy { key, .. } => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gets(count: usize) -> Txn {
        let get = |n: usize| TxnOp::Get { key: n.to_string().into_bytes() };
        Txn { then: (0..count).map(get).collect(), ..Txn::default() }
    }

    #[test]
    fn what_breaks_a_bound_is_unfit() {
        let check = |txn: &Txn| txn.check(TXN_KEYS_MAX, TXN_BYTES_MAX);
        assert_eq!(check(&Txn::default()), Err(Unfit::NoKey));
        assert_eq!(check(&gets(128)), Ok(()));
        assert_eq!(check(&gets(129)), Err(Unfit::Keys(TXN_KEYS_MAX)));
        assert_eq!(check(&gets(TXN_OPS_MAX + 1)), Err(Unfit::Operations));
        let long = |bytes| Txn { then: vec![TxnOp::Get { key: vec![0; bytes] }], ..Txn::default() };
        assert_eq!(check(&long(KEY_BYTES_MAX)), Ok(()));
        assert_eq!(check(&long(KEY_BYTES_MAX + 1)), Err(Unfit::Key));
    }

    #[test]
    fn it_carries_the_keys_and_values_of_all_its_parts() {
        let key = || b"k".to_vec();
        let txn = Txn {
            compares: vec![
                Compare { key: key(), condition: Condition::Value(Relation::Less, b"12".to_vec()) },
                Compare { key: key(), condition: Condition::Version(Relation::Less, 9) },
            ],
            then: vec![TxnOp::Cas { key: key(), expected: Some(b"1".to_vec()), value: b"22".to_vec() }],
            otherwise: vec![TxnOp::Copy { key: key(), from: b"from".to_vec() }],
        };
        assert_eq!(txn.bytes(), 3 + 1 + 4 + 5);
        assert_eq!(txn.check(2, 13), Ok(()));
        assert_eq!(txn.check(2, 12), Err(Unfit::Bytes(12)));
        assert_eq!(txn.check(1, 13), Err(Unfit::Keys(1)));
    }
}
