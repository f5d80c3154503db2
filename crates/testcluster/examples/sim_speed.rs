//! How much simulated time goes by in a second of this machine, and of its processor: `cargo run --release -p testcluster --example sim_speed`.
//!
//! Three nodes with two groups and the shardmaster: at rest, and with three clients that work without a pause to speak of.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use testcluster::{Error, Mode, TestCluster};
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let began = std::time::Instant::now();
    let cluster = TestCluster::builder().mode(Mode::Sim).groups(2).replicas(3).seed(1).start().await?;
    println!("start: {:?}", began.elapsed());

    let watch = Watch::new();
    tokio::time::sleep(Duration::from_secs(600)).await;
    watch.say("at rest");

    let watch = Watch::new();
    let summary = cluster.workload().clients(3).operations(5_000).run().await?;
    watch.say("under load");
    let per_s = summary.done as f64 / watch.of_processor().as_secs_f64();
    println!("{} operations, {per_s:.0} a second of processor", summary.done);
    Ok(())
}

/// Three clocks.
struct Watch {
    simulated: Instant,
    real: std::time::Instant,
    processor: Duration,
}

impl Watch {
    fn new() -> Watch {
        Watch { simulated: Instant::now(), real: std::time::Instant::now(), processor: processor() }
    }

    fn of_processor(&self) -> Duration {
        processor() - self.processor
    }

    fn say(&self, what: &str) {
        let [simulated, real, processor] =
            [self.simulated.elapsed(), self.real.elapsed(), self.of_processor()]
                .map(|time| time.as_secs_f64());
        println!(
            "{what}: {simulated:.1} s simulated in {real:.2} s, of which {processor:.2} s of processor: {:.0} times as fast",
            simulated / processor
        );
    }
}

/// What this process has had of it.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
