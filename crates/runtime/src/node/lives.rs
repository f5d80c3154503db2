//! Replicas that come and go while the node runs, so that a vote counts for one life of a group and one data directory.
//!
//! A replica takes its first step only when the log says durably that it is here. A replica that is dropped is gone at once;
//! whoever ordered it hears of it when the log says so durably. Until then a crash brings it back as it was.

use std::sync::Arc;

use paxos::durable::Durable;
use paxos::ids::{NodeId, Slot};
use paxos::io::Input;
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Recovered, Replica};
use paxos::rsm::state_machine::StateMachine;

use crate::api::RefusedReason;
use crate::genesis::Genesis;
use crate::hosting::{Birth, HostAnswer, HostError, HostSpec};
use crate::log::options::FrameNo;
use crate::node::Node;
use crate::node::hosted::Hosted;
use crate::record::{Life, LogRecord, Replayed, ReplayedGroup};

/// An order that is carried out in the log, once this frame is durable.
pub(crate) struct Settling {
    frame: FrameNo,
    /// To begin now.
    begins: Option<Life>,
    answer: HostAnswer,
}

impl<S: StateMachine> Node<S> {
    /// Which groups are here: those that the log names, and, where this node is a founder, those of Genesis.
    pub(crate) fn recover_replicas(
        &mut self,
        genesis: &Genesis,
        replayed: Replayed,
        restarted: bool,
    ) -> Result<(), crate::node::StartError> {
        let Replayed { mut groups, lives, .. } = replayed;
        self.lives = lives;
        if genesis.incarnation_of(self.options.node).is_some() {
            let voters: Vec<NodeId> = genesis.voters.iter().map(|(node, _)| *node).collect();
            for group in &genesis.groups {
                if !self.lives.hosted.contains_key(group) {
                    self.lives.host((*group, genesis.generation), voters.clone());
                }
            }
        }
        let mut states = self.load_checkpoint(genesis)?;
        let lives: Vec<_> =
            self.lives.hosted.iter().map(|(g, (n, voters))| ((*g, *n), voters.clone())).collect();
        for (life, voters) in lives {
            let ReplayedGroup { durable, trimmed_end } = groups.remove(&life).unwrap_or_default();
            let state = states.remove(&life.0);
            let (state_end, machine) = state.unwrap_or_else(|| (FIRST_SLOT, self.newborn(genesis, life)));
            let trimmed_end = trimmed_end.max(FIRST_SLOT);
            let recovered = Recovered { durable, state_end, trimmed_end, restarted };
            let hosted = self.raise(life, &voters, recovered, machine);
            self.tell(|observer, me| observer.recovered(me, life, &hosted.replica, restarted));
            self.hosted.push(hosted);
        }
        // What else the log holds is of lives that are over.
        for (group, generation) in groups.into_keys() {
            self.log.release(group, generation, Slot(u64::MAX));
        }
        Ok(())
    }

    /// A replica before its first step.
    fn raise(
        &self,
        life: Life,
        voters: &[NodeId],
        recovered: Recovered<paxos::message::Payload>,
        machine: S,
    ) -> Hosted<S> {
        let config = Arc::new(Config {
            me: self.options.node,
            voters: Voters::new(voters.iter().copied()),
            limits: self.options.limits.clone(),
        });
        let durable_end = recovered.state_end.max(recovered.trimmed_end);
        Hosted::new(self.env().clone(), life, Replica::recover(config, recovered), machine, durable_end)
    }

    /// The first state of a group.
    pub(crate) fn newborn(&self, genesis: &Genesis, (group, generation): Life) -> S {
        (self.factory)(&Birth { group, generation, config: &genesis.config, founders: &genesis.voters })
    }

    pub(crate) fn host(&mut self, spec: HostSpec, answer: HostAnswer) {
        let life = (spec.group, spec.generation);
        if let Err(error) = self.may_host(&spec) {
            // Whoever asked may have gone.
            let _gone = answer.send(Err(error));
            return;
        }
        if !self.lives.is_hosted(life) {
            tracing::info!(group = %life.0, generation = %life.1, "hosting");
            self.append(life, None, &LogRecord::Hosted { voters: spec.voters.clone() }, false);
            self.lives.host(life, spec.voters);
        }
        let frame = self.commit();
        self.settling.push_back(Settling { frame, begins: Some(life), answer });
    }

    fn may_host(&self, spec: &HostSpec) -> Result<(), HostError> {
        let HostSpec { group, generation, voters, incarnation } = spec;
        let (group, own) = (*group, self.identity.incarnation());
        let dropped = self.lives.dropped(group);
        if self.stopping.is_some() {
            return Err(HostError::Stopping);
        }
        if let Some(reason) = &self.condition {
            return Err(HostError::NotVoting(reason.clone()));
        }
        if self.genesis.is_none() {
            return Err(HostError::NoGenesis);
        }
        if *incarnation != own {
            return Err(HostError::WrongIncarnation { named: *incarnation, own });
        }
        if *generation <= dropped {
            return Err(HostError::Dropped { group, dropped });
        }
        if !voters.contains(&self.options.node) {
            return Err(HostError::NoVoter);
        }
        match self.lives.hosted.get(&group) {
            Some((hosted, _)) if hosted != generation => {
                Err(HostError::OtherGeneration { group, hosted: *hosted })
            }
            Some((_, known)) if Voters::new(known.iter().copied()) != Voters::new(voters.iter().copied()) => {
                Err(HostError::OtherVoters { group, hosted: known.clone() })
            }
            Some(_) => Ok(()),
            None if self.log.disk_full() => Err(HostError::DiskFull),
            None => Ok(()),
        }
    }

    pub(crate) fn unhost(&mut self, life: Life, answer: HostAnswer) {
        if self.genesis.is_none() {
            let _gone = answer.send(Err(HostError::NoGenesis));
            return;
        }
        if !self.lives.is_over(life) {
            self.append(life, None, &LogRecord::Dropped, false);
            self.lives.end(life);
            self.let_go(life);
        }
        let frame = self.commit();
        self.settling.push_back(Settling { frame, begins: None, answer });
    }

    /// The replica of this life or an earlier one goes, with all that it holds.
    fn let_go(&mut self, (group, generation): Life) {
        let Some(index) = self.index_of(group).filter(|index| self.hosted[*index].life.1 <= generation)
        else {
            return;
        };
        let mut hosted = self.hosted.remove(index);
        tracing::info!(%group, generation = %hosted.life.1, "dropped");
        hosted.dismiss(RefusedReason::UnknownGroup);
        self.log.release(group, hosted.life.1, Slot(u64::MAX));
        self.network.forget_promises(group);
        self.events.retain(|event| event.group != group);
        self.env().drop_elsewhere(hosted);
        // The next one is without it.
        self.begin_checkpoint();
    }

    /// What was ordered and is durable by now takes effect.
    pub(crate) fn take_settled(&mut self) {
        while self.settling.front().is_some_and(|front| front.frame <= self.log.durable()) {
            let Some(Settling { begins, answer, .. }) = self.settling.pop_front() else { return };
            let done = begins.map_or(Ok(()), |life| self.begin(life));
            let _gone = answer.send(done);
        }
    }

    /// The first step of a replica, unless it was dropped again before.
    fn begin(&mut self, life: Life) -> Result<(), HostError> {
        let (group, _) = life;
        if !self.lives.is_hosted(life) {
            return Err(HostError::Dropped { group, dropped: self.lives.dropped(group) });
        }
        if self.index_of_life(life).is_some() {
            return Ok(());
        }
        let genesis = self.genesis.as_ref().ok_or(HostError::NoGenesis)?;
        let machine = self.newborn(genesis, life);
        let voters = self.lives.hosted.get(&group).map_or(&[][..], |(_, voters)| voters);
        let recovered = Recovered {
            durable: Durable::default(),
            state_end: FIRST_SLOT,
            trimmed_end: FIRST_SLOT,
            restarted: false,
        };
        let hosted = self.raise(life, voters, recovered, machine);
        self.tell(|observer, me| observer.recovered(me, life, &hosted.replica, false));
        let index = self.hosted.partition_point(|other| other.life < life);
        self.hosted.insert(index, hosted);
        self.step(index, Input::Start);
        Ok(())
    }
}
