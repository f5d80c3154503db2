//! What groups do for each other because of transactions, step by step: an entry of a log for each message, and a message
//! for each answer that has a consequence. Whatever becomes owed in a step is sent at once; what of it gets lost is read off
//! the state again.

use kvserver::command::{Reply, ShardId};
use kvserver::store::Store;
use kvserver::txn::{TxnAnswer, TxnCommand, TxnDuty, TxnState};
use paxos::rsm::state_machine::{RequestId, StateMachine};
use shardmaster::ids::GroupRef;

use crate::golden::Trouble;
use crate::shard::message::{Body, Message, Place};
use crate::shard::world::World;
use crate::shard::{language, text, view};

/// Passes over all requests without an answer, after which one that still has none never gets one.
const PASSES_MAX: usize = 50;

impl World {
    /// What a group in some state owes: to the source of each copy that it stages, and to the shards of transactions.
    pub(super) fn duties_of(&self, at: GroupRef, store: &Store) -> Vec<Message> {
        let mut messages = Vec::new();
        for duty in store.duties() {
            let (from, to) = (Place::Group(at), Place::Group(duty.from));
            let commands = duty.messages(at).into_iter().map(Body::Command);
            messages.extend(commands.chain([Body::Pull(duty)]).map(|body| Message { from, to, body }));
        }
        messages.extend(store.txn_duties().into_iter().filter_map(|duty| self.addressed(at, duty)));
        messages
    }

    /// A duty, to the group that serves its shard as far as the shardmaster knows.
    fn addressed(&self, at: GroupRef, duty: TxnDuty) -> Option<Message> {
        let owner = self.master.owner(duty.to)?;
        Some(Message { from: Place::Group(at), to: Place::Group(owner.group), body: Body::Txn(duty) })
    }

    /// A message about a transaction is put into the log; its answer goes back if it has a consequence.
    pub(super) fn on_txn(&mut self, at: GroupRef, message: &Message, duty: &TxnDuty) -> Result<(), String> {
        let (to, from, end) = (message.to, message.from, self.end(at));
        self.note(format!("{to} {end} <- {from} {message}"));
        let Some(answer) = self.log_txn(at, duty.command.clone())? else { return Ok(()) };
        if duty.take(answer.clone()).is_some() {
            let body = Body::Answered(duty.clone(), answer);
            self.answer(Message { from: to, to: from, body });
        } else {
            let answer = language::answer_words(&answer);
            self.note(format!("  {answer}"));
            self.given.push(message.clone());
        }
        self.act(at)
    }

    /// An answer came back to whoever leads the group that asked: what follows from it is put into its log.
    pub(super) fn on_answer(
        &mut self,
        at: GroupRef,
        message: &Message,
        duty: &TxnDuty,
        answer: &TxnAnswer,
    ) -> Result<(), String> {
        let (to, from, end) = (message.to, message.from, self.end(at));
        let Some(command) = duty.take(answer.clone()) else { return Ok(()) };
        self.note(format!("{to} {end} <- {from} {message}"));
        let _told_before = self.log_txn(at, command)?;
        self.act(at)
    }

    /// The attempts that a group coordinates take too long.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn expire(&mut self, at: GroupRef) -> Result<(), String> {
        let Some(group) = self.groups.get(&at).filter(|group| group.up) else { return Ok(()) };
        let mut commands: Vec<TxnCommand> =
            group.store.txn_duties().iter().filter_map(TxnDuty::expire).collect();
        commands.dedup();
        for command in commands {
            let (at_text, end) = (text::group(at), self.end(at));
            self.note(format!("{at_text} {end} <- {at_text} {}", language::command(&command)));
            self.log_txn(at, command)?;
            self.act(at)?;
            self.check()?;
        }
        Ok(())
    }

    /// Logs a command about a transaction, and tells what it changed there.
    fn log_txn(&mut self, at: GroupRef, command: TxnCommand) -> Result<Option<TxnAnswer>, String> {
        let before = self.groups.get(&at).map(|group| view::group(&group.store)).unwrap_or_default();
        let reply = self.log(at, command.into())?;
        let after = self.groups.get(&at).map(|group| view::group(&group.store)).unwrap_or_default();
        self.lines.extend(view::stepped(&before, &after));
        match reply {
            Some(Reply::Between(answer)) => Ok(Some(*answer)),
            other => Err(format!("P9: what groups say to each other is answered {other:?}")),
        }
    }

    fn end(&self, at: GroupRef) -> String {
        self.groups.get(&at).map_or_else(String::new, |group| group.end.to_string())
    }

    /// What a leader does after a step: it sends what became owed, and looks at the reads that wait.
    pub(super) fn act(&mut self, at: GroupRef) -> Result<(), String> {
        let Some(group) = self.groups.get_mut(&at) else { return Ok(()) };
        let (due, owed) = (group.store.due(), group.store.txn_duties());
        let served: Vec<ShardId> = group.store.shards().collect();
        for duty in due {
            // What a step decides in which the shard freezes may be said at once; who serves it next says it again. And a
            // waiter that had to go is told of by courtesy: its coordinator would find out.
            let courtesy = matches!(duty.command, TxnCommand::Refuse { .. });
            if !owed.contains(&duty) && !courtesy && served.contains(&said_by(&duty.command)) {
                let command = language::command(&duty.command);
                return Err(format!("P10: {at} sends what its state doesn't owe: {command}"));
            }
            match self.addressed(at, duty) {
                Some(message) if !self.net.contains(&message) => self.answer(message),
                Some(_) | None => {}
            }
        }
        self.look_at_reads(at)
    }

    /// Clients get the answers of a step, in its order. `own` is whose request it was, who is told first hand.
    pub(super) fn hear(
        &mut self,
        at: GroupRef,
        replies: Vec<(RequestId, Reply)>,
        own: Option<RequestId>,
    ) -> Result<(), String> {
        let mut last = None;
        for (id, reply) in replies {
            let Some(request) = self.clients.asked(id) else {
                return Err(format!("P9: {} has an answer and never asked", text::client(id.client)));
            };
            self.judge.on_reply(&request, &reply)?;
            let log_time = self.groups.get(&at).map(|group| group.store.log_time()).unwrap_or_default();
            let (client, words) = (text::client(id.client), text::reply(&reply));
            let waits = self.clients.leaves(id, at);
            if own == Some(id) {
                self.note(format!("  -> {client} {words}"));
            } else if waits {
                self.note(format!("  -> {client} {} {words}", id.sequence));
            } else if last != Some(id) {
                self.note(format!("  nobody waits for {client} {}: {words}", id.sequence));
            }
            if waits || own == Some(id) {
                self.clients.hear(&request, &reply, log_time);
            }
            last = Some(id);
        }
        Ok(())
    }

    /// The transactions under way and the requests that wait for them, at all groups, as text.
    pub(super) fn txns(&self) -> Vec<String> {
        let lines = |(at, store): (GroupRef, &Store)| {
            let view = view::txns(store);
            view::lines(&view).map(|line| format!("{} {line}", text::group(at))).collect::<Vec<_>>()
        };
        self.stores().flat_map(lines).collect()
    }

    /// Where everybody has a majority and nothing is kept back, no transaction stays; unless it waits for a move, and that
    /// for something else.
    pub(super) fn check_stuck(&self) -> Result<(), String> {
        let all_up = self.master_up && self.groups.values().all(|group| group.up);
        match self.txns().first() {
            Some(line) if all_up && self.held.is_empty() => {
                Err(format!("P10: nothing goes on, and a transaction is left: {line}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Clients ask again until all is answered; then nothing is locked and nothing is owed.
    ///
    /// # Errors
    /// A property that doesn't hold.
    pub fn finish(&mut self) -> Result<(), Trouble> {
        for _ in 0..PASSES_MAX {
            self.settle().map_err(Trouble::Broken)?;
            let open = self.clients.open();
            if open.is_empty() && self.reads.is_empty() && self.txns().is_empty() {
                self.note("all is answered".to_string());
                return Ok(());
            }
            for request in open {
                self.attempt(&request, None)?;
                self.settle().map_err(Trouble::Broken)?;
            }
        }
        let left = self.clients.open();
        let left = left.iter().map(|r| format!("{} {}", text::client(r.client), r.sequence));
        Err(Trouble::Broken(format!("P10: no answer for {}", left.collect::<Vec<_>>().join(", "))))
    }
}

impl Message {
    /// Whether it is sent as soon as it is owed.
    pub(super) fn is_urgent(&self) -> bool {
        match &self.body {
            Body::Txn(duty) => duty.urgent,
            Body::Command(_) | Body::Pull(_) | Body::Report(_) | Body::Answered(..) => true,
        }
    }
}

/// The shard in whose name a command is sent.
fn said_by(command: &TxnCommand) -> ShardId {
    match command {
        TxnCommand::Vote { shard, .. } => *shard,
        TxnCommand::Prepare { attempt, .. }
        | TxnCommand::Refuse { attempt, .. }
        | TxnCommand::Expire { attempt }
        | TxnCommand::Decide { attempt, .. }
        | TxnCommand::Acked { attempt, .. } => attempt.home,
    }
}

/// Whether a transaction stands so at a participant.
pub(super) fn is_lock(state: TxnState) -> bool {
    match state {
        TxnState::Prepared | TxnState::Waiting => true,
        TxnState::Undecided | TxnState::Committed | TxnState::Aborted => false,
    }
}
