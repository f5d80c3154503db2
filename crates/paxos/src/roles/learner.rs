//! The learner: which slots are chosen, in order and without holes, and how a replica that missed some catches up.
//!
//! Keeps P4 and P5. What is learnt from others is `Chosen`, never a vote.

use crate::ids::{Ballot, NodeId, Slot};
use crate::io::{Delay, Output, Reply, Timer, Write};
use crate::message::{Caught, Command, Message};
use crate::mutants::{self, Mutant};
use crate::replica::Replica;

/// "All slots below `end` are chosen", said by a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Told {
    /// Ballot of the leader that said it: a vote at this very ballot below `end` is for the chosen entry. ZERO if no
    /// leader said it.
    pub ballot: Ballot,
    /// Exclusive end.
    pub end: Slot,
    /// Who said it, and can be asked.
    pub by: NodeId,
}

impl<C: Command> Replica<C> {
    /// A leader's `chosen_end`, on Accept or heartbeat.
    pub(crate) fn learn_told(&mut self, by: NodeId, ballot: Ballot, end: Slot, out: &mut Output<C>) {
        if end > self.chosen_end {
            self.tell(Told { ballot, end, by });
        }
        let Some(told) = self.told else { return };
        while self.chosen_end < told.end {
            let Some((voted_at, entry)) = self.log.vote(self.chosen_end) else { break };
            if *voted_at != told.ballot {
                break;
            }
            let entry = entry.clone();
            self.log.set_chosen(self.chosen_end, entry);
            self.chosen_end = self.chosen_end.next();
            self.skip_chosen();
        }
        self.mind_the_gap(out);
    }

    /// Someone is ahead, and its slots can't be inferred from votes: ask now.
    pub(crate) fn on_ahead(&mut self, by: NodeId, end: Slot, out: &mut Output<C>) {
        if end > self.chosen_end {
            self.tell(Told { ballot: Ballot::ZERO, end, by });
            self.ask(by, out);
        }
    }

    /// As [`Replica::on_ahead`]; a whole window may be answered so, and one question is enough.
    pub(crate) fn on_already_chosen(&mut self, by: NodeId, end: Slot, out: &mut Output<C>) {
        if !self.asking {
            self.on_ahead(by, end, out);
        }
    }

    fn tell(&mut self, news: Told) {
        if self.told.is_none_or(|told| (told.ballot, told.end) < (news.ballot, news.end)) {
            self.told = Some(news);
        }
    }

    fn skip_chosen(&mut self) {
        let skips_holes = mutants::is_on(Mutant::HoleSkipped);
        let later = |slot: Slot| self.log.from(slot).any(|(_, held)| held.chosen.is_some());
        while self.log.chosen(self.chosen_end).is_some() || skips_holes && later(self.chosen_end) {
            self.chosen_end = self.chosen_end.next();
        }
    }

    /// Slots are missing: the Accepts may still be on their way, so ask a little later.
    fn mind_the_gap(&mut self, out: &mut Output<C>) {
        match self.told {
            Some(told) if told.end > self.chosen_end && self.asking => {}
            Some(told) if told.end > self.chosen_end => {
                self.asking = true;
                out.arm(Timer::CatchUp, Delay::Exactly(self.limits().catch_up_us));
            }
            Some(_) => {
                self.told = None;
                if self.asking && !self.state_lost() {
                    self.asking = false;
                    out.cancel(Timer::CatchUp);
                }
            }
            None => {}
        }
    }

    pub(crate) fn ask_for_missing(&mut self, out: &mut Output<C>) {
        self.asking = false;
        if self.state_lost() {
            self.seek_state(out);
            return;
        }
        match self.told {
            Some(told) if told.end > self.chosen_end => {
                self.ask(told.by, out);
                // It may be down, or cut off one way: what isn't answered is asked of the next one.
                self.told = Some(Told { by: self.next_other(told.by), ..told });
            }
            Some(_) | None => {}
        }
    }

    fn next_other(&self, node: NodeId) -> NodeId {
        let others = self.others();
        let next = others.iter().find(|other| **other > node).or(others.first());
        next.copied().unwrap_or(node)
    }

    fn ask(&mut self, node: NodeId, out: &mut Output<C>) {
        let from = self.chosen_end;
        let votes = self.log.from(from).filter_map(|(slot, held)| Some((slot, held.vote.as_ref()?.0)));
        let most = usize::try_from(self.limits().chunk_slots).unwrap_or(usize::MAX);
        let held = votes.take(most).collect();
        out.send(self.me(), node, Message::CatchUp { from, held });
        self.asking = true;
        out.arm(Timer::CatchUp, Delay::Exactly(self.limits().resend_us));
    }

    pub(crate) fn on_catch_up(
        &self,
        from: NodeId,
        start: Slot,
        held: &[(Slot, Ballot)],
        out: &mut Output<C>,
    ) {
        let mut entries = Vec::new();
        if start >= self.log.compacted_end() {
            let mut bytes = 0;
            let mut theirs = held.iter().peekable();
            for (slot, mine) in self.log.range(start..self.chosen_end) {
                let Some(chosen) = &mine.chosen else { break };
                while theirs.next_if(|(s, _)| *s < slot).is_some() {}
                let named = theirs.next_if(|(s, _)| *s == slot).map(|(_, ballot)| *ballot);
                let same = mine.vote.as_ref().is_some_and(|(b, entry)| Some(*b) == named && entry == chosen);
                if bytes > 0 && bytes + chosen.bytes() > self.limits().chunk_bytes
                    || entries.len() as u64 >= self.limits().chunk_slots
                {
                    break;
                }
                entries.push(match named {
                    Some(ballot) if same => Caught::Same(ballot),
                    Some(_) | None => {
                        bytes += chosen.bytes();
                        Caught::Entry(chosen.clone())
                    }
                });
            }
        }
        let (chosen_end, compacted_end) = (self.chosen_end, self.log.compacted_end());
        out.send(self.me(), from, Message::Caught { from: start, entries, chosen_end, compacted_end });
    }

    pub(crate) fn on_caught(
        &mut self,
        by: NodeId,
        start: Slot,
        entries: Vec<Caught<C>>,
        chosen_end: Slot,
        compacted_end: Slot,
        out: &mut Output<C>,
    ) {
        if start > self.chosen_end {
            // Asked in an earlier life. A promise repeated in chunks must not change meanwhile, so nothing is learnt above a hole.
            return;
        }
        let before = self.chosen_end;
        for (slot, caught) in (start.0..).map(Slot).zip(entries) {
            if slot < self.chosen_end {
                continue;
            }
            if self.state_lost() && !self.has_memory() {
                break;
            }
            match caught {
                Caught::Same(ballot) => match self.log.vote(slot) {
                    Some((voted_at, entry)) if *voted_at == ballot => {
                        let entry = entry.clone();
                        self.log.set_chosen(slot, entry);
                    }
                    Some(_) | None => break,
                },
                Caught::Entry(entry) if mutants::is_on(Mutant::CaughtUpIsVote) => {
                    self.vote(slot, self.promised, entry.clone(), out);
                    self.log.set_chosen(slot, entry);
                }
                Caught::Entry(entry) => {
                    self.log.set_chosen(slot, entry.clone());
                    out.writes.push(Write::Chosen { slot, entry });
                }
            }
        }
        self.skip_chosen();
        let at_least = self.log.compacted_end();
        if self.state_lost() && chosen_end >= at_least {
            out.replies.push(Reply::FetchSnapshot { from: by, at_least });
        } else if compacted_end > self.chosen_end {
            out.replies.push(Reply::FetchSnapshot { from: by, at_least: compacted_end });
        } else if chosen_end > self.chosen_end && self.chosen_end > before {
            self.on_ahead(by, chosen_end, out);
        }
        self.mind_the_gap(out);
    }

    /// The checkpoint behind a trimmed log is gone: only a snapshot of another voter brings the state back.
    pub(crate) fn seek_state(&mut self, out: &mut Output<C>) {
        for to in self.others() {
            out.send(self.me(), to, Message::CatchUp { from: self.chosen_end, held: Vec::new() });
        }
        self.asking = true;
        out.arm(Timer::CatchUp, Delay::Exactly(self.limits().resend_us));
    }

    /// The driver's state now stands at `end`. Going back isn't possible.
    pub(crate) fn on_installed(&mut self, end: Slot, out: &mut Output<C>) {
        assert!(end >= self.applied_end, "P5: a snapshot at {end} is older than the state");
        assert!(end >= self.log.compacted_end(), "P6: a snapshot at {end} doesn't reach what the log holds");
        if end > self.chosen_end {
            out.writes.push(Write::Installed(end));
        }
        self.applied_end = end;
        self.log.compact(end);
        self.chosen_end = self.chosen_end.max(end);
        self.skip_chosen();
        self.mind_the_gap(out);
    }

    /// Hands out what is chosen, in order, and notes how far that goes.
    pub(crate) fn deliver(&mut self, out: &mut Output<C>) {
        self.skip_chosen();
        if self.state_lost() {
            return;
        }
        let from = self.applied_end;
        let before = out.chosen.len();
        while self.applied_end < self.chosen_end {
            let entry =
                self.log.chosen(self.applied_end).expect("P5: what is chosen and not applied is held");
            out.chosen.push((self.applied_end, entry.clone()));
            self.applied_end = self.applied_end.next();
        }
        assert_eq!(out.chosen.len() - before, usize::try_from(self.applied_end.0 - from.0).unwrap_or(0));
        if self.applied_end > from {
            out.writes.push(Write::ChosenEnd(self.chosen_end));
        }
    }

    /// Applied entries are kept for voters that lag, within bounds.
    pub(crate) fn bound_log(&mut self) {
        let (min, max) = (self.limits().keep_bytes_min, self.limits().keep_bytes_max);
        while let Some(first) = self.log.first() {
            let most = if first < self.keep_end { min } else { max };
            let is_needed = first >= self.applied_end && !mutants::is_on(Mutant::UnappliedCompacted);
            if is_needed || self.log.bytes() <= most {
                break;
            }
            self.log.compact(first.next());
        }
    }
}
