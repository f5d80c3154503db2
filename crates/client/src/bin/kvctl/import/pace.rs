//! How fast an import goes, and how long it stood still.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, message};

/// How fast it went.
#[derive(Default)]
pub(super) struct Pace {
    began: Option<Instant>,
    last: Option<Instant>,
    records: u64,
    longest_pause: Duration,
}

impl Pace {
    pub(super) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    pub(super) fn count(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_pause = self.longest_pause.max(now - last);
        }
        self.records += 1;
    }

    pub(super) fn tell(&self, context: &Context) -> Result<(), Failure> {
        let seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let rate = if seconds > 0.0 { (self.records as f64 / seconds).round() } else { 0.0 };
        let pause = self.longest_pause.as_millis();
        if context.is_json() {
            return output::object(json!({
                "records": self.records,
                "seconds": (seconds * 1e3).round() / 1e3,
                "records_per_s": rate,
                "longest_pause_ms": pause as u64,
            }));
        }
        let records = self.records;
        message(format!(
            "imported {records} records in {seconds:.3} s, {rate} records/s, longest pause {pause} ms"
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lies_between_two_records() {
        let mut pace = Pace::default();
        pace.begin();
        pace.count();
        assert_eq!((pace.records, pace.longest_pause), (1, Duration::ZERO));
        pace.last = pace.last.and_then(|last| last.checked_sub(Duration::from_millis(300)));
        pace.count();
        pace.count();
        assert_eq!(pace.records, 3);
        assert!((300..10_000).contains(&pace.longest_pause.as_millis()), "{:?}", pace.longest_pause);
    }
}
