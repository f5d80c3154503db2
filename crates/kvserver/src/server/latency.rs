//! How long writes take, seen from the node: a sample of those answered in the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Samples kept.
const SAMPLES: usize = 1024;
/// Older ones don't count.
const WINDOW: Duration = Duration::from_secs(5);

/// The last samples, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Mutex<VecDeque<(Instant, u64)>>);

impl Latencies {
    /// A write was answered after `took`.
    pub(crate) fn add(&self, took: Duration) {
        let mut samples = self.0.lock();
        if samples.len() >= SAMPLES {
            samples.pop_front();
        }
        samples.push_back((Instant::now(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
    }

    /// 99th percentile of the last five seconds, in µs; 0 without a sample.
    pub(crate) fn p99_us(&self) -> u64 {
        let samples = self.0.lock();
        let recent = samples.iter().filter(|(at, _)| at.elapsed() <= WINDOW);
        let mut recent: Vec<u64> = recent.map(|(_, took)| *took).collect();
        recent.sort_unstable();
        let at = (recent.len() * 99).div_ceil(100).saturating_sub(1);
        recent.get(at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_that_of_the_samples() {
        let latencies = Latencies::default();
        assert_eq!(latencies.p99_us(), 0);
        (1..=200).for_each(|us| latencies.add(Duration::from_micros(us)));
        assert_eq!(latencies.p99_us(), 198);
        (0..SAMPLES).for_each(|_| latencies.add(Duration::from_micros(7)));
        assert_eq!(latencies.p99_us(), 7);
    }
}
