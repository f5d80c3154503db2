//! The log on the file system of the machine.

use std::time::Duration;

use super::*;
use crate::fs::{Fs, RealFs};

fn open_real(dir: &Path, options: LogOptions) -> Result<(Log, Recovery, Vec<RecordBuf>), LogError> {
    let mut records = Vec::new();
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let (log, recovery) = Log::open(Arc::new(RealFs), dir, options, hooks(&fatal), &mut |_, record| {
        let Record { group, generation, slot, bytes } = record;
        records.push(RecordBuf { group, generation, slot, bytes: bytes.to_vec() });
    })?;
    Ok((log, recovery, records))
}

#[test]
fn a_log_on_a_real_disk_survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data").join("log");
    for threads in [true, false, true] {
        let options = LogOptions { segment_bytes: 64 << 10, threads, ..LogOptions::new(OWNER) };
        let (mut log, _, records) = open_real(&dir, options.clone()).unwrap();
        assert!(matches!(open_real(&dir, options).map(|_| ()), Err(LogError::Locked(_))));
        let first = records.iter().filter(|record| record.slot.is_some()).count() as u64;
        for slot in first..first + 50 {
            log.append(vote(slot, 5000).as_record(), false);
            log.commit_inline(states);
        }
        let frame = log.commit(states);
        while log.durable() < frame {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let (mut log, recovery, records) = open_real(&dir, LogOptions::new(OWNER)).unwrap();
    let slots: Vec<_> = records.iter().filter_map(|record| record.slot).collect();
    assert_eq!(slots, (0..150).map(Slot).collect::<Vec<_>>());
    assert_eq!(recovery.torn_tail, None);
    log.release(GROUP, LIFE, Slot(150));
    log.append(vote(150, 10).as_record(), false);
    log.commit(states);
    log.mark();
    drop(log);
    let (_, recovery, _) = open_real(&dir, LogOptions::new(OWNER)).unwrap();
    assert_eq!(recovery.segments, 1);
}

#[test]
fn the_real_file_system_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, path) = (RealFs, dir.path().join("a"));
    let file = fs.create(&path).unwrap();
    assert!(fs.create(&path).is_err());
    file.preallocate(3 << 20).unwrap();
    assert_eq!(file.length().unwrap(), 3 << 20);
    file.write_at(b"word", 100).unwrap();
    file.sync_data().unwrap();
    file.truncate(102).unwrap();
    file.truncate(1000).unwrap();
    let mut bytes = [9; 8];
    assert_eq!(fs.open(&path).unwrap().read_at(&mut bytes, 98).unwrap(), 4);
    assert_eq!(bytes[..4], *b"\0\0wo");
    fs.rename(&path, &dir.path().join("b")).unwrap();
    fs.sync_dir(dir.path()).unwrap();
    assert_eq!(fs.list(dir.path()).unwrap(), ["b"]);
    fs.remove(&dir.path().join("b")).unwrap();
    assert_eq!(fs.list(dir.path()).unwrap(), Vec::<String>::new());
}

/// Whole sectors go past the kernel's cache, all else through it, to the same file.
#[test]
fn writes_of_whole_sectors_and_others_are_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, path) = (RealFs, dir.path().join("a"));
    let file = fs.create(&path).unwrap();
    file.preallocate(1 << 20).unwrap();
    let mut expected = vec![0; 1 << 20];
    let places = [(0, 512), (512, 4096), (4000, 700), (1024, 1024), (3, 5), (8192, 700 << 10), (9000, 512)];
    for (byte, (offset, length)) in (1..).zip(places) {
        let bytes = vec![byte; length];
        file.write_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + length].copy_from_slice(&bytes);
        let mut found = vec![0; 1 << 20];
        assert_eq!(file.read_at(&mut found, 0).unwrap(), found.len());
        assert!(found == expected, "after {length} bytes at {offset}");
    }
    file.sync_data().unwrap();
    assert!(std::fs::read(&path).unwrap() == expected);
}
