//! What became owed since it was last asked, so that the leader acts at once instead of at its next look. It isn't state:
//! equal stores may differ in it, a clone has none, and nothing is lost with it.

use std::fmt;

use crate::txn::TxnDuty;

/// More than that is found by the next look.
const DUE_MAX: usize = 4096;

/// In the order in which it became due.
#[derive(Default)]
pub(crate) struct Due(Vec<TxnDuty>);

impl Due {
    pub(crate) fn push(&mut self, duty: TxnDuty) {
        if self.0.len() < DUE_MAX {
            self.0.push(duty);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<TxnDuty> {
        std::mem::take(&mut self.0)
    }
}

impl Clone for Due {
    fn clone(&self) -> Due {
        Due::default()
    }
}

impl PartialEq for Due {
    fn eq(&self, _other: &Due) -> bool {
        true
    }
}

impl Eq for Due {}

impl fmt::Debug for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} due", self.0.len())
    }
}
