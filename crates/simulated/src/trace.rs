//! All that nodes do, as lines: what two runs of a seed must have in common to the last byte.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use paxos::ids::{Moment, NodeId, Slot};
use paxos::io::{Input, Output, Write};
use paxos::message::{Entry, Envelope, Payload};
use paxos::replica::Replica;
use runtime::observe::{Life, Observer};
use tokio::time::Instant;

/// Writes down what it is told. Clones write to the same text.
#[derive(Clone, Default)]
pub struct Trace {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    began: OnceLock<Instant>,
    text: Mutex<String>,
}

impl Trace {
    /// What was written down so far. Times count from the first of it.
    pub fn text(&self) -> String {
        self.shared.text.lock().clone()
    }

    fn say(&self, node: NodeId, life: Life, what: std::fmt::Arguments<'_>) {
        let at = self.shared.began.get_or_init(Instant::now).elapsed().as_micros();
        // A string takes everything.
        let _infallible = writeln!(self.shared.text.lock(), "{at} {node} {}.{} {what}", life.0, life.1.0);
    }
}

impl Observer for Trace {
    fn recovered(&self, node: NodeId, life: Life, replica: &Replica<Payload>, restarted: bool) {
        self.say(node, life, format_args!("recovered, restarted: {restarted}, {replica:?}"));
    }

    fn stepped(
        &self,
        node: NodeId,
        life: Life,
        now: Moment,
        input: &Input<Payload>,
        _replica: &Replica<Payload>,
        output: &Output<Payload>,
    ) {
        self.say(node, life, format_args!("at {} {input:?} gives {output:?}", now.0));
    }

    fn durable(&self, node: NodeId, life: Life, writes: &[Write<Payload>]) {
        self.say(node, life, format_args!("durable {writes:?}"));
    }

    fn released(&self, node: NodeId, life: Life, envelopes: &[Envelope<Payload>]) {
        self.say(node, life, format_args!("released {envelopes:?}"));
    }

    fn applied(
        &self,
        node: NodeId,
        life: Life,
        first: Slot,
        entries: &[(Slot, Entry<Payload>)],
        state_hash: u128,
    ) {
        self.say(node, life, format_args!("applied {} from {first}, state {state_hash:032x}", entries.len()));
    }
}
