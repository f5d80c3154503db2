//! Signals to the processes of a demo's nodes, and starting them again.

use std::time::Duration;

use rustix::process::Signal;

use super::Demo;
use crate::cluster::{self, DemoNode};
use crate::failure::{Exit, Failure};
use crate::output::message;
use crate::process::{self, State};

/// A node that drains takes no longer.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// A killed process is gone as soon as the system gets to it.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
const TAIL_LINES: usize = 15;

impl Demo<'_> {
    pub(crate) async fn kill(&self, ids: &[u32]) -> Result<(), Failure> {
        self.end(ids, Signal::KILL, KILLED_WITHIN, "killed").await
    }

    pub(super) async fn stop(&self, ids: &[u32]) -> Result<(), Failure> {
        self.end(ids, Signal::TERM, STOP_WITHIN, "stopped").await
    }

    /// All are told before any is waited for: several nodes end at the same moment.
    async fn end(&self, ids: &[u32], what: Signal, within: Duration, did: &str) -> Result<(), Failure> {
        let running = self.in_state(ids, |state| state != State::Gone, "is down already")?;
        for node in &running {
            process::signal(node.pid, what)?;
            // A paused process takes SIGTERM only when it goes on.
            process::signal(node.pid, Signal::CONT)?;
        }
        for node in &running {
            if !process::wait_gone(node.pid, &self.home.config_path(node.id), within).await {
                let message = format!("node {} still runs after {} s", node.id, within.as_secs());
                return Err(Failure::new(Exit::Failed, "STILL_RUNS", message).hint("kvctl fault kill"));
            }
        }
        self.told_of(&running, did)
    }

    pub(crate) fn pause(&self, ids: &[u32]) -> Result<(), Failure> {
        let running = self.in_state(ids, |state| state == State::Running, "doesn't run")?;
        running.iter().try_for_each(|node| process::signal(node.pid, Signal::STOP))?;
        self.told_of(&running, "paused")
    }

    pub(crate) fn resume(&self, ids: &[u32]) -> Result<(), Failure> {
        let paused = self.in_state(ids, |state| state == State::Paused, "isn't paused")?;
        paused.iter().try_for_each(|node| process::signal(node.pid, Signal::CONT))?;
        self.told_of(&paused, "goes on")
    }

    pub(crate) async fn start(&self, ids: &[u32]) -> Result<(), Failure> {
        let down = self.in_state(ids, |state| state == State::Gone, "runs already")?;
        let mut started = Vec::new();
        for node in &down {
            let mut child = self.home.spawn(node.id, self.context.leash.as_deref())?;
            let pid = child.id().unwrap_or(0);
            // Takes the exit code when it comes; if this process ends first, init does.
            tokio::spawn(async move { child.wait().await });
            // At once, so that the demo can stop it whatever comes.
            self.home.set_pid(node.id, pid)?;
            started.push(DemoNode { pid, ..(*node).clone() });
        }
        if !self.has_majority(&started) {
            for node in &started {
                message(format!(
                    "node {} (pid {}) started; it serves once a majority runs",
                    node.id, node.pid
                ));
            }
            return Ok(());
        }
        for node in &started {
            let runs = || self.home.state(node) != State::Gone;
            if !cluster::wait_ready(&node.http, runs).await {
                let what = if runs() { "runs but isn't ready" } else { "ended at its start" };
                let tail = self.home.log_tail(node.id, TAIL_LINES);
                let message = format!("node {} {what}; its last words:\n{}", node.id, tail.trim_end());
                return Err(Failure::new(Exit::Failed, "NOT_READY", message)
                    .hint("`kvctl fault list` and `kvctl status` show what else is broken"));
            }
        }
        self.told_of(&started.iter().collect::<Vec<_>>(), "is ready")
    }

    /// Those of the nodes that can be dealt with; for the others it's so already, which is worth a notice.
    fn in_state(
        &self,
        ids: &[u32],
        fits: fn(State) -> bool,
        notice: &str,
    ) -> Result<Vec<&DemoNode>, Failure> {
        let nodes = ids.iter().map(|id| self.node(*id)).collect::<Result<Vec<_>, _>>()?;
        let (fitting, others): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| fits(self.home.state(node)));
        for node in others {
            message(format!("node {} {notice}", node.id));
        }
        Ok(fitting)
    }

    /// Whether, with these just started, enough nodes run to elect leaders.
    fn has_majority(&self, started: &[DemoNode]) -> bool {
        let runs = |node: &&DemoNode| {
            started.iter().any(|new| new.id == node.id) || self.home.state(node) == State::Running
        };
        self.file.nodes.iter().filter(runs).count() > self.file.nodes.len() / 2
    }

    fn told_of(&self, nodes: &[&DemoNode], did: &str) -> Result<(), Failure> {
        let lines: Vec<String> =
            nodes.iter().map(|node| format!("node {} (pid {}) {did}", node.id, node.pid)).collect();
        if lines.is_empty() && !self.context.is_json() { Ok(()) } else { self.told(&lines.join("\n")) }
    }
}
