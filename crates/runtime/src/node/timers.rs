//! The named timers of one replica: arming replaces, cancelling forgets, so an expiry that was replaced never fires.

use paxos::ids::Moment;
use paxos::io::{Arm, Delay, Timer};
use rand::{Rng, RngExt};

const KINDS: [Timer; 9] = [
    Timer::Election,
    Timer::LeaderSilent,
    Timer::Heartbeat,
    Timer::CheckQuorum,
    Timer::Resend,
    Timer::CatchUp,
    Timer::RestartWait,
    Timer::DiskStall,
    Timer::Transfer,
];

/// When each timer fires.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: [Option<Moment>; KINDS.len()],
}

fn index(timer: Timer) -> usize {
    match timer {
        Timer::Election => 0,
        Timer::LeaderSilent => 1,
        Timer::Heartbeat => 2,
        Timer::CheckQuorum => 3,
        Timer::Resend => 4,
        Timer::CatchUp => 5,
        Timer::RestartWait => 6,
        Timer::DiskStall => 7,
        Timer::Transfer => 8,
    }
}

impl Timers {
    pub(crate) fn apply(&mut self, arm: Arm, now: Moment, luck: &mut impl Rng) {
        match arm {
            Arm::Set(timer, Delay::Exactly(us)) => self.due[index(timer)] = Some(now.plus(us)),
            Arm::Set(timer, Delay::Between(min, max)) => {
                self.due[index(timer)] = Some(now.plus(luck.random_range(min..=max.max(min))));
            }
            Arm::Cancel(timer) => self.due[index(timer)] = None,
        }
    }

    /// A timer that is due; it is disarmed.
    pub(crate) fn expired(&mut self, now: Moment) -> Option<Timer> {
        let found = self.due.iter().position(|due| due.is_some_and(|due| due <= now))?;
        self.due[found] = None;
        Some(KINDS[found])
    }

    /// When the next one fires.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.due.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arming_replaces_and_firing_disarms() {
        let mut timers = Timers::default();
        let mut luck = rand::rng();
        timers.apply(Arm::Set(Timer::Election, Delay::Exactly(10)), Moment(0), &mut luck);
        timers.apply(Arm::Set(Timer::Election, Delay::Exactly(20)), Moment(0), &mut luck);
        assert_eq!(timers.expired(Moment(15)), None);
        assert_eq!(timers.expired(Moment(20)), Some(Timer::Election));
        assert_eq!(timers.expired(Moment(30)), None);
        for (i, timer) in KINDS.iter().enumerate() {
            assert_eq!(index(*timer), i);
        }
    }
}
