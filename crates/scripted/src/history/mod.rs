//! Judges what clients saw: is there an order of all operations, each at one moment between its call and its answer, in
//! which every result is right? For single keys that is linearizability, with transactions strict serializability.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what failed
//! ("Testing for Linearizability", 2017), as in Porcupine: `search` says what is added to it. The keys that transactions
//! join are judged together, all others each by itself (`part`). The sequential specification is in `spec`: a map, and
//! nothing of how the store does it. Versions are no part of it: a compare of one that is there may hold or not.
//!
//! A history that can't be ordered is told by its smallest window (`window`).

use std::collections::BTreeMap;
use std::fmt;

use kvserver::txn::{Txn, TxnError, TxnOp, TxnReply, TxnResult};

pub mod drawn;
mod need;
mod part;
mod search;
mod spec;
#[cfg(test)]
mod tests;
mod window;

/// Steps that a judgement may take, unless it is told otherwise: some minutes, and 2 GB if nearly all of them fail.
pub const STEPS: u64 = 10_000_000;

/// What clients did, in a time that all of them share.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was there before; other keys were absent.
    pub initial: BTreeMap<Vec<u8>, Vec<u8>>,
    /// In any order.
    pub operations: Vec<Operation>,
}

/// One operation. That on a single key is a transaction of one step.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who.
    pub client: u64,
    /// When it was called.
    pub invoked: u64,
    /// When it was answered. Says nothing of one whose outcome is unknown.
    pub returned: u64,
    /// What was asked.
    pub txn: Txn,
    /// What was answered.
    pub outcome: Outcome,
}

/// What a client knows of its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Replied(TxnReply),
    /// It ran without effect, since a step couldn't be done.
    Failed {
        /// Which one, from 0.
        op: u32,
        /// Why.
        error: TxnError,
    },
    /// It surely had no effect, and never will.
    NotExecuted,
    /// It may take effect at any time after its call, or never.
    Unknown,
}

impl Operation {
    /// A step on a single key, and its result.
    pub fn single(client: u64, invoked: u64, returned: u64, op: TxnOp, result: TxnResult) -> Operation {
        let outcome = Outcome::Replied(TxnReply { held: true, results: vec![result] });
        Operation { client, invoked, returned, txn: alone(op), outcome }
    }

    /// A read of a key.
    pub fn get(client: u64, invoked: u64, returned: u64, key: &[u8], found: Option<Vec<u8>>) -> Operation {
        let found = TxnResult::Value(found.map(|value| (value, 0)));
        Operation::single(client, invoked, returned, TxnOp::Get { key: key.to_vec() }, found)
    }

    /// A step on a single key whose outcome nobody knows.
    pub fn unknown(client: u64, invoked: u64, op: TxnOp) -> Operation {
        Operation { client, invoked, returned: u64::MAX, txn: alone(op), outcome: Outcome::Unknown }
    }
}

/// A transaction of this step only.
pub fn alone(op: TxnOp) -> Txn {
    Txn { then: vec![op], ..Txn::default() }
}

/// What is to be said of a history.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// There is an order.
    Ordered(Figures),
    /// There is none.
    Violation(Window),
    /// Nothing was found in so many steps: as bad as a violation.
    Undecided(Figures),
}

/// What a judgement took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Operations judged.
    pub operations: usize,
    /// Groups of keys that were judged each by itself.
    pub parts: usize,
    /// Operations put next in an order, over all orders that were tried.
    pub steps: u64,
}

/// Why a history can't be ordered.
#[derive(Clone, Debug)]
pub struct Window {
    /// What there was before them: the keys that they name.
    pub before: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The operations that can't be ordered, by their calls. All others may have done what they liked.
    pub operations: Vec<Operation>,
    /// Operations that were answered with "not executed" meanwhile, on the same keys.
    pub not_executed: Vec<Operation>,
}

impl Verdict {
    /// What it took, if there is an order.
    ///
    /// # Errors
    /// Otherwise, why there isn't one, or that none was found in time.
    pub fn ordered(self) -> Result<Figures, String> {
        match self {
            Verdict::Ordered(figures) => Ok(figures),
            Verdict::Violation(window) => Err(window.to_string()),
            Verdict::Undecided(figures) => {
                Err(format!("no order of {} operations found in {} steps", figures.operations, figures.steps))
            }
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        window::print(self, f)
    }
}

/// Judges in at most [`STEPS`] steps.
pub fn judge(history: &History) -> Verdict {
    judge_within(history, STEPS)
}

/// Judges in at most so many steps over all keys.
pub fn judge_within(history: &History, steps: u64) -> Verdict {
    let parts = part::split(history);
    let mut figures = Figures { parts: parts.len(), ..Figures::default() };
    for part in &parts {
        figures.operations += part.ops.len();
        let mut search = search::Search::new(part, steps - figures.steps);
        let end = search.run();
        figures.steps += search.steps();
        match end {
            search::End::Ordered => {}
            search::End::Undecided | search::End::Stopped => return Verdict::Undecided(figures),
            search::End::Stuck => return Verdict::Violation(window::smallest(history, part, &search)),
        }
    }
    Verdict::Ordered(figures)
}
