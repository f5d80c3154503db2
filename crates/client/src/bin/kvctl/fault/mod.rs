//! `fault`: kills, pauses and restarts the nodes of a demo cluster, and cuts the links between them.
//!
//! Refused anywhere else: the processes are those in the demo's directory, the links those of nodes that were started
//! with `faults.enabled`.

mod links;
mod processes;

use std::time::Duration;

use serde_json::json;
use wire::v1::{Faults, FaultsRequest};

use crate::cluster::{DemoFile, DemoNode, Home};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::nodes::{Reach, call};
use crate::output::{self, message};
use crate::process::State;
pub(crate) use links::LinkFault;

pub(crate) const HELP: &str = "\
Examples:
  kvctl fault kill --node 1             then: kvctl fault start --node 1
  kvctl fault partition '1,2|3'         then: kvctl fault heal
  kvctl fault oneway 1 2                what node 1 says to node 2 is lost

Only for demo clusters: in the shell of `kvctl demo`, or with KVCTL_DEMO=DIR.";

/// A fault call on loopback to a node that runs.
const CALL_WITHIN: Duration = Duration::from_secs(2);

/// What to break, or to mend.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum FaultCommand {
    /// Kills nodes at once (SIGKILL)
    #[command(after_help = "Example:\n  kvctl fault kill --node 1")]
    Kill(NodeArgs),
    /// Stops nodes in order (SIGTERM) and waits until they are gone
    #[command(after_help = "Example:\n  kvctl fault stop --node 1")]
    Stop(NodeArgs),
    /// Starts nodes that are down and waits until they are ready, if a majority of the cluster runs
    #[command(after_help = "Example:\n  kvctl fault start --node 1,2")]
    Start(NodeArgs),
    /// Holds nodes still (SIGSTOP), as a long pause of the machine would
    #[command(after_help = "Example:\n  kvctl fault pause --node 1")]
    Pause(NodeArgs),
    /// Lets paused nodes go on (SIGCONT)
    #[command(after_help = "Example:\n  kvctl fault resume --node 1")]
    Resume(NodeArgs),
    /// Cuts a node off from all others, both ways
    #[command(after_help = "Example:\n  kvctl fault isolate 1")]
    Isolate {
        /// The node
        node: u32,
    },
    /// Cuts the links between parts; a node that isn't named keeps all its links
    #[command(
        after_help = "Examples:\n  kvctl fault partition '1,2|3'\n  kvctl fault partition '1,2|3,4'   \
        (node 5 still hears both sides)"
    )]
    Partition {
        /// The parts, as 1,2|3 (in quotes, since | means something to a shell)
        #[arg(value_parser = links::parts)]
        parts: links::Parts,
    },
    /// Loses what node A says to node B; the other way stays open
    #[command(after_help = "Example:\n  kvctl fault oneway 1 2")]
    Oneway {
        /// Who speaks
        #[arg(value_name = "A")]
        from: u32,
        /// Who doesn't hear
        #[arg(value_name = "B")]
        to: u32,
    },
    /// Delays what nodes A and B say to each other, each way, by MS milliseconds; 0 ends it
    #[command(after_help = "Example:\n  kvctl fault slow 1 2 50")]
    Slow {
        /// A node
        #[arg(value_name = "A")]
        a: u32,
        /// The other
        #[arg(value_name = "B")]
        b: u32,
        /// The delay in milliseconds
        #[arg(value_name = "MS", value_parser = clap::value_parser!(u32).range(..=60_000))]
        delay_ms: u32,
    },
    /// Loses PCT percent of all messages between nodes; 0 ends it
    #[command(after_help = "Example:\n  kvctl fault loss 20")]
    Loss {
        /// Percentage, 0 to 100
        #[arg(value_name = "PCT", value_parser = clap::value_parser!(u32).range(..=100))]
        percent: u32,
    },
    /// Mends all links; processes stay as they are
    #[command(after_help = "Example:\n  kvctl fault heal")]
    Heal,
    /// Shows the processes and the faults of their links
    #[command(after_help = "Example:\n  kvctl fault list")]
    List,
}

/// The nodes meant.
#[derive(clap::Args, Debug)]
pub(crate) struct NodeArgs {
    /// The node, or several: 1,2
    #[arg(long = "node", value_name = "N", required = true, value_delimiter = ',')]
    nodes: Vec<u32>,
}

pub(crate) async fn run(command: &FaultCommand, context: &Context) -> Result<(), Failure> {
    let demo = Demo::open(context, false)?;
    match command {
        FaultCommand::Kill(args) => demo.kill(&args.nodes).await,
        FaultCommand::Stop(args) => demo.stop(&args.nodes).await,
        FaultCommand::Start(args) => demo.start(&args.nodes).await,
        FaultCommand::Pause(args) => demo.pause(&args.nodes),
        FaultCommand::Resume(args) => demo.resume(&args.nodes),
        FaultCommand::Isolate { node } => demo.cut(&LinkFault::Isolate(*node)).await,
        FaultCommand::Partition { parts } => demo.cut(&LinkFault::Partition(parts.clone())).await,
        FaultCommand::Oneway { from, to } => demo.cut(&LinkFault::Oneway { from: *from, to: *to }).await,
        FaultCommand::Slow { a, b, delay_ms } => {
            demo.cut(&LinkFault::Slow { a: *a, b: *b, delay_ms: *delay_ms }).await
        }
        FaultCommand::Loss { percent } => demo.cut(&LinkFault::Loss(*percent)).await,
        FaultCommand::Heal => demo.cut(&LinkFault::Heal).await,
        FaultCommand::List => demo.list().await,
    }
}

/// The demo cluster that is broken.
pub(crate) struct Demo<'a> {
    home: Home,
    file: DemoFile,
    context: &'a Context,
    /// What is done is a message, not the command's result.
    is_aside: bool,
}

impl<'a> Demo<'a> {
    /// As its directory has it now; a failure if it isn't a demo that is spoken to.
    pub(crate) fn open(context: &'a Context, is_aside: bool) -> Result<Demo<'a>, Failure> {
        let Some(directory) = context.demo() else {
            return Err(Failure::new(Exit::Usage, "NOT_A_DEMO", "faults are only for demo clusters")
                .hint("in the shell of `kvctl demo`, or with KVCTL_DEMO set to the directory it prints"));
        };
        let home = Home::open(directory)?;
        let file = home.read()?;
        Ok(Demo { home, file, context, is_aside })
    }
}

impl Demo<'_> {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.file.nodes.iter().map(|node| node.id).collect()
    }

    fn node(&self, id: u32) -> Result<&DemoNode, Failure> {
        self.file.nodes.iter().find(|node| node.id == id).ok_or_else(|| {
            let all = self.ids().iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            Failure::usage(format!("there is no node {id}")).hint(format!("the nodes are {all}"))
        })
    }

    fn told(&self, did: &str) -> Result<(), Failure> {
        if self.is_aside {
            if !did.is_empty() {
                message(did);
            }
            return Ok(());
        }
        if self.context.is_json() { output::object(json!({ "done": did })) } else { output::line(did) }
    }

    /// What a person may have overlooked.
    fn notice(&self, what: &str) {
        if !self.is_aside {
            message(what);
        }
    }

    /// Changes the links of every node that runs.
    pub(crate) async fn cut(&self, fault: &LinkFault) -> Result<(), Failure> {
        for id in fault.named() {
            self.node(id)?;
        }
        if self.cut_those_who_run(fault).await? == 0 {
            return Err(Failure::new(Exit::Unavailable, "UNAVAILABLE", "no node runs"));
        }
        self.told(&fault.to_string())
    }

    /// How many nodes were told.
    async fn cut_those_who_run(&self, fault: &LinkFault) -> Result<u32, Failure> {
        let all = self.ids();
        let mut reached = 0;
        for node in &self.file.nodes {
            match self.home.state(node) {
                State::Gone => self.notice(&format!("node {} is down: skipped", node.id)),
                State::Paused => self.notice(&format!("node {} is paused: skipped", node.id)),
                State::Running => {
                    let mut faults = self.faults(node).await?;
                    fault.apply(node.id, &all, &mut faults);
                    call(node.client.clone(), Reach::plain(CALL_WITHIN), |mut admin| async move {
                        admin.set_faults(faults).await
                    })
                    .await
                    .map_err(|failure| failure.at(format!("node {}", node.id)))?;
                    reached += 1;
                }
            }
        }
        Ok(reached)
    }

    async fn faults(&self, node: &DemoNode) -> Result<Faults, Failure> {
        call(node.client.clone(), Reach::plain(CALL_WITHIN), |mut admin| async move {
            admin.get_faults(FaultsRequest {}).await
        })
        .await
        .map_err(|failure| failure.at(format!("node {}", node.id)))
    }

    /// What is broken of it, in words; nothing if all of it runs and hears each other.
    pub(crate) async fn broken(&self) -> Result<Vec<String>, Failure> {
        let mut broken = Vec::new();
        for node in &self.file.nodes {
            match self.home.state(node) {
                State::Gone => broken.push(format!("node {} is down", node.id)),
                State::Paused => broken.push(format!("node {} is paused", node.id)),
                State::Running => {
                    let faults = self.faults(node).await?;
                    let links = links::describe(&faults);
                    broken.extend((!links::are_whole(&faults)).then(|| format!("node {}: {links}", node.id)));
                }
            }
        }
        Ok(broken)
    }

    /// Lets paused nodes go on, starts those that are down, mends all links.
    pub(crate) async fn mend(&self) -> Result<(), Failure> {
        let of = |state: State| -> Vec<u32> {
            let found = self.file.nodes.iter().filter(|node| self.home.state(node) == state);
            found.map(|node| node.id).collect()
        };
        self.resume(&of(State::Paused))?;
        // Before anybody is waited for: a node that is cut off isn't ready.
        self.cut_those_who_run(&LinkFault::Heal).await?;
        self.start(&of(State::Gone)).await?;
        self.cut_those_who_run(&LinkFault::Heal).await.map(drop)
    }

    async fn list(&self) -> Result<(), Failure> {
        let mut table = output::table(["node", "pid", "process", "links"]);
        let mut told = Vec::new();
        for node in &self.file.nodes {
            let state = self.home.state(node);
            let faults = if state == State::Running { self.faults(node).await.ok() } else { None };
            let name = match state {
                State::Running => "runs",
                State::Paused => "paused",
                State::Gone => "down",
            };
            table.add_row([
                format!("n{}", node.id),
                node.pid.to_string(),
                name.to_owned(),
                faults.as_ref().map_or_else(|| "?".to_owned(), links::describe),
            ]);
            told.push(json!({
                "id": node.id,
                "pid": node.pid,
                "process": name,
                "links": faults.as_ref().map(links::json),
            }));
        }
        if self.context.is_json() {
            output::object(json!({ "nodes": told }))
        } else {
            output::line(table.to_string())
        }
    }
}
