//! Checkpoints come back as they were written, wherever the writing stopped, and damage has a name (P6).

use std::fs;
use std::io::{self, ErrorKind};

use paxos::ids::LogTime;
use paxos::rsm::state_machine::RequestId;

use super::layout::Record;
use super::*;
use crate::fs::sim::{Loss, SimFs};

const FAST: u64 = u64::MAX;
const GENERATION: Generation = Generation(1);

/// A state machine that is its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Machine(Vec<Page>);

impl StateMachine for Machine {
    type Reply = ();
    type Query = ();
    type Answer = ();
    type Due = ();

    fn apply(&mut self, _slot: Slot, _batch: &[u8], _replies: &mut Vec<(RequestId, ())>) {}

    fn query(&self, (): &()) {}

    fn log_time(&self) -> LogTime {
        LogTime(0)
    }

    fn state_hash(&self) -> u128 {
        self.0.iter().fold(1, |hash, page| {
            let [key, body] = [&page.key, &page.body].map(|bytes| u128::from(crc32c::crc32c(bytes)));
            (hash ^ key ^ body << 32).wrapping_mul(0x1_0000_01b3)
        })
    }

    fn state_bytes(&self) -> u64 {
        self.0.iter().map(|page| page.body.len() as u64).sum()
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        Box::new(self.0.iter().cloned())
    }

    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Machine, RestoreError> {
        Ok(Machine(pages.collect()))
    }
}

fn machine(seed: u64, sizes: &[usize]) -> Machine {
    let body = |at: usize, size: usize| {
        (0..size).map(|n| (seed as usize + at * 31 + n * 7 + n / 251) as u8).collect::<Vec<u8>>()
    };
    let page =
        |(at, size): (usize, &usize)| Page { key: (at as u32).to_be_bytes().to_vec(), body: body(at, *size) };
    Machine(sizes.iter().enumerate().map(page).collect())
}

fn state(group: u32, applied_end: u64, state: Machine) -> GroupState<Machine> {
    GroupState { group: GroupId(group), generation: GENERATION, applied_end: Slot(applied_end), state }
}

/// Two groups, told apart by `seed`.
fn states(seed: u64) -> Vec<GroupState<Machine>> {
    let mixed: Vec<usize> = (0..300).map(|n| n * 53 % 4200).chain([0, 1, 70_000]).collect();
    vec![state(1, seed, machine(seed, &mixed)), state(2, seed + 1, machine(seed + 1, &[100; 40]))]
}

type Facts = Vec<(GroupId, Slot, Machine)>;

fn facts(states: Vec<GroupState<Machine>>) -> Facts {
    states.into_iter().map(|s| (s.group, s.applied_end, s.state)).collect()
}

fn fresh(_: GroupId, generation: Generation) -> Option<Machine> {
    (generation == GENERATION).then(Machine::default)
}

fn loaded(dir: &Path) -> Result<Facts, CheckpointError> {
    load(dir, fresh).map(facts)
}

fn directories(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(PREFIX)).collect();
    names.sort();
    names
}

fn files(dir: &Path) -> Vec<PathBuf> {
    files::sums(dir).unwrap().into_iter().map(|file| dir.join(file.path)).collect()
}

#[test]
fn what_was_written_is_read_back_also_a_second_time() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(loaded(dir.path()).unwrap(), vec![], "no checkpoint yet");
    let mut all = states(10);
    all.push(state(3, 0, Machine::default()));
    all.push(state(4, 7, machine(4, &[8 << 20, 10, 6000, 5996, 5995, 5992])));
    let written = write(dir.path(), all.clone(), FAST).unwrap();
    assert_eq!((written.number, written.pages), (1, 303 + 40 + 6));
    for _ in 0..3 {
        assert_eq!(loaded(dir.path()).unwrap(), facts(all.clone()));
    }
}

#[test]
fn groups_come_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut turned = states(1);
    turned.reverse();
    write(dir.path(), turned, FAST).unwrap();
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(1)));
}

#[test]
fn a_store_that_gives_back_something_else_is_noticed_before_it_is_current() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let error = write_in::<Faulty<1000, 50>, _>(dir.path(), states(2), FAST).unwrap_err();
    assert!(matches!(error, CheckpointError::Store(_)), "{error}");
    assert_eq!(directories(dir.path()), ["checkpoint-1"]);
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(1)));
}

#[test]
fn a_new_checkpoint_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..4 {
        assert_eq!(write(dir.path(), states(number), FAST).unwrap().number, number);
        assert_eq!(directories(dir.path()), [format!("checkpoint-{number}")]);
    }
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(3)));
}

#[test]
fn another_generation_of_a_group_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = states(1);
    all[0].generation = Generation(9);
    write(dir.path(), all, FAST).unwrap();
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(1))[1..]);
}

/// How far a checkpoint came before the process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Died {
    WithAnEmptyDirectory,
    AmongThePages,
    BeforeTheSums,
    BeforeCurrent,
    WithHalfACurrent,
    BeforeTheOldIsRemoved,
}

fn write_until(dir: &Path, died: Died, states: Vec<GroupState<Machine>>) {
    let number = read_current(&RealFs, dir).unwrap().map_or(0, |current| current.number) + 1;
    let new = directory(dir, number);
    if died == Died::WithAnEmptyDirectory {
        return fs::create_dir(&new).unwrap();
    }
    let mut writer = Writer::<SledStore>::create(&new, FAST).unwrap();
    for state in states {
        writer.write_group(state).unwrap();
        if died == Died::AmongThePages {
            return;
        }
    }
    if died == Died::BeforeTheSums {
        return;
    }
    let finished = writer.finish().unwrap();
    let current = Current { number, groups: finished.groups, files: finished.files };
    match died {
        Died::WithHalfACurrent => fs::write(dir.join("CURRENT.tmp"), b"synod").unwrap(),
        Died::BeforeTheOldIsRemoved => publish(dir, &current).unwrap(),
        _ => {}
    }
}

#[test]
fn wherever_it_dies_the_old_or_the_new_checkpoint_is_whole() {
    let places = [
        Died::WithAnEmptyDirectory,
        Died::AmongThePages,
        Died::BeforeTheSums,
        Died::BeforeCurrent,
        Died::WithHalfACurrent,
        Died::BeforeTheOldIsRemoved,
    ];
    for died in places {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), states(1), FAST).unwrap();
        write_until(dir.path(), died, states(2));
        let expected = if died == Died::BeforeTheOldIsRemoved { 2 } else { 1 };
        assert_eq!(loaded(dir.path()).unwrap(), facts(states(expected)), "{died:?}");
        assert_eq!(directories(dir.path()).len(), 1, "{died:?}: leftovers are gone");
        write(dir.path(), states(3), FAST).unwrap();
        assert_eq!(loaded(dir.path()).unwrap(), facts(states(3)), "{died:?}: and the next one is written");
    }
}

#[test]
fn flipped_bits_in_any_file_are_noticed_before_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    for file in files(&directory(dir.path(), 1)) {
        let whole = fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by((whole.len() / 40).max(1)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            let error = loaded(dir.path()).unwrap_err();
            assert!(matches!(&error, CheckpointError::Corrupt(path) if *path == file), "byte {at}: {error}");
        }
        fs::write(&file, &whole).unwrap();
    }
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(1)));
}

#[test]
fn missing_and_strange_files_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let checkpoint = directory(dir.path(), 1);
    for file in files(&checkpoint) {
        let whole = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(matches!(loaded(dir.path()), Err(CheckpointError::Corrupt(path)) if path == file));
        fs::write(&file, whole).unwrap();
    }
    let stranger = checkpoint.join("stranger");
    fs::write(&stranger, b"").unwrap();
    assert!(matches!(loaded(dir.path()), Err(CheckpointError::Corrupt(path)) if path == stranger));
    fs::remove_dir_all(&checkpoint).unwrap();
    assert!(matches!(loaded(dir.path()), Err(CheckpointError::Corrupt(path)) if path == checkpoint));
}

#[test]
fn a_corrupt_current_is_an_error_by_name_and_nothing_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let current = dir.path().join(CURRENT);
    let mut bytes = fs::read(&current).unwrap();
    bytes[20] ^= 1;
    fs::write(&current, &bytes).unwrap();
    let is_current = |error: CheckpointError| matches!(error, CheckpointError::Current(SealError::Corrupt(path)) if path == current);
    assert!(is_current(loaded(dir.path()).unwrap_err()));
    assert!(is_current(write(dir.path(), states(2), FAST).unwrap_err()));
    assert_eq!(directories(dir.path()).len(), 1);
}

/// sled with a fault: a full disk from the nth batch on, or pages that come back changed.
struct Faulty<const FULL_AFTER: usize, const FLIP: usize> {
    sled: SledStore,
    batches: usize,
}

impl<const FULL_AFTER: usize, const FLIP: usize> Pages for Faulty<FULL_AFTER, FLIP> {
    fn range<'a>(
        &'a self,
        first: &[u8],
        last: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Record, StoreError>> + 'a> {
        Box::new(self.sled.range(first, last).enumerate().map(|(at, record)| {
            record.map(|(key, mut value)| {
                let end = value.len() - 1;
                value[end] ^= u8::from(at == FLIP);
                (key, value)
            })
        }))
    }
}

impl<const FULL_AFTER: usize, const FLIP: usize> PageStore for Faulty<FULL_AFTER, FLIP> {
    fn create(dir: &Path) -> Result<Self, StoreError> {
        SledStore::create(dir).map(|sled| Faulty { sled, batches: 0 })
    }

    fn open(dir: &Path) -> Result<Self, StoreError> {
        SledStore::open(dir).map(|sled| Faulty { sled, batches: 0 })
    }

    fn put(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        self.batches += 1;
        match self.batches > FULL_AFTER {
            true => Err(StoreError::new(io::Error::from(ErrorKind::StorageFull))),
            false => self.sled.put(records),
        }
    }

    fn close(self) -> Result<(), StoreError> {
        self.sled.close()
    }
}

#[test]
fn a_full_disk_gives_it_up_and_leaves_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let error = write_in::<Faulty<1, 0>, _>(dir.path(), states(2), FAST).unwrap_err();
    assert!(matches!(error, CheckpointError::DiskFull), "{error}");
    assert_eq!(directories(dir.path()), ["checkpoint-1"]);
    assert_eq!(loaded(dir.path()).unwrap(), facts(states(1)));
}

#[test]
fn a_page_that_comes_back_changed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let error = load_in::<Faulty<0, 50>, Machine>(dir.path(), fresh).unwrap_err();
    assert!(matches!(error, CheckpointError::Pages { group: GroupId(1), .. }), "{error}");
}

#[test]
fn a_state_that_comes_back_different_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), states(1), FAST).unwrap();
    let mut current = read_current(&RealFs, dir.path()).unwrap().unwrap();
    for change in [|meta: &mut GroupMeta| meta.state_hash ^= 1, |meta: &mut GroupMeta| meta.pages += 1] {
        let whole = current.groups[1].clone();
        change(&mut current.groups[1]);
        publish(dir.path(), &current).unwrap();
        assert!(matches!(loaded(dir.path()), Err(CheckpointError::Pages { group: GroupId(2), .. })));
        current.groups[1] = whole;
    }
}

/// On a simulated disk: whatever instant the power fails at, the old states or the new are found.
#[test]
fn p6_a_flat_one_is_whole_or_not_there() {
    let data_dir = Path::new("/data");
    let found = |fs: &SimFs| flat::load(fs, data_dir, fresh).map(facts).unwrap();
    let (mut old, mut new) = (0, 0);
    for seed in 0..40 {
        for nth in 1.. {
            let fs = SimFs::new(seed);
            flat::write(&fs, data_dir, states(1)).unwrap();
            assert_eq!(found(&fs), facts(states(1)));
            fs.power_off_at(nth);
            let done = flat::write(&fs, data_dir, states(2)).is_ok();
            let is_off = fs.is_off();
            let fs = fs.crash(Loss::Random);
            match found(&fs) {
                states_found if states_found == facts(states(2)) => new += 1,
                states_found => {
                    assert!(!done && states_found == facts(states(1)), "after operation {nth}, done: {done}");
                    old += 1;
                }
            }
            flat::write(&fs, data_dir, states(3)).unwrap();
            assert_eq!(found(&fs), facts(states(3)));
            if !is_off {
                break;
            }
        }
    }
    assert!(old > 100 && new > 40, "both came up: {old}, {new}");
}
