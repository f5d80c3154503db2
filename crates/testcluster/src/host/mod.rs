//! How a node lives: on a thread of this process, as a process of its own, or on a simulated machine. All are started, paused
//! and crashed alike.

pub(crate) mod process;
pub(crate) mod sim;
pub(crate) mod thread;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Access, Dialer};
use kvserver::server::config::Config;
use kvserver::server::{ServeError, serve};

use process::Process;
use sim::Simulated;
use simulated::World;
use tempfile::TempDir;
use thread::{Thread, Way};

/// The variable that names the `kvserver` of mode Process.
pub const BINARY_VARIABLE: &str = "SYNOD_KVSERVER";

/// A port of a node that has ended may take a moment to be free.
pub(crate) const PORT_TRIES: u32 = 50;
pub(crate) const PORT_PAUSE: Duration = Duration::from_millis(20);

/// What holds the data of all nodes.
pub(crate) enum Dir {
    Real(TempDir),
    /// The same on each simulated disk.
    Simulated(PathBuf),
}

impl Dir {
    pub(crate) fn simulated() -> Dir {
        Dir::Simulated(PathBuf::from("/simulated"))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Dir::Real(dir) => dir.path(),
            Dir::Simulated(path) => path,
        }
    }
}

/// Where nodes live.
#[derive(Clone)]
pub(crate) enum Place {
    Threads,
    World(World),
    Processes { binary: PathBuf },
}

impl Place {
    /// How its nodes are reached.
    pub(crate) fn access(&self) -> Access {
        match self {
            Place::Threads | Place::Processes { .. } => Access::default(),
            Place::World(world) => {
                let dialer = Some(Dialer(Arc::new(world.outside())));
                Access { dialer, ..Access::default() }
            }
        }
    }
}

/// A node that runs.
pub(crate) enum Host {
    Thread(Thread),
    Process(Process),
    Simulated(Simulated),
}

impl Host {
    /// Starts a node; returns when its ports are open.
    pub(crate) async fn start(place: &Place, config: &Config) -> Result<Host, String> {
        match place {
            Place::World(world) => Simulated::start(world, config).await.map(Host::Simulated),
            Place::Threads => start_thread(config).map(Host::Thread),
            Place::Processes { binary } => Process::start(binary, config).map(Host::Process),
        }
    }

    /// It stands still until it is resumed; its clock goes on.
    pub(crate) fn pause(&mut self) {
        match self {
            Host::Thread(thread) => thread.pause(),
            Host::Process(process) => process.pause(),
            Host::Simulated(node) => node.pause(),
        }
    }

    pub(crate) fn resume(&mut self) {
        match self {
            Host::Thread(thread) => thread.resume(),
            Host::Process(process) => process.resume(),
            Host::Simulated(node) => node.resume(),
        }
    }

    /// Why it isn't there any more, if it ended by itself.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self {
            Host::Thread(thread) => thread.ended(),
            Host::Process(process) => process.ended(),
            Host::Simulated(node) => node.ended(),
        }
    }

    /// Ends it at once: nobody is told, leadership isn't handed over.
    pub(crate) fn crash(self) {
        match self {
            Host::Thread(thread) => thread.end(Way::Crash),
            Host::Process(process) => drop(process),
            Host::Simulated(node) => drop(node),
        }
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        match self {
            Host::Thread(thread) => thread.end(Way::Stop),
            Host::Process(process) => process.stop(),
            Host::Simulated(node) => node.stop().await,
        }
    }
}

fn start_thread(config: &Config) -> Result<Thread, String> {
    let config = config.clone();
    let (name, data_dir) = (format!("node {}", config.node), config.data_dir.clone());
    Thread::start(name, &data_dir, async move || {
        let mut tries = 0;
        let running = loop {
            match serve(config.clone()).await {
                Ok(running) => break running,
                Err(error) if is_taken(&error) && tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(PORT_PAUSE).await;
        };
        Ok((async move || running.stop().await, ()))
    })
    .map(|(thread, ())| thread)
}

fn is_taken(error: &ServeError) -> bool {
    match error {
        ServeError::Listen { .. } => true,
        ServeError::Node(error) => {
            matches!(error, runtime::node::StartError::Listen { .. } | runtime::node::StartError::Identity(_))
        }
        ServeError::Config { .. } | ServeError::Genesis(_) | ServeError::Reflection(_) => false,
    }
}
