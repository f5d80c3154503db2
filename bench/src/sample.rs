//! What processes have used, as `/proc` tells it, and what their disk was given to write.
//!
//! The disk's own count is taken, of everything that anybody wrote to it meanwhile, hence on a machine that does nothing else.
//! The count of a process (`write_bytes` in `/proc/PID/io`) is of memory that it made dirty: where the file system keeps files
//! in large folios, a write of 512 bytes counts there as a megabyte, and the disk is given 4 KiB.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Ticks of the processor's clock in a second; Linux says 100 to all programs.
const TICKS_PER_S: f64 = 100.0;

/// Of some processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Of the processor, user and system.
    pub(crate) cpu_s: f64,
    /// Given to the disk to write, by anybody; 0 where a directory isn't on a disk.
    pub(crate) written_bytes: u64,
    /// In memory now.
    pub(crate) resident_bytes: u64,
    /// The most that was ever, of each process in its own time.
    pub(crate) peak_bytes: u64,
}

impl Sample {
    /// Of these processes, and of the disk that `dir` is on.
    pub(crate) fn of(pids: &[u32], dir: &Path) -> Result<Sample> {
        let mut all = Sample { written_bytes: written_to_disk_of(dir)?, ..Sample::default() };
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
            let status = read("status")?;
            all.resident_bytes += number_after(&status, "VmRSS:") << 10;
            all.peak_bytes += number_after(&status, "VmHWM:") << 10;
        }
        Ok(all)
    }

    /// What was used since an earlier sample, and what is resident now.
    pub(crate) fn since(&self, before: &Sample) -> Sample {
        Sample {
            cpu_s: self.cpu_s - before.cpu_s,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            ..*self
        }
    }
}

/// Since the machine started.
fn written_to_disk_of(dir: &Path) -> Result<u64> {
    let device = std::fs::metadata(dir).with_context(|| dir.display().to_string())?.dev();
    let (major, minor) =
        (((device >> 8) & 0xfff) | ((device >> 32) & !0xfff), (device & 0xff) | ((device >> 12) & !0xff));
    // Nothing is there for a file system in memory.
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    let sectors: u64 = stat.split_whitespace().nth(6).and_then(|word| word.parse().ok()).unwrap_or(0);
    Ok(sectors * 512)
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
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let before = Sample::of(&pids, dir.path()).unwrap();
        let mut sum = 0_u64;
        for number in 0..200_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        let file = std::fs::File::create(dir.path().join("written")).unwrap();
        std::io::Write::write_all(&mut &file, &[7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let used = Sample::of(&pids, dir.path()).unwrap().since(&before);
        assert!(used.cpu_s > 0.05 && used.resident_bytes > 1 << 20, "{used:?} {sum}");
        assert!(used.written_bytes >= 1 << 20 || before.written_bytes == 0, "{used:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(Sample::of(&[u32::MAX - 1], Path::new(".")).is_err());
    }
}
