//! The model: three nodes with clocks, and a network, as the checker walks them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use paxos::ids::{GroupId, NodeId, Slot};
use paxos::io::{Input, Timer};
use paxos::trace;
use stateright::{Model, Property};

use crate::bounds::{REPLICAS, kind};
use crate::lease::bounds::Bounds;
use crate::lease::node::{Event, Letter, Letters, Node};
use crate::lease::properties;
use crate::letters::Networks;
use crate::memo::Memo;
use crate::notes::{Key, Notes};
use crate::search::{Search, Watch};

/// The group of every world.
const GROUP: GroupId = GroupId(1);

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// At one node.
    At(usize, Event),
    /// True time goes on by a tick, and each clock by so much.
    Tick([u64; REPLICAS]),
}

/// A node with its hash, computed once.
#[derive(Debug)]
pub struct Held {
    /// The node.
    pub node: Node,
    /// Stands for the node in the hash of a state.
    pub hash: u64,
}

/// A state. All that is large is shared between states.
#[derive(Clone)]
pub struct State {
    /// The nodes, by id.
    pub nodes: [Arc<Held>; REPLICAS],
    /// All messages ever sent.
    pub network: Arc<Letters>,
    /// True time.
    pub ticks: u8,
    /// A client has heard that everything below is written, or read it.
    pub acked: Slot,
    /// The end of the Freeze, once it is acknowledged.
    pub frozen: Option<Slot>,
    /// What was acknowledged when the read that waits at a node arrived.
    pub reads: [Option<Slot>; REPLICAS],
    /// A read was answered, after its round, from a state that may lack what was acknowledged before it.
    pub stale: bool,
    /// Set where a node broke a property by itself: nothing happens after that.
    pub fault: Option<Arc<str>>,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.parts() == other.parts()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl State {
    /// What makes it this state.
    fn parts(&self) -> impl Hash + PartialEq + '_ {
        let [one, two, three] = &self.nodes;
        let State { network, ticks, acked, frozen, reads, stale, fault, .. } = self;
        (one.hash, two.hash, three.hash, network.hash, ticks, acked, frozen, reads, stale, fault)
    }
}

/// What an event does to a node.
#[derive(Debug)]
struct Effect {
    held: Arc<Held>,
    sent: Vec<Arc<Letter>>,
    needs: Option<Slot>,
    acked: Option<(Slot, bool)>,
    read_over: bool,
}

/// The effect of a step, if it has one; else what was broken.
type Taken = Result<Option<Arc<Effect>>, Arc<str>>;

/// A model of leases within bounds.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The bounds.
    pub bounds: Bounds,
    steps: Arc<Memo<Key, Taken>>,
    notes: Arc<Notes>,
    networks: Arc<Networks<paxos::message::Envelope<u8>>>,
    watch: Watch,
}

impl Held {
    fn new(node: Node) -> Arc<Held> {
        let hash = node.hash64();
        Arc::new(Held { node, hash })
    }
}

impl Lease {
    /// The model within these bounds.
    pub fn new(bounds: Bounds) -> Lease {
        Lease {
            bounds,
            steps: Arc::default(),
            notes: Arc::default(),
            networks: Arc::default(),
            watch: Watch::default(),
        }
    }

    /// See [`Watch::finds`].
    pub fn finds(&self, n: usize, judge: impl FnOnce() -> bool) -> bool {
        self.watch.finds(n, judge)
    }

    fn effect(&self, held: &Held, event: &Event) -> Taken {
        let key = (held.hash, event.hash64());
        self.steps.get_or(key.0 ^ key.1, key, || {
            let changed = self.notes.guard(key, || held.node.on(&self.bounds, event, None))?;
            let Some(changed) = changed else { return Ok(None) };
            if let Some(fault) = changed.fault {
                return Err(fault.into());
            }
            Ok(Some(Arc::new(Effect {
                held: Held::new(changed.node),
                sent: changed.sent.into_iter().map(Letter::new).collect(),
                needs: changed.needs,
                acked: changed.acked,
                read_over: changed.read_over,
            })))
        })
    }

    /// The state after an action; `None` if nothing changes.
    fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        let done = match action {
            Action::At(at, event) => self.happens(&mut next, *at, event),
            Action::Tick(rates) => {
                next.ticks += 1;
                let mut ticks = rates.iter().enumerate();
                ticks.try_for_each(|(at, units)| self.happens(&mut next, at, &Event::Tick(*units)))
            }
        };
        if let Err(fault) = done {
            next = State { fault: Some(fault), ..state.clone() };
        }
        (next != *state).then_some(next)
    }

    fn happens(&self, next: &mut State, at: usize, event: &Event) -> Result<(), Arc<str>> {
        let Some(effect) = self.effect(&next.nodes[at], event)? else { return Ok(()) };
        next.nodes[at] = effect.held.clone();
        next.network = self.networks.extended(&next.network, effect.sent.iter().cloned());
        if *event == Event::Read {
            next.reads[at] = Some(next.acked);
        }
        if let (Some(needs), Some(acked)) = (effect.needs, next.reads[at]) {
            next.stale |= needs < acked;
        }
        if effect.read_over || *event == Event::Crash {
            next.reads[at] = None;
        }
        if let Some((end, frozen)) = effect.acked {
            next.acked = next.acked.max(end);
            next.frozen = next.frozen.or(frozen.then_some(end));
        }
        Ok(())
    }

    /// Whatever was sent to a node of that kind arrives there.
    fn arrive(&self, mut state: State, at: usize, what: &str) -> State {
        for letter in state.network.clone().all.iter() {
            let envelope = &letter.message;
            if envelope.to == state.nodes[at].node.replica().node() && kind(&envelope.message) == what {
                let action = Action::At(at, Event::Deliver(letter.clone()));
                state = self.after(&state, &action).unwrap_or(state);
            }
        }
        state
    }
}

impl Search for Lease {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn to_explore(self) -> Lease {
        Lease { watch: Watch::of_every_state(), ..self }
    }

    fn anew(&self) -> Lease {
        Lease { notes: self.notes.clone(), ..Lease::new(self.bounds.clone()) }
    }

    fn assertions_broken(&self) -> usize {
        self.notes.len()
    }

    fn steps_taken(&self) -> usize {
        self.steps.len()
    }

    fn trace(&self, state: &State, action: &Action) -> Vec<String> {
        let after = self.after(state, action);
        let mut lines = match action {
            Action::Tick(rates) => vec![format!("tick {}: the clocks go on by {rates:?}", state.ticks + 1)],
            // Asked first: a step that breaks an assertion must not be taken again.
            Action::At(at, event) if after.as_ref().is_some_and(|next| next.fault.is_none()) => {
                let node = &state.nodes[*at].node;
                let mut told = Vec::new();
                let _changed = node.on(&self.bounds, event, Some(&mut told));
                let first = (told.is_empty() || *event == Event::Crash).then(|| self.format_action(action));
                let prefix = trace::prefix(GROUP, node.replica().node());
                first.into_iter().chain(told.into_iter().map(|line| format!("{prefix} {line}"))).collect()
            }
            Action::At(..) => vec![self.format_action(action)],
        };
        let Some(next) = after else { return lines };
        lines.extend(next.fault.iter().map(|fault| format!("  !! {fault}")));
        let leases = |state: &State| properties::leases(state).map(|(node, _)| node).collect::<Vec<_>>();
        if leases(&next) != leases(state) {
            lines.push(format!("  leases hold at {:?}", leases(&next)));
        }
        if next.acked != state.acked {
            lines.push(format!("  acknowledged below {}", next.acked));
        }
        if next.stale {
            lines.push("  a read is answered from before that".to_string());
        }
        lines
    }
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let held = |at| Held::new(Node::new(&self.bounds, NodeId(u32::try_from(at + 1).unwrap_or(u32::MAX))));
        let state = State {
            nodes: std::array::from_fn(held),
            network: Arc::default(),
            ticks: 0,
            acked: Slot::default(),
            frozen: None,
            reads: [None; REPLICAS],
            stale: false,
            fault: None,
        };
        let campaign = Action::At(0, Event::Expired(Timer::Election));
        let asked = self.after(&state, &campaign).unwrap_or(state);
        let elected = self.arrive(self.arrive(asked, 1, "Prepare"), 0, "Promise");
        // What is late of that election is lost, but for the first heartbeats.
        let beats = |letter: &&Arc<Letter>| kind(&letter.message.message) == "Heartbeat";
        let rest = elected.network.all.iter().filter(beats).cloned();
        let network = self.networks.extended(&Arc::default(), rest);
        vec![State { network, ..elected }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.watch.stopped() {
            return;
        }
        let mut events = Vec::new();
        for (at, held) in state.nodes.iter().enumerate() {
            held.node.events(&self.bounds, &mut events);
            let id = held.node.replica().node();
            let to_it = state.network.all.iter().filter(|letter| letter.message.to == id);
            events.extend(to_it.cloned().map(Event::Deliver));
            actions.extend(events.drain(..).map(|event| Action::At(at, event)));
        }
        if state.ticks < self.bounds.ticks {
            let [one, two, three] = self.bounds.rates;
            for a in one {
                for b in two {
                    actions.extend(three.iter().map(|c| Action::Tick([*a, *b, *c])));
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn format_action(&self, action: &Action) -> String {
        let Action::At(at, event) = action else { return format!("{action:?}") };
        let what = match event {
            Event::Deliver(letter) => trace::input(&Input::Receive(letter.message.clone())),
            Event::Expired(timer) => trace::input(&Input::<u8>::Expired(*timer)),
            Event::Propose => "propose".to_string(),
            Event::Read => "read".to_string(),
            Event::Transfer(to) => format!("transfer to {to}"),
            Event::Crash => "crash, restart".to_string(),
            Event::Tick(units) => format!("the clock goes on by {units}"),
        };
        format!("n{} {what}", at + 1)
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let next = self.after(state, &action)?;
        Some(format!("{}\n\n{next:?}", self.trace(state, &action).join("\n")))
    }

    fn properties(&self) -> Vec<Property<Lease>> {
        properties::all(&self.bounds)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for held in &self.nodes {
            let (node, replica) = (&held.node, held.node.replica());
            let (id, role, promised) = (replica.node(), replica.role_name(), replica.promised());
            let (clock, end) = (node.clock(), replica.applied_end());
            let until = replica.lease_until().map_or(String::new(), |until| format!(" lease<{}", until.0));
            writeln!(f, "{id} {role} promised={promised} applied_end={end} clock={clock}{until}")?;
        }
        for letter in &self.network.all {
            let envelope = &letter.message;
            writeln!(f, "{} -> {} {}", envelope.from, envelope.to, trace::message(&envelope.message))?;
        }
        write!(f, "{} ticks, acknowledged below {}", self.ticks, self.acked)?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ", {fault}"))
    }
}
