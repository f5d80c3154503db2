//! How much simulated time goes by in a second: `cargo run --release -p testcluster --example sim_speed`.
//!
//! Three nodes with two groups and the shardmaster: at rest, and with three clients that work without a pause to speak of.

use std::time::Duration;

use testcluster::{Error, Mode, TestCluster};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let began = std::time::Instant::now();
    let cluster = TestCluster::builder().mode(Mode::Sim).groups(2).replicas(3).seed(1).start().await?;
    println!("start: {:?}", began.elapsed());

    let (began, simulated) = (std::time::Instant::now(), Instant::now());
    tokio::time::sleep(Duration::from_secs(600)).await;
    say("at rest", simulated.elapsed(), began.elapsed());

    let (began, simulated) = (std::time::Instant::now(), Instant::now());
    let summary = cluster.workload().clients(3).operations(5_000).run().await?;
    say("under load", simulated.elapsed(), began.elapsed());
    let per_s = summary.done as f64 / began.elapsed().as_secs_f64();
    println!("{} operations, {per_s:.0} a second", summary.done);
    Ok(())
}

fn say(what: &str, simulated: Duration, real: Duration) {
    let rate = simulated.as_secs_f64() / real.as_secs_f64();
    println!(
        "{what}: {:.1} s simulated in {:.2} s, {rate:.0} times as fast",
        simulated.as_secs_f64(),
        real.as_secs_f64()
    );
}
