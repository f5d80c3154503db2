//! Every bound and every timeout of a replica, in one place, validated at start.

use bincode::{Decode, Encode};

/// Largest [`Limits::accept_ahead_slots`].
pub const ACCEPT_AHEAD_SLOTS_MAX: u64 = 1 << 20;
/// A promise reports no slot this far above the promiser's `chosen_end`. More than any votes: the `chosen_end` of a
/// replica that was restarted may be a little behind.
pub(crate) const PROMISE_AHEAD_SLOTS_MAX: u64 = ACCEPT_AHEAD_SLOTS_MAX + (1 << 16);

/// Bounds and timeouts of one replica. Local: two replicas of a group may differ in all but `lease_us`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Limits {
    /// Slots a leader may have in flight, adopted ones included.
    pub window_slots: u64,
    /// Bytes of entries a leader may have in flight; one entry is always allowed.
    pub window_bytes: u64,
    /// How far above its `chosen_end` an acceptor takes slots.
    pub accept_ahead_slots: u64,
    /// Bytes of entries of one Promise or CatchUp chunk; one entry is always allowed.
    pub chunk_bytes: u64,
    /// Slots one CatchUp chunk may hold.
    pub chunk_slots: u64,
    /// Entries kept in memory once every voter has applied them, in bytes.
    pub keep_bytes_min: u64,
    /// Entries kept in memory for voters that lag, in bytes; above it they need a snapshot.
    pub keep_bytes_max: u64,
    /// Whether a replica canvasses before it uses a ballot, and is sticky to a leader it hears.
    pub canvass: bool,
    /// Whether leaders hold leases.
    pub leases: bool,
    /// How long a follower is sticky to the leader it heard, and how long the lease it grants lasts, in µs.
    pub lease_us: u64,
    /// Bound on clock drift between two nodes, in parts per million, for leases.
    pub drift_ppm: u64,
    /// Time between heartbeats of a leader, in µs.
    pub heartbeat_us: u64,
    /// A leader that hears no quorum for this long steps down, in µs.
    pub check_quorum_us: u64,
    /// Shortest time without a leader after which a follower canvasses, in µs.
    pub election_min_us: u64,
    /// Longest such time, in µs.
    pub election_max_us: u64,
    /// After this time without an answer a message is sent again, in µs.
    pub resend_us: u64,
    /// How long a follower waits for Accepts on their way before it asks for what it misses, in µs.
    pub catch_up_us: u64,
    /// A leader whose own vote takes longer than this hands over, in µs.
    pub disk_stall_us: u64,
    /// How long a transfer of leadership may take, in µs.
    pub transfer_us: u64,
}

/// Two limits that don't fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits: {0}")]
pub struct LimitsError(&'static str);

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window_slots: 64,
            window_bytes: 32 << 20,
            accept_ahead_slots: 1024,
            chunk_bytes: 1 << 20,
            chunk_slots: 1024,
            keep_bytes_min: 1 << 20,
            keep_bytes_max: 64 << 20,
            canvass: true,
            leases: true,
            lease_us: 300_000,
            drift_ppm: 10_000,
            heartbeat_us: 50_000,
            check_quorum_us: 250_000,
            election_min_us: 300_000,
            election_max_us: 450_000,
            resend_us: 100_000,
            catch_up_us: 20_000,
            disk_stall_us: 2_000_000,
            transfer_us: 500_000,
        }
    }
}

impl Limits {
    /// Checks that the limits fit each other.
    ///
    /// # Errors
    /// Names the first pair that doesn't: `heartbeat < check_quorum <= lease <= election_min < election_max`.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let rules = [
            (self.heartbeat_us < self.check_quorum_us, "heartbeat must be shorter than check_quorum"),
            (self.check_quorum_us <= self.lease_us, "check_quorum must not be longer than lease"),
            (self.lease_us <= self.election_min_us, "lease must not be longer than election_min"),
            (self.election_min_us < self.election_max_us, "election_min must be shorter than election_max"),
            (self.canvass || !self.leases, "leases need canvass: without it nobody is sticky to a leader"),
            (self.drift_ppm < 500_000, "drift must be below 50 %"),
            (self.window_slots >= 1 && self.chunk_slots >= 1, "window and chunk need room for one slot"),
            (self.accept_ahead_slots >= self.window_slots, "accept_ahead must cover the window"),
            (
                self.accept_ahead_slots <= ACCEPT_AHEAD_SLOTS_MAX,
                "accept_ahead must not be above 1048576 slots",
            ),
            (self.keep_bytes_min <= self.keep_bytes_max, "keep_bytes_min must not exceed keep_bytes_max"),
            (
                self.heartbeat_us > 0 && self.resend_us > 0 && self.catch_up_us > 0,
                "timeouts must not be zero",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(LimitsError(rule)),
            None => Ok(()),
        }
    }

    /// How long after the sending of an acknowledged heartbeat a lease holds, in µs of the leader's clock:
    /// `lease * (1 - rho) / (1 + rho)`, so that it ends first even if the leader's clock is slow by `rho` and the
    /// granting follower's fast by `rho`.
    pub fn lease_held_us(&self) -> u64 {
        let million = 1_000_000_u128;
        let rho = u128::from(self.drift_ppm);
        let held = u128::from(self.lease_us) * (million - rho) / (million + rho);
        u64::try_from(held).unwrap_or(self.lease_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit() {
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn an_election_shorter_than_the_lease_is_refused() {
        let limits = Limits { election_min_us: 160_000, ..Limits::default() };
        assert!(limits.validate().is_err());
    }

    #[test]
    fn a_lease_ends_before_the_followers_patience() {
        let limits = Limits { drift_ppm: 50_000, ..Limits::default() };
        assert!(limits.lease_held_us() < limits.lease_us * 91 / 100);
    }
}
