//! The model: a group and its clients, as the checker walks them.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kvserver::command::{BusyReason, Op, Refusal, Reply};
use paxos::ids::{ClientId, LogTime, Sequence};
use stateright::{Model, Property};

use crate::once::bounds::{AHEAD, Bounds, ClientOp, LAST, OPS_MAX, Stamp, TTL, log_time};
use crate::once::properties;
use crate::once::sabotage::Sabotage;
use crate::once::steps::{Done, Held, Steps};
use crate::search::{Search, Watch};

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client sends a request for the first time.
    Send {
        /// Which one.
        op: usize,
        /// The highest log time it has heard.
        sent_at: LogTime,
    },
    /// A try of it is chosen and applied: the first, a retry, or one that comes late.
    Arrive {
        /// Which one.
        op: usize,
        /// The answer reaches the client.
        heard: bool,
    },
    /// A client no longer waits for an answer.
    GiveUp(usize),
    /// Log time goes on.
    Tick,
    /// The next leader goes on from a snapshot.
    Restore,
}

/// A client's request, from when it was first sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    /// What it carries in every try.
    pub stamp: Stamp,
    /// What the client was answered.
    pub heard: Option<Arc<Reply>>,
    /// The client waits no longer.
    pub given_up: bool,
    /// What was answered when it was executed, whoever heard it.
    pub executed: Option<Arc<Reply>>,
}

/// A state.
#[derive(Clone)]
pub struct State {
    /// The group.
    pub held: Arc<Held>,
    /// The requests that were sent.
    pub sent: [Option<Sent>; OPS_MAX],
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
        (self.held.hash, &self.sent, &self.fault)
    }

    /// The log time of the group.
    pub fn log_time(&self) -> LogTime {
        log_time(&self.held.store)
    }
}

/// The model of exactly-once within bounds.
#[derive(Clone, Debug)]
pub struct Once {
    /// The bounds.
    pub bounds: Bounds,
    /// The steps taken.
    pub steps: Arc<Steps>,
    watch: Watch,
}

impl Once {
    /// The model within these bounds.
    ///
    /// # Panics
    /// If there are more operations than a state has room for.
    pub fn new(bounds: Bounds) -> Once {
        assert!(bounds.ops.len() <= OPS_MAX, "a state has room for {OPS_MAX} operations");
        Once { bounds, steps: Arc::default(), watch: Watch::default() }
    }

    /// See [`Watch::finds`].
    pub fn finds(&self, n: usize, judge: impl FnOnce() -> bool) -> bool {
        self.watch.finds(n, judge)
    }

    /// The requests of a client that were sent, with their sequences.
    fn of<'a>(
        &'a self,
        state: &'a State,
        client: ClientId,
    ) -> impl Iterator<Item = (Sequence, &'a Sent)> + 'a {
        let all = self.bounds.ops.iter().zip(&state.sent).filter(move |(op, _)| op.client == client);
        all.filter_map(|(op, sent)| Some((op.sequence, sent.as_ref()?)))
    }

    /// The stamp of a request that is sent now.
    fn stamp(&self, state: &State, op: &ClientOp, sent_at: LogTime) -> Stamp {
        let open = self.of(state, op.client).filter(|(_, sent)| sent.heard.is_none() && !sent.given_up);
        let lowest = open.map(|(sequence, _)| sequence).min().unwrap_or(op.sequence);
        Stamp { sent_at, ack_through: Sequence(lowest.0 - 1) }
    }

    /// Whether the client may send one more: it counts what it sent from the lowest unanswered request on, since that is what
    /// the shard may have to remember.
    fn has_room(&self, state: &State, op: &ClientOp) -> bool {
        let through = self.stamp(state, op, LogTime(0)).ack_through;
        let kept = self.of(state, op.client).filter(|(sequence, _)| *sequence > through).count() as u64;
        kept < self.bounds.window || self.bounds.sabotage == Some(Sabotage::IgnoresWindow)
    }

    /// Everything of the client up to here was acknowledged by a request that took effect.
    fn floor(&self, state: &State, client: ClientId) -> Sequence {
        let executed = self.of(state, client).filter(|(_, sent)| sent.executed.is_some());
        executed.map(|(_, sent)| sent.stamp.ack_through).max().unwrap_or_default()
    }

    /// The state after an action; `None` if nothing changes.
    pub fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        if let Err(fault) = self.change(&mut next, action) {
            next = State { fault: Some(fault), ..state.clone() };
        }
        (next != *state).then_some(next)
    }

    /// Each client says what it has heard so far. A bug in its requests is none of its acknowledgements.
    pub fn acknowledged(&self, state: &State) -> State {
        let mut state = state.clone();
        let clients: BTreeSet<ClientId> = self.bounds.ops.iter().map(|op| op.client).collect();
        for client in clients {
            let op = ClientOp { client, sequence: Sequence(LAST), op: Op::Ack };
            let newest =
                self.of(&state, client).map(|(_, sent)| sent.stamp.sent_at).max().unwrap_or_default();
            let stamp = self.stamp(&state, &op, newest);
            if let Ok(done) = self.steps.acknowledge(&self.bounds, &state.held, &op, stamp) {
                state.held = done.held.clone();
            }
        }
        state
    }

    fn change(&self, next: &mut State, action: &Action) -> Result<(), Arc<str>> {
        match action {
            Action::Send { op, sent_at } => {
                let stamp = self.stamp(next, &self.bounds.ops[*op], *sent_at);
                next.sent[*op] = Some(Sent { stamp, heard: None, given_up: false, executed: None });
            }
            Action::GiveUp(op) => {
                if let Some(sent) = &mut next.sent[*op] {
                    sent.given_up = true;
                }
            }
            Action::Tick => next.held = self.steps.tick(&self.bounds, &next.held)?,
            Action::Restore => next.held = self.steps.restore(&self.bounds, &next.held)?,
            Action::Arrive { op, heard } => {
                let Some(stamp) = next.sent[*op].as_ref().map(|sent| sent.stamp) else { return Ok(()) };
                let done = self.steps.request(&self.bounds, &next.held, *op, stamp)?;
                self.judge(next, *op, &done)?;
                if let Some(sent) = &mut next.sent[*op] {
                    let answer = is_answer(&done.reply).then(|| Arc::new(done.reply.clone()));
                    sent.executed = sent.executed.take().or(answer.clone());
                    if *heard && !sent.given_up {
                        sent.heard = sent.heard.take().or(answer);
                    }
                }
                next.held = done.held.clone();
            }
        }
        Ok(())
    }

    /// Whether this answer is the one to give, and the state what it should be.
    fn judge(&self, before: &State, n: usize, done: &Done) -> Result<(), Arc<str>> {
        let (op, reply) = (&self.bounds.ops[n], &done.reply);
        let Some(sent) = &before.sent[n] else { return Ok(()) };
        let changes = before.held.value != done.held.value;
        let broken = |rule: &str| Err(format!("P9: {rule}: operation {n} is answered {reply:?}").into());
        if !is_answer(reply) {
            if changes || self.leaves_trace(before, done) {
                return broken("a refusal leaves a trace");
            }
            return if self.may_refuse(before, n, reply) {
                Ok(())
            } else {
                broken("a refusal without reason")
            };
        }
        match &sent.executed {
            Some(first) if **first != *reply => broken("another answer than the first"),
            Some(_) if changes => broken("executed twice"),
            None if changes == (op.op == Op::Ack) => broken("executed, or not, against its answer"),
            None if op.sequence <= self.floor(before, op.client) => {
                broken("executed after it was acknowledged")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Rows that are old enough go in any step; nothing else may change.
    fn leaves_trace(&self, before: &State, done: &Done) -> bool {
        let expires = before.log_time().0 > TTL;
        let count = |held: &Held| held.status.map(|status| (status.keys, status.revision));
        done.held.hash != before.held.hash && !expires || count(&before.held) != count(&done.held)
    }

    fn may_refuse(&self, before: &State, n: usize, reply: &Reply) -> bool {
        let Some(sent) = &before.sent[n] else { return false };
        let (now, at) = (before.log_time().0, sent.stamp.sent_at.0);
        let expired = now > at + TTL;
        match reply {
            Reply::Refused(Refusal::AlreadyAcknowledged) => sent.heard.is_some() || sent.given_up,
            Reply::Refused(Refusal::SessionExpired) => expired,
            Reply::Refused(Refusal::FromTheFuture) => at > now + AHEAD,
            // A window is never full for a client that keeps its side of it.
            Reply::Refused(Refusal::Busy(BusyReason::Sessions)) => sent.executed.is_none() || expired,
            _ => false,
        }
    }
}

/// Whether a reply tells that the operation was executed.
pub fn is_answer(reply: &Reply) -> bool {
    !matches!(reply, Reply::Refused(_))
}

impl Search for Once {
    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn to_explore(self) -> Once {
        Once { watch: Watch::of_every_state(), ..self }
    }

    fn anew(&self) -> Once {
        Once { steps: Arc::new(self.steps.anew()), ..Once::new(self.bounds.clone()) }
    }

    fn assertions_broken(&self) -> usize {
        self.steps.assertions_broken()
    }

    fn steps_taken(&self) -> usize {
        self.steps.len()
    }

    fn trace(&self, state: &State, action: &Action) -> Vec<String> {
        let mut lines = vec![self.format_action(action)];
        if let Action::Arrive { op, .. } = action
            && let Some(sent) = &state.sent[*op]
            && let Ok(done) = self.steps.request(&self.bounds, &state.held, *op, sent.stamp)
        {
            lines.push(format!("  -> {:?}", done.reply));
        }
        let Some(next) = self.after(state, action) else { return lines };
        lines.extend(next.fault.iter().map(|fault| format!("  !! {fault}")));
        lines.push(format!("  {}", summary(&next)));
        lines
    }
}

fn summary(state: &State) -> String {
    let (value, rows) = (String::from_utf8_lossy(&state.held.value), state.held.status.map(|s| s.sessions));
    format!("log time {}, value {value:?}, {} rows", state.log_time(), rows.unwrap_or_default())
}

impl Model for Once {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let held = Held::new(&self.bounds, self.bounds.store());
        vec![State { held, sent: [const { None }; OPS_MAX], fault: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() || self.watch.stopped() {
            return;
        }
        for (n, op) in self.bounds.ops.iter().enumerate() {
            match &state.sent[n] {
                Some(sent) => {
                    actions.push(Action::Arrive { op: n, heard: false });
                    if sent.heard.is_none() && !sent.given_up {
                        actions.push(Action::Arrive { op: n, heard: true });
                        actions.extend(self.bounds.gives_up.then_some(Action::GiveUp(n)));
                    }
                }
                None => {
                    let earlier =
                        self.bounds.ops[..n].iter().filter(|other| other.client == op.client).count();
                    let own: Vec<&Sent> = self.of(state, op.client).map(|(_, sent)| sent).collect();
                    if own.len() == earlier && self.has_room(state, op) {
                        // What a client has heard only grows.
                        let from = own.last().map_or(0, |sent| sent.stamp.sent_at.0);
                        let times = (from..=self.bounds.last_time).map(LogTime);
                        actions.extend(times.map(|sent_at| Action::Send { op: n, sent_at }));
                    }
                }
            }
        }
        if state.log_time().0 < self.bounds.last_time {
            actions.push(Action::Tick);
        }
        actions.push(Action::Restore);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn format_action(&self, action: &Action) -> String {
        let name = |n: &usize| format!("{} {}", self.bounds.ops[*n].client, self.bounds.ops[*n].sequence);
        match action {
            Action::Send { op, sent_at } => format!("{} is sent, stamped {sent_at}", name(op)),
            Action::Arrive { op, heard: true } => format!("{} arrives", name(op)),
            Action::Arrive { op, heard: false } => format!("{} arrives, and its answer is lost", name(op)),
            Action::GiveUp(op) => format!("{} is given up", name(op)),
            Action::Tick => "time passes".to_string(),
            Action::Restore => "the next leader goes on from a snapshot".to_string(),
        }
    }

    fn format_step(&self, state: &State, action: Action) -> Option<String> {
        let next = self.after(state, &action)?;
        Some(format!("{}\n\n{next:?}", self.trace(state, &action).join("\n")))
    }

    fn properties(&self) -> Vec<Property<Once>> {
        properties::all(&self.bounds)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", summary(self))?;
        for sent in self.sent.iter().flatten() {
            writeln!(f, "{sent:?}")?;
        }
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, "{fault}"))
    }
}
