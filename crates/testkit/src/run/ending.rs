//! How a run ends: the faults are over, clients finish, the cluster comes to rest, and every key is read once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use scripted::history::Outcome;
use tokio::time::sleep;

use super::clients::Clients;
use super::cluster::Cluster;
use crate::observation::Ending;
use crate::watch::Watch;

/// What may pass between the last fault and an answer, or between the last work and rest (P10).
const BOUND: Duration = Duration::from_secs(10);
/// Clients may have work for so long after the faults.
const WORK: Duration = Duration::from_secs(300);
/// Nothing new is chosen for so long: who can know of it, does.
const QUIET: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// To the end.
pub(super) async fn reach(cluster: &Arc<Cluster>, mut clients: Clients, healed_us: u64) -> Ending {
    clients.finish(WORK).await;
    cluster.ordered().await;
    let idle_us = cluster.now_us();
    let rest = rest(cluster, idle_us).await;
    let contents = contents(cluster, &clients).await;
    let rest = match rest {
        Ok(rest_us) => caught_up(cluster).await.map(|()| rest_us),
        Err(unrest) => Err(unrest),
    };
    let (history, calls, groups) =
        (clients.recorder.history(), clients.calls.taken(), cluster.watch.groups());
    Ending { history, contents, calls, groups, healed_us, idle_us, rest, bound_us: us(BOUND) }
}

/// When nothing was under way any more; else what is.
async fn rest(cluster: &Cluster, idle_us: u64) -> Result<u64, String> {
    let mut quiet_since = (cluster.watch.chosen(), cluster.now_us());
    loop {
        let now_us = cluster.now_us();
        let chosen = cluster.watch.chosen();
        if chosen != quiet_since.0 {
            quiet_since = (chosen, now_us);
        }
        let unrest = match cluster.watch.unrest() {
            Some(unrest) => unrest,
            None if now_us - quiet_since.1 < us(QUIET) => "entries are being chosen".to_string(),
            None => match moves(cluster).await {
                None => return Ok(cluster.now_us()),
                Some(moves) => moves,
            },
        };
        if now_us > idle_us + 2 * us(BOUND) || cluster.watch.violation().is_some() {
            return Err(unrest);
        }
        sleep(LOOK).await;
    }
}

/// When a replica that came to life while keys were read knows what the others know.
async fn caught_up(cluster: &Cluster) -> Result<(), String> {
    let began_us = cluster.now_us();
    while let Some(unrest) = cluster.watch.unrest() {
        if cluster.now_us() > began_us + us(BOUND) {
            return Err(unrest);
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The moves that the shardmaster still wants.
async fn moves(cluster: &Cluster) -> Option<String> {
    let asked = async { cluster.client().await?.shardmaster().migrations().await };
    match asked.await {
        Ok(told) => told.migrations.first().map(|it| {
            format!("shard {} from {} to {}: {} {}", it.shard, it.from, it.to, it.state, it.reason)
        }),
        Err(error) => Some(format!("the shardmaster doesn't tell: {error}")),
    }
}

async fn contents(cluster: &Arc<Cluster>, clients: &Clients) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut contents = BTreeMap::new();
    let connecting = clients.calls.call(cluster, "auditor: connect".to_string(), cluster.client());
    let Some(auditor) = connecting.await else { return contents };
    let auditor = clients.recorder.wrap(auditor);
    for key in &clients.keys {
        let reading = auditor.get(key.as_bytes());
        let found = clients.calls.call(cluster, format!("auditor: get {key}"), reading).await;
        if let Some(Some(found)) = found {
            contents.insert(key.clone().into_bytes(), found.value);
        }
    }
    contents
}

/// What was judged.
pub(super) fn count(ending: &Ending, watch: &Watch) {
    let operations = &ending.history.operations;
    watch.count(|figures| {
        figures.operations += operations.len() as u64;
        let keys = |it: &scripted::history::Operation| it.txn.accesses().len();
        figures.transactions += operations.iter().filter(|it| keys(it) > 1).count() as u64;
        figures.unknown += operations.iter().filter(|it| it.outcome == Outcome::Unknown).count() as u64;
    });
}
