//! What processes have used, as `/proc` tells it.

use anyhow::{Context as _, Result};

/// Ticks of the processor's clock in a second; Linux says 100 to all programs.
const TICKS_PER_S: f64 = 100.0;

/// Of some processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Of the processor, user and system.
    pub(crate) cpu_s: f64,
    /// Handed to disks.
    pub(crate) written_bytes: u64,
    /// In memory now.
    pub(crate) resident_bytes: u64,
}

impl Sample {
    pub(crate) fn of(pids: &[u32]) -> Result<Sample> {
        let mut all = Sample::default();
        for pid in pids {
            let read = |name: &str| {
                let path = format!("/proc/{pid}/{name}");
                std::fs::read_to_string(&path).with_context(|| path)
            };
            let stat = read("stat")?;
            // The name before the last parenthesis may hold anything.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks: u64 =
                fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            all.cpu_s += ticks as f64 / TICKS_PER_S;
            all.written_bytes += number_after(&read("io")?, "write_bytes:");
            all.resident_bytes += number_after(&read("status")?, "VmRSS:") << 10;
        }
        Ok(all)
    }

    /// What was used since an earlier sample, and what is resident now.
    pub(crate) fn since(&self, before: &Sample) -> Sample {
        Sample {
            cpu_s: self.cpu_s - before.cpu_s,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let pids = [std::process::id()];
        let before = Sample::of(&pids).unwrap();
        let mut sum = 0_u64;
        for number in 0..200_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        let used = Sample::of(&pids).unwrap().since(&before);
        assert!(used.cpu_s > 0.05 && used.resident_bytes > 1 << 20, "{used:?} {sum}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Sample::of(&[u32::MAX - 1]).is_err());
    }
}
