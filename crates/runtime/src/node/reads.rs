//! How reads are answered: by a lease, after a round of heartbeats, or from whatever is here; at once, or when nothing
//! they ask for is locked any more.

use std::sync::atomic::AtomicU64;

use paxos::ids::{NodeId, Slot};
use paxos::io::ReadId;
use paxos::rsm::state_machine::StateMachine;

use crate::api::{CallResult, Counters, RefusedReason};
use crate::node::hosted::{Caller, Hosted, PendingRead};

fn answer_from<S: StateMachine>(machine: &S, read: &PendingRead<S>) {
    let found = machine.query(&read.query);
    read.caller.sink.answer(read.caller.number, CallResult::Found(found), machine.log_time().0);
}

impl<S: StateMachine> Hosted<S> {
    /// Something was applied: what was locked may not be any more.
    pub(crate) fn ask_again(&mut self) {
        if !self.blocked.is_empty() {
            let blocked = std::mem::take(&mut self.blocked);
            self.unapplied.insert(0, (Slot(0), blocked));
        }
    }

    /// Answers confirmed reads whose state is there, and counts them. Those that find something locked wait, at most
    /// `blocked_max` of them, and are asked again after the next apply.
    ///
    /// The later answer is linearizable like the first would have been. A confirmed read may be answered from any chosen
    /// prefix of the log from `needs` on, at any time: `needs` covers all that was acknowledged before the read was
    /// called, and whatever this replica has applied is chosen, so every later read covers it in turn. Nor does it
    /// matter who leads by then.
    pub(crate) fn serve_confirmed(&mut self, blocked_max: usize, counter: &AtomicU64) {
        let end = self.replica.applied_end();
        let mut ready = Vec::new();
        self.unapplied.retain_mut(|(needs, reads)| {
            let waits = *needs > end;
            if !waits {
                ready.append(reads);
            }
            waits
        });
        for read in ready {
            if !self.machine.is_blocked(&read.query) {
                Counters::add(counter, 1);
                self.answer(read);
            } else if self.blocked.len() < blocked_max {
                self.blocked.push(read);
            } else {
                self.refuse(&read.caller, RefusedReason::Busy, None, false);
            }
        }
    }

    /// Answers from the state as it is: at once, or from a clone on another thread.
    fn answer(&self, read: PendingRead<S>) {
        if S::is_long(&read.query) {
            let machine = self.machine.clone();
            self.env.aside(move || answer_from(&machine, &read));
        } else {
            answer_from(&self.machine, &read);
        }
    }

    /// Reads the state first and the clock after it: the answer counts only if the lease still held then. Gives the query
    /// back otherwise, and if it finds something locked: it then waits like one that was confirmed by a round.
    pub(crate) fn serve_by_lease(&self, query: S::Query, caller: Caller<S>) -> Result<(), PendingRead<S>> {
        let read = PendingRead { query, caller };
        let Some(until) = self.replica.lease_until() else { return Err(read) };
        if self.machine.is_blocked(&read.query) {
            return Err(read);
        }
        let long = S::is_long(&read.query);
        let found = (!long).then(|| self.machine.query(&read.query));
        if self.env.now() >= until {
            return Err(read);
        }
        let PendingRead { query, caller } = read;
        match found {
            Some(found) => {
                caller.sink.answer(caller.number, CallResult::Found(found), self.machine.log_time().0);
            }
            // What it will be answered from is the state of this moment.
            None => self.answer(PendingRead { query, caller }),
        }
        Ok(())
    }

    /// Answers from whatever is applied, locked or not.
    pub(crate) fn serve_stale(&self, query: S::Query, caller: Caller<S>) {
        self.answer(PendingRead { query, caller });
    }

    /// Begins a round for the reads that wait for one, unless two are under way.
    pub(crate) fn begin_round(&mut self) -> Option<ReadId> {
        if self.reads.is_empty() || self.rounds.len() >= 2 {
            return None;
        }
        self.next_read += 1;
        let id = ReadId(self.next_read);
        self.rounds.push((id, std::mem::take(&mut self.reads)));
        Some(id)
    }

    /// A round is over: its reads may run at `needs`, or not at all.
    pub(crate) fn end_round(&mut self, id: ReadId, needs: Option<Slot>, leader: Option<NodeId>) {
        let Some(at) = self.rounds.iter().position(|(round, _)| *round == id) else { return };
        let (_, reads) = self.rounds.swap_remove(at);
        match needs {
            Some(needs) => self.unapplied.push((needs, reads)),
            None => reads
                .into_iter()
                .for_each(|read| self.refuse(&read.caller, RefusedReason::NotLeader, leader, false)),
        }
    }
}
