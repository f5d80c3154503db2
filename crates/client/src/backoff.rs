//! How long to wait before trying again: full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so
//! that callers who failed together don't come back together.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A growing, random delay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// Upper bound of the first delay.
    pub(crate) first: Duration,
    /// Upper bound of every delay.
    pub(crate) most: Duration,
}

/// For a call that a node refused for now.
pub(crate) const CALL: Backoff =
    Backoff { first: Duration::from_millis(2), most: Duration::from_millis(200) };
/// For a transaction that gave way to another one: the other is soon done.
pub(crate) const CONFLICT: Backoff =
    Backoff { first: Duration::from_millis(1), most: Duration::from_millis(50) };
/// For a call whose shard is moving or was looked for at the wrong place.
pub(crate) const MOVING: Backoff =
    Backoff { first: Duration::from_millis(4), most: Duration::from_millis(20) };
/// For a call whose shard is about to arrive: doesn't grow.
pub(crate) const AWAITING: Backoff =
    Backoff { first: Duration::from_millis(5), most: Duration::from_millis(5) };
/// For asking the members of a group who leads.
pub(crate) const DISCOVERY: Backoff =
    Backoff { first: Duration::from_millis(4), most: Duration::from_millis(50) };
/// For connecting again.
pub(crate) const CONNECT: Backoff =
    Backoff { first: Duration::from_millis(10), most: Duration::from_millis(200) };

impl Backoff {
    /// The delay after `round + 1` failed tries: random, at least a quarter of the bound, so that it's never none.
    pub(crate) fn delay(&self, round: u32, random: &mut impl Rng) -> Duration {
        let bound = self.first.saturating_mul(1 << round.min(16)).min(self.most);
        bound.mul_f64(random.random_range(0.25..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_is_never_none_and_bounded(round in 0_u32..1000, seed: u64) {
            let mut random = SmallRng::seed_from_u64(seed);
            for backoff in [CALL, CONFLICT, MOVING, AWAITING, DISCOVERY, CONNECT] {
                let delay = backoff.delay(round, &mut random);
                prop_assert!(delay >= backoff.first / 4 && delay <= backoff.most);
            }
        }
    }
}
