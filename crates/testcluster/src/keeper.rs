//! Who keeps the nodes as they are to be: one thread that owns them, or a task where they are simulated, and a list of what is
//! wanted that anybody may change.
//!
//! A handle that is dropped can't wait, so nothing is done where it is asked for: the list changes, and the keeper makes the
//! nodes follow. Whoever can wait, waits until the keeper has come to that version of the list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use client::Access;
use kvserver::server::config::Config;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wire::v1::Faults;

use crate::host::thread::Way;
use crate::host::{Host, Place};
use crate::links::{InForce, Kind, Life, ends, life, told};
use crate::physics::Physics;
use simulated::World;

/// How long a node may take to be told of faults.
const TELL_WITHIN: Duration = Duration::from_secs(5);
const TELL_PAUSE: Duration = Duration::from_millis(20);

/// Whether a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It does.
    Up,
    /// It stands still.
    Paused,
    /// It was crashed.
    Down,
    /// It ended by itself, or doesn't start: why.
    Ended(String),
}

/// What is wanted, see the module.
#[derive(Default)]
struct Wanted {
    /// Counts the changes.
    version: u64,
    next_fault: u64,
    in_force: InForce,
    restarts: BTreeSet<u32>,
    over: Option<Way>,
}

/// How far the keeper has come.
#[derive(Clone, Debug, Default)]
struct Done {
    version: u64,
    states: BTreeMap<u32, NodeState>,
    /// Nodes that aren't as they should be, and why.
    wrong: BTreeMap<u32, String>,
}

/// What is shared with the thread.
pub(crate) struct Wishes {
    wanted: Mutex<Wanted>,
    changed: Notify,
    done: Mutex<Done>,
    /// Wakes all who wait for the keeper, in the order in which they began to.
    advanced: Notify,
}

impl Wishes {
    fn change<T>(&self, change: impl FnOnce(&mut Wanted) -> T) -> (u64, T) {
        let mut wanted = self.wanted.lock();
        wanted.version += 1;
        let made = change(&mut wanted);
        let version = wanted.version;
        drop(wanted);
        self.changed.notify_one();
        (version, made)
    }

    /// A fault comes into force; its number, and what to wait for.
    pub(crate) fn begin(&self, kind: Kind) -> (u64, u64) {
        let (version, number) = self.change(|wanted| {
            wanted.next_fault += 1;
            wanted.in_force.insert(wanted.next_fault, kind);
            wanted.next_fault
        });
        (number, version)
    }

    /// Faults end; what to wait for.
    pub(crate) fn end(&self, ends: impl Fn(u64, &Kind) -> bool) -> u64 {
        self.change(|wanted| wanted.in_force.retain(|number, kind| !ends(*number, kind))).0
    }

    /// A node is stopped in good order, if it runs, and started; what to wait for.
    pub(crate) fn restart(&self, node: u32) -> u64 {
        let held_up = |kind: &Kind| matches!(kind, Kind::Crash(it) | Kind::Pause(it) if *it == node);
        self.change(|wanted| {
            wanted.in_force.retain(|_, kind| !held_up(kind));
            wanted.restarts.insert(node)
        })
        .0
    }

    /// The nodes as they are once the keeper has looked again.
    pub(crate) async fn states(&self) -> BTreeMap<u32, NodeState> {
        let (version, ()) = self.change(|_| ());
        self.reach(version).await.states
    }

    /// The faults in force.
    pub(crate) fn in_force(&self) -> InForce {
        self.wanted.lock().in_force.clone()
    }

    /// Waits until the keeper has come so far.
    ///
    /// # Errors
    /// The nodes that aren't as they should be.
    pub(crate) async fn reached(&self, version: u64) -> Result<(), String> {
        let done = self.reach(version).await;
        let wrong: Vec<String> = done.wrong.iter().map(|(node, why)| format!("node {node}: {why}")).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    async fn reach(&self, version: u64) -> Done {
        loop {
            let advanced = self.advanced.notified();
            {
                let done = self.done.lock();
                if done.version >= version {
                    return done.clone();
                }
            }
            advanced.await;
        }
    }

    fn advance(&self, done: Done) {
        *self.done.lock() = done;
        self.advanced.notify_waiters();
    }
}

/// Owns the nodes. None is left when this is dropped.
pub(crate) struct Keeper {
    pub(crate) wishes: Arc<Wishes>,
    at_work: AtWork,
}

enum AtWork {
    Thread(Option<JoinHandle<()>>),
    /// In the runtime of the test.
    Task(World, AbortHandle),
}

impl Keeper {
    /// Starts the nodes.
    ///
    /// # Errors
    /// Why the keeper can't be. Whether the nodes could be started says [`Wishes::reached`] of version 0.
    pub(crate) fn start(place: Place, configs: Vec<Config>) -> std::io::Result<Keeper> {
        let wanted = Mutex::new(Wanted { version: 1, ..Wanted::default() });
        let wishes = Arc::new(Wishes {
            wanted,
            changed: Notify::new(),
            done: Mutex::default(),
            advanced: Notify::new(),
        });
        wishes.changed.notify_one();
        let access = place.access();
        let nodes = configs.into_iter().map(|config| Kept::new(place.clone(), access.clone(), config));
        let physics = match &place {
            Place::World(world) => Some(Physics::new(world.clone())),
            Place::Threads | Place::Processes { .. } => None,
        };
        let ward = Ward { nodes: nodes.collect(), physics, wishes: wishes.clone() };
        if let Place::World(world) = place {
            let task = tokio::spawn(ward.keep()).abort_handle();
            return Ok(Keeper { wishes, at_work: AtWork::Task(world, task) });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("keeper".to_string())
            .spawn(move || runtime.block_on(ward.keep()))?;
        Ok(Keeper { wishes, at_work: AtWork::Thread(Some(thread)) })
    }

    /// Ends all nodes in good order; returns when they are gone.
    pub(crate) async fn stop(&mut self) {
        self.wishes.change(|wanted| wanted.over = Some(Way::Stop));
        self.wishes.reach(u64::MAX).await;
        self.end();
    }

    /// Ends all nodes that are left; returns when they are gone.
    fn end(&mut self) {
        self.wishes.change(|wanted| wanted.over = wanted.over.or(Some(Way::Crash)));
        match &mut self.at_work {
            AtWork::Thread(thread) => {
                // A panic was reported where it happened; the nodes went with the thread.
                let _panicked = thread.take().map(JoinHandle::join);
            }
            AtWork::Task(world, task) => {
                task.abort();
                world.end();
                self.wishes.advance(Done { version: u64::MAX, ..Done::default() });
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// A node, and what it was told.
struct Kept {
    place: Place,
    access: Access,
    config: Config,
    host: Option<Host>,
    is_paused: bool,
    told: Faults,
    /// A fault is to end it, at a moment of its own.
    is_to_end: bool,
    wrong: Option<String>,
}

impl Kept {
    fn new(place: Place, access: Access, config: Config) -> Kept {
        let told = told(0, &InForce::new());
        Kept { place, access, config, host: None, is_paused: false, told, is_to_end: false, wrong: None }
    }

    fn id(&self) -> u32 {
        self.config.node
    }

    async fn start(&mut self) {
        match Host::start(&self.place, &self.config).await {
            Ok(host) => (self.host, self.wrong) = (Some(host), None),
            Err(why) => self.wrong = Some(why),
        }
        (self.told, self.is_paused) = (told(0, &InForce::new()), false);
    }

    fn crash(&mut self) {
        if let Some(host) = self.host.take() {
            host.crash();
        }
        self.is_paused = false;
    }

    /// Notices that it ended by itself. One that was told to isn't missed until that fault is healed.
    fn look(&mut self, wanted: &InForce) {
        let Some(why) = self.host.as_mut().and_then(Host::ended) else { return };
        self.host = None;
        if !self.is_to_end || ends(self.id(), wanted) {
            self.wrong = Some(why);
        }
    }

    /// All but what it is told of its links.
    async fn live_as(&mut self, wanted: &InForce, restart: bool) {
        self.look(wanted);
        // What ended at a step comes back when that fault is healed.
        let is_to_end = ends(self.id(), wanted);
        if self.is_to_end && !is_to_end {
            self.wrong = None;
        }
        self.is_to_end = is_to_end;
        let life = life(self.id(), wanted);
        if restart && life != Life::Down {
            if let Some(host) = self.host.take() {
                host.stop().await;
            }
            self.wrong = None;
        }
        match life {
            Life::Down => {
                self.crash();
                self.wrong = None;
            }
            Life::Up | Life::Paused if self.host.is_none() && self.wrong.is_none() => self.start().await,
            Life::Up => self.hold_still(false),
            Life::Paused => {}
        }
    }

    fn hold_still(&mut self, paused: bool) {
        let Some(host) = self.host.as_mut().filter(|_| self.is_paused != paused) else { return };
        if paused {
            host.pause()
        } else {
            host.resume()
        }
        self.is_paused = paused;
    }

    async fn tell(&mut self, wanted: &InForce) -> Result<(), String> {
        let faults = told(self.id(), wanted);
        if self.host.is_none() || self.is_paused || faults == self.told {
            return Ok(());
        }
        let telling = async {
            while set_faults(&self.config.listen.client, &self.access, faults.clone()).await.is_err() {
                if self.host.as_mut().and_then(Host::ended).is_some() {
                    // What it was told may have ended it before it could say that it heard.
                    return;
                }
                tokio::time::sleep(TELL_PAUSE).await;
            }
        };
        match tokio::time::timeout(TELL_WITHIN, telling).await {
            Ok(()) => {
                self.told = faults;
                Ok(())
            }
            Err(_) => Err("it can't be told of faults".to_string()),
        }
    }

    fn state(&self) -> NodeState {
        match (&self.wrong, self.host.is_some(), self.is_paused) {
            (Some(why), false, _) => NodeState::Ended(why.clone()),
            (_, true, true) => NodeState::Paused,
            (_, true, false) => NodeState::Up,
            (None, false, _) => NodeState::Down,
        }
    }
}

async fn set_faults(address: &str, access: &Access, faults: Faults) -> Result<(), String> {
    let node = client::admin(address, Duration::from_secs(2), access).await;
    let mut node = node.map_err(|error| error.to_string())?;
    node.set_faults(faults).await.map_err(|status| status.message().to_string())?;
    Ok(())
}

/// What the thread has.
struct Ward {
    nodes: Vec<Kept>,
    /// What is wrong with machines and links, where they are simulated.
    physics: Option<Physics>,
    wishes: Arc<Wishes>,
}

impl Ward {
    async fn keep(mut self) {
        loop {
            self.wishes.changed.notified().await;
            let (version, in_force, restarts, over) = {
                let mut wanted = self.wishes.wanted.lock();
                let restarts = std::mem::take(&mut wanted.restarts);
                (wanted.version, wanted.in_force.clone(), restarts, wanted.over)
            };
            if let Some(way) = over {
                self.end(way).await;
                return;
            }
            let done = self.follow(version, &in_force, &restarts).await;
            self.wishes.advance(done);
        }
    }

    async fn follow(&mut self, version: u64, in_force: &InForce, restarts: &BTreeSet<u32>) -> Done {
        let mut done = Done { version, ..Done::default() };
        if let Some(physics) = &mut self.physics {
            physics.follow(in_force);
        }
        for node in &mut self.nodes {
            node.live_as(in_force, restarts.contains(&node.id())).await;
        }
        for node in &mut self.nodes {
            if let Err(why) = node.tell(in_force).await {
                done.wrong.insert(node.id(), why);
            }
            node.hold_still(life(node.id(), in_force) == Life::Paused);
            done.states.insert(node.id(), node.state());
            // What a fault asked for isn't wrong.
            if let Some(why) = node.wrong.clone().filter(|_| !ends(node.id(), in_force)) {
                done.wrong.insert(node.id(), why);
            }
        }
        done
    }

    async fn end(mut self, way: Way) {
        let hosts: Vec<Host> = self.nodes.iter_mut().filter_map(|node| node.host.take()).collect();
        // At the same time: each may take a while to hand over what it leads.
        let mut threads = Vec::new();
        for host in hosts {
            match (way, host) {
                (Way::Stop, Host::Simulated(node)) => node.stop().await,
                (Way::Crash, host) => threads.push(std::thread::spawn(move || host.crash())),
                (Way::Stop, Host::Thread(thread)) => {
                    threads.push(std::thread::spawn(move || thread.end(Way::Stop)))
                }
                (Way::Stop, Host::Process(process)) => {
                    threads.push(std::thread::spawn(move || process.stop()))
                }
            }
        }
        for thread in threads {
            // A panic was reported where it happened.
            let _panicked = thread.join();
        }
        self.wishes.advance(Done { version: u64::MAX, ..Done::default() });
    }
}
