//! A crate outside of this workspace, made of what `docs/testing.md` says: it builds offline, its tests pass, and a bug that is
//! planted in it is found, with a seed that finds it again.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A cache that forgets to forget: what it has read once it answers for ever.
const PLANTED: &str = r#"
use std::collections::HashMap;

use client::{Client, Consistency, TxnOp, TxnReply, TxnResult};
use testcluster::TestCluster;
use scripted::history::{Outcome, alone};

struct Cache {
    client: Client,
    known: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Cache {
    async fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if !self.known.contains_key(key) {
            let found = self.client.get(key, Consistency::Linearizable).await.unwrap();
            self.known.insert(key.to_vec(), found.map(|found| found.value));
        }
        self.known[key].clone()
    }
}

#[tokio::test]
async fn a_cache_in_front_of_the_store() {
    let cluster = TestCluster::builder().groups(1).replicas(1).start().await.unwrap();
    let (writer, recorder) = (cluster.recorded().await.unwrap(), cluster.recorder());
    let mut cache = Cache { client: cluster.client().await.unwrap(), known: HashMap::new() };
    let (reader, mut luck) = (recorder.new_client(), cluster.luck("keys"));
    for round in 0..20 {
        let key = format!("key-{}", luck.below(3)).into_bytes();
        writer.put(&key, format!("value {round}").as_bytes()).await.unwrap();
        let get = alone(TxnOp::Get { key: key.clone() });
        let outcome = |found: &Option<Vec<u8>>| {
            let found = TxnResult::Value(found.clone().map(|value| (value, 0)));
            Outcome::Replied(TxnReply { held: true, results: vec![found] })
        };
        recorder.record(reader, get, cache.get(&key), outcome).await;
    }
    if let Err(wrong) = cluster.check().all().await {
        panic!("{wrong}");
    }
}
"#;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The first block of code in this language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("```{language}\n")).expect("the page has such a block");
    rest.split_once("```").expect("it ends").0
}

/// What stands between a header and the next one, headers of the same table included.
fn profiles(manifest: &str) -> String {
    let (_, rest) = manifest.split_once("[profile.dev]").expect("the workspace says how to build");
    let (dev, _) = rest.split_once("[profile.release]").expect("for both");
    format!("\n[profile.dev]{dev}")
}

/// The crate of the page, and the planted test beside it.
fn write_crate(dir: &Path) {
    let page = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let crates = root().join("crates").display().to_string();
    let mut manifest = block(&page, "toml").replace("../synod/crates", &crates);
    assert!(manifest.contains(&crates), "the page says where the crates are");
    manifest.push_str(&format!("scripted = {{ path = \"{crates}/scripted\" }}\n"));
    // As the workspace builds, so that what it has built serves here, too.
    manifest.push_str(&profiles(&fs::read_to_string(root().join("Cargo.toml")).unwrap()));
    fs::create_dir_all(dir.join("tests")).unwrap();
    fs::create_dir_all(dir.join("src")).unwrap();
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::write(dir.join("src/lib.rs"), "").unwrap();
    fs::write(dir.join("tests/shop.rs"), block(&page, "rust")).unwrap();
    fs::write(dir.join("tests/planted.rs"), PLANTED).unwrap();
    // The same versions: others may not be on this machine.
    fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
}

/// Where this test was built.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf()
}

fn cargo_test(dir: &Path, arguments: &[&str], seed: Option<u64>) -> (Output, String) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--offline", "--target-dir"]).arg(target()).args(arguments).current_dir(dir);
    command.env("RUST_BACKTRACE", "0").env_remove("SYNOD_SEED");
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
        command.env_remove(name);
    }
    if let Some(seed) = seed {
        command.env("SYNOD_SEED", seed.to_string());
    }
    let output = command.output().unwrap();
    let words = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output, words)
}

/// The seed in the words of a failure, which must say how to replay it.
fn seed_in(words: &str) -> u64 {
    let (_, rest) = words.split_once("replay with: SYNOD_SEED=").expect(words);
    let (seed, command) = rest.split_once(' ').expect(words);
    assert!(command.starts_with("cargo test a_cache_in_front_of_the_store -- --exact"), "{words}");
    seed.parse().expect(words)
}

#[test]
#[ignore = "needs minutes: builds a crate of its own"]
fn a_crate_of_ones_own_tests_with_it_and_finds_a_planted_bug() {
    let dir = tempfile::tempdir().unwrap();
    write_crate(dir.path());
    let (output, words) = cargo_test(dir.path(), &["--test", "shop"], None);
    assert!(output.status.success() && words.contains("2 passed"), "{words}");

    let planted = ["--test", "planted"];
    let (output, words) = cargo_test(dir.path(), &planted, None);
    assert!(!output.status.success() && words.contains("P7"), "{words}");
    let seed = seed_in(&words);
    let (output, words) = cargo_test(
        dir.path(),
        &[&planted[..], &["a_cache_in_front_of_the_store", "--", "--exact"]].concat(),
        Some(seed),
    );
    assert!(!output.status.success(), "{words}");
    assert_eq!(seed_in(&words), seed);
}

#[test]
fn blocks_are_taken_verbatim() {
    let page = "a\n```toml\nx = 1\n```\n```rust\nfn f() {}\n```\n";
    assert_eq!((block(page, "toml"), block(page, "rust")), ("x = 1\n", "fn f() {}\n"));
    assert_eq!(profiles("a\n[profile.dev]\nx = 1\n\n[profile.release]\ny"), "\n[profile.dev]\nx = 1\n\n");
}
