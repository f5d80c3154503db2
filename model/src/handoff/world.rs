//! The model: groups, shardmaster, clients and a network, as the checker walks them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kvserver::command::Reply;
use stateright::{Model, Property};

use crate::groups::{GROUPS, name};
use crate::handoff::bounds::{Bounds, OPS_MAX};
use crate::handoff::clients::{Replays, is_answer, is_known};
use crate::handoff::completion::{Completion, Machines, Rest};
use crate::handoff::machines::{HeldMaster, HeldStore};
use crate::handoff::network::{Letter, Letters, Message};
use crate::handoff::sabotage::Sabotage;
use crate::handoff::steps::{Done, Steps};
use crate::handoff::{properties, told};
use crate::letters::Networks;
use crate::search::{Search, Watch};

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver(Arc<Letter>),
    /// A client's operation arrives at a group.
    Request {
        /// Which operation.
        op: usize,
        /// Index of the group.
        to: usize,
    },
    /// An order of the operator arrives at the shardmaster.
    Operate(usize),
    /// Time passes at a group.
    Age(usize),
}

/// A state. All that is large is shared between states.
#[derive(Clone)]
pub struct State {
    /// The shardmaster.
    pub master: Arc<HeldMaster>,
    /// A and B.
    pub stores: [Arc<HeldStore>; GROUPS],
    /// All messages ever sent.
    pub network: Arc<Letters>,
    /// Orders of the operator that were logged.
    pub moves: usize,
    /// What each operation was answered.
    pub heard: [Option<Reply>; OPS_MAX],
    /// Set where a step broke a rule by itself: nothing happens after that.
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
        let [a, b] = &self.stores;
        (self.master.hash, a.hash, b.hash, self.network.hash, self.moves, &self.heard, &self.fault)
    }
}

/// The model of a handoff within bounds.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// The bounds.
    pub bounds: Bounds,
    /// All that a shard may hold.
    pub replays: Arc<Replays>,
    /// The steps taken.
    pub steps: Arc<Steps>,
    completion: Arc<Completion>,
    networks: Arc<Networks<Message>>,
    watch: Watch,
}

impl Handoff {
    /// The model within these bounds.
    ///
    /// # Panics
    /// If there are more operations than a state has room for.
    pub fn new(bounds: Bounds) -> Handoff {
        assert!(bounds.ops.len() <= OPS_MAX, "a state has room for {OPS_MAX} operations");
        Handoff {
            replays: Arc::new(Replays::new(&bounds)),
            bounds,
            steps: Arc::default(),
            completion: Arc::default(),
            networks: Arc::default(),
            watch: Watch::default(),
        }
    }

    /// See [`Watch::finds`].
    pub fn finds(&self, n: usize, judge: impl FnOnce() -> bool) -> bool {
        self.watch.finds(n, judge)
    }

    /// Whether all comes to an end if nothing is lost from here on.
    pub fn completes(&self, state: &State) -> Rest {
        let machines = Machines { master: state.master.clone(), stores: state.stores.clone() };
        self.completion.from(&self.bounds, &self.steps, machines)
    }

    /// The state after an action; `None` if nothing changes.
    pub fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        let more = self.change(&mut next, action).unwrap_or_else(|fault| {
            next = State { fault: Some(fault), ..state.clone() };
            None
        });
        if next.fault.is_none() {
            next.network = self.extended(&next, more);
        }
        (next != *state).then_some(next)
    }

    /// Changes all but the network. Returns what else is sent.
    fn change(&self, next: &mut State, action: &Action) -> Result<Option<Arc<Letter>>, Arc<str>> {
        match action {
            Action::Operate(n) => {
                next.master = self.steps.operate(&self.bounds, &next.master, *n)?;
                next.moves = next.moves.max(n + 1);
                Ok(None)
            }
            Action::Age(at) => {
                next.stores[*at] = self.steps.age(&self.bounds, *at, &next.stores[*at])?.held.clone();
                Ok(None)
            }
            Action::Request { op, to } => {
                let done = self.steps.request(&self.bounds, *to, &next.stores[*to], *op)?;
                next.stores[*to] = done.held.clone();
                self.hear(next, *op, &done)?;
                Ok(None)
            }
            Action::Deliver(letter) => match letter.message {
                Message::Report { .. } => {
                    next.master = self.steps.report(&self.bounds, &next.master, letter)?;
                    Ok(None)
                }
                Message::Command { to, .. } => {
                    let done = self.steps.deliver(&self.bounds, to, &next.stores[to], letter)?;
                    next.stores[to] = done.held.clone();
                    Ok(done.report.clone())
                }
            },
        }
    }

    /// The client hears the answer in the step that made it: later is the same to all others.
    fn hear(&self, next: &mut State, op: usize, done: &Done) -> Result<(), Arc<str>> {
        let Some(reply) = &done.reply else { return Ok(()) };
        let counts = is_answer(reply) || self.bounds.sabotage == Some(Sabotage::RefusalsAreAnswers);
        match &next.heard[op] {
            Some(heard) if is_answer(reply) && heard != reply => {
                Err(format!("P9: operation {op} is answered {heard:?}, then {reply:?}").into())
            }
            None if is_known(reply) => Err(format!("P9: operation {op} counts as answered and isn't").into()),
            None if counts => {
                next.heard[op] = Some(reply.clone());
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The network, with all that anyone now has reason to send.
    fn extended(&self, state: &State, more: Option<Arc<Letter>>) -> Arc<Letters> {
        let [a, b] = &state.stores;
        let pulls = [(0, a, b), (1, b, a)];
        let chunks =
            pulls.into_iter().filter_map(|(to, own, other)| self.steps.pulled(&self.bounds, to, own, other));
        let sends = [&state.master.sends, &a.sends, &b.sends].into_iter().flatten().cloned();
        self.networks.extended(&state.network, more.into_iter().chain(sends).chain(chunks))
    }

    fn is_issued(&self, state: &State, op: usize) -> bool {
        self.bounds.ops[op].after.is_none_or(|first| state.heard[first].is_some())
    }

    fn may_operate(&self, state: &State) -> bool {
        state.moves < self.bounds.moves.len()
    }
}

impl Search for Handoff {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn to_explore(self) -> Handoff {
        Handoff { watch: Watch::of_every_state(), ..self }
    }

    fn anew(&self) -> Handoff {
        Handoff { steps: Arc::new(self.steps.anew()), ..Handoff::new(self.bounds.clone()) }
    }

    fn assertions_broken(&self) -> usize {
        self.steps.assertions_broken()
    }

    fn steps_taken(&self) -> usize {
        self.steps.len()
    }

    fn trace(&self, state: &State, action: &Action) -> Vec<String> {
        let mut lines = vec![told::action(&self.bounds, action)];
        let Some(next) = self.after(state, action) else { return lines };
        if let Some(fault) = &next.fault {
            lines.push(format!("  !! {fault}"));
            return lines;
        }
        let sent = next.network.all.iter().filter(|letter| !state.network.contains(letter));
        lines.extend(told::machines(&next).into_iter().filter(|line| !told::machines(state).contains(line)));
        lines.extend(sent.map(|letter| format!("  -> {}", told::message(&letter.message))));
        if let Err(reason) = self.completes(&next) {
            lines.push(format!("  !! never comes to an end from here: {reason}"));
        }
        lines
    }
}

impl Model for Handoff {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let held = |at| Arc::new(HeldStore::new(&self.bounds, at, self.bounds.store(at)));
        vec![State {
            master: Arc::new(HeldMaster::new(&self.bounds, self.bounds.master(), None)),
            stores: std::array::from_fn(held),
            network: Arc::default(),
            moves: 0,
            heard: [const { None }; OPS_MAX],
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.watch.stopped() {
            return;
        }
        actions.extend(state.network.all.iter().cloned().map(Action::Deliver));
        let issued = (0..self.bounds.ops.len()).filter(|op| self.is_issued(state, *op));
        actions.extend(issued.flat_map(|op| (0..GROUPS).map(move |to| Action::Request { op, to })));
        if self.bounds.ages {
            actions.extend((0..GROUPS).map(Action::Age));
        }
        // What the operator ordered before may be ordered again.
        let orders = state.moves + usize::from(self.may_operate(state));
        actions.extend((0..orders).map(Action::Operate));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn format_action(&self, action: &Action) -> String {
        told::action(&self.bounds, action)
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let next = self.after(state, &action)?;
        Some(format!("{}\n\n{next:?}", self.trace(state, &action).join("\n")))
    }

    fn properties(&self) -> Vec<Property<Handoff>> {
        properties::all(&self.bounds)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in told::machines(self) {
            writeln!(f, "{}", line.trim_start())?;
        }
        for (at, held) in self.stores.iter().enumerate() {
            if let Some(fault) = &held.fault {
                writeln!(f, "{}: {fault}", name(at))?;
            }
        }
        for letter in &self.network.all {
            writeln!(f, "-> {}", told::message(&letter.message))?;
        }
        write!(f, "{} orders of the operator", self.moves)?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ", {fault}"))
    }
}
