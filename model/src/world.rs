//! A world: nodes and a network, as a model that the checker can walk.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use paxos::ids::{GroupId, NodeId};
use paxos::io::Input;
use paxos::trace;
use stateright::{Model, Property};

use crate::bounds::{Before, Bounds, REPLICAS, kind};
use crate::memo::Memo;
use crate::network::{Letter, Network};
use crate::node::{Event, Node, end_of};
use crate::properties;
use crate::search::{Search, Watch};
use crate::steps::{Effect, Held, Steps};

/// The group of every world.
const GROUP: GroupId = GroupId(1);

/// Something that happens somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Index of the node.
    pub at: usize,
    /// What happens to it.
    pub event: Event,
}

/// A state of the world. Nodes and network are shared between states.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// The nodes, by id.
    pub nodes: [Arc<Held>; REPLICAS],
    /// All messages ever sent.
    pub network: Arc<Network>,
    /// Crashes so far.
    pub crashes: u8,
    /// Set where a node broke a property by itself: nothing happens after that.
    pub fault: Option<Arc<str>>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for held in &self.nodes {
            held.hash.hash(state);
        }
        self.network.hash.hash(state);
        self.crashes.hash(state);
        self.fault.hash(state);
    }
}

/// A model: the shipped replica within bounds.
#[derive(Clone, Debug)]
pub struct World {
    /// The bounds.
    pub bounds: Bounds,
    steps: Arc<Steps>,
    networks: Arc<Memo<u64, Arc<Network>>>,
    watch: Watch,
}

impl World {
    /// A world of new nodes.
    pub fn new(bounds: Bounds) -> World {
        World { bounds, steps: Arc::default(), networks: Arc::default(), watch: Watch::default() }
    }

    /// See [`Watch::finds`].
    pub fn finds(&self, n: usize, judge: impl FnOnce() -> bool) -> bool {
        self.watch.finds(n, judge)
    }

    fn after(&self, state: &State, at: usize, event: &Event) -> Option<State> {
        let mut next = match &*self.steps.effect(&self.bounds, &state.nodes[at], event) {
            Effect::Nothing => return None,
            Effect::Fault(fault) => State { fault: Some(fault.clone()), ..state.clone() },
            Effect::Change { held, sent } => {
                let network = self.extended(&state.network, sent);
                if held.hash == state.nodes[at].hash && network.hash == state.network.hash {
                    return None;
                }
                let mut nodes = state.nodes.clone();
                nodes[at] = held.clone();
                State { nodes, network, ..state.clone() }
            }
        };
        next.crashes += u8::from(*event == Event::Crash);
        Some(next)
    }

    /// Does what is to happen before all else.
    fn begin(&self, state: State, at: usize, before: Before) -> State {
        let events: Vec<Event> = match before {
            Before::Expired(timer) => vec![Event::Expired(timer)],
            Before::Propose => vec![Event::Propose],
            Before::Deliver(what) => {
                let id = state.nodes[at].node.replica().node();
                let to_it = |letter: &&Arc<Letter>| {
                    letter.envelope.to == id && kind(&letter.envelope.message) == what
                };
                state.network.letters.iter().filter(to_it).cloned().map(Event::Deliver).collect()
            }
            Before::Lose => return State { network: Arc::default(), ..state },
        };
        events.iter().fold(state, |state, event| self.after(&state, at, event).unwrap_or(state))
    }

    fn extended(&self, network: &Arc<Network>, sent: &[Arc<Letter>]) -> Arc<Network> {
        if sent.iter().all(|letter| network.contains(letter)) {
            return network.clone();
        }
        let mut hash = network.hash;
        for (n, letter) in sent.iter().enumerate() {
            if !network.contains(letter) && !sent[..n].contains(letter) {
                hash = hash.wrapping_add(letter.hash);
            }
        }
        self.networks.get_or(hash, hash, || Arc::new(network.with(sent, &Bounds::voters())))
    }
}

impl Search for World {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn to_explore(self) -> World {
        World { watch: Watch::of_every_state(), ..self }
    }

    fn anew(&self) -> World {
        World { steps: Arc::new(self.steps.anew()), ..World::new(self.bounds.clone()) }
    }

    fn assertions_broken(&self) -> usize {
        self.steps.assertions_broken()
    }

    fn steps_taken(&self) -> usize {
        self.steps.len()
    }

    fn trace(&self, state: &State, action: &Action) -> Vec<String> {
        let node = &state.nodes[action.at].node;
        let id = node.replica().node();
        let prefix = trace::prefix(GROUP, id);
        let what = match action.event.input(node) {
            Some(input) => trace::input(&input),
            None => of_the_driver(&action.event).to_string(),
        };
        let mut lines = vec![format!("{prefix} {what}")];
        // Asked first: a step that breaks an assertion must not be taken again.
        match self.after(state, action.at, &action.event).and_then(|next| next.fault) {
            Some(fault) => lines.push(format!("{prefix}   !! {fault}")),
            None => {
                if let Some(changed) = node.on(&self.bounds, &action.event) {
                    let mut out = trace::output(&changed.out, false);
                    if action.event == Event::Sync {
                        let sent = changed.sent.iter();
                        out.extend(sent.map(|e| format!("-> {} {}", e.to, trace::message(&e.message))));
                    }
                    lines.extend(out.into_iter().map(|line| format!("{prefix}   {line}")));
                }
            }
        }
        lines
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = std::array::from_fn(|at| {
            let id = u32::try_from(at + 1).unwrap_or(u32::MAX);
            Held::new(Node::new(&self.bounds, NodeId(id)))
        });
        let state = State { nodes, network: Arc::default(), crashes: 0, fault: None };
        vec![self.bounds.before.iter().fold(state, |state, (at, before)| self.begin(state, *at, *before))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.watch.stopped() {
            return;
        }
        let mut events = Vec::new();
        for (at, held) in state.nodes.iter().enumerate() {
            held.node.events(&self.bounds, &mut events);
            if state.crashes < self.bounds.crashes {
                events.push(Event::Crash);
            }
            if held.node.takes_inputs(&self.bounds) {
                let others = state.nodes.iter().flat_map(|other| held.node.snapshots(&other.node));
                events.extend(others.map(|applied| Event::Install(Arc::new(applied))));
                let id = held.node.replica().node();
                let to_it = state.network.letters.iter().filter(|letter| letter.envelope.to == id);
                events.extend(to_it.cloned().map(Event::Deliver));
            }
            actions.extend(events.drain(..).map(|event| Action { at, event }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, action.at, &action.event)
    }

    fn format_action(&self, action: &Action) -> String {
        let what = match &action.event {
            Event::Deliver(letter) => trace::input(&Input::Receive(letter.envelope.clone())),
            Event::Expired(timer) => trace::input(&Input::<u8>::Expired(*timer)),
            Event::Propose => "propose".to_string(),
            Event::Install(applied) => trace::input(&Input::<u8>::Installed(end_of(applied))),
            other => of_the_driver(other).to_string(),
        };
        format!("n{} {what}", action.at + 1)
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let next = self.after(state, action.at, &action.event)?;
        Some(format!("{}\n\n{next:?}", self.trace(state, &action).join("\n")))
    }

    fn properties(&self) -> Vec<Property<World>> {
        properties::all(&self.bounds)
    }
}

/// What happens to a node without a step of its replica, but for the first one after a crash.
fn of_the_driver(event: &Event) -> &'static str {
    match event {
        Event::Sync => "synced",
        Event::Crash => "crash, restart",
        Event::Checkpoint => "checkpoint",
        Event::Trim => "trim",
        Event::Deliver(_) | Event::Expired(_) | Event::Propose | Event::Install(_) => "step",
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for held in &self.nodes {
            let (replica, durable) = (held.node.replica(), held.node.durable());
            let (id, role, promised) = (replica.node(), replica.role_name(), replica.promised());
            let (end, waits) = (replica.chosen_end(), held.node.unsynced());
            writeln!(f, "{id} {role} promised={promised} chosen_end={end}, {waits} steps wait for the disk")?;
            writeln!(f, "   on disk: promised={} chosen_end={}", durable.promised, durable.chosen_end)?;
            let (applied, checkpoint) = (end_of(held.node.applied()), end_of(held.node.checkpoint()));
            writeln!(
                f,
                "   applied_end={applied} checkpoint={checkpoint} trimmed={}",
                held.node.trimmed_end()
            )?;
            for (slot, (ballot, entry)) in &durable.votes {
                writeln!(f, "   on disk: vote {slot} {ballot} {}", entry.summary())?;
            }
        }
        for letter in &self.network.letters {
            let envelope = &letter.envelope;
            writeln!(f, "{} -> {} {}", envelope.from, envelope.to, trace::message(&envelope.message))?;
        }
        write!(f, "{} crashes", self.crashes)?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ", {fault}"))
    }
}
