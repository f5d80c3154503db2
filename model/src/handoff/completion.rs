//! Whether everything can still come to an end: from each state, what the shipped code owes is done in turn, and nothing is
//! lost, until nobody owes anything. What was on its way before doesn't matter for that, so it's worked out once for
//! each state of the groups and the shardmaster.

use std::sync::Arc;

use kvserver::command::{Refusal, Reply};
use kvserver::handoff::CopyPhase;

use crate::groups::{GROUPS, index, name};
use crate::handoff::bounds::Bounds;
use crate::handoff::clients::{is_answer, is_known};
use crate::handoff::machines::{HeldMaster, HeldStore};
use crate::handoff::network::{Letter, Message};
use crate::handoff::steps::Steps;
use crate::memo::Memo;
use crate::network::hash_of;

/// Many times as many rounds as a move takes.
const ROUNDS_MAX: usize = 100;

/// What is left of a state without the network.
#[derive(Clone, Debug)]
pub struct Machines {
    /// The shardmaster.
    pub master: Arc<HeldMaster>,
    /// A and B.
    pub stores: [Arc<HeldStore>; GROUPS],
}

/// `Ok` if everything comes to rest as it should, else why not.
pub type Rest = Result<(), Arc<str>>;

/// What is known of each state.
#[derive(Debug, Default)]
pub struct Completion(Memo<u64, Rest>);

impl Machines {
    fn key(&self) -> u64 {
        hash_of(&(self.master.hash, self.stores[0].hash, self.stores[1].hash))
    }

    fn deliver(&mut self, bounds: &Bounds, steps: &Steps, letter: &Letter) -> Rest {
        match letter.message {
            Message::Report { .. } => self.master = steps.report(bounds, &self.master, letter)?,
            Message::Command { to, .. } => {
                let done = steps.deliver(bounds, to, &self.stores[to], letter)?;
                self.stores[to] = done.held.clone();
                if let Some(report) = &done.report {
                    self.deliver(bounds, steps, report)?;
                }
            }
        }
        Ok(())
    }

    /// Everyone does what it owes, once.
    fn round(&mut self, bounds: &Bounds, steps: &Steps) -> Rest {
        for letter in self.master.clone().sends.iter() {
            self.deliver(bounds, steps, letter)?;
        }
        for at in 0..GROUPS {
            for letter in self.stores[at].clone().sends.iter() {
                self.deliver(bounds, steps, letter)?;
            }
            if let Some(chunk) = steps.pulled(bounds, at, &self.stores[at], &self.stores[1 - at]) {
                self.deliver(bounds, steps, &chunk)?;
            }
        }
        Ok(())
    }

    /// Whether what is at rest is as it should be.
    fn judge(&self, bounds: &Bounds, steps: &Steps) -> Rest {
        if !self.master.master.is_at_rest() {
            return Err("a move never ends".into());
        }
        let owner = self.master.owner.and_then(|owner| Some((index(owner.group)?, owner.epoch)));
        let Some((at, epoch)) = owner else { return Err("nobody owns the shard".into()) };
        let own = self.stores[at].copy.as_ref();
        if !own.is_some_and(|copy| copy.phase == CopyPhase::Serving && copy.epoch == epoch) {
            return Err(format!("{} owns the shard and doesn't serve it", name(at)).into());
        }
        if self.stores[1 - at].copy.is_some() {
            return Err(format!("{} keeps a copy for ever", name(1 - at)).into());
        }
        let mut held = self.stores[at].clone();
        for n in 0..bounds.ops.len() {
            let done = steps.request(bounds, at, &held, n)?;
            let too_old = Reply::Refused(Refusal::SessionExpired);
            let ends =
                |reply: &Reply| is_answer(reply) || is_known(reply) || (bounds.ages && *reply == too_old);
            if !done.reply.as_ref().is_some_and(ends) {
                return Err(format!("operation {n} is never answered").into());
            }
            held = done.held.clone();
        }
        Ok(())
    }
}

impl Completion {
    /// Whether it can from here.
    pub fn from(&self, bounds: &Bounds, steps: &Steps, mut now: Machines) -> Rest {
        let mut passed = Vec::new();
        let rest = loop {
            let key = now.key();
            if let Some(known) = self.0.get(key, &key) {
                break known;
            }
            passed.push(key);
            if passed.len() > ROUNDS_MAX {
                break Err("it goes on for ever".into());
            }
            if let Err(assertion) = now.round(bounds, steps) {
                break Err(assertion);
            }
            if now.key() == key {
                break now.judge(bounds, steps);
            }
        };
        for key in passed {
            let _known = self.0.get_or(key, key, || rest.clone());
        }
        rest
    }

    /// From how many states it was tried.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it never was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
