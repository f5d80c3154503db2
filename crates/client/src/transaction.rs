//! Transactions: how one is put together, and what its reply means to a caller.
//!
//! The home shard is that of the first key that the transaction names, chosen once. So all tries are the same bit for bit
//! and meet the same session row, however often other transactions are in the way.

use kvserver::command::{KEY_BYTES_MAX, Op, Reply, VALUE_BYTES_MAX, shard_of};
use kvserver::txn::{
    Compare, Condition, Relation, TXN_BYTES_MAX, TXN_KEYS_MAX, Txn, TxnError, TxnOp, TxnReply, TxnResult,
    Unfit,
};

use crate::call;
use crate::client::{Client, Versioned, check};
use crate::error::{Error, ErrorKind};
use crate::outcome::Outcome;

/// A [`Txn`] in the making: conditions, what to do if all of them hold, and after [`Transaction::otherwise`] what to do
/// if one doesn't. Operations run in order; each sees what those before it did, but for [`Transaction::copy`].
///
/// ```
/// use client::Transaction;
/// let take = Transaction::new()
///     .when_absent(b"lock")
///     .put(b"lock", b"me")
///     .incr(b"taken", 1)
///     .otherwise()
///     .get(b"lock");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    txn: Txn,
    is_otherwise: bool,
}

impl Transaction {
    /// Without conditions, which counts as all of them holding, and without operations.
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Asks for any condition on a key.
    #[must_use]
    pub fn when(mut self, key: impl AsRef<[u8]>, condition: Condition) -> Transaction {
        self.txn.compares.push(Compare { key: key.as_ref().to_vec(), condition });
        self
    }

    /// Asks for a key to be there.
    #[must_use]
    pub fn when_present(self, key: impl AsRef<[u8]>) -> Transaction {
        self.when(key, Condition::Present(true))
    }

    /// Asks for a key not to be there.
    #[must_use]
    pub fn when_absent(self, key: impl AsRef<[u8]>) -> Transaction {
        self.when(key, Condition::Present(false))
    }

    /// Asks for a key with this value.
    #[must_use]
    pub fn when_value(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Transaction {
        self.when(key, Condition::Value(Relation::Equal, value.as_ref().to_vec()))
    }

    /// Asks for a key at this version: that nobody wrote it since it was read. An absent key has version 0.
    #[must_use]
    pub fn when_version(self, key: impl AsRef<[u8]>, version: u64) -> Transaction {
        self.when(key, Condition::Version(Relation::Equal, version))
    }

    /// What follows is done if a condition doesn't hold.
    #[must_use]
    pub fn otherwise(mut self) -> Transaction {
        self.is_otherwise = true;
        self
    }

    /// Does any operation.
    #[must_use]
    pub fn run(mut self, op: TxnOp) -> Transaction {
        let Txn { then, otherwise, .. } = &mut self.txn;
        if self.is_otherwise { otherwise } else { then }.push(op);
        self
    }

    /// Reads a key.
    #[must_use]
    pub fn get(self, key: impl AsRef<[u8]>) -> Transaction {
        self.run(TxnOp::Get { key: key.as_ref().to_vec() })
    }

    /// Sets a key.
    #[must_use]
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Transaction {
        self.run(TxnOp::Put { key: key.as_ref().to_vec(), value: value.as_ref().to_vec() })
    }

    /// Adds to the end of a value; an absent one counts as empty.
    #[must_use]
    pub fn append(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Transaction {
        self.run(TxnOp::Append { key: key.as_ref().to_vec(), value: value.as_ref().to_vec() })
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(self, key: impl AsRef<[u8]>) -> Transaction {
        self.run(TxnOp::Delete { key: key.as_ref().to_vec() })
    }

    /// Adds to a decimal number; an absent one counts as 0. What isn't one fails the whole transaction.
    #[must_use]
    pub fn incr(self, key: impl AsRef<[u8]>, by: i64) -> Transaction {
        self.run(TxnOp::Incr { key: key.as_ref().to_vec(), by })
    }

    /// Sets a key if its value is as expected (`None`: if it is absent); else the whole transaction fails.
    #[must_use]
    pub fn cas(self, key: impl AsRef<[u8]>, expected: Option<&[u8]>, value: impl AsRef<[u8]>) -> Transaction {
        let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
        self.run(TxnOp::Cas { key, expected: expected.map(<[u8]>::to_vec), value })
    }

    /// Sets a key to what `from` was before the transaction; if that was absent, the key is removed.
    #[must_use]
    pub fn copy(self, key: impl AsRef<[u8]>, from: impl AsRef<[u8]>) -> Transaction {
        self.run(TxnOp::Copy { key: key.as_ref().to_vec(), from: from.as_ref().to_vec() })
    }
}

impl From<Transaction> for Txn {
    fn from(transaction: Transaction) -> Txn {
        transaction.txn
    }
}

impl Client {
    /// Runs a transaction over any keys in one step, strictly serializable: put together as a [`Transaction`] or as it
    /// stands in the log. The reply says whether the conditions held, and what each operation of that branch came to.
    ///
    /// A try that gives way to an older transaction is repeated until [`crate::ClientOptions::timeout`], and keeps its
    /// age meanwhile: it is the oldest one some day.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// use client::{Transaction, TxnResult};
    /// let transfer = Transaction::new().incr(b"alice", -5).incr(b"bob", 5).get(b"bob");
    /// let reply = client.transact(transfer).await?;
    /// if let TxnResult::Number { value } = reply.results[0] {
    ///     println!("{value} are left");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::TxnFailed`] if an operation couldn't be done: the transaction had no effect then;
    /// [`ErrorKind::Conflict`] if others were in the way until the deadline; [`ErrorKind::TooLarge`] beyond 128 keys or
    /// 8 MiB; else see [`Error`].
    pub async fn transact(&self, txn: impl Into<Txn>) -> Result<TxnReply, Error> {
        let txn = fit(txn.into())?;
        let shards = self.shared().with(|engine| engine.router().shards());
        let home = shard_of(txn.first_key().unwrap_or_default(), shards);
        let op = Op::Txn(Box::new(txn));
        let reply = call::write(self.shared(), home, &op).await;
        let Op::Txn(txn) = &op else { return Err(call::unexpected()) };
        match reply {
            Ok(Reply::Txn(reply)) => Ok(*reply),
            Ok(Reply::TxnFailed { op, error }) => Err(failed(txn, op, error)),
            Ok(_) => Err(Error { outcome: Outcome::Unknown, ..call::unexpected() }),
            // A read has no effect.
            Err(error) if txn.is_read_only() => Err(Error { outcome: Outcome::NotExecuted, ..error }),
            Err(error) => Err(error),
        }
    }

    /// Reads keys of one state, in their order; `None` if one is absent.
    ///
    /// # Errors
    /// See [`Error`]; [`ErrorKind::TooLarge`] if there are more than 128 keys, or more than 8 MiB to read.
    pub async fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Versioned>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let reply = self.transact(keys.iter().fold(Transaction::new(), Transaction::get)).await?;
        let found = reply.results.into_iter().map(|result| match result {
            TxnResult::Value(found) => Ok(found.map(|(value, version)| Versioned { value, version })),
            _ => Err(call::unexpected()),
        });
        found.collect()
    }

    /// Sets keys, all in one step. Of a key that stands there twice, the last value stays.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> Result<(), client::Error> {
    /// client.multi_put(&[("user/1/name", "Ann"), ("user/1/city", "Bern")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Error`]; [`ErrorKind::TooLarge`] beyond 128 keys, or 8 MiB of keys and values together.
    pub async fn multi_put<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, pairs: &[(K, V)]) -> Result<(), Error> {
        if pairs.is_empty() {
            return Ok(());
        }
        let puts = pairs.iter().fold(Transaction::new(), |txn, (key, value)| txn.put(key, value));
        self.transact(puts).await.map(|_| ())
    }

    /// Exchanges the values of two keys; if one is absent, its value is, after it, that the other is. Whether there was
    /// a value at `a`, and at `b`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn swap(&self, a: &[u8], b: &[u8]) -> Result<(bool, bool), Error> {
        match self.transact(Transaction::new().copy(b, a).copy(a, b)).await?.results[..] {
            [TxnResult::Copied { existed: a }, TxnResult::Copied { existed: b }] => Ok((a, b)),
            _ => Err(Error { outcome: Outcome::Unknown, ..call::unexpected() }),
        }
    }
}

/// Judges what can be judged before anything is sent.
fn fit(txn: Txn) -> Result<Txn, Error> {
    for key in txn.accesses().keys() {
        check(key, KEY_BYTES_MAX, "a key")?;
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        if let TxnOp::Put { value, .. } | TxnOp::Append { value, .. } | TxnOp::Cas { value, .. } = op {
            check(value, VALUE_BYTES_MAX, "a value")?;
        }
    }
    match txn.check(TXN_KEYS_MAX, TXN_BYTES_MAX) {
        Ok(()) => Ok(txn),
        Err(unfit @ Unfit::NoKey) => Err(Error::not_executed(ErrorKind::Invalid, unfit.to_string())),
        Err(unfit) => Err(Error::not_executed(ErrorKind::TooLarge, unfit.to_string())),
    }
}

/// The reply says which operation of a branch it was, not of which branch: that is known only where just one of them has
/// so many.
fn failed(txn: &Txn, op: u32, error: TxnError) -> Error {
    let at = usize::try_from(op).unwrap_or(usize::MAX);
    let otherwise = if txn.compares.is_empty() { None } else { txn.otherwise.get(at) };
    let culprit = match (txn.then.get(at), otherwise) {
        (Some(culprit), None) | (None, Some(culprit)) => format!(", on \"{}\"", culprit.key().escape_ascii()),
        _ => String::new(),
    };
    let message = format!("operation {} of the transaction{culprit}: {error}", u64::from(op) + 1);
    Error { kind: ErrorKind::TxnFailed { op, error }, outcome: Outcome::Executed, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_put_together_in_order() {
        let txn = Txn::from(
            Transaction::new()
                .when_version(b"a", 3)
                .when_absent(b"b")
                .copy(b"a", b"b")
                .otherwise()
                .cas(b"c", None, b"x"),
        );
        let key = |name: &str| name.as_bytes().to_vec();
        let expected = Txn {
            compares: vec![
                Compare { key: key("a"), condition: Condition::Version(Relation::Equal, 3) },
                Compare { key: key("b"), condition: Condition::Present(false) },
            ],
            then: vec![TxnOp::Copy { key: key("a"), from: key("b") }],
            otherwise: vec![TxnOp::Cas { key: key("c"), expected: None, value: key("x") }],
        };
        assert_eq!(txn, expected);
    }

    #[test]
    fn the_operation_that_failed_is_named_where_it_is_known() {
        let told = |txn: Transaction, op| failed(&Txn::from(txn), op, TxnError::Mismatch).message;
        let plain = Transaction::new().get(b"a").incr(b"n\n", 1).otherwise().get(b"x").get(b"y");
        assert_eq!(
            told(plain.clone(), 1),
            "operation 2 of the transaction, on \"n\\n\": the value isn't as expected"
        );
        assert_eq!(
            told(plain.when_present(b"a"), 1),
            "operation 2 of the transaction: the value isn't as expected"
        );
    }

    #[test]
    fn what_cannot_be_run_is_not_sent() {
        let kind = |txn: Transaction| fit(Txn::from(txn)).unwrap_err().kind;
        assert_eq!(kind(Transaction::new()), ErrorKind::Invalid);
        let many = (0..129).fold(Transaction::new(), |txn, n: u32| txn.get(n.to_string()));
        assert_eq!(kind(many), ErrorKind::TooLarge);
        assert_eq!(kind(Transaction::new().get(vec![b'k'; KEY_BYTES_MAX + 1])), ErrorKind::TooLarge);
        let two = Transaction::new().put(b"a", vec![0; 5 << 20]).put(b"b", vec![0; 5 << 20]);
        assert_eq!(kind(two), ErrorKind::TooLarge);
    }
}
