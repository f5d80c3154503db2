//! Judges a cluster at rest: what its clients saw (P7, P9), whether its replicas agree (P5), whether a transaction left a lock
//! behind, and whether every shard has one owner (P8).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use client::Access;
use scripted::history::{Figures, Verdict, Window, judge};
use wire::v1::groups_client::GroupsClient;
use wire::v1::{CopyLoad, LoadRequest};

use crate::builder::Mode;
use crate::cluster::TestCluster;
use crate::error::{Error, Replay};
use crate::view::View;

/// How long a node may take to tell which copies it has.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// What was checked, and found right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What judging the history took.
    pub history: Figures,
    /// Replicas whose states were compared.
    pub replicas: usize,
    /// Shards whose owners were looked at.
    pub shards: usize,
}

/// What is wrong with a cluster, or why that can't be said.
///
/// Its `Debug` is what it says in words, since that is what a test that returns it shows.
#[derive(thiserror::Error)]
pub enum CheckError {
    /// No order of the operations explains what clients saw.
    #[error(
        "P7: the history isn't linearizable; the smallest part of it that can't be ordered:\n{window}\n{replay}"
    )]
    NotLinearizable {
        /// The operations that can't be ordered.
        window: Box<Window>,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// No order was found, and not all were tried.
    #[error("no order of {} operations found in {} steps: fewer of them, or more keys, can be judged; {replay}",
        figures.operations, figures.steps)]
    Undecided {
        /// What was tried.
        figures: Figures,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// Two replicas applied the same, and hold something else.
    #[error("P5: replicas of group {group} differ: {what}\n{replay}")]
    Diverged {
        /// The group.
        group: u32,
        /// Which, where.
        what: String,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// A shard has no owner, or several.
    #[error("P8: {what}\n{replay}")]
    Owners {
        /// Which shard, and who serves it.
        what: String,
        /// How to get the same luck again.
        replay: Replay,
    },
    /// Faults are in force: what is down or cut off can't be compared.
    #[error("heal the faults first: {}", faults.join("; "))]
    Faulty {
        /// Those in force.
        faults: Vec<String>,
    },
    /// The cluster didn't come to rest (P10): a lock that is left, a move that doesn't end, a replica that lags. Or a node
    /// couldn't be asked.
    #[error(transparent)]
    NotAtRest(#[from] Error),
    /// A node doesn't tell.
    #[error("node {node} doesn't tell which shards it serves: {why}; {replay}")]
    Silent {
        /// The node.
        node: u32,
        /// Why.
        why: String,
        /// How to get the same luck again.
        replay: Replay,
    },
}

impl fmt::Debug for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Judges a cluster, see [`TestCluster::check`].
#[derive(Clone, Copy)]
#[must_use = "nothing is judged before one of its methods is called"]
pub struct Check<'a> {
    cluster: &'a TestCluster,
    timeout: Duration,
}

impl<'a> Check<'a> {
    pub(crate) fn new(cluster: &'a TestCluster, timeout: Duration) -> Check<'a> {
        Check { cluster, timeout }
    }

    /// How long the cluster may take to come to rest, instead of [`crate::Builder::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Check<'a> {
        self.timeout = timeout;
        self
    }

    /// All of it, once no fault is in force.
    ///
    /// # Errors
    /// [`CheckError`], the first that is found.
    pub async fn all(self) -> Result<Report, CheckError> {
        let faults = self.cluster.faults();
        if !faults.is_empty() {
            return Err(CheckError::Faulty { faults });
        }
        let history = self.history().await?;
        let replicas = self.replicas().await?;
        let shards = self.owners().await?;
        Ok(Report { history, replicas, shards })
    }

    /// What recorded clients saw can be put in an order in which every answer is right: linearizable, and with transactions
    /// strictly serializable.
    ///
    /// # Errors
    /// [`CheckError::NotLinearizable`] with the smallest window, [`CheckError::Undecided`].
    pub async fn history(self) -> Result<Figures, CheckError> {
        let (history, replay) = (self.cluster.recorder().history(), self.replay());
        let judged = match self.cluster.mode() {
            // Time stands still meanwhile, and nothing else may run.
            Mode::Sim => judge(&history),
            // Beside the test's runtime: it may take seconds.
            Mode::Live | Mode::Process => {
                let judged = tokio::task::spawn_blocking(move || judge(&history)).await;
                judged.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            }
        };
        match judged {
            Verdict::Ordered(figures) => Ok(figures),
            Verdict::Violation(window) => {
                Err(CheckError::NotLinearizable { window: Box::new(window), replay })
            }
            Verdict::Undecided(figures) => Err(CheckError::Undecided { figures, replay }),
        }
    }

    /// At rest, with no transaction under way and so no lock, the replicas of each group hold the same; how many those are.
    ///
    /// # Errors
    /// [`CheckError::Diverged`]; [`CheckError::NotAtRest`] with what is still under way.
    pub async fn replicas(self) -> Result<usize, CheckError> {
        let rest = self.cluster.wait().timeout(self.timeout).quiescent().await;
        let view = match rest {
            Ok(view) => view,
            // Replicas that differ may never come to rest.
            Err(Error::TimedOut(timed_out)) => {
                self.agree(&timed_out.view)?;
                return Err(Error::TimedOut(timed_out).into());
            }
            Err(error) => return Err(error.into()),
        };
        self.agree(&view)?;
        Ok(view.groups().values().map(Vec::len).sum())
    }

    fn agree(self, view: &View) -> Result<(), CheckError> {
        match view.diverged() {
            Some((group, what)) => Err(CheckError::Diverged { group, what, replay: self.replay() }),
            None => Ok(()),
        }
    }

    /// At rest, every shard is served by one group, the one that the shardmaster wants; how many shards there are.
    ///
    /// # Errors
    /// [`CheckError::Owners`]; [`CheckError::NotAtRest`] if moves don't end.
    pub async fn owners(self) -> Result<usize, CheckError> {
        self.cluster.wait().timeout(self.timeout).settled().await?;
        let client = self.cluster.client().await?;
        let newest = client.shardmaster().query(0).await;
        let desired = newest.map_err(Error::Client)?.desired;
        let mut copies: BTreeMap<u32, Vec<CopyLoad>> = BTreeMap::new();
        for config in self.cluster.configs() {
            let asked = copies_led_by(&config.listen.peer, self.cluster.access()).await;
            let silent = |why| CheckError::Silent { node: config.node, why, replay: self.replay() };
            for copy in asked.map_err(silent)? {
                copies.entry(copy.shard).or_default().push(copy);
            }
        }
        match misowned(&desired, &copies) {
            Some(what) => Err(CheckError::Owners { what, replay: self.replay() }),
            None => Ok(desired.len()),
        }
    }

    fn replay(self) -> Replay {
        self.cluster.replay().clone()
    }
}

async fn copies_led_by(address: &str, access: &Access) -> Result<Vec<CopyLoad>, String> {
    let asked = async {
        let channel = access.channel(address, ASK_WITHIN).await.map_err(|error| error.to_string())?;
        let told = GroupsClient::new(channel).load(LoadRequest {}).await;
        told.map(|told| told.into_inner().copies).map_err(|status| status.message().to_string())
    };
    tokio::time::timeout(ASK_WITHIN, asked).await.unwrap_or_else(|_| Err("no answer".to_string()))
}

/// The first shard that isn't served by exactly the group that it is to be served by.
fn misowned(desired: &[u32], copies: &BTreeMap<u32, Vec<CopyLoad>>) -> Option<String> {
    for (shard, group) in (0..).zip(desired) {
        let copies = copies.get(&shard).map_or(&[][..], Vec::as_slice);
        let serves = |copy: &&CopyLoad| copy.phase == "serving" || copy.phase == "moving";
        let owners: Vec<u32> = copies.iter().filter(serves).map(|copy| copy.group).collect();
        if owners != [*group] {
            let told: Vec<String> =
                copies.iter().map(|it| format!("g{} {} at epoch {}", it.group, it.phase, it.epoch)).collect();
            let told = if told.is_empty() { "no copy".to_string() } else { told.join(", ") };
            return Some(format!("shard {shard} is to be served by g{group}, and there is {told}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(shard: u32, group: u32, epoch: u64, phase: &str) -> CopyLoad {
        CopyLoad { shard, group, epoch, phase: phase.to_string(), ..CopyLoad::default() }
    }

    fn judged(copies: Vec<CopyLoad>) -> Option<String> {
        let mut by_shard: BTreeMap<u32, Vec<CopyLoad>> = BTreeMap::new();
        copies.into_iter().for_each(|copy| by_shard.entry(copy.shard).or_default().push(copy));
        misowned(&[1, 2], &by_shard)
    }

    #[test]
    fn p8_each_shard_has_one_owner_and_the_right_one() {
        let (first, second) = (copy(0, 1, 1, "serving"), copy(1, 2, 3, "serving"));
        assert_eq!(judged(vec![first.clone(), second.clone()]), None);
        let frozen = copy(0, 2, 4, "frozen");
        assert_eq!(judged(vec![first.clone(), frozen, second.clone()]), None, "it serves nobody");
        let twice = judged(vec![first.clone(), copy(0, 2, 4, "serving"), second.clone()]).unwrap();
        assert!(twice.contains("g1 serving at epoch 1, g2 serving at epoch 4"), "{twice}");
        assert!(
            judged(vec![second.clone()])
                .unwrap()
                .contains("shard 0 is to be served by g1, and there is no copy")
        );
        assert!(judged(vec![first, copy(1, 1, 1, "serving")]).unwrap().contains("shard 1"));
    }
}
