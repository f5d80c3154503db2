//! Imports that are interrupted: every record is applied once, whatever ended the runs before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kvserver::command::shard_of;
use serde_json::Value;

use crate::fake::{Act, Fake, SHARDS};
use crate::{kvctl, run, told};

const RECORDS: usize = 20_000;

struct Job {
    directory: tempfile::TempDir,
}

impl Job {
    fn new(lines: usize) -> Job {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for number in 0..lines {
            writeln!(text, "key-{number}\tvalue-{number}").unwrap();
        }
        fs::write(directory.path().join("in.tsv"), text).unwrap();
        Job { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("in.tsv")
    }

    fn note(&self) -> PathBuf {
        self.directory.path().join("in.tsv.kvctl-import")
    }

    fn command(&self, cluster: &Fake) -> Command {
        let file = self.file();
        kvctl(cluster, &["import".as_ref(), file.as_os_str(), "--format".as_ref(), "tsv".as_ref()])
    }

    /// Records that the note calls done.
    fn done(&self) -> u64 {
        let note = fs::read_to_string(self.note()).unwrap_or_default();
        let note: Value = serde_json::from_str(&note).unwrap_or_default();
        note["done"]["records"].as_u64().unwrap_or(0)
    }

    /// Waits until more than `than` records are done; `false` if it ended before.
    fn wait_for_more(&self, than: u64, child: &mut Child) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        while self.done() <= than {
            assert!(Instant::now() < end, "no progress");
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

/// Every key is there, and its shard was written to once for each: a version counts the writes of its shard.
fn assert_each_once(cluster: &Fake, records: usize) {
    let (code, stdout, stderr) = run(cluster, &["-o", "json", "scan", "--keys-only"]);
    assert_eq!(code, 0, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    let mut shards: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for pair in told["pairs"].as_array().unwrap() {
        let (keys, version) =
            shards.entry(shard_of(pair["key"].as_str().unwrap().as_bytes(), SHARDS).0).or_default();
        *keys += 1;
        *version = (*version).max(pair["version"].as_u64().unwrap());
    }
    assert_eq!(told["count"].as_u64(), Some(records as u64));
    for (shard, (keys, version)) in shards {
        assert_eq!(version, keys, "writes of shard {shard}");
    }
}

fn assert_noted(path: &Path, is_noted: bool) {
    assert_eq!(path.exists(), is_noted, "{}", path.display());
}

#[test]
fn killed_again_and_again_it_applies_each_record_once() {
    let cluster = Fake::start(2);
    let job = Job::new(RECORDS);
    let mut kills = 0;
    let ended = loop {
        let mut child = job.command(&cluster).spawn().unwrap();
        if kills == 5 || !job.wait_for_more(job.done(), &mut child) {
            break Some(child.wait_with_output().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // The kill may come too late. Without a note there is nothing to go on from: the next run would be a new import.
        if !job.note().exists() {
            break None;
        }
        kills += 1;
    };
    assert!(kills > 0, "it was too quick to be killed");
    if let Some(output) = ended {
        let (code, _, stderr) = told(&output);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("goes on after "), "{stderr}");
    }
    assert_noted(&job.note(), false);
    assert_each_once(&cluster, RECORDS);
}

#[test]
fn an_interrupt_waits_for_what_is_in_flight() {
    let cluster = Fake::start(2);
    let job = Job::new(RECORDS);
    let mut child = job.command(&cluster).spawn().unwrap();
    assert!(job.wait_for_more(0, &mut child));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, _, stderr) = told(&child.wait_with_output().unwrap());
    assert_eq!(code, 130, "{stderr}");
    assert!(
        stderr.contains("imported ") && stderr.contains("the same command goes on from there"),
        "{stderr}"
    );

    let note: Value = serde_json::from_str(&fs::read_to_string(job.note()).unwrap()).unwrap();
    assert_eq!(note["session"], Value::Null);
    let (code, _, stderr) = told(&job.command(&cluster).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_each_once(&cluster, RECORDS);
}

#[test]
fn a_record_without_an_answer_stops_it_and_is_sent_anew() {
    let cluster = Fake::start(1);
    let job = Job::new(50);
    cluster.script(1, &[Act::Serve, Act::Lose]);
    // Shorter than the time after which a try is repeated.
    let (code, _, stderr) = told(&job.command(&cluster).args(["--timeout", "400ms"]).output().unwrap());
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("imported 49 records in ") && stderr.contains(": line 2: "), "{stderr}");

    let note: Value = serde_json::from_str(&fs::read_to_string(job.note()).unwrap()).unwrap();
    assert_eq!(
        (note["done"]["records"].as_u64(), note["also_done"].as_array().unwrap().len()),
        (Some(1), 48)
    );
    let (code, _, stderr) = told(&job.command(&cluster).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("imported 1 records in "), "{stderr}");
    assert_each_once(&cluster, 50);
}

#[test]
fn the_later_of_two_records_wins() {
    let cluster = Fake::start(1);
    let job = Job::new(0);
    let text: String = (0..300).map(|n| format!("key-{}\t{n}\n", n % 3)).collect();
    fs::write(job.file(), text).unwrap();
    let (code, _, stderr) = told(&job.command(&cluster).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(run(&cluster, &["scan"]).1, "key-0\t297\nkey-1\t298\nkey-2\t299\n");
}

#[test]
fn a_malformed_line_is_named_and_what_is_done_is_kept() {
    let cluster = Fake::start(1);
    let job = Job::new(0);
    fs::write(job.file(), "a\t1\nb\t2\nc 3\nd\t4\n").unwrap();
    let (code, _, stderr) = told(&job.command(&cluster).output().unwrap());
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("the same command") && stderr.contains("imported 2 records in "), "{stderr}");
    assert!(stderr.contains("error[MALFORMED]: line 3: no TAB"), "{stderr}");
    assert_eq!((job.done(), run(&cluster, &["scan"]).1.as_str()), (2, "a\t1\nb\t2\n"));
}
