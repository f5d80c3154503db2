//! Waits that come to an end: with what was waited for, or with what every node says instead.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::TestCluster;
use crate::error::{Error, TimedOut};
use crate::keeper::NodeState;
use crate::view::View;

/// Between two looks.
const POLL: Duration = Duration::from_millis(25);

/// What to wait for, see [`TestCluster::wait`].
///
/// Each wait ends with [`Error::TimedOut`] if it takes too long: what is missing, what every node says of its replicas
/// (leaders, ballots, ends), the moves and transactions under way, the faults in force, and the seed.
#[derive(Clone, Copy)]
#[must_use = "nothing is waited for before one of its methods is called"]
pub struct Wait<'a> {
    cluster: &'a TestCluster,
    timeout: Duration,
}

impl<'a> Wait<'a> {
    pub(crate) fn new(cluster: &'a TestCluster, timeout: Duration) -> Wait<'a> {
        Wait { cluster, timeout }
    }

    /// How long to wait, instead of [`crate::Builder::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Wait<'a> {
        self.timeout = timeout;
        self
    }

    /// Until a group has a leader that a majority follows; who that is. The shardmaster is group 0.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn leader(self, group: u32) -> Result<u32, Error> {
        let missing = || format!("group {group} has none that a majority follows");
        self.until(&format!("leader of group {group}"), |view| view.leader(group).ok_or_else(missing)).await
    }

    /// Until all groups have leaders; who leads each.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn leaders(self) -> Result<BTreeMap<u32, u32>, Error> {
        let looked = |view: &View| match view.without_leader() {
            Some(missing) => Err(missing),
            None => {
                let led = view.groups().into_keys().filter_map(|group| Some((group, view.leader(group)?)));
                Ok(led.collect())
            }
        };
        self.until("leaders of all groups", looked).await
    }

    /// Until all shards are where the shardmaster wants them.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn settled(self) -> Result<(), Error> {
        self.until("end of all moves", |view| view.unmoved().map_or(Ok(()), Err)).await
    }

    /// Until nothing is under way: no transaction, no move, and the replicas on all nodes that run have applied the same,
    /// up to what is chosen. Whether their states are equal then is for [`crate::Check::replicas`].
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn quiescent(self) -> Result<View, Error> {
        let looked = |view: &View| match view.unrest() {
            Some(missing) => Err(missing),
            None => Ok(view.clone()),
        };
        self.until("rest", looked).await
    }

    /// Until a node is down: for faults that end one at a moment of their own.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn down(self, node: u32) -> Result<(), Error> {
        let is_down = |view: &View| match view.nodes.get(&node).map(|node| &node.state) {
            Some(NodeState::Down | NodeState::Ended(_)) => Ok(()),
            _ => Err(format!("node {node} runs")),
        };
        self.until(&format!("end of node {node}"), is_down).await
    }

    /// Until `looked` finds what it looks for; else it says what is missing.
    ///
    /// # Errors
    /// [`Error::TimedOut`].
    pub async fn until<T>(
        self,
        what: &str,
        mut looked: impl FnMut(&View) -> Result<T, String>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            let view = self.cluster.view().await;
            let missing = match looked(&view) {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            let after = began.elapsed();
            if after >= self.timeout {
                let (what, replay) = (what.to_string(), self.cluster.replay().clone());
                return Err(Error::TimedOut(Box::new(TimedOut { what, after, missing, view, replay })));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
