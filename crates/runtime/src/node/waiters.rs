//! Who waits for the reply of which request.
//!
//! A request may stand in the log more than once: a client that hears nothing sends it again. Each entry has its own
//! reply, in the order in which the entries are answered, so the callers of one request are a queue. Were all of them
//! told the first reply, a refusal of the first entry would be taken for that of the second, which may yet be executed.
//! Nor is a reply for anybody whose entry comes later in the log: it is that of an entry of another leader, or of an
//! earlier time as leader.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};

use paxos::ids::Slot;
use paxos::rsm::state_machine::RequestId;

/// Callers of requests that were proposed, in the order in which they were.
pub(crate) struct Waiters<C> {
    of: HashMap<RequestId, Queue<C>>,
}

/// Nearly always one caller: it costs no allocation of its own.
struct Queue<C> {
    first: (Slot, C),
    more: VecDeque<(Slot, C)>,
}

impl<C> Default for Waiters<C> {
    fn default() -> Self {
        Waiters { of: HashMap::new() }
    }
}

impl<C> Waiters<C> {
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// One more entry of this request is proposed, in this slot.
    pub(crate) fn wait(&mut self, id: RequestId, slot: Slot, caller: C) {
        let caller = (slot, caller);
        match self.of.entry(id) {
            Entry::Vacant(entry) => drop(entry.insert(Queue { first: caller, more: VecDeque::new() })),
            Entry::Occupied(mut entry) => entry.get_mut().more.push_back(caller),
        }
    }

    /// Whom the next reply of this request, that the batch in `slot` brought, is for; `None` if nobody here waits for it.
    pub(crate) fn next(&mut self, id: &RequestId, slot: Slot) -> Option<C> {
        let queue = self.of.get_mut(id).filter(|queue| queue.first.0 <= slot)?;
        let (_, caller) = match queue.more.pop_front() {
            Some(second) => std::mem::replace(&mut queue.first, second),
            None => self.of.remove(id)?.first,
        };
        Some(caller)
    }

    /// Everybody, in an order that doesn't depend on how they are kept.
    pub(crate) fn into_callers(self) -> impl Iterator<Item = C> {
        let mut of: Vec<_> = self.of.into_iter().collect();
        of.sort_unstable_by_key(|(id, queue)| (queue.first.0, *id));
        let callers = of.into_iter().flat_map(|(_, queue)| std::iter::once(queue.first).chain(queue.more));
        callers.map(|(_, caller)| caller)
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::{ClientId, Sequence};

    use super::*;

    fn id(sequence: u64) -> RequestId {
        RequestId { client: ClientId(1), sequence: Sequence(sequence) }
    }

    const NOW: Slot = Slot(5);

    #[test]
    fn each_reply_is_for_the_caller_that_has_waited_longest() {
        let mut waiters = Waiters::default();
        for (sequence, caller) in [(1, 'a'), (2, 'x'), (1, 'b'), (1, 'c')] {
            waiters.wait(id(sequence), NOW, caller);
        }
        let told = [1, 1, 2, 2, 1].map(|sequence| waiters.next(&id(sequence), NOW));
        assert_eq!(told, [Some('a'), Some('b'), Some('x'), None, Some('c')]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn the_reply_of_an_earlier_entry_is_for_nobody_whose_entry_comes_later() {
        let mut waiters = Waiters::default();
        waiters.wait(id(1), Slot(5), 'a');
        waiters.wait(id(1), Slot(7), 'b');
        let told = [4, 5, 6, 9].map(|slot| waiters.next(&id(1), Slot(slot)));
        assert_eq!(told, [None, Some('a'), None, Some('b')]);
    }

    #[test]
    fn nobody_is_forgotten() {
        let mut waiters = Waiters::default();
        (0..6).for_each(|caller| waiters.wait(id(caller % 2), NOW, caller));
        let mut callers: Vec<u64> = waiters.into_callers().collect();
        callers.sort_unstable();
        assert_eq!(callers, [0, 1, 2, 3, 4, 5]);
    }
}
