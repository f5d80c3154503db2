//! Looks for an order of one part's operations.
//!
//! It goes on from a *point*: which operations are done, and the state. The operation that is *due* is the first to be
//! answered of those not done; only what was called before that may be next. When nothing may be, it goes back, and
//! remembers the point as one that leads nowhere.
//!
//! What keeps it short:
//! - of the operations that may be next only those are tried that share a key with the one that is due, or with one that
//!   does, and so on; the others can wait until it is done;
//! - one that only reads, and reads what is there, is next, and nothing else is tried;
//! - nothing is next that leaves a waiting operation's needs ([`super::need`]) beyond what anybody can fulfil;
//! - what the due operation needs is tried first;
//! - of an unknown outcome is made use of as late as possible; a point fails if one does from which less of them was used.

use std::collections::HashMap;

use super::need::Need;
use super::part::{Op, Part};
use super::spec::State;

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is an order.
    Ordered,
    /// There is none.
    Stuck,
    /// It took too long.
    Undecided,
    /// It came to where it was to stop.
    Stopped,
}

/// A point, by hashes of 64 bits: of what is done but for unknown outcomes, of the state, and of the unknown outcomes.
pub(super) type Point = (u64, u64, u64);

/// The points at which all that was answered before some moment was done for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crossing {
    Never,
    At(Point),
    AtMany,
}

/// An operation that was put next, and what to try after it.
#[derive(Clone, Copy, Debug)]
struct Frame {
    op: Option<usize>,
    mark: usize,
    due_before: usize,
    visible_before: usize,
    choices_before: usize,
}

/// One search.
#[derive(Clone, Debug)]
pub(super) struct Search<'p, 'a> {
    part: &'p Part<'a>,
    /// Those that must be done, by their answers.
    by_return: Vec<usize>,
    state: State,
    done: Vec<bool>,
    /// Those not done, in the order of their calls: a list in both directions through a head, which comes last.
    next: Vec<usize>,
    previous: Vec<usize>,
    done_hash: u64,
    /// Unknown outcomes that were made use of, ascending.
    used: Vec<usize>,
    used_hash: u64,
    /// Into `by_return`.
    due: usize,
    /// Operations below have been looked at whether they can be fulfilled.
    visible: usize,
    frames: Vec<Frame>,
    /// Of all frames, those to be tried first last.
    choices: Vec<(usize, bool)>,
    failed: HashMap<(u64, u64), Vec<Box<[usize]>>>,
    steps: u64,
    steps_max: u64,
    furthest: usize,
    crossings: Vec<Crossing>,
    stop: Option<(usize, Point)>,
}

/// What became of a point that was entered.
enum Entered {
    Ended(End),
    Dead,
    Open,
}

fn name(op: usize) -> u64 {
    crate::prng::Prng::new(op as u64).draw()
}

impl<'p, 'a> Search<'p, 'a> {
    pub(super) fn new(part: &'p Part<'a>, steps_max: u64) -> Search<'p, 'a> {
        let count = part.ops.len();
        let mut by_return: Vec<usize> = (0..count).filter(|op| part.ops[*op].returned.is_some()).collect();
        by_return.sort_by_key(|op| part.ops[*op].returned);
        Search {
            part,
            crossings: vec![Crossing::Never; by_return.len() + 1],
            by_return,
            state: State::new(part.initial.clone()),
            done: vec![false; count],
            next: (0..=count).map(|op| if op == count { 0 } else { op + 1 }).collect(),
            previous: (0..=count).map(|op| if op == 0 { count } else { op - 1 }).collect(),
            done_hash: 0,
            used: Vec::new(),
            used_hash: 0,
            due: 0,
            visible: 0,
            frames: Vec::new(),
            choices: Vec::new(),
            failed: HashMap::new(),
            steps: 0,
            steps_max,
            furthest: 0,
            stop: None,
        }
    }

    /// Of the same part, ending at a point that a search came to.
    pub(super) fn until(part: &'p Part<'a>, boundary: usize, point: Point) -> Search<'p, 'a> {
        Search { stop: Some((boundary, point)), ..Search::new(part, u64::MAX) }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The operation that was never done, or never without making another one impossible; after a search that got stuck.
    pub(super) fn stuck_at(&self) -> &'p Op<'a> {
        &self.part.ops[self.by_return[self.furthest]]
    }

    /// The last moment before `time` which all orders came to at the same point: what is answered up to there needn't be
    /// looked at any more.
    pub(super) fn bottleneck(&self, time: u64) -> (usize, Point) {
        let before = |boundary: usize| match boundary {
            0 => true,
            _ => self.part.ops[self.by_return[boundary - 1]].returned < Some(time),
        };
        let found = (0..=self.furthest).rev().filter(|boundary| before(*boundary));
        let mut single = found.filter_map(|boundary| match self.crossings[boundary] {
            Crossing::At(point) => Some((boundary, point)),
            Crossing::Never | Crossing::AtMany => None,
        });
        single.next().unwrap_or((0, (0, State::new(self.part.initial.clone()).hash(), 0)))
    }

    pub(super) fn values(&self) -> &[Option<Vec<u8>>] {
        self.state.values()
    }

    pub(super) fn is_done(&self, op: usize) -> bool {
        self.done[op]
    }

    pub(super) fn run(&mut self) -> End {
        let root = Frame { op: None, mark: 0, due_before: 0, visible_before: 0, choices_before: 0 };
        self.frames.push(root);
        let mut entered = self.enter(true);
        loop {
            match entered {
                Entered::Ended(end) => return end,
                Entered::Dead => self.leave(),
                Entered::Open => {}
            }
            let Some(frame) = self.frames.last() else { return End::Stuck };
            entered = if self.choices.len() > frame.choices_before {
                if self.steps >= self.steps_max {
                    return End::Undecided;
                }
                match self.choices.pop() {
                    Some((op, held)) if self.put_next(op, held) => self.enter(false),
                    _ => Entered::Open,
                }
            } else {
                self.remember_failure();
                Entered::Dead
            };
        }
    }

    fn point(&self) -> Point {
        (self.done_hash, self.state.hash(), self.used_hash)
    }

    fn enter(&mut self, first: bool) -> Entered {
        let before = self.due;
        while self.by_return.get(self.due).is_some_and(|op| self.done[*op]) {
            self.due += 1;
        }
        self.furthest = self.furthest.max(self.due);
        let point = self.point();
        for boundary in if first { 0 } else { before + 1 }..=self.due {
            if self.stop == Some((boundary, point)) {
                return Entered::Ended(End::Stopped);
            }
            let crossing = &mut self.crossings[boundary];
            *crossing = match *crossing {
                Crossing::Never => Crossing::At(point),
                Crossing::At(other) if other == point => *crossing,
                Crossing::At(_) | Crossing::AtMany => Crossing::AtMany,
            };
        }
        if self.due == self.by_return.len() {
            return Entered::Ended(End::Ordered);
        }
        if self.has_failed() || !self.can_all_be_fulfilled() {
            return Entered::Dead;
        }
        self.choose();
        Entered::Open
    }

    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        self.choices.truncate(frame.choices_before);
        self.due = frame.due_before;
        self.visible = frame.visible_before;
        if let Some(op) = frame.op {
            self.take_back(op, frame.mark);
        }
    }

    /// Puts an operation next, if it answers what was seen and leaves the others what they need.
    fn put_next(&mut self, op: usize, held: bool) -> bool {
        let mark = self.state.mark();
        let this = &self.part.ops[op];
        if !self.state.run(this, held) {
            return false;
        }
        if this.returned.is_none() && self.state.changed_since(mark).is_empty() {
            return false;
        }
        self.steps += 1;
        self.done[op] = true;
        self.unlink(op);
        match this.returned {
            Some(_) => self.done_hash ^= name(op),
            None => {
                self.used_hash ^= name(op);
                let at = self.used.partition_point(|other| *other < op);
                self.used.insert(at, op);
            }
        }
        if !self.leaves_what_is_needed(mark) {
            self.take_back(op, mark);
            return false;
        }
        self.frames.push(Frame {
            op: Some(op),
            mark,
            due_before: self.due,
            visible_before: self.visible,
            choices_before: self.choices.len(),
        });
        true
    }

    fn take_back(&mut self, op: usize, mark: usize) {
        self.state.back_to(mark);
        self.done[op] = false;
        self.relink(op);
        if self.part.ops[op].returned.is_some() {
            self.done_hash ^= name(op);
        } else {
            self.used_hash ^= name(op);
            self.used.retain(|other| *other != op);
        }
    }

    fn unlink(&mut self, op: usize) {
        let (previous, next) = (self.previous[op], self.next[op]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    /// In the reverse order of unlinking, so its neighbours are still those it had.
    fn relink(&mut self, op: usize) {
        let (previous, next) = (self.previous[op], self.next[op]);
        self.next[previous] = op;
        self.previous[next] = op;
    }

    /// Operations that aren't done and were called up to then.
    fn waiting(&self, called_by: u64) -> impl Iterator<Item = usize> + '_ {
        let head = self.part.ops.len();
        let follow = move |op: &usize| Some(self.next[*op]);
        std::iter::successors(Some(self.next[head]), follow)
            .take_while(move |op| *op != head && self.part.ops[*op].operation.invoked <= called_by)
    }

    /// Until when what comes next was called.
    fn horizon(&self) -> u64 {
        self.by_return.get(self.due).and_then(|op| self.part.ops[*op].returned).unwrap_or(u64::MAX)
    }

    // -------------------------------------------------------------------------------------------- what leads nowhere

    fn has_failed(&self) -> bool {
        let failed = self.failed.get(&(self.done_hash, self.state.hash()));
        let is_used = |op: &usize| self.used.binary_search(op).is_ok();
        failed.is_some_and(|sets| sets.iter().any(|set| set.iter().all(is_used)))
    }

    fn remember_failure(&mut self) {
        let sets = self.failed.entry((self.done_hash, self.state.hash())).or_default();
        sets.push(self.used.clone().into());
    }

    /// Whether something may still leave in a key what an operation needs there.
    fn can_be_fulfilled(&self, op: usize, key: usize, need: Need<'_>) -> bool {
        let before = self.part.ops[op].returned.unwrap_or(u64::MAX);
        let value = self.state.value(key);
        if self.part.grows[key] && !need.may_hold_once_grown(value) {
            return false;
        }
        need.holds(value)
            || self.waiting(before).any(|other| {
                let makes = &self.part.ops[other].makes;
                let at = makes.binary_search_by_key(&key, |(key, _)| *key);
                other != op && at.is_ok_and(|at| need.may_hold(makes[at].1))
            })
    }

    /// Looks at the operations that may be next for the first time.
    fn can_all_be_fulfilled(&mut self) -> bool {
        let horizon = self.horizon();
        while let Some(op) = self.part.ops.get(self.visible).filter(|op| op.operation.invoked <= horizon) {
            let number = self.visible;
            if !self.done[number]
                && !op.needs.iter().all(|(key, need)| self.can_be_fulfilled(number, *key, *need))
            {
                return false;
            }
            self.visible += 1;
        }
        true
    }

    /// Looks at the operations that may be next and whose needs the last change may have spoilt.
    fn leaves_what_is_needed(&self, mark: usize) -> bool {
        let horizon = self.horizon();
        self.state.changed_since(mark).iter().all(|(key, old)| {
            self.waiting(horizon).all(|op| {
                let needs = &self.part.ops[op].needs;
                let first = needs.partition_point(|(needed, _)| needed < key);
                let of_key = needs[first..].iter().take_while(|(needed, _)| needed == key);
                let grows = self.part.grows[*key];
                of_key.clone().all(|(_, need)| match need.holds(old.as_deref()) {
                    true => self.can_be_fulfilled(op, *key, *need),
                    false => !grows || need.may_hold_once_grown(self.state.value(*key)),
                })
            })
        })
    }

    // -------------------------------------------------------------------------------------------- what may be next

    fn choose(&mut self) {
        let waiting: Vec<usize> = self.waiting(self.horizon()).collect();
        for op in &waiting {
            let this = &self.part.ops[*op];
            if this.observes() {
                let fits = this.ways().into_iter().find(|held| self.state.run(this, *held));
                if let Some(held) = fits {
                    return self.choices.push((*op, held));
                }
            }
        }
        let due = self.by_return[self.due];
        let mut near = self.near(due, &waiting);
        self.rank(due, &mut near);
        near.sort_by_key(|(op, rank)| (*rank, self.part.ops[*op].returned.unwrap_or(u64::MAX)));
        for (op, _) in near.into_iter().rev() {
            let ways = self.part.ops[op].ways();
            self.choices.extend(ways.into_iter().map(|held| (op, held)));
        }
    }

    /// Those whose order can matter to the one that is due, all ranked last.
    fn near(&self, due: usize, waiting: &[usize]) -> Vec<(usize, usize)> {
        let ops = &self.part.ops;
        if self.part.keys.len() == 1 {
            return waiting.iter().map(|op| (*op, usize::MAX)).collect();
        }
        let (mut read, mut written) = (vec![false; self.part.keys.len()], vec![false; self.part.keys.len()]);
        let mut near = vec![(due, usize::MAX)];
        let mut far: Vec<usize> = waiting.iter().copied().filter(|op| *op != due).collect();
        let mut looked = 0;
        while looked < near.len() {
            for (op, _) in &near[looked..] {
                ops[*op].reads.iter().for_each(|key| read[*key] = true);
                ops[*op].writes.iter().for_each(|key| written[*key] = true);
            }
            looked = near.len();
            far.retain(|op| {
                let is_near = ops[*op].reads.iter().any(|key| written[*key])
                    || ops[*op].writes.iter().any(|key| read[*key] || written[*key]);
                near.extend(is_near.then_some((*op, usize::MAX)));
                !is_near
            });
        }
        near
    }

    /// Ranks by how many operations are between an operation and the due one's needs.
    fn rank(&self, due: usize, near: &mut [(usize, usize)]) {
        let mut front = vec![due];
        let mut rank = 0;
        while !front.is_empty() {
            near.iter_mut().filter(|(op, _)| front.contains(op)).for_each(|(_, known)| *known = rank);
            rank += 1;
            let unmet: Vec<(usize, Need<'_>)> = front
                .iter()
                .flat_map(|op| &self.part.ops[*op].needs)
                .filter(|(key, need)| !need.holds(self.state.value(*key)))
                .copied()
                .collect();
            let helps = |op: usize| {
                let writes = &self.part.ops[op].writes;
                unmet.iter().any(|(key, _)| writes.binary_search(key).is_ok())
            };
            front = near
                .iter()
                .filter(|(op, known)| *known == usize::MAX && helps(*op))
                .map(|(op, _)| *op)
                .collect();
        }
    }
}
