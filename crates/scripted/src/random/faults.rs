//! What goes wrong in a run, and how it ends.

use paxos::ids::NodeId;
use paxos::invariants::Violation;
use paxos::io::Input;

use super::plan::{Ending, Fault};
use super::run::{Event, Run};

impl Run {
    pub(super) fn on_fault(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let pause = self.prng.between(1, 2 * self.plan.fault_us);
        self.at(pause, Event::Fault);
        let fault = *self.prng.pick(&self.plan.faults);
        let nodes = self.nodes();
        let leader = self.group.leader();
        let node = match leader {
            Some(leader) if self.prng.chance(400) => leader,
            Some(_) | None => *self.prng.pick(&nodes),
        };
        self.say(|_| format!("---- {fault:?} {node}"));
        match fault {
            Fault::Crash => self.crash(node),
            Fault::CrashAll => nodes.into_iter().try_for_each(|node| self.crash(node)),
            Fault::Isolate => {
                for other in nodes.into_iter().filter(|other| *other != node) {
                    self.cuts.extend([(node, other), (other, node)]);
                }
                Ok(())
            }
            Fault::Split => {
                for a in nodes.iter().filter(|a| a.0 <= node.0) {
                    for b in nodes.iter().filter(|b| b.0 > node.0) {
                        self.cuts.extend([(*a, *b), (*b, *a)]);
                    }
                }
                Ok(())
            }
            Fault::CutOneWay => {
                let to = *self.prng.pick(&nodes);
                self.cuts.insert((node, to));
                Ok(())
            }
            Fault::Heal => {
                self.cuts.clear();
                Ok(())
            }
            Fault::StallDisk => {
                let until = self.group.now + self.prng.between(100_000, 5_000_000);
                self.stalled_until.insert(node, until);
                Ok(())
            }
            Fault::Pause => {
                let until = self.group.now + self.prng.between(10_000, 2_000_000);
                self.paused_until.insert(node, until);
                Ok(())
            }
            Fault::Checkpoint => {
                self.group.checkpoint(node, false);
                Ok(())
            }
            Fault::Trim => {
                self.group.checkpoint(node, true);
                Ok(())
            }
            Fault::LoseState => self.lose_state(node),
            Fault::Transfer => {
                let to = *self.prng.pick(&nodes);
                let to = self.prng.chance(700).then_some(to);
                match leader.filter(|leader| self.pause_of(*leader).is_none()) {
                    Some(leader) => self.group.step(leader, Input::Transfer(to)),
                    None => Ok(()),
                }
            }
        }
    }

    fn crash(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.group.node(node).life.is_none() {
            return Ok(());
        }
        self.figures.crashes += 1;
        self.paused_until.remove(&node);
        let writes = self.group.node(node).disk.unsynced_writes() as u64;
        let survive = if self.prng.chance(500) { 0 } else { self.prng.between(0, writes) };
        self.group.crash(node, usize::try_from(survive).unwrap_or(0))?;
        let down = self.prng.between(1_000, 1_500_000);
        self.at(down, Event::Restart(node));
        Ok(())
    }

    /// One node at a time may lose its checkpoint, and only while nobody else is in need.
    fn lose_state(&mut self, node: NodeId) -> Result<(), Violation> {
        let lost = |id: &NodeId| {
            let node = self.group.node(*id);
            node.disk.state_lost() || node.life.as_ref().is_some_and(|life| life.replica.state_lost())
        };
        if self.nodes().iter().any(lost) || self.group.live().len() < self.nodes().len() {
            return Ok(());
        }
        self.crash(node)?;
        if let Some(node) = self.group.nodes.get_mut(&node) {
            node.disk.lose_checkpoint();
        }
        Ok(())
    }

    /// Any links may be cut, as long as one node keeps those to a quorum.
    fn cut_partially(&mut self) {
        let nodes = self.nodes();
        let hub = *self.prng.pick(&nodes);
        let mut spare = (nodes.len() - 1) / 2;
        for a in &nodes {
            for b in nodes.iter().filter(|b| *b > a) {
                if *a == hub || *b == hub {
                    if spare == 0 {
                        continue;
                    }
                    spare -= 1;
                }
                if self.prng.chance(600) {
                    self.cuts.extend([(*a, *b), (*b, *a)]);
                }
            }
        }
    }

    /// Faults stop, except for what the ending leaves.
    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.cuts.clear();
        self.paused_until.clear();
        self.stalled_until.clear();
        let nodes = self.nodes();
        let in_need = nodes.iter().any(|node| self.group.node(*node).disk.state_lost());
        let mut down = Vec::new();
        match self.plan.ending {
            Ending::Whole | Ending::Partial => {}
            // Who lost its state may be unable to vote: then a quorum needs all the others, and all links between them.
            Ending::MinorityDown | Ending::OneWayCut if in_need => {}
            Ending::MinorityDown => {
                let first = self.prng.below(nodes.len() as u64);
                let rotated = nodes.iter().cycle().skip(usize::try_from(first).unwrap_or(0));
                down = rotated.take((nodes.len() - 1) / 2).copied().collect();
            }
            Ending::OneWayCut => {
                let link = (*self.prng.pick(&nodes), *self.prng.pick(&nodes));
                if link.0 != link.1 {
                    self.cuts.insert(link);
                }
            }
        }
        if self.plan.ending == Ending::Partial && !in_need {
            self.cut_partially();
        }
        self.say(|run| format!("---- calm, down {down:?}, cut {:?}", run.cuts));
        for node in &down {
            self.group.crash(*node, 0)?;
        }
        // Stalled syncs end now, too.
        self.events.retain(|_, event| !matches!(event, Event::Restart(_) | Event::Sync(_)));
        self.syncing.clear();
        for node in nodes.into_iter().filter(|node| !down.contains(node)) {
            self.restart(node)?;
        }
        self.collect();
        Ok(())
    }
}
