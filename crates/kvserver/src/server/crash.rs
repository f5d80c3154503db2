//! Ends this process at a chosen step of a transaction, as `kill -9` would: what a test of recovery asks for. Does
//! nothing unless it was told to, where faults may be injected.

use std::sync::atomic::{AtomicU8, Ordering};

use runtime::env::Env;

use crate::txn::{TxnAnswer, TxnCommand};

/// A step at which the process may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Coordinator: it owes a Prepare, and nothing of it was sent.
    Begun,
    /// Coordinator: a vote came, and isn't in its log.
    Prepared,
    /// Coordinator: it owes a Decide, and nothing of it was sent.
    Decided,
    /// Coordinator: a Decide was acknowledged, and that isn't in its log.
    Told,
    /// Participant: a Prepare came, and isn't in its log.
    PrepareReceived,
    /// Participant: a Prepare is in its log, and not answered.
    PrepareLogged,
    /// Participant: a Decide came, and isn't in its log.
    DecideReceived,
    /// Participant: a Decide is in its log, and not answered.
    DecideLogged,
}

const POINTS: [Point; 8] = [
    Point::Begun,
    Point::Prepared,
    Point::Decided,
    Point::Told,
    Point::PrepareReceived,
    Point::PrepareLogged,
    Point::DecideReceived,
    Point::DecideLogged,
];

impl Point {
    /// The name by which it is chosen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Point::Begun => "begun",
            Point::Prepared => "prepared",
            Point::Decided => "decided",
            Point::Told => "told",
            Point::PrepareReceived => "prepare-received",
            Point::PrepareLogged => "prepare-logged",
            Point::DecideReceived => "decide-received",
            Point::DecideLogged => "decide-logged",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Point> {
        POINTS.into_iter().find(|point| point.name() == name)
    }

    /// Where a group is that owes this.
    pub(crate) fn owed(command: &TxnCommand) -> Option<Point> {
        match command {
            TxnCommand::Prepare { .. } => Some(Point::Begun),
            TxnCommand::Decide { .. } => Some(Point::Decided),
            _ => None,
        }
    }

    /// Where a group is that hears this answer to what it owed.
    pub(crate) fn heard(command: &TxnCommand, answer: &TxnAnswer) -> Option<Point> {
        match (command, answer) {
            (TxnCommand::Prepare { .. }, TxnAnswer::Granted(_)) => Some(Point::Prepared),
            (TxnCommand::Decide { .. }, TxnAnswer::Done) => Some(Point::Told),
            _ => None,
        }
    }

    /// Where a group is that is asked this.
    pub(crate) fn received(command: &TxnCommand) -> Option<Point> {
        match command {
            TxnCommand::Prepare { .. } => Some(Point::PrepareReceived),
            TxnCommand::Decide { .. } => Some(Point::DecideReceived),
            _ => None,
        }
    }

    /// Where a group is that has applied this.
    pub(crate) fn logged(command: &TxnCommand) -> Option<Point> {
        match command {
            TxnCommand::Prepare { .. } => Some(Point::PrepareLogged),
            TxnCommand::Decide { .. } => Some(Point::DecideLogged),
            _ => None,
        }
    }
}

/// Where this process ends, see the module.
#[derive(Debug, Default)]
pub(crate) struct Crash {
    env: Env,
    /// Index in [`POINTS`], from 1; 0 for nowhere.
    at: AtomicU8,
}

impl Crash {
    pub(crate) fn new(env: Env) -> Crash {
        Crash { env, at: AtomicU8::new(0) }
    }

    pub(crate) fn set(&self, point: Option<Point>) {
        let at = (1..).zip(POINTS).find(|(_, known)| Some(*known) == point).map_or(0, |(at, _)| at);
        self.at.store(at, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Point> {
        let at = usize::from(self.at.load(Ordering::Relaxed));
        at.checked_sub(1).and_then(|at| POINTS.get(at).copied())
    }

    /// Doesn't return from where the process is to end; where a simulated machine ends, what follows has no effect.
    pub(crate) fn reached(&self, point: Option<Point>) {
        if self.at.load(Ordering::Relaxed) != 0 && point.is_some() && point == self.get() {
            self.env.end("it was told to end at this step");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for point in POINTS {
            assert_eq!(Point::named(point.name()), Some(point));
        }
        assert_eq!(Point::named("elsewhere"), None);
    }

    #[test]
    fn it_ends_where_it_was_told_to_and_nowhere_else() {
        let crash = Crash::default();
        assert_eq!(crash.get(), None);
        crash.reached(Some(Point::Begun));
        crash.set(Some(Point::DecideLogged));
        assert_eq!(crash.get(), Some(Point::DecideLogged));
        crash.reached(Some(Point::Begun));
        crash.reached(None);
        crash.set(None);
        crash.reached(Some(Point::DecideLogged));
    }
}
