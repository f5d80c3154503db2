//! A replica of one group: the value that all drivers step.
//!
//! This file holds what outlives a role, and sends each input to the chapter that handles it: [`crate::roles`].
//! Keeps P1 and P2 by having one function that raises the promise and one that votes.

use std::sync::Arc;

use crate::durable::Durable;
use crate::ids::{Ballot, Moment, NodeId, Slot};
use crate::io::{Delay, Input, Output, Reply, Timer, Write};
use crate::limits::Limits;
use crate::log::Log;
use crate::message::{Command, Entry, Envelope, Message};
use crate::mutants::{self, Mutant};
use crate::quorum::Voters;
use crate::roles::{Leader, Role, Told};

/// Ballot rounds may not jump by more: one hostile round near the end of its range would end the group.
pub const ROUND_JUMP_MAX: u64 = 1 << 32;

/// What a replica is told once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This replica's node.
    pub me: NodeId,
    /// The voters of the group.
    pub voters: Voters,
    /// Bounds and timeouts.
    pub limits: Limits,
}

/// What recovery found on disk.
#[derive(Clone, Debug)]
pub struct Recovered<C> {
    /// Replayed from the log.
    pub durable: Durable<C>,
    /// `applied_end` of the state machine at hand; [`FIRST_SLOT`] for a fresh one.
    pub state_end: Slot,
    /// Slots below were trimmed from the log, since a checkpoint held them.
    pub trimmed_end: Slot,
    /// Whether the directory was in use before: a lease it granted may still run.
    pub restarted: bool,
}

/// The first slot after Genesis.
pub const FIRST_SLOT: Slot = Slot(1);

/// One replica: acceptor, learner and, at times, candidate or leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica<C: Command> {
    pub(crate) config: Arc<Config>,
    /// No lower ballot is promised or accepted (P1, P2).
    pub(crate) promised: Ballot,
    pub(crate) log: Log<C>,
    /// All slots below are known to be chosen.
    pub(crate) chosen_end: Slot,
    /// All slots below were handed to the driver to apply.
    pub(crate) applied_end: Slot,
    /// All voters have applied what is below, as far as this replica heard.
    pub(crate) keep_end: Slot,
    pub(crate) role: Role<C>,
    /// The ballot of the leader it is sticky to.
    pub(crate) heard: Option<Ballot>,
    /// A lease granted before a restart may still run.
    pub(crate) restart_wait: bool,
    /// The highest ballot heard of in a refusal: the next try is above it.
    pub(crate) seen: Ballot,
    /// The newest word on what is chosen, while this replica is behind it.
    pub(crate) told: Option<Told>,
    /// The CatchUp timer runs.
    pub(crate) asking: bool,
    /// An own vote that didn't come back from the disk in time; no campaign until it does.
    pub(crate) disk_wait: Option<(Ballot, Slot)>,
    /// It already let a replica that is further ahead go first.
    pub(crate) deferred: bool,
}

impl<C: Command> Replica<C> {
    /// A replica that has never run.
    pub fn new(config: Arc<Config>) -> Replica<C> {
        let recovered = Recovered {
            durable: Durable::default(),
            state_end: FIRST_SLOT,
            trimmed_end: FIRST_SLOT,
            restarted: false,
        };
        Replica::recover(config, recovered)
    }

    /// A replica as its disk remembers it. The first step must be [`Input::Start`].
    pub fn recover(config: Arc<Config>, recovered: Recovered<C>) -> Replica<C> {
        let Recovered { durable, state_end, trimmed_end, restarted } = recovered;
        let state_end = state_end.max(FIRST_SLOT);
        let compacted_end = state_end.max(trimmed_end);
        let mut log = Log::new(compacted_end);
        for (slot, (ballot, entry)) in durable.votes.range(compacted_end..) {
            log.set_vote(*slot, *ballot, entry.clone());
            if durable.vouches_for(*slot) {
                log.set_chosen(*slot, entry.clone());
            }
        }
        for (slot, entry) in durable.chosen.range(compacted_end..) {
            log.set_chosen(*slot, entry.clone());
        }
        let mut chosen_end = compacted_end;
        while log.chosen(chosen_end).is_some() {
            chosen_end = chosen_end.next();
        }
        let waits = restarted && config.limits.leases;
        Replica {
            config,
            promised: durable.promised,
            log,
            chosen_end,
            applied_end: state_end,
            keep_end: Slot::default(),
            role: Role::Follower,
            heard: None,
            restart_wait: waits,
            seen: Ballot::ZERO,
            told: None,
            asking: false,
            disk_wait: None,
            deferred: false,
        }
    }

    /// Reacts to one event. `now` serves leases only. The driver appends the writes, applies `chosen`, sends `sends`, and
    /// sends `after_sync` once the writes of this and all earlier steps are durable.
    pub fn step(&mut self, now: Moment, input: Input<C>) -> Output<C> {
        assert!(!mutants::is_on(Mutant::Canary), "canary: every step fails");
        let mut out = Output::default();
        match input {
            Input::Start => self.on_start(&mut out),
            Input::Receive(envelope) => self.on_receive(now, envelope, &mut out),
            Input::Propose(batch) => self.on_propose(batch, &mut out),
            Input::Read(id) => self.on_read(now, id, &mut out),
            Input::Expired(timer) => self.on_expired(now, timer, &mut out),
            Input::Installed(end) => self.on_installed(end, &mut out),
            Input::Transfer(to) => self.on_transfer_wanted(now, to, &mut out),
        }
        self.settle(&mut out);
        out
    }

    fn on_start(&mut self, out: &mut Output<C>) {
        if self.state_lost() {
            self.seek_state(out);
        }
        let lease_us = self.limits().lease_us;
        if self.restart_wait {
            out.arm(Timer::RestartWait, Delay::Exactly(lease_us));
            out.arm(Timer::Election, Delay::Between(lease_us, lease_us + 50_000));
        } else {
            out.arm(Timer::Election, Delay::Between(0, 50_000));
        }
    }

    fn on_receive(&mut self, now: Moment, envelope: Envelope<C>, out: &mut Output<C>) {
        let Envelope { from, to, message } = envelope;
        if to != self.me() || !self.config.voters.contains(from) {
            return;
        }
        match message {
            Message::Canvass { ballot, chosen_end } => self.on_canvass(from, ballot, chosen_end, out),
            Message::Canvassed { ballot, granted, promised, leader: _, chosen_end: _, compacted_end } => {
                self.on_canvassed(from, ballot, granted, promised, compacted_end, out);
            }
            Message::Prepare { ballot, chosen_end, released } => {
                self.on_prepare(from, ballot, chosen_end, released, out);
            }
            Message::Promise { ballot, chosen_end, compacted_end, known, chunk, chunks } => {
                let part = crate::roles::PromisePart { chosen_end, compacted_end, known, chunk, chunks };
                self.on_promise(now, from, ballot, part, out);
            }
            Message::Accept { ballot, slot, entry, chosen_end } => {
                self.on_accept(from, ballot, slot, entry, chosen_end, out);
            }
            Message::Accepted { ballot, slot } => self.on_accepted(from, ballot, slot, out),
            Message::Preempted { ballot, promised, leader } => {
                self.on_preempted(ballot, promised, leader, out);
            }
            Message::AlreadyChosen { ballot: _, slot: _, chosen_end } => {
                self.on_already_chosen(from, chosen_end, out);
            }
            Message::Heartbeat { ballot, chosen_end, keep_end, round, sent_at } => {
                let beat = crate::roles::Beat { chosen_end, keep_end, round, sent_at };
                self.on_heartbeat(from, ballot, beat, out);
            }
            Message::HeartbeatAck { ballot, round, sent_at, chosen_end } => {
                let ack = crate::roles::Ack { round, sent_at, chosen_end };
                self.on_heartbeat_ack(from, ballot, ack, out);
            }
            Message::CatchUp { from: slot, held } => self.on_catch_up(from, slot, &held, out),
            Message::Caught { from: slot, entries, chosen_end, compacted_end } => {
                self.on_caught(from, slot, entries, chosen_end, compacted_end, out);
            }
            Message::Transfer { ballot } => self.on_transfer(ballot, out),
        }
    }

    fn on_expired(&mut self, now: Moment, timer: Timer, out: &mut Output<C>) {
        match timer {
            Timer::Election => self.on_election_due(out),
            Timer::LeaderSilent => self.heard = None,
            Timer::Heartbeat => self.on_heartbeat_due(now, out),
            Timer::CheckQuorum => self.on_check_quorum(out),
            Timer::Resend => self.on_resend(out),
            Timer::CatchUp => self.ask_for_missing(out),
            Timer::RestartWait => self.restart_wait = false,
            Timer::DiskStall => self.on_disk_stall(out),
            Timer::Transfer => self.on_transfer_expired(out),
        }
    }

    /// The end of every step: hands out what became applicable, goes on with what waited for it, bounds the log.
    fn settle(&mut self, out: &mut Output<C>) {
        self.deliver(out);
        self.go_on_leading(out);
        self.deliver(out);
        self.bound_log();
        assert!(self.applied_end <= self.chosen_end || self.state_lost(), "P5: applied beyond chosen");
        if let Role::Leader(leader) = &self.role {
            assert_eq!(
                leader.ballot, self.promised,
                "P1: a leader has promised its own ballot and no higher"
            );
        }
    }

    /// The one place that raises the promise by itself; a vote raises it in [`Replica::vote`].
    pub(crate) fn set_promised(&mut self, ballot: Ballot, out: &mut Output<C>) {
        assert!(self.promised <= ballot, "P1: a promise is never taken back");
        if self.promised < ballot {
            self.promised = ballot;
            out.writes.push(Write::Promised(ballot));
        }
    }

    /// The one place that votes: an Accept at a ballot promises it.
    pub(crate) fn vote(&mut self, slot: Slot, ballot: Ballot, entry: Entry<C>, out: &mut Output<C>) {
        assert!(self.promised <= ballot, "P2: nothing is accepted below the promise");
        self.promised = ballot;
        self.log.set_vote(slot, ballot, entry.clone());
        out.writes.push(Write::Accepted { slot, ballot, entry });
    }

    pub(crate) fn me(&self) -> NodeId {
        self.config.me
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.config.voters.iter().filter(|n| *n != self.config.me).collect()
    }

    /// Its state ends below what its log was trimmed to: it may vote, but neither lead nor serve.
    pub fn state_lost(&self) -> bool {
        self.applied_end < self.log.compacted_end()
    }

    /// This replica's node.
    pub fn node(&self) -> NodeId {
        self.config.me
    }

    /// The voters of the group.
    pub fn voters(&self) -> &Voters {
        &self.config.voters
    }

    /// The promise.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// Votes and chosen entries held in memory.
    pub fn log(&self) -> &Log<C> {
        &self.log
    }

    /// All slots below are known to be chosen.
    pub fn chosen_end(&self) -> Slot {
        self.chosen_end
    }

    /// All slots below were handed out to be applied.
    pub fn applied_end(&self) -> Slot {
        self.applied_end
    }

    /// `leader`, `candidate`, `canvassing` or `follower`.
    pub fn role_name(&self) -> &'static str {
        match &self.role {
            Role::Follower => "follower",
            Role::Canvassing(_) => "canvassing",
            Role::Candidate(_) => "candidate",
            Role::Leader(_) => "leader",
        }
    }

    /// Whether it leads, at which ballot.
    pub fn leading(&self) -> Option<Ballot> {
        Some(self.leader()?.ballot)
    }

    /// The leader it hears, or itself.
    pub fn leader_hint(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => Some(leader.ballot.node),
            Role::Follower | Role::Canvassing(_) | Role::Candidate(_) => self.heard.map(|b| b.node),
        }
    }

    /// Whether [`Input::Propose`] would be taken now.
    pub fn can_propose(&self) -> bool {
        self.has_memory() && self.leader().is_some_and(|l| l.has_room(self.chosen_end, self.limits()))
    }

    /// The slot that the next batch will be proposed in, while it leads.
    pub fn next_slot(&self) -> Option<Slot> {
        self.leader().map(|leader| leader.next_slot())
    }

    /// Slots that this leader proposed and that aren't chosen yet.
    pub fn in_flight(&self) -> usize {
        self.leader().map_or(0, Leader::in_flight)
    }

    /// Until when this replica may answer reads from its state without asking anybody, if it may at all. The driver reads
    /// the state first and the clock after it; the answer counts only if the clock is still below this.
    pub fn lease_until(&self) -> Option<Moment> {
        let leader = self.leader()?;
        let serves = self.limits().leases && self.applied_end >= leader.barrier_end;
        if serves { leader.lease_until(&self.config) } else { None }
    }

    pub(crate) fn leader(&self) -> Option<&Leader<C>> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower | Role::Canvassing(_) | Role::Candidate(_) => None,
        }
    }

    pub(crate) fn refuse_reads(&mut self, out: &mut Output<C>) {
        let leader = self.heard.map(|b| b.node);
        if let Role::Leader(deposed) = &mut self.role {
            for read in std::mem::take(&mut deposed.reads) {
                out.replies.push(Reply::ReadRefused { id: read.id, leader });
            }
        }
    }
}
