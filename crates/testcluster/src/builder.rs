//! How a cluster is to be, and how it comes to be so.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvserver::server::config::{Config, Listen, NodeEntry};
use runtime::observe::Observer;
use runtime::options::Bounds;
use simulated::{World, WorldOptions};
use tokio::time::Instant;

use crate::cluster::TestCluster;
use crate::error::{Error, Replay, seed};
use crate::host::{Dir, Place, process};
use crate::keeper::Keeper;

/// How often ports are looked for anew, if somebody took one meanwhile.
const TRIES: u32 = 3;
const POLL: Duration = Duration::from_millis(20);
/// The variable that a mode is taken from, where a test doesn't say one.
pub const MODE_VARIABLE: &str = "SYNOD_MODE";

/// Where the nodes of a cluster live. A test's body is the same in all modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// In this process: each on a thread of its own, over loopback, with real files.
    #[default]
    Live,
    /// As `kvserver` processes on this machine.
    Process,
    /// On machines, disks and a network in memory, in the runtime of the test: the seed decides all that happens, and time that
    /// nobody uses doesn't pass.
    Sim,
}

impl Mode {
    /// By its name.
    fn named(name: &str) -> Option<Mode> {
        [Mode::Live, Mode::Process, Mode::Sim].into_iter().find(|mode| mode.to_string() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Live => "live",
            Mode::Process => "process",
            Mode::Sim => "sim",
        })
    }
}

/// What a cluster is to be, see [`TestCluster::builder`].
#[derive(Clone)]
pub struct Builder {
    mode: Option<Mode>,
    groups: u16,
    replicas: u32,
    shards: u16,
    seed: Option<u64>,
    timeout: Duration,
    binary: Option<PathBuf>,
    observer: Option<Arc<dyn Observer>>,
}

impl Default for Builder {
    fn default() -> Builder {
        let (mode, timeout) = (None, Duration::from_secs(30));
        Builder {
            mode,
            groups: 2,
            replicas: 3,
            shards: 16,
            seed: None,
            timeout,
            binary: None,
            observer: None,
        }
    }
}

impl Builder {
    /// Where the nodes live. If nothing is said: what `SYNOD_MODE` says (`live`, `process` or `sim`), else live.
    pub fn mode(mut self, mode: Mode) -> Builder {
        self.mode = Some(mode);
        self
    }

    /// Groups of shards that the cluster begins with; 2 if nothing is said. They are numbered from 1.
    pub fn groups(mut self, groups: u16) -> Builder {
        self.groups = groups;
        self
    }

    /// Replicas of each group, each on a node of its own, and of the shardmaster; 3 if nothing is said. So this is also the
    /// number of nodes, which are numbered from 1.
    pub fn replicas(mut self, replicas: u32) -> Builder {
        self.replicas = replicas;
        self
    }

    /// Shards of the key space; 16 if nothing is said.
    pub fn shards(mut self, shards: u16) -> Builder {
        self.shards = shards;
        self
    }

    /// What decides all that this library draws. `SYNOD_SEED` goes before it; if nobody says anything, it is drawn.
    pub fn seed(mut self, seed: u64) -> Builder {
        self.seed = Some(seed);
        self
    }

    /// How long the start, and each wait, may take; 30 s if nothing is said.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// The `kvserver` of mode Process. If nothing is said: the one that `SYNOD_KVSERVER` names, else the one in the
    /// directory that this test was built in.
    pub fn binary(mut self, binary: impl AsRef<Path>) -> Builder {
        self.binary = Some(binary.as_ref().to_path_buf());
        self
    }

    /// Who is told all that the replicas do, in mode Sim.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Builder {
        self.observer = Some(observer);
        self
    }

    /// Starts the cluster; returns when all its groups have leaders.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the numbers don't fit, [`Error::NoBinary`], [`Error::Node`] if a node doesn't start,
    /// [`Error::TimedOut`] if they don't come to have leaders.
    pub async fn start(self) -> Result<TestCluster, Error> {
        let replay = Replay::here(seed(self.seed)?);
        replay.say();
        let mode = mode(self.mode)?;
        if self.observer.is_some() && mode != Mode::Sim {
            let (what, why) = ("an observer", "nodes elsewhere have their own times");
            return Err(Error::Unsupported { mode, what, why });
        }
        let place = match mode {
            Mode::Live => Place::Threads,
            Mode::Sim => {
                let options = WorldOptions::new(replay.seed);
                Place::World(world(WorldOptions { observer: self.observer.clone(), ..options }).await?)
            }
            Mode::Process => Place::Processes { binary: process::find(self.binary.as_deref())? },
        };
        if self.replicas == 0 || self.replicas > 15 {
            return Err(Error::Invalid(format!("{} replicas: from 1 to 15 are possible", self.replicas)));
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start(mode, place.clone(), &replay).await {
                Err(Error::Node(..)) if tries < TRIES => {}
                Ok(cluster) => {
                    cluster.wait().leaders().await?;
                    self.await_registered(&cluster).await?;
                    return Ok(cluster);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_start(&self, mode: Mode, place: Place, replay: &Replay) -> Result<TestCluster, Error> {
        let dir = match mode {
            Mode::Live | Mode::Process => Dir::Real(temporary()?),
            Mode::Sim => Dir::simulated(),
        };
        let configs = self.configs(mode, dir.path())?;
        let keeper =
            Keeper::start(place.clone(), configs.clone()).map_err(|error| Error::io("a thread", error))?;
        let reached = keeper.wishes.reached(1).await;
        reached.map_err(|why| Error::Node(why, replay.clone()))?;
        Ok(TestCluster::new(mode, self.timeout, configs, keeper, dir, place, replay.clone()))
    }

    /// Waits until the shardmaster would take every node into a new group.
    async fn await_registered(&self, cluster: &TestCluster) -> Result<(), Error> {
        let (began, master) = (Instant::now(), cluster.client().await?.shardmaster());
        let new = u32::from(self.groups) + 1;
        loop {
            match master.join(new, &cluster.nodes(), true).await {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > self.timeout => return Err(error.into()),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn configs(&self, mode: Mode, dir: &Path) -> Result<Vec<Config>, Error> {
        let nodes = match mode {
            Mode::Live | Mode::Process => {
                free_entries(self.replicas).map_err(|error| Error::io("ports on loopback", error))?
            }
            Mode::Sim => (1..=self.replicas).map(simulated_entry).collect(),
        };
        let config = |entry: &NodeEntry| Config {
            node: entry.id,
            data_dir: dir.join(format!("n{}", entry.id)),
            shards: self.shards,
            groups: self.groups,
            listen: Listen {
                client: entry.client.clone(),
                peer: entry.peer.clone(),
                http: entry.http.clone(),
            },
            nodes: nodes.clone(),
            faults: true,
            ..Config::default()
        };
        let config = |entry: &NodeEntry| match mode {
            Mode::Live | Mode::Process => config(entry),
            Mode::Sim => {
                let config = config(entry);
                Config { bounds: small_disks(config.bounds.clone()), ..config }
            }
        };
        let configs: Vec<Config> = nodes.iter().map(config).collect();
        let wrong = |(key, reason): (String, String)| Error::Invalid(format!("{key}: {reason}"));
        configs.iter().try_for_each(|config| config.validate().map_err(wrong))?;
        Ok(configs)
    }
}

/// The mode that was asked for, else the one that the environment says.
pub(crate) fn mode(told: Option<Mode>) -> Result<Mode, Error> {
    match (told, std::env::var(MODE_VARIABLE)) {
        (Some(mode), _) => Ok(mode),
        (None, Ok(name)) => {
            let unknown = || Error::Invalid(format!("{MODE_VARIABLE}={name}: live, process or sim"));
            Mode::named(&name).ok_or_else(unknown)
        }
        (None, Err(_)) => Ok(Mode::default()),
    }
}

pub(crate) fn temporary() -> Result<tempfile::TempDir, Error> {
    let dir = tempfile::Builder::new().prefix("synod-test-").tempdir();
    dir.map_err(|error| Error::io("a temporary directory", error))
}

/// Segments and checkpoints of simulated nodes come and go often, and take little memory.
pub(crate) fn small_disks(bounds: Bounds) -> Bounds {
    Bounds { segment_bytes: 64 << 10, checkpoint_log_bytes: 256 << 10, ..bounds }
}

/// A world in the runtime of the test.
pub(crate) async fn world(options: WorldOptions) -> Result<World, Error> {
    World::new(options).await.map_err(|why| Error::Invalid(why.to_string()))
}

fn simulated_entry(id: u32) -> NodeEntry {
    let port = |port: u16| format!("10.0.0.{id}:{port}");
    NodeEntry { id, client: port(7001), peer: port(7002), http: port(7003) }
}

fn free_entries(nodes: u32) -> std::io::Result<Vec<NodeEntry>> {
    let mut ports = free_ports(usize::try_from(3 * nodes).unwrap_or_default())?.into_iter();
    let mut port = || ports.next().unwrap_or_default();
    Ok((1..=nodes).map(|id| NodeEntry { id, client: port(), peer: port(), http: port() }).collect())
}

/// Addresses, `host:port`, at which nobody listens.
pub(crate) fn free_ports(count: usize) -> std::io::Result<Vec<String>> {
    let host = own_loopback();
    // Held until all are found, so that none is found twice.
    let held = (0..count).map(|_| TcpListener::bind((host, 0))).collect::<std::io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

/// An address that nobody else uses, if all of 127/8 is loopback here: so no port of a node that is down is taken by another
/// test, or by the near end of somebody's connection.
fn own_loopback() -> Ipv4Addr {
    let [a, b, c] = rand::random::<[u8; 3]>();
    let own = Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254));
    if TcpListener::bind((own, 0)).is_ok() { own } else { Ipv4Addr::LOCALHOST }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_all_different() {
        let entries = free_entries(3).unwrap();
        let ports = entries.iter().flat_map(|entry| [&entry.client, &entry.peer, &entry.http]);
        assert_eq!(ports.collect::<std::collections::BTreeSet<_>>().len(), 9);
    }

    #[test]
    fn what_doesnt_fit_is_named() {
        let dir = Path::new("/nowhere");
        let error = Builder::default().groups(5).shards(3).configs(Mode::Live, dir).unwrap_err();
        assert_eq!(error.to_string(), "groups: 5 groups can't share 3 shards");
    }
}
