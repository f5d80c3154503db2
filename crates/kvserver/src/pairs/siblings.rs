//! A branch of the tree: its children in the order of their keys.

use std::ops::Range;
use std::slice;
use std::sync::Arc;

use prefetch_index::prefetch_index;

use crate::key::Key;
use crate::pairs::leaf::{LEAF_BYTES, LEAF_PAIRS, Leaf};

/// So many heads are looked at first.
const GUIDE: usize = 16;
/// A branch with more children is split, and one with less than a quarter joins a neighbour that has room.
pub(super) const BRANCH_CHILDREN: usize = 128;
/// Neighbouring leaves.
pub(super) type Branch = Siblings<Leaf>;

/// Neighbouring parts of the tree, in the order of their keys.
#[derive(Clone)]
pub(super) struct Siblings<T> {
    pub(super) children: Vec<Child<T>>,
    /// Each child's keys are from this one on, up to its neighbour's.
    pub(super) lows: Vec<Key>,
    /// What all of these begin with.
    prefix: Key,
    /// The heads of children at equal distances, so that a search need not touch all of them.
    guide: [u64; GUIDE],
    step: usize,
}

#[derive(Clone)]
pub(super) struct Child<T> {
    /// The next eight bytes of its lowest key, as a number: few searches look at more.
    head: u64,
    pub(super) node: T,
}

impl<T> Default for Siblings<T> {
    fn default() -> Siblings<T> {
        Siblings {
            children: Vec::new(),
            lows: Vec::new(),
            prefix: Key::from(&[][..]),
            guide: [u64::MAX; GUIDE],
            step: 1,
        }
    }
}

impl<T: Clone + Default> Siblings<T> {
    /// Makes what searches look at, after the children changed.
    pub(super) fn index(&mut self) {
        let ends = self.lows.first().zip(self.lows.last());
        let common = ends.map_or(0, |(first, last)| {
            let both = first.as_bytes().iter().zip(last.as_bytes());
            both.take_while(|(a, b)| a == b).count()
        });
        self.prefix = ends.map_or(Key::from(&[][..]), |(first, _)| Key::from(&first.as_bytes()[..common]));
        for (child, low) in self.children.iter_mut().zip(&self.lows) {
            child.head = head(&low.as_bytes()[common..]);
        }
        self.step = self.children.len().div_ceil(GUIDE).max(1);
        self.guide = [u64::MAX; GUIDE];
        for (guide, child) in self.guide.iter_mut().zip(self.children.iter().step_by(self.step)) {
            *guide = child.head;
        }
    }

    /// Where the child is that has a key if any has it.
    fn position(&self, key: &[u8]) -> usize {
        if self.children.len() <= 1 {
            return 0;
        }
        let prefix = self.prefix.as_bytes();
        let Some(rest) = key.strip_prefix(prefix) else {
            return if key < prefix { 0 } else { self.children.len().saturating_sub(1) };
        };
        let head = head(rest);
        let part = self.part(head);
        let mut above = part.start + self.children[part.clone()].partition_point(|child| child.head <= head);
        while above > 1 && self.children[above - 1].head == head && self.lows[above - 1].as_bytes() > key {
            above -= 1;
        }
        above.saturating_sub(1)
    }

    /// The part of the children in which the last one is whose head isn't above this.
    fn part(&self, head: u64) -> Range<usize> {
        let len = self.children.len();
        if len <= GUIDE {
            return 0..len;
        }
        let below: usize = self.guide.iter().map(|low| usize::from(*low <= head)).sum();
        let from = (below.saturating_sub(1) * self.step).min(len);
        from..len.min(from + self.step)
    }

    /// Brings near what [`Siblings::position`] looks at first.
    pub(super) fn prefetch(&self) {
        prefetch_index(self.guide.as_slice(), 0);
        prefetch_index(self.guide.as_slice(), GUIDE / 2);
        prefetch_index(self.guide.as_slice(), GUIDE - 1);
        prefetch_index(slice::from_ref(&self.prefix), 0);
        prefetch_index(slice::from_ref(&self.children), 0);
    }

    /// Brings near the children among which the one is that has a key.
    pub(super) fn prefetch_part(&self, key: &[u8]) {
        if let Some(rest) = key.strip_prefix(self.prefix.as_bytes()) {
            let Range { start, end } = self.part(head(rest));
            prefetch_index(&self.children, start);
            prefetch_index(&self.children, usize::midpoint(start, end));
            prefetch_index(&self.children, end.saturating_sub(1));
        }
    }

    pub(super) fn covering(&self, key: &[u8]) -> Option<&T> {
        self.children.get(self.position(key)).map(|child| &child.node)
    }

    /// As [`Siblings::position`], for a key that may be added: one below all makes the first child begin with it.
    pub(super) fn cover(&mut self, key: &[u8]) -> usize {
        let at = self.position(key);
        if at > 0 {
            return at;
        }
        match self.lows.first_mut() {
            Some(low) if low.as_bytes() <= key => {}
            Some(low) => {
                *low = Key::from(key);
                self.index();
            }
            None => {
                self.insert(0, Key::from(key), T::default());
                self.index();
            }
        }
        0
    }

    /// The last child, for a key that is to be added above all others.
    pub(super) fn last(&mut self, key: &[u8]) -> usize {
        if self.children.is_empty() { self.cover(key) } else { self.children.len() - 1 }
    }

    pub(super) fn insert(&mut self, at: usize, low: Key, node: T) {
        self.children.insert(at, Child { head: 0, node });
        self.lows.insert(at, low);
    }

    fn remove(&mut self, at: usize) -> T {
        self.lows.remove(at);
        self.children.remove(at).node
    }

    /// The parts from the one on that has a key.
    pub(super) fn iter_from(&self, key: &[u8]) -> impl Iterator<Item = &T> + use<'_, T> {
        self.children.iter().skip(self.position(key)).map(|child| &child.node)
    }

    /// Joins a child to the one after it, or before it, if they fit one.
    fn join(&mut self, at: usize, fits: impl Fn(&T, &T) -> bool, extend: impl FnOnce(&mut T, &T)) {
        let lefts = [Some(at), at.checked_sub(1)];
        let left = lefts.into_iter().flatten().find(|left| match &self.children[*left..] {
            [left, right, ..] => fits(&left.node, &right.node),
            [] | [_] => false,
        });
        if let Some(left) = left {
            let right = self.remove(left + 1);
            extend(&mut self.children[left].node, &right);
        }
    }
}

impl Siblings<Arc<Branch>> {
    /// Splits a branch that has too many leaves, joins one that has few to a neighbour, drops one that has none.
    pub(super) fn split_or_join(&mut self, at: usize) {
        let branches = self.children.len();
        let len = self.children[at].node.children.len();
        if len == 0 {
            self.remove(at);
        } else if len > BRANCH_CHILDREN {
            let right = Arc::make_mut(&mut self.children[at].node).split_off(len / 2);
            self.insert(at + 1, right.lows[0].clone(), Arc::new(right));
        } else if len < BRANCH_CHILDREN / 4 {
            let fits = |left: &Arc<Branch>, right: &Arc<Branch>| {
                left.children.len() + right.children.len() <= BRANCH_CHILDREN / 4 * 3
            };
            self.join(at, fits, |left, right| Arc::make_mut(left).extend(right));
        }
        if self.children.len() != branches {
            self.index();
        }
    }
}

impl Branch {
    fn split_off(&mut self, at: usize) -> Branch {
        let (children, lows) = (self.children.split_off(at), self.lows.split_off(at));
        let mut right = Siblings { children, lows, ..Siblings::default() };
        right.index();
        self.index();
        right
    }

    fn extend(&mut self, right: &Branch) {
        self.children.extend_from_slice(&right.children);
        self.lows.extend_from_slice(&right.lows);
        self.index();
    }

    /// Cuts a leaf in two of about the same size, and those again if they are too large; before its last pair where pairs come
    /// in ascending order, which leaves full leaves behind.
    pub(super) fn split_leaf(&mut self, at: usize, ascending: bool) {
        let leaf = &mut self.children[at].node;
        let right = leaf.split_off(if ascending { leaf.len() - 1 } else { leaf.middle() });
        self.insert(at + 1, Key::from(right.key(0)), right);
        for part in [at + 1, at] {
            if self.children[part].node.is_over() {
                self.split_leaf(part, false);
            }
        }
    }

    /// Joins a leaf that became small to a neighbour, drops one that became empty.
    pub(super) fn join_leaf(&mut self, at: usize) {
        let leaf = &self.children[at].node;
        if leaf.len() == 0 {
            self.remove(at);
        } else if leaf.len() < LEAF_PAIRS / 4 && leaf.used() < LEAF_BYTES / 4 {
            let fits = |left: &Leaf, right: &Leaf| {
                left.len() + right.len() <= LEAF_PAIRS / 4 * 3
                    && left.used() + right.used() <= LEAF_BYTES / 4 * 3
            };
            self.join(at, fits, Leaf::extend);
        }
    }
}

/// What a key begins with, as a number in the order of keys.
fn head(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}
