//! Hostile bytes where checkpoints are read: the file that names one, and the records of its store.

use std::collections::BTreeMap;

use ::fuzz::run::{Target, Verdict};

use super::flat::Records;
use super::layout::{self, Record};
use super::*;

const GROUP: GroupId = GroupId(3);

fn read(records: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<Page>, CheckpointError> {
    layout::pages(&Records(records), GROUP).collect()
}

/// The pages are those that were written, or fewer, which their number tells, or there is an error.
#[test]
fn fuzz_pages() {
    let page = |at: u8, length: usize| Page { key: vec![at, 1], body: vec![at; length] };
    let pages = [page(1, 10), page(2, 6500), page(3, 0)];
    let records: Vec<Record> =
        (0..).zip(&pages).flat_map(|(at, page)| layout::records(GROUP, at, page)).collect();
    Target::new("checkpoint_pages", vec![codec::encode(&records)]).run(|bytes| {
        let Ok(records) = codec::decode::<Vec<Record>>(bytes) else {
            return Verdict::Refused("no records".into());
        };
        let found = read(records.into_iter().collect());
        if let Ok(found) = &found {
            assert!(pages.starts_with(found), "other pages than were written");
        }
        Verdict::of(&found)
    });
}

#[test]
fn fuzz_current() {
    let meta = GroupMeta {
        group: GROUP,
        generation: Generation(1),
        applied_end: Slot(300),
        state_hash: 1 << 100,
        pages: 7,
    };
    let file = FileSum { path: "db/conf".to_string(), length: 70_000, crc: 9 };
    let current = Current { number: 3, groups: vec![meta], files: vec![file] };
    Target::new("checkpoint_current", vec![codec::encode(&current)]).run(|bytes| {
        let decoded = codec::decode::<Current>(bytes);
        if let Ok(current) = &decoded {
            assert_eq!(codec::decode::<Current>(&codec::encode(current)).as_ref(), Ok(current));
        }
        Verdict::of(&decoded)
    });
}
