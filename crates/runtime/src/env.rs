//! All that a node takes from outside itself: time, tasks, work beside it, luck, files, connections; and who watches it.
//!
//! In production these are the machine's own, called directly. In a simulation a [`Machine`] stands in their place, and the
//! node is the same code. What goes through here is all that may differ between two runs.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use paxos::ids::Moment;
use paxos::rsm::state_machine::StateMachine;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::codegen::StdError;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use wire::channel::{Channel, Dial, Patience};

use crate::checkpoint::{self, CheckpointError, GroupState};
use crate::clock;
use crate::fs::{Fs, RealFs};
use crate::observe::Observer;
use paxos::ids::{Generation, GroupId};

/// A task of a node.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Priority of work that nobody waits for: about a third of the weight of what serves. The lowest would leave it next to nothing
/// where the load takes all processors, while the log grows.
const BACKGROUND: i32 = 5;

/// A machine in one of its lives, in the place of the one that this process runs on. What was begun in a life ends with it.
pub trait Machine: Dial + Send + Sync {
    /// Its clock; goes on while the machine stands still.
    fn now(&self) -> Moment;

    /// How long it takes, in true time, until its clock has gone on by so many µs.
    fn until(&self, us: u64) -> Duration;

    /// The wall clock, in ms since 1970, for people.
    fn unix_ms(&self) -> u64;

    /// Runs a task to its end, or to the end of this life.
    fn spawn(&self, task: Task);

    /// Does what production does on a thread of its own; once, later, or never if this life ends before.
    fn work(&self, work: Box<dyn FnOnce() + Send>);

    /// Where luck begins: another number with each call.
    fn luck(&self) -> u64;

    /// Its disk.
    fn fs(&self) -> Arc<dyn Fs>;

    /// Returns when a sync of its disk that begins now may be over.
    fn sync_pause(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Serves `routes` at an address until what is returned is dropped, or this life ends.
    ///
    /// # Errors
    /// If somebody listens there.
    fn listen(&self, address: &str, routes: Routes) -> Result<Listening, String>;

    /// A channel that connects when it is used, and again when that connection is gone.
    fn dial_lazily(&self, address: &str, patience: Patience) -> Channel;

    /// Ends this life at once, as `kill -9` ends a process.
    fn end(&self, why: &str);
}

/// Serves as long as this lives.
pub struct Listening {
    _until_dropped: Box<dyn Send + Sync>,
}

impl Listening {
    /// What ends serving when it is dropped.
    pub fn new(until_dropped: impl Send + Sync + 'static) -> Listening {
        Listening { _until_dropped: Box::new(until_dropped) }
    }
}

/// See the module. The default is production.
#[derive(Clone, Default)]
pub struct Env {
    machine: Option<Arc<dyn Machine>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Env {
    /// A node on this machine, in the place of the one that the process runs on.
    pub fn on(machine: Arc<dyn Machine>) -> Env {
        Env { machine: Some(machine), observer: None }
    }

    /// Watched by `observer`.
    #[must_use]
    pub fn watched(self, observer: Arc<dyn Observer>) -> Env {
        Env { observer: Some(observer), ..self }
    }

    /// Who watches.
    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    /// The machine, if it isn't the one that the process runs on.
    pub fn machine(&self) -> Option<&Arc<dyn Machine>> {
        self.machine.as_ref()
    }

    /// The time now, for leases and timers.
    pub fn now(&self) -> Moment {
        match &self.machine {
            None => clock::now(),
            Some(machine) => machine.now(),
        }
    }

    /// How long to wait until the clock has gone on by so many µs.
    pub(crate) fn until(&self, us: u64) -> Duration {
        match &self.machine {
            None => Duration::from_micros(us),
            Some(machine) => machine.until(us),
        }
    }

    /// The wall clock, in ms since 1970. For people only; the protocol never reads it.
    pub fn unix_ms(&self) -> u64 {
        match &self.machine {
            None => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
            }
            Some(machine) => machine.unix_ms(),
        }
    }

    /// Runs a task beside the caller, in the present runtime of tokio.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.machine {
            None => drop(tokio::spawn(task)),
            Some(machine) => machine.spawn(Box::pin(task)),
        }
    }

    /// Runs `work`, which takes long, on a thread of its own.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(crate) fn beside(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match &self.machine {
            None => drop(std::thread::Builder::new().name(name.to_string()).spawn(work)?),
            Some(machine) => machine.work(Box::new(work)),
        }
        Ok(())
    }

    /// The same for what nobody waits for: the threads that serve come before it.
    ///
    /// # Errors
    /// As [`Env::beside`].
    pub(crate) fn behind(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        if self.machine.is_some() {
            return self.beside(name, work);
        }
        self.beside(name, move || {
            // Where the system has no priorities of threads, nothing is lost but smoothness.
            let _may_not = rustix::process::setpriority_process(Some(rustix::thread::gettid()), BACKGROUND);
            work();
        })
    }

    /// Computes what takes long without holding up the node.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        match &self.machine {
            None => tokio::task::spawn_blocking(compute).await.map_err(|e| e.to_string()),
            Some(_) => Ok(compute()),
        }
    }

    /// Runs what takes long without holding up the node, many of them at a time if need be.
    pub(crate) fn aside(&self, work: impl FnOnce() + Send + 'static) {
        match &self.machine {
            None => drop(tokio::task::spawn_blocking(work)),
            Some(_) => work(),
        }
    }

    /// Drops a large value where that holds up nobody.
    pub(crate) fn drop_elsewhere<T: Send + 'static>(&self, value: T) {
        if self.machine.is_none()
            && let Err(error) = self.behind("reaper", move || drop(value))
        {
            tracing::warn!(%error, "no thread to drop on");
        }
    }

    /// A generator of its own, fit for ids that nobody can guess.
    pub fn luck(&self) -> StdRng {
        match &self.machine {
            None => rand::make_rng(),
            Some(machine) => StdRng::seed_from_u64(machine.luck()),
        }
    }

    /// A number that nobody else draws.
    pub(crate) fn draw(&self) -> u64 {
        self.luck().next_u64()
    }

    /// The file system of data directories.
    pub(crate) fn fs(&self) -> Arc<dyn Fs> {
        match &self.machine {
            None => Arc::new(RealFs),
            Some(machine) => machine.fs(),
        }
    }

    /// Connects to `host:port`; `tune` is for connections over TCP, but for how long it is tried.
    ///
    /// # Errors
    /// If nobody answers there.
    pub(crate) async fn connect(
        &self,
        address: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, StdError> {
        let endpoint = tune(Endpoint::from_shared(format!("http://{address}"))?);
        match &self.machine {
            None => Ok(endpoint.connect().await?.into()),
            Some(machine) => machine.dial(address, Patience::of(&endpoint)).await,
        }
    }

    /// The same, but the connection comes about when it is used; `None` if that is no address.
    pub fn connect_lazily(&self, address: &str, tune: impl FnOnce(Endpoint) -> Endpoint) -> Option<Channel> {
        let endpoint = tune(Endpoint::from_shared(format!("http://{address}")).ok()?);
        Some(match &self.machine {
            None => endpoint.connect_lazy().into(),
            Some(machine) => machine.dial_lazily(address, Patience::of(&endpoint)),
        })
    }

    /// Ends the process at once, or the life of the machine.
    pub fn end(&self, why: &str) {
        match &self.machine {
            None => {
                // Nothing is flushed and nobody is told. If the system doesn't take the signal, an abort comes close.
                let signal = rustix::process::Signal::KILL;
                let _taken = rustix::process::kill_process(rustix::process::getpid(), signal);
                std::process::abort()
            }
            Some(machine) => machine.end(why),
        }
    }

    /// Writes a checkpoint, see [`checkpoint::write`].
    pub(crate) fn write_checkpoint<S: StateMachine>(
        &self,
        data_dir: &Path,
        states: Vec<GroupState<S>>,
        bytes_per_s: u64,
    ) -> Result<(), CheckpointError> {
        match &self.machine {
            None => checkpoint::write(data_dir, states, bytes_per_s).map(drop),
            Some(machine) => checkpoint::flat::write(&*machine.fs(), data_dir, states),
        }
    }

    /// The states of the last checkpoint, see [`checkpoint::load`].
    pub(crate) fn load_checkpoint<S: StateMachine>(
        &self,
        data_dir: &Path,
        fresh: impl Fn(GroupId, Generation) -> Option<S>,
    ) -> Result<Vec<GroupState<S>>, CheckpointError> {
        match &self.machine {
            None => checkpoint::load(data_dir, fresh),
            Some(machine) => checkpoint::flat::load(&*machine.fs(), data_dir, fresh),
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.machine.is_some() { "Env(simulated)" } else { "Env" })
    }
}
