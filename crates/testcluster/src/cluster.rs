//! A cluster in a test: its nodes, its clients, what can be done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Access, Client, ClientOptions};
use kvserver::server::config::Config;
use scripted::prng::Prng;
use simulated::World;

use crate::builder::{Builder, Mode};
use crate::check::Check;
use crate::error::{Error, Replay};
use crate::fault::Fault;
use crate::host::{Dir, Place};
use crate::keeper::Keeper;
use crate::links::Kind;
use crate::recorder::{Recorded, Recorder};
use crate::view::View;
use crate::wait::Wait;
use crate::workload::Workload;

/// How long an operation of a client may take with all its tries: longer than elections under faults.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest delay of a link.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// A cluster that lives as long as this does. When it is dropped, also by a test that panics, no thread, process, port or
/// file of it is left.
pub struct TestCluster {
    // Dropped in this order: first the nodes, then their files.
    keeper: Keeper,
    dir: Dir,
    place: Place,
    access: Access,
    clients: AtomicU64,
    mode: Mode,
    timeout: Duration,
    configs: Vec<Config>,
    recorder: Recorder,
    replay: Replay,
}

impl TestCluster {
    /// Says how a cluster is to be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Three nodes in this process, with two groups of shards.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<TestCluster, Error> {
        Builder::default().start().await
    }

    pub(crate) fn new(
        mode: Mode,
        timeout: Duration,
        configs: Vec<Config>,
        keeper: Keeper,
        dir: Dir,
        place: Place,
        replay: Replay,
    ) -> TestCluster {
        let (access, clients) = (place.access(), AtomicU64::new(0));
        let recorder = Recorder::default();
        TestCluster { keeper, dir, place, access, clients, mode, timeout, configs, recorder, replay }
    }

    // ------------------------------------------------------------------------------------------ what it is

    /// Where its nodes live.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> Vec<u32> {
        self.configs.iter().map(|config| config.node).collect()
    }

    /// Client addresses of all nodes, `host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        self.configs.iter().map(|config| config.listen.client.clone()).collect()
    }

    /// The directory with the data of all nodes, and in mode Process with their logs; in mode Sim one of simulated disks.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What decides all that is drawn, and how to have it again.
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// The luck of one part of a test: a stream of numbers that the seed and this name decide.
    pub fn luck(&self, name: &str) -> Prng {
        self.replay.luck(name)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn configs(&self) -> &[Config] {
        &self.configs
    }

    /// The world that it lives in, in mode Sim.
    pub fn world(&self) -> Option<&World> {
        match &self.place {
            Place::World(world) => Some(world),
            Place::Threads | Place::Processes { .. } => None,
        }
    }

    // ------------------------------------------------------------------------------------------ clients

    /// A client with a session of its own. It belongs to the runtime that this is called on.
    ///
    /// # Errors
    /// [`Error::Client`] if no node answers.
    pub async fn client(&self) -> Result<Client, Error> {
        let options = ClientOptions { timeout: OPERATION_TIMEOUT, ..ClientOptions::default() };
        self.client_with(options).await
    }

    /// A client with these options, but for the endpoints.
    ///
    /// # Errors
    /// [`Error::Client`] if no node answers.
    pub async fn client_with(&self, options: ClientOptions) -> Result<Client, Error> {
        let mut options = ClientOptions { endpoints: self.endpoints(), ..options };
        if self.mode == Mode::Sim {
            let number = self.clients.fetch_add(1, Ordering::Relaxed);
            options.access.dialer = self.access.dialer.clone();
            options.seed = options.seed.or_else(|| Some(self.luck(&format!("session {number}")).draw()));
        }
        Ok(Client::connect(options).await?)
    }

    /// A client whose operations are written down, for [`Check::history`].
    ///
    /// # Errors
    /// [`Error::Client`] if no node answers.
    pub async fn recorded(&self) -> Result<Recorded, Error> {
        Ok(self.recorder.wrap(self.client().await?))
    }

    /// Where the operations of this cluster are written down.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Clients that work on a few keys, drawn from the seed, and written down.
    pub fn workload(&self) -> Workload<'_> {
        Workload::new(self)
    }

    // ------------------------------------------------------------------------------------------ looking at it

    /// What every node says, without waiting for anything.
    pub async fn view(&self) -> View {
        let states = self.keeper.wishes.states().await;
        let addresses: BTreeMap<u32, &String> =
            self.configs.iter().map(|config| (config.node, &config.listen.client)).collect();
        let with_address = |(node, state)| Some((node, (state, (*addresses.get(&node)?).clone())));
        let nodes = states.into_iter().filter_map(with_address).collect();
        View::take(nodes, self.keeper.wishes.in_force(), &self.access).await
    }

    /// Waits for something, and tells what every node says if it doesn't come.
    pub fn wait(&self) -> Wait<'_> {
        Wait::new(self, self.timeout)
    }

    /// Judges what clients saw, and what the replicas hold.
    pub fn check(&self) -> Check<'_> {
        Check::new(self, self.timeout)
    }

    // ------------------------------------------------------------------------------------------ faults

    /// Ends a node at once, as `kill -9` does: nobody is told, leadership isn't handed over. Healed, it is started again
    /// with its data.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub async fn crash(&self, node: u32) -> Result<Fault, Error> {
        self.begin(Kind::Crash(node)).await
    }

    /// Makes a node stand still while its clock goes on, as SIGSTOP does.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub async fn pause(&self, node: u32) -> Result<Fault, Error> {
        self.begin(Kind::Pause(node)).await
    }

    /// Ends a node when it next comes to a step of a transaction; one of `begun`, `prepared`, `decided`, `told` (where it
    /// leads the coordinator), `prepare-received`, `prepare-logged`, `decide-received`, `decide-logged` (a participant).
    /// [`Wait::down`] waits for that; healed, it is started again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in mode Live; [`Error::NoSuchNode`]; [`Error::Node`] for another step.
    pub async fn crash_at(&self, node: u32, step: &'static str) -> Result<Fault, Error> {
        if self.mode == Mode::Live {
            let (what, why) = ("a crash at a step", "it would end the process of the test");
            return Err(Error::Unsupported { mode: self.mode, what, why });
        }
        self.begin(Kind::CrashAt { node, step }).await
    }

    /// Cuts the nodes of `a` from those of `b`, both ways. Clients still reach all of them.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`]; [`Error::Invalid`] if a node is on both sides.
    pub async fn partition(&self, a: &[u32], b: &[u32]) -> Result<Fault, Error> {
        let (a, b): (BTreeSet<u32>, BTreeSet<u32>) =
            (a.iter().copied().collect(), b.iter().copied().collect());
        match a.intersection(&b).next() {
            Some(node) => Err(Error::Invalid(format!("node {node} can't be on both sides of a cut"))),
            None => self.begin(Kind::Partition(a, b)).await,
        }
    }

    /// Cuts a node from all others, both ways. Clients still reach it.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub async fn isolate(&self, node: u32) -> Result<Fault, Error> {
        let others: Vec<u32> = self.nodes().into_iter().filter(|other| *other != node).collect();
        self.partition(&[node], &others).await
    }

    /// Loses all that node `from` says to node `to`.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`].
    pub async fn one_way(&self, from: u32, to: u32) -> Result<Fault, Error> {
        self.begin(Kind::OneWay { from, to }).await
    }

    /// Delays all between two nodes, each way, by at most a minute.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`]; [`Error::Invalid`] for a longer delay.
    pub async fn slow(&self, a: u32, b: u32, delay: Duration) -> Result<Fault, Error> {
        if delay > DELAY_MAX {
            return Err(Error::Invalid(format!("a delay of {delay:?}: at most {DELAY_MAX:?} are possible")));
        }
        self.begin(Kind::Slow { a, b, delay }).await
    }

    /// Loses so many of all messages between nodes, in percent.
    ///
    /// # Errors
    /// [`Error::Invalid`] above 100.
    pub async fn lossy(&self, percent: u32) -> Result<Fault, Error> {
        self.begin(Kind::Lossy { percent: self.percent(percent)? }).await
    }

    /// So many of all messages between replicas come twice, in percent.
    ///
    /// # Errors
    /// [`Error::Invalid`] above 100.
    pub async fn doubled(&self, percent: u32) -> Result<Fault, Error> {
        self.begin(Kind::Doubled { percent: self.percent(percent)? }).await
    }

    /// So many of all messages between replicas are late by up to 50 ms, and overtaken by others, in percent.
    ///
    /// # Errors
    /// [`Error::Invalid`] above 100.
    pub async fn shuffled(&self, percent: u32) -> Result<Fault, Error> {
        self.begin(Kind::Shuffled { percent: self.percent(percent)? }).await
    }

    fn percent(&self, percent: u32) -> Result<u32, Error> {
        if percent > 100 {
            return Err(Error::Invalid(format!("{percent} % of all messages")));
        }
        Ok(percent)
    }

    /// A fault that `luck` draws, and that leaves a majority of three or more nodes which can serve. A single node is paused.
    ///
    /// # Errors
    /// As the fault.
    pub async fn any_fault(&self, luck: &mut Prng) -> Result<Fault, Error> {
        let nodes = self.nodes();
        let a = *luck.pick(&nodes);
        let others: Vec<u32> = nodes.into_iter().filter(|node| *node != a).collect();
        if others.is_empty() {
            return self.pause(a).await;
        }
        let b = *luck.pick(&others);
        match luck.below(6) {
            0 => self.isolate(a).await,
            1 => self.one_way(a, b).await,
            2 => self.slow(a, b, Duration::from_millis(luck.between(5, 100))).await,
            3 => self.lossy(u32::try_from(luck.between(1, 20)).unwrap_or(1)).await,
            4 => self.pause(a).await,
            _ => self.crash(a).await,
        }
    }

    /// Ends all faults in force, also those that a test still holds.
    ///
    /// # Errors
    /// [`Error::Node`] if a node doesn't come back.
    pub async fn heal(&self) -> Result<(), Error> {
        self.reached(self.keeper.wishes.end(|_, _| true)).await
    }

    /// Stops a node in good order, if it runs, and starts it again with its data. Ends crashes and pauses of it.
    ///
    /// # Errors
    /// [`Error::NoSuchNode`]; [`Error::Node`] if it doesn't come back.
    pub async fn restart(&self, node: u32) -> Result<(), Error> {
        self.check_known(&[node])?;
        self.reached(self.keeper.wishes.restart(node)).await
    }

    /// What is wrong at present, in words.
    pub fn faults(&self) -> Vec<String> {
        self.keeper.wishes.in_force().values().map(Kind::to_string).collect()
    }

    pub(crate) async fn begin(&self, kind: Kind) -> Result<Fault, Error> {
        self.check_known(&kind.named())?;
        let what = kind.to_string();
        let (number, version) = self.keeper.wishes.begin(kind);
        // From here on it heals, whatever comes.
        let fault = Fault::new(number, what, self.keeper.wishes.clone(), self.replay.clone());
        self.reached(version).await?;
        Ok(fault)
    }

    pub(crate) fn check_known(&self, named: &[u32]) -> Result<(), Error> {
        let nodes = self.nodes();
        match named.iter().find(|node| !nodes.contains(node)) {
            Some(node) => Err(Error::NoSuchNode { node: *node, nodes }),
            None => Ok(()),
        }
    }

    async fn reached(&self, version: u64) -> Result<(), Error> {
        let reached = self.keeper.wishes.reached(version).await;
        reached.map_err(|why| Error::Node(why, self.replay.clone()))
    }

    // ------------------------------------------------------------------------------------------ shards

    /// A group comes, with a replica on every node, and gets its part of the shards. [`Wait::settled`] waits for them.
    ///
    /// # Errors
    /// [`Error::Client`] if the shardmaster refuses.
    pub async fn join(&self, group: u32) -> Result<(), Error> {
        self.client().await?.shardmaster().join(group, &self.nodes(), false).await?;
        Ok(())
    }

    /// A group goes, and its shards go to the others. [`Wait::settled`] waits for them.
    ///
    /// # Errors
    /// [`Error::Client`] if the shardmaster refuses.
    pub async fn leave(&self, group: u32) -> Result<(), Error> {
        self.client().await?.shardmaster().leave(group, false).await?;
        Ok(())
    }

    /// These shards go to a group. [`Wait::settled`] waits for them.
    ///
    /// # Errors
    /// [`Error::Client`] if the shardmaster refuses.
    pub async fn move_shards(&self, shards: &[u32], to: u32) -> Result<(), Error> {
        self.client().await?.shardmaster().move_shards(shards, to, false).await?;
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Stops all nodes in good order. Dropping the cluster is quicker, and leaves as little.
    pub async fn stop(mut self) {
        self.keeper.stop().await;
    }
}
