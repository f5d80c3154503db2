//! How long writes stand still: when the leader is killed, and when all nodes are started again on the data they have.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::load::{key, value};
use crate::store::{Cluster, Via};

/// A write is tried no longer than this, then again: a client of etcd or ZooKeeper doesn't find a new leader by itself in all
/// cases.
const TRY: Duration = Duration::from_millis(500);
const BETWEEN_TRIES: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(60);
/// Writes go through for so long before the leader is killed.
const BEFORE: Duration = Duration::from_millis(500);

/// The longest time between two writes that went through, while the leader is killed; in ms. The node is started again.
pub(crate) async fn gap_ms(cluster: &mut Cluster) -> Result<f64> {
    let value = value(100);
    let writer = cluster.callers(1, 1, Via::Best).await?.remove(0);
    let began = Instant::now();
    while began.elapsed() < BEFORE {
        writer.put(key(0), &value).await?;
    }
    let leader = cluster.leader().await?;
    let mut last = Instant::now();
    cluster.nodes[leader].kill();
    let mut caller = writer;
    loop {
        match tokio::time::timeout(TRY, caller.put(key(0), &value)).await {
            Ok(Ok(())) => break,
            _ if last.elapsed() > LIMIT => bail!("no write goes through"),
            _ => tokio::time::sleep(BETWEEN_TRIES).await,
        }
        // One that is bound to the dead node is replaced by one that looks for the leader.
        if let Ok(mut fresh) = cluster.callers(1, 1, Via::Best).await {
            caller = fresh.remove(0);
        }
    }
    let gap = last.elapsed();
    last = Instant::now();
    cluster.nodes[leader].start()?;
    // Until it has caught up and is one of three again.
    while last.elapsed() < Duration::from_secs(2) {
        let _may_fail = tokio::time::timeout(TRY, caller.put(key(1), &value)).await;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    Ok(gap.as_secs_f64() * 1e3)
}

/// From the start of all nodes, which were killed at once, to the first write that goes through; in ms.
pub(crate) async fn restart_ms(cluster: &mut Cluster) -> Result<f64> {
    for node in &mut cluster.nodes {
        node.kill();
    }
    let began = Instant::now();
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.await_writes().await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
