//! A machine: its disk, its clock, its lives. What can go wrong with it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use paxos::ids::Moment;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use runtime::env::{Env, Listening, Machine as InPlaceOf, Task};
use runtime::fs::Fs;
use runtime::fs::sim::{Loss, SimFs};
use runtime::observe::Observer;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tonic::codegen::{BoxFuture, StdError};
use tonic::service::Routes;
use wire::channel::{Channel, Dial, Patience};

use crate::call::{dial, dial_lazily};
use crate::clock::Clock;
use crate::life::Life;
use crate::net::{Net, Place};

/// The wall clock of all machines says this at the beginning of a world, in ms since 1970.
const BEGINNING_MS: u64 = 1_750_000_000_000;
/// A machine may have run for so long before the world began, in µs.
const RAN_US: u64 = 100_000_000_000;
/// Work beside a node takes at most this time.
const WORK_MS: u64 = 40;
/// A power cut may come at one of so many operations of work that is under way.
const CUT_OPERATIONS: u64 = 8;

/// See the module. Cheap to clone; all clones are one machine.
#[derive(Clone)]
pub struct Machine {
    host: Arc<Host>,
}

struct Host {
    id: u32,
    net: Arc<Net>,
    began: Instant,
    sync: (Duration, Duration),
    observer: Option<Arc<dyn Observer>>,
    /// Wakes syncs that were stalled.
    goes_on: Notify,
    state: Mutex<Inner>,
}

struct Inner {
    luck: SmallRng,
    fs: SimFs,
    clock: Clock,
    /// Of the wall clock, in ms.
    wall_offset_ms: i64,
    /// No sync ends.
    stalled: bool,
    life: Arc<Life>,
    /// Work of this life that wasn't done yet.
    works: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    next_work: u64,
}

impl Machine {
    pub(crate) fn new(
        id: u32,
        seed: u64,
        net: Arc<Net>,
        began: Instant,
        sync: (Duration, Duration),
        observer: Option<Arc<dyn Observer>>,
    ) -> Machine {
        let mut luck = SmallRng::seed_from_u64(seed);
        let fs = SimFs::new(luck.next_u64());
        let clock = Clock::new(luck.random_range(0..RAN_US));
        let life = Life::new();
        life.end(None);
        let state = Inner {
            luck,
            fs,
            clock,
            wall_offset_ms: 0,
            stalled: false,
            life,
            works: BTreeMap::new(),
            next_work: 0,
        };
        Machine {
            host: Arc::new(Host {
                id,
                net,
                began,
                sync,
                observer,
                goes_on: Notify::new(),
                state: Mutex::new(state),
            }),
        }
    }

    /// Begins a life: what a node is started with.
    ///
    /// # Panics
    /// If it lives.
    pub fn boot(&self) -> Env {
        let mut state = self.host.state.lock();
        assert!(state.life.is_over(), "machine {} lives", self.host.id);
        state.life = Life::new();
        let alive = Alive { host: self.host.clone(), life: state.life.clone(), fs: state.fs.clone() };
        drop(state);
        let env = Env::on(Arc::new(alive));
        match &self.host.observer {
            Some(observer) => env.watched(observer.clone()),
            None => env,
        }
    }

    /// Whether a life goes on.
    pub fn is_up(&self) -> bool {
        !self.life().is_over()
    }

    /// Why the last life ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.life().why()
    }

    /// Runs a task in the present life.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.life().spawn(Box::pin(task));
    }

    /// Ends the present life at once, and what wasn't synced is lost, or not, or torn. With `power`, the clock counts anew.
    pub fn crash(&self) {
        let life = self.life();
        if life.end(None) {
            self.host.lose();
        }
        life.bury();
    }

    /// The same for a life that has come to its end in good order: nothing is lost.
    pub fn end(&self) {
        let life = self.life();
        if life.end(None) {
            self.host.net.died(self.host.id);
            let mut state = self.host.state.lock();
            state.works.clear();
            state.fs = state.fs.crash(Loss::Nothing);
        }
        life.bury();
    }

    /// Its tasks stand still; its clock goes on, and what is sent to it waits.
    pub fn pause(&self) {
        self.life().pause();
    }

    /// They go on.
    pub fn resume(&self) {
        self.life().resume();
    }

    /// Its disk.
    pub fn disk(&self) -> SimFs {
        self.host.state.lock().fs.clone()
    }

    /// The next sync fails: that ends this life, as it ends a process.
    pub fn fail_sync(&self) {
        self.disk().fail_sync(1);
    }

    /// It doesn't, if it didn't come to that.
    pub fn spare_sync(&self) {
        self.disk().spare_sync();
    }

    /// Leaves so many bytes of room on its disk; `None` for any number.
    pub fn limit_disk(&self, free_bytes: Option<u64>) {
        let disk = self.disk();
        disk.set_capacity(free_bytes.map(|free| disk.used_bytes() + free));
    }

    /// No sync of its disk ends, as long as it stalls.
    pub fn stall_disk(&self, stalled: bool) {
        self.host.state.lock().stalled = stalled;
        self.host.goes_on.notify_waiters();
    }

    /// From now on its clock is too fast by so many millionths; too slow if negative.
    pub fn drift_clock(&self, ppm: i32) {
        self.host.state.lock().clock.drift(ppm);
    }

    /// Its clock jumps ahead, as after a time of which the machine knows nothing.
    pub fn jump_clock(&self, by: Duration) {
        self.host.state.lock().clock.jump(by);
    }

    /// Its wall clock jumps.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.host.state.lock().wall_offset_ms += by_ms;
    }

    fn life(&self) -> Arc<Life> {
        self.host.state.lock().life.clone()
    }
}

impl Host {
    /// The power fails: what wasn't synced is lost, or not; work under way may get a few operations further.
    fn lose(&self) {
        self.net.died(self.id);
        let mut state = self.state.lock();
        let works = std::mem::take(&mut state.works);
        let cut_at = state.luck.random_range(1..=CUT_OPERATIONS);
        let (is_under_way, reboots) = (state.luck.random_bool(0.5), state.luck.random_bool(0.5));
        let fs = state.fs.clone();
        drop(state);
        if is_under_way {
            fs.power_off_at(cut_at);
            works.into_values().for_each(|work| work());
        }
        let mut state = self.state.lock();
        state.fs = fs.crash(Loss::Random);
        if reboots {
            state.clock.restart();
        }
    }
}

/// A machine in one of its lives, as its node sees it.
struct Alive {
    host: Arc<Host>,
    life: Arc<Life>,
    /// Dead when the life is over: what still runs then writes nothing.
    fs: SimFs,
}

impl Alive {
    fn place(&self) -> Place {
        Place { machine: self.host.id, life: Some(self.life.clone()) }
    }
}

impl Dial for Alive {
    fn dial(&self, address: &str, patience: Patience) -> BoxFuture<Channel, StdError> {
        Box::pin(dial(self.host.net.clone(), self.place(), address.to_string(), patience))
    }
}

/// Ends listening.
struct Unlisten {
    net: Arc<Net>,
    address: String,
    number: u64,
}

impl Drop for Unlisten {
    fn drop(&mut self) {
        self.net.unlisten(&self.address, self.number);
    }
}

impl InPlaceOf for Alive {
    fn now(&self) -> Moment {
        Moment(self.host.state.lock().clock.now())
    }

    fn until(&self, us: u64) -> Duration {
        self.host.state.lock().clock.until(us)
    }

    fn unix_ms(&self) -> u64 {
        let since = u64::try_from(self.host.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (BEGINNING_MS + since).saturating_add_signed(self.host.state.lock().wall_offset_ms)
    }

    fn spawn(&self, task: Task) {
        self.life.spawn(task);
    }

    fn work(&self, work: Box<dyn FnOnce() + Send>) {
        let mut state = self.host.state.lock();
        if self.life.is_over() {
            drop(state);
            return;
        }
        let number = state.next_work;
        state.next_work += 1;
        state.works.insert(number, work);
        let takes = Duration::from_millis(state.luck.random_range(1..=WORK_MS));
        drop(state);
        let host = self.host.clone();
        self.life.spawn(Box::pin(async move {
            tokio::time::sleep(takes).await;
            let work = host.state.lock().works.remove(&number);
            if let Some(work) = work {
                work();
            }
        }));
    }

    fn luck(&self) -> u64 {
        self.host.state.lock().luck.next_u64()
    }

    fn fs(&self) -> Arc<dyn Fs> {
        Arc::new(self.fs.clone())
    }

    fn sync_pause(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let host = self.host.clone();
        let mut state = host.state.lock();
        let (least, most) = host.sync;
        let until = Instant::now() + state.luck.random_range(least..=most);
        drop(state);
        Box::pin(async move {
            sleep_until(until).await;
            loop {
                let goes_on = host.goes_on.notified();
                if !host.state.lock().stalled {
                    return;
                }
                goes_on.await;
            }
        })
    }

    fn listen(&self, address: &str, routes: Routes) -> Result<Listening, String> {
        let net = self.host.net.clone();
        let number = net.listen(address, self.place(), routes)?;
        Ok(Listening::new(Unlisten { net, address: address.to_string(), number }))
    }

    fn dial_lazily(&self, address: &str, patience: Patience) -> Channel {
        dial_lazily(self.host.net.clone(), self.place(), address.to_string(), patience)
    }

    fn end(&self, why: &str) {
        if self.life.end(Some(why)) {
            self.host.lose();
            // What runs now is part of it, and goes when it rests.
            let life = self.life.clone();
            tokio::spawn(async move { life.bury() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::world::{World, WorldOptions};

    const MS: Duration = Duration::from_millis(1);

    async fn machine(seed: u64) -> Machine {
        World::new(WorldOptions::new(seed)).await.unwrap().machine(1)
    }

    fn alive(machine: &Machine) -> Arc<dyn InPlaceOf> {
        machine.boot().machine().unwrap().clone()
    }

    #[tokio::test]
    async fn what_a_life_synced_is_there_in_the_next_and_its_own_handles_are_dead() {
        let (machine, path) = (machine(1).await, Path::new("/data/file"));
        let first = alive(&machine);
        let file = first.fs().create(path).unwrap();
        file.write_at(b"synced", 0).unwrap();
        file.sync_data().unwrap();
        first.fs().sync_dir(Path::new("/data")).unwrap();
        file.write_at(b"SYNCED", 0).unwrap();
        first.end("told to");
        assert_eq!((machine.is_up(), machine.ended().as_deref()), (false, Some("told to")));
        assert!(file.write_at(b"zombie", 0).is_err() && first.fs().open(path).is_err());
        assert!(first.listen("10.0.0.1:1", Routes::default()).is_err());
        let second = alive(&machine);
        let mut found = [0; 6];
        second.fs().open(path).unwrap().read_at(&mut found, 0).unwrap();
        assert!(&found == b"synced" || &found == b"SYNCED");
        assert!(first.fs().open(path).is_err(), "still dead");
    }

    #[tokio::test]
    async fn work_is_done_once_later_and_at_a_crash_at_most_half() {
        let machine = machine(1).await;
        let done = Arc::new(AtomicU32::new(0));
        let work = |alive: &Arc<dyn InPlaceOf>| {
            let (done, fs) = (done.clone(), alive.fs());
            alive.work(Box::new(move || {
                let whole = (0..2 * CUT_OPERATIONS).all(|n| fs.create(Path::new(&format!("/{n}"))).is_ok());
                done.fetch_add(1 + 100 * u32::from(whole), Ordering::Relaxed);
            }));
        };
        let first = alive(&machine);
        work(&first);
        assert_eq!(done.load(Ordering::Relaxed), 0);
        tokio::time::sleep(Duration::from_millis(WORK_MS + 1)).await;
        assert_eq!(done.swap(0, Ordering::Relaxed), 101);
        machine.crash();
        for _ in 0..20 {
            work(&alive(&machine));
            machine.crash();
            tokio::time::sleep(Duration::from_millis(WORK_MS + 1)).await;
        }
        let begun = done.load(Ordering::Relaxed);
        assert!(0 < begun && begun < 20, "{begun} of 20 were under way, none came to its end");
    }

    #[tokio::test]
    async fn a_sync_takes_its_time_and_more_while_the_disk_stalls() {
        let machine = machine(1).await;
        let life = alive(&machine);
        tokio::time::timeout(5 * MS, life.sync_pause()).await.unwrap();
        machine.stall_disk(true);
        let mut pause = life.sync_pause();
        assert!(tokio::time::timeout(10_000 * MS, &mut pause).await.is_err());
        machine.stall_disk(false);
        tokio::time::timeout(MS, pause).await.unwrap();
    }

    #[tokio::test]
    async fn one_seed_makes_the_same_machine_again() {
        let drawn = async |seed| {
            let life = alive(&machine(seed).await);
            (life.luck(), life.now(), life.unix_ms())
        };
        assert_eq!(drawn(1).await, drawn(1).await);
        assert_ne!(drawn(1).await.0, drawn(2).await.0);
    }
}
