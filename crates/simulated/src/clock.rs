//! A machine's clock: goes on with true time, faster or slower, and may jump.

use std::time::Duration;

use tokio::time::Instant;

const MILLION: i128 = 1_000_000;

/// See the module. Never goes back while its machine lives.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// At this true time …
    since: Instant,
    /// … it said this many µs.
    said: u64,
    /// Too fast by so many millionths; too slow if negative.
    drift_ppm: i32,
}

impl Clock {
    pub(crate) fn new(said: u64) -> Clock {
        Clock { since: Instant::now(), said, drift_ppm: 0 }
    }

    /// In µs.
    pub(crate) fn now(&self) -> u64 {
        let elapsed = i128::try_from(self.since.elapsed().as_micros()).unwrap_or(i128::MAX);
        let own = elapsed * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        self.said + u64::try_from(own.max(0)).unwrap_or(u64::MAX)
    }

    /// True time until it has gone on by so much.
    pub(crate) fn until(&self, us: u64) -> Duration {
        let rate = (MILLION + i128::from(self.drift_ppm)).max(1);
        let needed = (i128::from(us) * MILLION + rate - 1) / rate;
        Duration::from_micros(u64::try_from(needed).unwrap_or(u64::MAX))
    }

    /// From now on it is too fast by so many millionths.
    pub(crate) fn drift(&mut self, ppm: i32) {
        *self = Clock { drift_ppm: ppm.max(-999_999), ..Clock { said: self.now(), ..Clock::new(0) } };
    }

    pub(crate) fn jump(&mut self, by: Duration) {
        self.said += u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    }

    /// The machine starts anew: it counts from its start.
    pub(crate) fn restart(&mut self) {
        *self = Clock { drift_ppm: self.drift_ppm, ..Clock::new(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_drifts_and_jumps_and_waits_accordingly() {
        let mut clock = Clock::new(1_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((clock.now(), clock.until(500)), (11_000, Duration::from_micros(500)));
        clock.drift(500_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((clock.now(), clock.until(1_500)), (26_000, Duration::from_micros(1_000)));
        clock.drift(-500_000);
        clock.jump(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!((clock.now(), clock.until(500)), (1_031_000, Duration::from_micros(1_000)));
        clock.restart();
        assert_eq!(clock.now(), 0);
    }
}
