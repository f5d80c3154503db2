//! A world: machines and the network between them, in the runtime that it was made in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use runtime::observe::Observer;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::machine::Machine;
use crate::net::{Net, Outside};

/// How a world is to be.
#[derive(Clone)]
pub struct WorldOptions {
    /// Decides all that happens by chance.
    pub seed: u64,
    /// How long something takes from one machine to another: between these.
    pub delay: (Duration, Duration),
    /// How long a sync of a disk takes: between these.
    pub sync: (Duration, Duration),
    /// Who watches the nodes.
    pub observer: Option<Arc<dyn Observer>>,
}

impl WorldOptions {
    /// The usual delays.
    pub fn new(seed: u64) -> WorldOptions {
        let up_to = |ms| (Duration::ZERO, Duration::from_millis(ms));
        WorldOptions { seed, delay: up_to(3), sync: up_to(4), observer: None }
    }
}

/// Why there can't be a world in this runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHere {
    /// There is no runtime of tokio.
    NoRuntime,
    /// It has several threads: nothing would decide who goes first.
    ManyThreads,
}

impl std::fmt::Display for NotHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NotHere::NoRuntime => "a simulation needs a runtime of tokio",
            NotHere::ManyThreads => {
                "a simulation needs a runtime of tokio with one thread (flavor = \"current_thread\")"
            }
        })
    }
}

impl std::error::Error for NotHere {}

/// See the module. Cheap to clone; all clones are one world.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    options: WorldOptions,
    net: Arc<Net>,
    began: Instant,
    machines: Mutex<BTreeMap<u32, Machine>>,
}

impl World {
    /// A world in the present runtime, whose time stands still from now on but for what is waited for.
    ///
    /// # Errors
    /// [`NotHere`].
    pub async fn new(options: WorldOptions) -> Result<World, NotHere> {
        let runtime = Handle::try_current().map_err(|_| NotHere::NoRuntime)?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(NotHere::ManyThreads);
        }
        pause_time().await;
        let mut luck = SmallRng::seed_from_u64(options.seed);
        let net = Net::new(luck.next_u64(), options.delay);
        let (began, machines) = (Instant::now(), Mutex::default());
        Ok(World { shared: Arc::new(Shared { options, net, began, machines }) })
    }

    /// The machine of this number, from 1; it is made when it is first asked for.
    pub fn machine(&self, id: u32) -> Machine {
        let Shared { options, net, began, machines } = &*self.shared;
        let made = || {
            // The same whatever other machines there are.
            let seed = options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(id).rotate_left(32);
            Machine::new(id, seed, net.clone(), *began, options.sync, options.observer.clone())
        };
        machines.lock().entry(id).or_insert_with(made).clone()
    }

    /// The way in for clients.
    pub fn outside(&self) -> Outside {
        Outside { net: self.shared.net.clone() }
    }

    /// True time since this world began.
    pub fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Breaks all calls between two machines, and lets none through; one way is enough to break a connection.
    pub fn cut(&self, from: u32, to: u32, cut: bool) {
        self.shared.net.cut(from, to, cut);
    }

    /// Holds back all that one machine sends to another; nobody is told. Let through, it arrives in order.
    pub fn clog(&self, from: u32, to: u32, clogged: bool) {
        self.shared.net.clog(from, to, clogged);
    }

    /// Adds a delay to all that one machine sends to another.
    pub fn slow(&self, from: u32, to: u32, delay: Duration) {
        self.shared.net.slow(from, to, delay);
    }

    /// Ends all cuts, clogs and delays.
    pub fn heal(&self) {
        self.shared.net.heal();
    }

    /// Ends all machines at once.
    pub fn end(&self) {
        let machines: Vec<Machine> = self.shared.machines.lock().values().cloned().collect();
        machines.iter().for_each(Machine::crash);
    }
}

/// From here on time jumps to the next timer when all tasks rest. Timers fire at whole milliseconds since the runtime began,
/// so a world must begin at one: else two runs would round differently.
async fn pause_time() {
    let (before, spin) = (Instant::now(), std::time::Instant::now());
    while spin.elapsed() < Duration::from_micros(50) {}
    if Instant::now() != before {
        tokio::time::pause();
    }
    // How far the present is beyond a whole millisecond, by halves: a timer that is due later than the rest of it takes one more.
    let whole = Duration::from_millis(1);
    let (mut least, mut most) = (Duration::ZERO, whole + Duration::from_nanos(1));
    while most - least > Duration::from_nanos(1) {
        let tried = (least + most) / 2;
        let began = Instant::now();
        tokio::time::sleep(tried).await;
        if began.elapsed() > whole { most = tried } else { least = tried }
    }
    tokio::time::advance(least).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_world_begins_at_a_whole_millisecond_also_where_time_was_real() {
        for _ in 0..3 {
            let world = World::new(WorldOptions::new(1)).await.unwrap();
            let began = Instant::now();
            for us in [1, 500, 1_000] {
                let before = began.elapsed();
                tokio::time::sleep(Duration::from_micros(us)).await;
                assert_eq!(began.elapsed() - before, Duration::from_millis(1), "{us} µs");
            }
            tokio::time::sleep(Duration::from_micros(1_001)).await;
            assert_eq!(world.elapsed(), Duration::from_millis(5));
            tokio::time::resume();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_several_threads_run_there_is_no_world() {
        assert_eq!(World::new(WorldOptions::new(1)).await.err(), Some(NotHere::ManyThreads));
    }
}
