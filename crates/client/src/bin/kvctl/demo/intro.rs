//! What a person is told when a demo's nodes are ready.

use std::time::Duration;

use super::{Demo, Place, Then};
use crate::cluster::{DemoNode, NodeConfig};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::ports;

/// The words.
pub(super) struct Intro<'a> {
    pub(super) demo: &'a Demo,
    pub(super) first: &'a NodeConfig,
    pub(super) place: &'a Place,
    pub(super) took: Duration,
    /// The usual ports were taken.
    pub(super) moved: bool,
}

impl Intro<'_> {
    pub(super) fn show(&self, then: &Then, format: Format) -> Result<(), Failure> {
        match (then, format) {
            // stdout is for what the commands say.
            (Then::Exec(_), _) => {
                output::message_raw(&self.text(then));
                Ok(())
            }
            (_, Format::Json) => output::object(self.demo.home.read()?),
            (..) => output::data(self.text(then).as_bytes()),
        }
    }

    fn text(&self, then: &Then) -> String {
        let nodes = &self.demo.nodes;
        let join = |pick: fn(&DemoNode) -> &str| nodes.iter().map(pick).collect::<Vec<_>>().join(",");
        let path = self.demo.home.path().display();
        let kept = match self.place {
            Place::Kept(_) => format!("{path} (kept: the same --data-dir comes back with it)"),
            Place::Temporary(_) => format!("{path} (removed at the end; --data-dir DIR keeps it)"),
        };
        let moved = if self.moved {
            format!(
                "              (some of the usual ports, from {} on, are taken)\n",
                ports::DEFAULT_BASE + 1
            )
        } else {
            String::new()
        };
        let (prefix, stop) = match then {
            Then::Shell => (String::new(), "exit, or Ctrl-D"),
            Then::Exec(_) => ("kvctl ".to_owned(), "by itself, after the commands"),
            Then::Wait => (format!("KVCTL_DEMO={path} kvctl "), "Ctrl-C, or SIGTERM"),
        };
        format!(
            "Synod demo: {} nodes, {} shard groups, {} shards, ready in {:.1} s\n\n  \
             endpoints   {}\n{moved}  http        {}\n  data        {kept}\n\nTry:\n  \
             {prefix}put greeting hello\n  {prefix}status\n  \
             {prefix}fault kill --node 1      (then: get greeting; fault start --node 1)\n\n\
             Stop: {stop}\n",
            nodes.len(),
            self.first.groups,
            self.first.shards,
            self.took.as_secs_f64(),
            join(|node| &node.client),
            join(|node| &node.http),
        )
    }
}
