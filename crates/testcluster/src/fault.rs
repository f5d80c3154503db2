//! A fault as something a test holds: it heals when it is let go of.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Replay};
use crate::keeper::Wishes;

/// A fault in force. It heals when this is dropped, some moments later; [`Fault::heal`] waits for that.
///
/// ```no_run
/// # async fn example(cluster: testcluster::TestCluster) -> Result<(), testcluster::Error> {
/// let cut = cluster.partition(&[1], &[2, 3]).await?;
/// cluster.wait().leaders().await?; // among 2 and 3
/// cut.heal().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "the fault heals when this is dropped: give it a name, such as _cut"]
pub struct Fault {
    number: u64,
    what: String,
    wishes: Arc<Wishes>,
    replay: Replay,
    is_kept: bool,
}

impl Fault {
    pub(crate) fn new(number: u64, what: String, wishes: Arc<Wishes>, replay: Replay) -> Fault {
        Fault { number, what, wishes, replay, is_kept: false }
    }

    /// Ends the fault: a crashed node is back with its ports open, links are whole, a paused node goes on.
    ///
    /// # Errors
    /// [`Error::Node`] if a node doesn't come back.
    pub async fn heal(mut self) -> Result<(), Error> {
        self.is_kept = true;
        let version = self.wishes.end(|number, _| number == self.number);
        let reached = self.wishes.reached(version).await;
        reached.map_err(|why| Error::Node(why, self.replay.clone()))
    }

    /// Lets go of it without healing it: it stays until [`crate::TestCluster::heal`], or the cluster's end.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({})", self.what)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.is_kept {
            self.wishes.end(|number, _| number == self.number);
        }
    }
}
