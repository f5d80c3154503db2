//! `kvctl demo`: a cluster on this machine, to look at and to break.
//!
//! The nodes are processes of their own. Whatever way the demo ends, none is left: at an orderly end they are told to
//! stop, also those that `kvctl fault start` started meanwhile; if the demo is killed, the pipe they hold closes.

mod intro;
mod plan;

use std::fs::{self, File};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::cluster::{self, Addresses, DemoFile, DemoNode, Home, Leash, NodeConfig};
use crate::failure::{Exit, Failure};
use crate::output::message;
use crate::process::{self, State};
use crate::settings::{Flags, Settings};
use crate::shell::Shell;
use intro::Intro;
use plan::plan;

/// A node that hasn't stopped after this is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// What is shown of a node's log when it doesn't start.
const TAIL_LINES: usize = 15;

/// Flags of `kvctl demo`.
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {
    /// Number of nodes [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    nodes: Option<u32>,
    /// Number of shard groups, each with a replica on every node [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    groups: Option<u32>,
    /// Number of shards of the key space [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    shards: Option<u32>,
    /// Keep the data here, and come back with it, on the same ports [default: temporary]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Ports are BASE+N, BASE+100+N and BASE+200+N; 0: any free ones [default: 7100, if free]
    #[arg(long, value_name = "BASE")]
    base_port: Option<u16>,
    /// Stay in the foreground until Ctrl-C or SIGTERM, without a shell
    #[arg(long)]
    no_shell: bool,
    /// Run these commands, separated by `;`, then stop with the first exit code that isn't 0
    #[arg(long, value_name = "COMMANDS", conflicts_with = "no_shell")]
    exec: Option<String>,
}

/// What to do once the nodes are ready.
enum Then<'a> {
    Exec(&'a str),
    Shell,
    Wait,
}

pub(crate) async fn run(args: &DemoArgs, flags: &Flags) -> Result<(), Failure> {
    let settings = Settings::load(flags, None)?;
    let place = Place::open(args.data_dir.as_deref())?;
    let home = Home::open(place.path())?;
    let _lock = lock(&home)?;
    stop_leftovers(&home).await?;
    let (configs, moved) = plan(&home, args)?;
    let mut stops = Stops::new().map_err(|e| Failure::local("cannot listen for signals", &e))?;
    let then = match &args.exec {
        Some(commands) => Then::Exec(commands),
        None if !args.no_shell && io::stdin().is_terminal() && io::stdout().is_terminal() => Then::Shell,
        None => Then::Wait,
    };

    let mut demo = Demo { home, leash: Rc::new(Leash::new()?), nodes: Vec::new() };
    let began = Instant::now();
    let started = tokio::select! {
        started = demo.start(&configs) => started,
        () = stops.any() => Err(Failure::silent(Exit::Interrupted)),
    };
    let ended = match started {
        Ok(()) => {
            let intro =
                Intro { demo: &demo, first: &configs[0], place: &place, took: began.elapsed(), moved };
            match intro.show(&then, settings.output) {
                Ok(()) => demo.live(&then, flags, &mut stops).await,
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    demo.stop().await;
    ended
}

/// A directory that goes or stays at the end.
enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    fn open(directory: Option<&Path>) -> Result<Place, Failure> {
        match directory {
            Some(path) => {
                fs::create_dir_all(path).map_err(|e| Failure::local(path.display(), &e))?;
                Ok(Place::Kept(path.to_owned()))
            }
            None => tempfile::Builder::new()
                .prefix("synod-demo-")
                .tempdir()
                .map(Place::Temporary)
                .map_err(|e| Failure::local("cannot make a temporary directory", &e)),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(directory) => directory.path(),
        }
    }
}

/// One demo a directory. Held until the process ends.
fn lock(home: &Home) -> Result<File, Failure> {
    let path = home.path().join("demo.lock");
    let file = File::create(&path).map_err(|e| Failure::local(path.display(), &e))?;
    file.try_lock().map_err(|_| {
        Failure::new(Exit::Usage, "IN_USE", format!("a demo runs in {} already", home.path().display()))
    })?;
    Ok(file)
}

/// Ends nodes that outlived an earlier demo in this directory: those that another `kvctl` had restarted.
async fn stop_leftovers(home: &Home) -> Result<(), Failure> {
    if let Ok(file) = home.read() {
        stop_nodes(home, &file.nodes).await;
    }
    home.forget();
    Ok(())
}

/// The nodes of a running demo.
struct Demo {
    home: Home,
    leash: Rc<Leash>,
    /// As they were started; `demo.json` knows of later starts.
    nodes: Vec<DemoNode>,
}

impl Demo {
    async fn start(&mut self, configs: &[NodeConfig]) -> Result<(), Failure> {
        for config in configs {
            let Addresses { client, peer, http } = config.listen.clone();
            let mut child = self.home.spawn(config.node, Some(&self.leash))?;
            let pid = child.id().unwrap_or(0);
            let data_dir = config.data_dir.clone();
            self.nodes.push(DemoNode { id: config.node, pid, client, peer, http, data_dir });
            // Takes the exit code when it comes, so that no zombie stays.
            tokio::spawn(async move { child.wait().await });
        }
        for node in &self.nodes {
            let runs = || self.home.state(node) != State::Gone;
            if !cluster::wait_ready(&node.http, runs).await {
                return Err(self.not_ready(node, runs()));
            }
        }
        let endpoints = self.nodes.iter().map(|node| node.client.clone()).collect();
        self.home.write(&DemoFile { v: 1, endpoints, nodes: self.nodes.clone() })
    }

    fn not_ready(&self, node: &DemoNode, runs: bool) -> Failure {
        let what = if runs {
            format!("wasn't ready after {} s", cluster::READY_WITHIN.as_secs())
        } else {
            "ended at its start".to_owned()
        };
        let tail = self.home.log_tail(node.id, TAIL_LINES);
        let said =
            if tail.is_empty() { "it said nothing".to_owned() } else { format!("its last words:\n{tail}") };
        Failure::new(Exit::Failed, "NOT_READY", format!("node {} {what}; {}", node.id, said.trim_end()))
    }

    async fn live(&self, then: &Then<'_>, flags: &Flags, stops: &mut Stops) -> Result<(), Failure> {
        let leash = Some(Rc::clone(&self.leash));
        match then {
            Then::Exec(commands) => {
                let mut shell = Shell::new(flags, Some(self.home.path()), leash).with_stdin();
                tokio::select! {
                    done = shell.run_all(commands) => done,
                    () = stops.any() => Err(Failure::silent(Exit::Interrupted)),
                }
            }
            Then::Shell => {
                let mut shell = Shell::new(flags, Some(self.home.path()), leash);
                tokio::select! {
                    done = shell.run_on_terminal() => done,
                    // Ctrl-C is the shell's: it ends a command, not the demo.
                    () = stops.but_interrupt() => Ok(()),
                }
            }
            Then::Wait => {
                stops.any().await;
                Ok(())
            }
        }
    }

    async fn stop(&self) {
        // Those that `fault start` started stand only in demo.json; a start that failed wrote none.
        let mut nodes = self.home.read().map(|file| file.nodes).unwrap_or_default();
        nodes.extend(self.nodes.iter().cloned());
        stop_nodes(&self.home, &nodes).await;
        self.home.forget();
    }
}

async fn stop_nodes(home: &Home, nodes: &[DemoNode]) {
    let tell = |node: &DemoNode, what: Signal| {
        if home.state(node) != State::Gone
            && let Err(failure) = process::signal(node.pid, what)
        {
            message(failure.report().trim_end());
        }
    };
    for node in nodes {
        tell(node, Signal::TERM);
        // A paused process takes no signal but this one.
        tell(node, Signal::CONT);
    }
    let end = Instant::now() + STOP_WITHIN;
    for node in nodes {
        let left = end.saturating_duration_since(Instant::now());
        let config = home.config_path(node.id);
        if !process::wait_gone(node.pid, &config, left).await {
            message(format!("node {} didn't stop in {} s: killed", node.id, STOP_WITHIN.as_secs()));
            tell(node, Signal::KILL);
            process::wait_gone(node.pid, &config, STOP_WITHIN).await;
        }
    }
}

/// The signals that end a demo.
struct Stops {
    interrupt: Signals,
    terminate: Signals,
    hangup: Signals,
}

impl Stops {
    fn new() -> io::Result<Stops> {
        Ok(Stops {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    async fn but_interrupt(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_demo_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let held = lock(&home).unwrap();
        assert_eq!(lock(&home).unwrap_err().exit(), Exit::Usage);
        drop(held);
        lock(&home).unwrap();
    }
}
