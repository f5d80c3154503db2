//! How calls come and go: room, tickets, and the hand-over of results to callers.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvserver::command::ShardId;
use paxos::ids::Sequence;
use tokio::time::Instant;

use super::{Call, Engine, Kind, Pace, Phase, Target};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Attempts, Outcome};
use crate::router::GroupIndex;
use crate::session::Ticket;
use crate::slab::Key;
use crate::verdict::Verdict;

/// How a call began.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Submit it; a write carries this ticket.
    Granted(Key, Option<Ticket>),
    /// Poll it.
    Waiting(Key),
}

/// What a caller is polled for.
#[derive(Debug)]
pub(crate) enum Event {
    /// Submit it; a write carries this ticket.
    Granted(Option<Ticket>),
    /// The end. The key is worth nothing any more.
    Done(Result<Verdict, Error>),
}

impl Engine {
    /// A caller comes. A write has a `home`; `cost` is about how many bytes it will be.
    pub(crate) fn begin(
        &mut self,
        target: Target,
        kind: Kind,
        home: Option<ShardId>,
        cost: usize,
        now: Instant,
    ) -> Result<Begun, Error> {
        if self.closed {
            return Err(Error::not_executed(ErrorKind::Cancelled, "the client was closed"));
        }
        let call = Call {
            phase: Phase::Waiting,
            waker: None,
            target,
            kind,
            home,
            sequence: None,
            body: Bytes::new(),
            cost,
            deadline: now + self.options.timeout,
            group: GroupIndex(0),
            attempts: Attempts::default(),
            refusals: 0,
            redirects: 0,
            silences: 0,
            conflicts: 0,
            conflict: None,
            tried: now,
            lasted: Duration::ZERO,
            trouble: None,
        };
        let key = self
            .calls
            .insert(call)
            .map_err(|_| Error::not_executed(ErrorKind::Busy, "too many operations at once"))?;
        if self.calls.len() == 1 {
            self.hurry_from(Pace::Parked);
        }
        if !self.waiting.is_empty() || !self.has_room(cost) {
            self.waiting.push_back(key);
            return Ok(Begun::Waiting(key));
        }
        if let Some(queue) = home.and_then(|home| self.waiting_homes.get_mut(&home)) {
            queue.push_back(key);
            return Ok(Begun::Waiting(key));
        }
        match self.ticket(home) {
            Some(ticket) => Ok(Begun::Granted(key, self.grant(key, ticket))),
            None => Ok(Begun::Waiting(key)),
        }
        .inspect(|begun| self.queue_home(begun, home))
    }

    fn queue_home(&mut self, begun: &Begun, home: Option<ShardId>) {
        if let (Begun::Waiting(key), Some(home)) = (begun, home) {
            self.waiting_homes.entry(home).or_default().push_back(*key);
        }
    }

    /// A granted call is encoded: it goes out, and is repeated so, bit for bit.
    pub(crate) fn submit(&mut self, key: Key, body: Bytes, now: Instant) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if !matches!(call.phase, Phase::Granted(_)) {
            return;
        }
        call.body = body;
        call.tried = now;
        self.dispatch(key, now);
    }

    /// What a caller waits for.
    pub(crate) fn poll_call(&mut self, key: Key, context: &mut Context<'_>) -> Poll<Event> {
        let Some(call) = self.calls.get_mut(key) else { return Poll::Pending };
        match &call.phase {
            Phase::Granted(ticket) => Poll::Ready(Event::Granted(*ticket)),
            Phase::Done(_) => match self.calls.remove(key).map(|call| call.phase) {
                Some(Phase::Done(result)) => {
                    self.unclaimed -= 1;
                    Poll::Ready(Event::Done(result))
                }
                _ => Poll::Pending,
            },
            _ => {
                if !call.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    call.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// A caller went away. Its write counts as answered: the session moves on, so it won't run later than that.
    pub(crate) fn cancel(&mut self, key: Key) {
        let Some(call) = self.calls.remove(key) else { return };
        match call.phase {
            Phase::Done(_) => self.unclaimed -= 1,
            Phase::Waiting => self.left(call.home),
            _ => {
                self.close_tries(&call.attempts);
                self.release(call.home, call.sequence, call.cost);
            }
        }
    }

    /// The end of a call.
    pub(super) fn finish(&mut self, key: Key, result: Result<Verdict, Error>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let before = std::mem::replace(&mut call.phase, Phase::Done(result));
        let waker: Option<Waker> = call.waker.take();
        let attempts = std::mem::take(&mut call.attempts);
        let (home, sequence, cost) = (call.home, call.sequence, call.cost);
        call.body = Bytes::new();
        match before {
            // Its result stands.
            Phase::Done(_) => call.phase = before,
            Phase::Waiting => {
                self.unclaimed += 1;
                self.left(home);
            }
            _ => {
                self.unclaimed += 1;
                self.close_tries(&attempts);
                self.release(home, sequence, cost);
            }
        }
        self.wakers.extend(waker);
    }

    /// The end of a call that got no answer.
    pub(super) fn fail(&mut self, key: Key, kind: ErrorKind, message: impl Into<String>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let outcome = call.outcome();
        self.finish(key, Err(Error { kind, outcome, message: message.into() }));
    }

    fn close_tries(&mut self, attempts: &Attempts) {
        for open in attempts.open() {
            let link = &mut self.links[open.link.0];
            link.open = link.open.saturating_sub(1);
        }
    }

    fn has_room(&self, cost: usize) -> bool {
        let bytes = self.in_flight_bytes + cost <= self.options.in_flight_bytes_max;
        self.in_flight == 0 || (self.in_flight < self.options.in_flight_max && bytes)
    }

    fn ticket(&mut self, home: Option<ShardId>) -> Option<Option<Ticket>> {
        match home {
            None => Some(None),
            Some(home) => self.session.open(home).map(Some),
        }
    }

    fn grant(&mut self, key: Key, ticket: Option<Ticket>) -> Option<Ticket> {
        if let Some(call) = self.calls.get_mut(key) {
            call.phase = Phase::Granted(ticket);
            call.sequence = ticket.map(|ticket| ticket.sequence);
            self.in_flight += 1;
            self.in_flight_bytes += call.cost;
            self.wakers.extend(call.waker.take());
        }
        ticket
    }

    fn release(&mut self, home: Option<ShardId>, sequence: Option<Sequence>, cost: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= cost;
        if let (Some(home), Some(sequence)) = (home, sequence)
            && self.session.close(home, sequence)
        {
            self.unpark(home);
        }
        self.admit();
    }

    /// Lets as many go on as the window of their home shard has room for; they were here before the others.
    fn unpark(&mut self, home: ShardId) {
        let Some(mut queue) = self.waiting_homes.remove(&home) else { return };
        let room = self.session.room(home);
        let mut freed = Vec::new();
        while freed.len() < room
            && let Some(key) = queue.pop_front()
        {
            freed.extend(self.calls.get_mut(key).map(|_| key));
        }
        for key in freed.into_iter().rev() {
            self.waiting.push_front(key);
        }
        if !queue.is_empty() {
            self.waiting_homes.insert(home, queue);
        }
    }

    /// One that waited went away; those behind it mustn't wait for it.
    fn left(&mut self, home: Option<ShardId>) {
        if let Some(home) = home {
            self.unpark(home);
        }
        self.admit();
    }

    /// Grants what waits, in order, as far as there is room.
    fn admit(&mut self) {
        while let Some(key) = self.waiting.front().copied() {
            let Some(call) = self.calls.get_mut(key).filter(|c| matches!(c.phase, Phase::Waiting)) else {
                self.waiting.pop_front();
                continue;
            };
            let (cost, home) = (call.cost, call.home);
            if !self.has_room(cost) {
                return;
            }
            self.waiting.pop_front();
            match self.ticket(home) {
                Some(ticket) => {
                    self.grant(key, ticket);
                }
                None => self.queue_home(&Begun::Waiting(key), home),
            }
        }
    }
}

impl Call {
    /// The outcome if it ends here. A read has no effect.
    pub(super) fn outcome(&self) -> Outcome {
        match self.kind {
            Kind::Write => self.attempts.given_up(),
            Kind::Read(_) => Outcome::NotExecuted,
        }
    }
}
