//! CLOCK_BOOTTIME: goes on while the machine sleeps, so that a lease doesn't outlive a suspend.

use paxos::ids::Moment;
use rustix::time::{ClockId, clock_gettime};

/// The time now.
pub(crate) fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_nsec).unwrap_or(0) / 1000;
    Moment(seconds * 1_000_000 + micros)
}
