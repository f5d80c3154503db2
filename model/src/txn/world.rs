//! The model: two groups, clients and a network, as the checker walks them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kvserver::command::{Reply, ShardId};
use kvserver::txn::{TxnCommand, TxnState, TxnStatus};
use stateright::{Model, Property};

use crate::groups::{GROUPS, name};
use crate::letters::Networks;
use crate::search::{Search, Watch};
use crate::txn::bounds::{Bounds, OPS_MAX, first_owner};
use crate::txn::clients::{is_answer, is_retried};
use crate::txn::completion::{Completion, Decided, Rest};
use crate::txn::machines::{HeldStore, Letter, Letters};
use crate::txn::replays::{Replay, Replays};
use crate::txn::sabotage::Sabotage;
use crate::txn::steps::{Done, Steps, Stores};
use crate::txn::{properties, told};

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver {
        /// What it says.
        letter: Arc<Letter>,
        /// Index of the group.
        to: usize,
    },
    /// A client's request arrives at a group.
    Request {
        /// Which operation.
        op: usize,
        /// Index of the group.
        to: usize,
    },
    /// A group's leader has waited too long, and gives an attempt up.
    Expire {
        /// Index of the group.
        at: usize,
        /// What it logs.
        letter: Arc<Letter>,
    },
    /// A move begins, or goes on.
    Move(ShardId),
    /// The move is cancelled.
    Cancel(ShardId),
    /// A group's new leader knows of no locks: only with [`Sabotage::LocksLost`].
    LoseLocks(usize),
}

/// A state. All that is large is shared between states.
#[derive(Clone)]
pub struct State {
    /// A and B.
    pub stores: Stores,
    /// All messages ever sent.
    pub network: Arc<Letters>,
    /// How often each request had an effect.
    pub tries: [u8; OPS_MAX],
    /// How many attempts took too long.
    pub expires: u8,
    /// How many Prepares came too late and locked keys all the same.
    pub late: u8,
    /// The shard that moves or has moved.
    pub moves: Option<ShardId>,
    /// The move was cancelled.
    pub cancelled: bool,
    /// What each operation was answered.
    pub heard: [Option<Arc<Reply>>; OPS_MAX],
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
        let State { tries, expires, late, moves, cancelled, heard, fault, .. } = self;
        (a.hash, b.hash, self.network.hash, tries, expires, late, moves, cancelled, heard, fault)
    }
}

/// The model of transactions within bounds.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The bounds.
    pub bounds: Bounds,
    /// All that clients may see.
    pub replays: Arc<Replays>,
    /// The steps taken.
    pub steps: Arc<Steps>,
    completion: Arc<Completion>,
    networks: Arc<Networks<TxnCommand>>,
    watch: Watch,
}

impl Commit {
    /// The model within these bounds.
    ///
    /// # Panics
    /// If there are more operations than a state has room for.
    pub fn new(bounds: Bounds) -> Commit {
        assert!(bounds.ops.len() <= OPS_MAX, "a state has room for {OPS_MAX} operations");
        Commit {
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

    /// What all comes to if nothing is lost from here on.
    pub fn rest(&self, state: &State) -> Rest {
        let rest = self.completion.rest(&self.bounds, &self.steps, &self.replays, &state.stores)?;
        for (n, (heard, told)) in state.heard.iter().zip(rest.iter()).enumerate() {
            if heard.is_some() && heard.as_deref() != told.as_ref() && !self.bounds.ops[n].only_reads() {
                return Err(format!("operation {n} was answered {heard:?}, then {told:?}").into());
            }
        }
        Ok(rest)
    }

    /// What the keys hold as far as it is decided.
    pub fn decided(&self, stores: &Stores) -> Decided {
        self.completion.decided(&self.bounds, &self.steps, stores)
    }

    /// The state after an action; `None` if nothing changes.
    pub fn after(&self, state: &State, action: &Action) -> Option<State> {
        if self.is_unheeded(state, action) {
            return None;
        }
        let mut next = state.clone();
        let more = self.change(&mut next, action).unwrap_or_else(|fault| {
            next = State { fault: Some(fault), ..state.clone() };
            Vec::new()
        });
        if next.late > self.bounds.late {
            return None;
        }
        if next.fault.is_none() {
            let sends = next.stores.iter().flat_map(|held| &held.sends).cloned();
            next.network = self.networks.extended(&state.network, more.into_iter().chain(sends));
        }
        (next != *state).then_some(next)
    }

    /// Whether a message changes nothing, as most do.
    fn is_unheeded(&self, state: &State, action: &Action) -> bool {
        let Action::Deliver { letter, to } = action else { return false };
        let held = &state.stores[*to];
        let Ok(done) = self.steps.deliver(&self.bounds, *to, held, letter) else { return false };
        let sent = done.follow.iter().chain(&done.due).all(|letter| state.network.contains(letter));
        done.held.hash == held.hash && done.replies.is_empty() && sent && self.bounds.sabotage.is_none()
    }

    /// Changes all but the network. Returns what else is sent.
    fn change(&self, next: &mut State, action: &Action) -> Result<Vec<Arc<Letter>>, Arc<str>> {
        match action {
            Action::Deliver { letter, to } => {
                let done = self.steps.deliver(&self.bounds, *to, &next.stores[*to], letter)?;
                let early = self.early(next, &done)?;
                let locks = done.held.hash != next.stores[*to].hash;
                next.late += u8::from(locks && self.is_late(next, &letter.message));
                let mut more = self.taken(next, *to, &done)?;
                more.extend(early);
                Ok(more)
            }
            Action::Request { op, to } => {
                let done = self.steps.request(&self.bounds, *to, &next.stores[*to], *op)?;
                if done.held.hash != next.stores[*to].hash {
                    next.tries[*op] += 1;
                }
                self.taken(next, *to, &done)
            }
            Action::Expire { at, letter } => {
                let done = self.steps.deliver(&self.bounds, *at, &next.stores[*at], letter)?;
                next.expires += u8::from(done.held.hash != next.stores[*at].hash);
                self.taken(next, *at, &done)
            }
            Action::Move(shard) => {
                next.stores = (*self.steps.go_on(&self.bounds, &next.stores, *shard)?).clone();
                next.moves = Some(*shard);
                Ok(Vec::new())
            }
            Action::Cancel(shard) => {
                let stores = (*self.steps.cancel(&self.bounds, &next.stores, *shard)?).clone();
                next.cancelled |= stores[first_owner(*shard)].hash != next.stores[first_owner(*shard)].hash;
                next.stores = stores;
                Ok(Vec::new())
            }
            Action::LoseLocks(at) => {
                let done = self.steps.lose_locks(&self.bounds, *at, &next.stores[*at])?;
                self.taken(next, *at, &done)
            }
        }
    }

    fn taken(&self, next: &mut State, at: usize, done: &Done) -> Result<Vec<Arc<Letter>>, Arc<str>> {
        let before = next.stores.clone();
        next.stores[at] = done.held.clone();
        for (op, reply) in &done.replies {
            self.hear(next, &before, *op, reply)?;
        }
        Ok(done.follow.iter().chain(&done.due).cloned().collect())
    }

    /// The client hears the answer in the step that made it: later is the same to all others.
    fn hear(&self, next: &mut State, before: &Stores, op: usize, reply: &Reply) -> Result<(), Arc<str>> {
        if !is_answer(reply) {
            let refused = || format!("P9: operation {op} is refused for good: {reply:?}").into();
            return if is_retried(reply) { Ok(()) } else { Err(refused()) };
        }
        if self.bounds.ops[op].only_reads() {
            // Others that waited may have gone on in the same step, before it and after it.
            let (first, last) = (self.decided(before)?, self.decided(&next.stores)?);
            let found = |replay: &Replay| replay.next(&self.bounds.ops[op]) == *reply;
            if !self.replays.between(&first, &last).any(found) {
                return Err(format!("P9: operation {op} reads {reply:?}, which isn't there").into());
            }
        } else if let Some(heard) = &next.heard[op]
            && **heard != *reply
        {
            return Err(format!("P9: operation {op} is answered {heard:?}, then {reply:?}").into());
        }
        if next.heard[op].is_none() {
            next.heard[op] = Some(Arc::new(reply.clone()));
        }
        Ok(())
    }

    /// Whether it is a Prepare of an attempt that is over.
    fn is_late(&self, state: &State, command: &TxnCommand) -> bool {
        let TxnCommand::Prepare { attempt, .. } = command else { return false };
        let undecided = |txn: &TxnStatus| txn.attempt == *attempt && txn.state == TxnState::Undecided;
        !state.stores.iter().any(|held| held.txns.iter().any(undecided))
    }

    /// What a leader sends that doesn't wait for its log.
    fn early(&self, state: &State, done: &Done) -> Result<Vec<Arc<Letter>>, Arc<str>> {
        let (Some(Sabotage::CommitsEarly), Some(vote)) = (self.bounds.sabotage, &done.follow) else {
            return Ok(Vec::new());
        };
        let home = first_owner(vote.message.to());
        let after = self.steps.deliver(&self.bounds, home, &state.stores[home], vote)?;
        Ok(after.held.sends.clone())
    }

    fn receivers(&self, shard: ShardId) -> impl Iterator<Item = usize> + '_ {
        (0..GROUPS).filter(move |at| self.bounds.strays() || *at == first_owner(shard))
    }
}

impl Search for Commit {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn to_explore(self) -> Commit {
        Commit { watch: Watch::of_every_state(), ..self }
    }

    fn anew(&self) -> Commit {
        Commit { steps: Arc::new(self.steps.anew()), ..Commit::new(self.bounds.clone()) }
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
        lines.extend(sent.map(|letter| format!("  -> {}", told::command(&letter.message))));
        if let Err(reason) = self.rest(&next) {
            lines.push(format!("  !! doesn't end as it should: {reason}"));
        }
        lines
    }
}

impl Model for Commit {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let held = |at| Arc::new(HeldStore::new(&self.bounds, at, self.bounds.store(at)));
        vec![State {
            stores: std::array::from_fn(held),
            network: Arc::default(),
            tries: [0; OPS_MAX],
            expires: 0,
            late: 0,
            moves: None,
            cancelled: false,
            heard: [const { None }; OPS_MAX],
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.watch.stopped() {
            return;
        }
        for letter in &state.network.all {
            let to = self.receivers(letter.message.to());
            actions.extend(to.map(|to| Action::Deliver { letter: letter.clone(), to }));
        }
        for op in (0..self.bounds.ops.len()).filter(|op| state.tries[*op] < self.bounds.tries[*op]) {
            actions.extend(self.receivers(self.bounds.ops[op].home()).map(|to| Action::Request { op, to }));
        }
        if state.expires < self.bounds.expires {
            let expires = |at: usize| state.stores[at].expires.iter().map(move |letter| (at, letter));
            let all = (0..GROUPS).flat_map(expires);
            actions.extend(all.map(|(at, letter)| Action::Expire { at, letter: letter.clone() }));
        }
        let orders =
            self.bounds.moves.iter().filter(|shard| state.moves.is_none_or(|moves| moves == **shard));
        actions.extend(orders.filter(|_| !state.cancelled).map(|shard| Action::Move(*shard)));
        if let (Some(shard), true) = (state.moves, self.bounds.cancels) {
            actions.push(Action::Cancel(shard));
        }
        if self.bounds.sabotage == Some(Sabotage::LocksLost) {
            let locks = |at: &usize| state.stores[*at].txns.iter().any(|txn| txn.state == TxnState::Prepared);
            actions.extend((0..GROUPS).filter(locks).map(Action::LoseLocks));
        }
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

    fn properties(&self) -> Vec<Property<Commit>> {
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
            writeln!(f, "-> {}", told::command(&letter.message))?;
        }
        write!(f, "tries {:?}, {} too long, {} too late", self.tries, self.expires, self.late)?;
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ", {fault}"))
    }
}
