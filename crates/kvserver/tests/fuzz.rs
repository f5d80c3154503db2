//! Hostile bytes for what stands in the log of a group, what it is asked, its snapshots, Genesis, and configuration files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

mod common;
#[path = "fuzz/group.rs"]
mod group;

use bincode::{Decode, Encode};
use common::{SHARDS, apply_bytes, small_limits, store};
use fuzz::run::{Target, Verdict};
use fuzz::sequence;
use group::{entries, requests, served, world};
use kvserver::command::{Refusal, Reply, Request};
use kvserver::entry::{GroupRequest, is_group_request};
use kvserver::genesis::{Genesis, Limits};
use kvserver::query::{Answer, Query, ShardCursor};
use kvserver::store::Store;
use paxos::codec;
use paxos::ids::{GroupId, LogTime};
use paxos::rsm::batch::BatchBuilder;
use paxos::rsm::state_machine::{Page, StateMachine};

/// Whatever decodes is what its own encoding decodes to.
fn again<T: Encode + Decode<()> + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Verdict {
    let decoded = codec::decode::<T>(bytes);
    if let Ok(value) = &decoded {
        assert_eq!(codec::decode::<T>(&codec::encode(value)).as_ref(), Ok(value));
    }
    Verdict::of(&decoded)
}

fn batch_of(bytes: &[u8]) -> Vec<u8> {
    let mut batch = BatchBuilder::default();
    batch.push(bytes);
    batch.finish(LogTime(100))
}

/// What the owned form decodes, `apply` reads, and the other way round.
#[test]
fn fuzz_requests() {
    let fresh = store(small_limits());
    Target::new("store_request", requests().iter().map(codec::encode).collect()).run(|bytes| {
        let mut store = fresh.clone();
        let replies = apply_bytes(&mut store, &batch_of(bytes));
        assert_eq!(
            store.state_hash(),
            store.recomputed_hash(),
            "the incremental hash is that of the state (P5)"
        );
        let decoded = codec::decode::<Request>(bytes);
        if let Ok(request) = &decoded
            && !is_group_request(bytes)
        {
            assert!(
                replies.iter().all(|(id, _)| (id.client, id.sequence) == (request.client, request.sequence))
            );
        } else if !is_group_request(bytes) {
            assert!(matches!(&replies[..], [(_, Reply::Refused(Refusal::Invalid))]), "{replies:?}");
        }
        again::<Request>(bytes)
    });
}

#[test]
fn fuzz_group_requests() {
    let fresh = store(small_limits());
    Target::new("store_group_request", entries()).run(|bytes| {
        let mut store = fresh.clone();
        let replies = apply_bytes(&mut store, &batch_of(bytes));
        assert_eq!(
            store.state_hash(),
            store.recomputed_hash(),
            "the incremental hash is that of the state (P5)"
        );
        let decoded = GroupRequest::decode(bytes);
        match &decoded {
            Ok(request) => {
                assert_eq!(GroupRequest::decode(&request.encode()).as_ref(), Ok(request));
                assert!(replies.iter().all(|(id, _)| *id == request.id()));
            }
            Err(_) if is_group_request(bytes) => {
                assert!(matches!(&replies[..], [(_, Reply::Refused(Refusal::Invalid))]), "{replies:?}");
            }
            Err(_) => {}
        }
        Verdict::of(&decoded)
    });
}

#[test]
fn fuzz_batches() {
    let fresh = store(small_limits());
    let requests: Vec<Vec<u8>> = requests().iter().map(codec::encode).collect();
    let seeds = requests.chunks(3).map(|requests| {
        let mut batch = BatchBuilder::default();
        requests.iter().for_each(|request| batch.push(request));
        batch.finish(LogTime(70))
    });
    Target::new("store_batch", seeds.collect()).run(|bytes| {
        let mut store = fresh.clone();
        apply_bytes(&mut store, bytes);
        assert_eq!(
            store.state_hash(),
            store.recomputed_hash(),
            "the incremental hash is that of the state (P5)"
        );
        match store.trouble() {
            None => Verdict::Accepted,
            Some(why) => Verdict::Refused(why),
        }
    });
}

#[test]
fn fuzz_queries() {
    let (served, shard, key) = served();
    let cursor = |after: Option<&[u8]>| ShardCursor { shard, after: after.map(<[u8]>::to_vec) };
    let mut queries = vec![
        Query::Get { shard, key: key.clone() },
        Query::Scan { shards: vec![cursor(None)], prefix: b"k".to_vec(), limit: 10, keys_only: false },
        Query::Scan { shards: vec![cursor(Some(&key)); 2], prefix: vec![], limit: 1, keys_only: true },
        Query::Duties,
        Query::Copies,
        Query::TxnDuties,
        Query::Txns,
    ];
    queries.extend(world().iter().flat_map(Store::duties).map(|duty| duty.pull()));
    let stores = [world(), vec![served]].concat();
    Target::new("store_query", queries.iter().map(codec::encode).collect()).run(|bytes| {
        if let Ok(query) = codec::decode::<Query>(bytes) {
            for store in &stores {
                let _ = store.is_blocked(&query);
                let answer = store.query(&query);
                assert_eq!(codec::decode::<Answer>(&codec::encode(&answer)), Ok(answer));
            }
        }
        again::<Query>(bytes)
    });
    let answers: Vec<Vec<u8>> = queries
        .iter()
        .flat_map(|query| stores.iter().map(|store| codec::encode(&store.query(query))))
        .collect();
    let different: std::collections::BTreeSet<Vec<u8>> = answers.into_iter().collect();
    Target::new("store_answer", different.into_iter().collect()).run(again::<Answer>);
}

#[test]
fn fuzz_replies() {
    let mut stores = world();
    let (mut served, ..) = served();
    let mut replies = std::collections::BTreeSet::new();
    for entry in entries().iter().chain(&requests().iter().map(codec::encode).collect::<Vec<_>>()) {
        for store in stores.iter_mut().chain([&mut served]) {
            let found = apply_bytes(store, &batch_of(entry));
            replies.extend(found.iter().map(|(_, reply)| codec::encode(reply)));
        }
    }
    Target::new("store_reply", replies.into_iter().collect()).run(again::<Reply>);
}

#[test]
fn fuzz_genesis() {
    let seeds = [4_u16, 16].map(|shards| {
        Genesis::spread(Limits::default(), shards, &[GroupId(1), GroupId(2)]).unwrap().encode()
    });
    Target::new("store_genesis", seeds.to_vec()).run(|bytes| {
        let genesis = Genesis::decode(bytes);
        if let Ok(genesis) = &genesis {
            assert_eq!(Genesis::decode(&genesis.encode()).as_ref(), Ok(genesis));
            assert!(genesis.limits().validate().is_ok() && genesis.shards() > 0);
        }
        Verdict::of(&genesis)
    });
}

/// A snapshot as one input.
fn snapshot(store: &Store) -> Vec<u8> {
    let pages: Vec<_> = store.pages().map(|page| (page.key, page.body)).collect();
    codec::encode(&pages)
}

fn pages(bytes: &[u8]) -> Option<Vec<Page>> {
    let pages: Vec<(Vec<u8>, Vec<u8>)> = codec::decode(bytes).ok()?;
    Some(pages.into_iter().map(|(key, body)| Page { key, body }).collect())
}

#[test]
fn fuzz_snapshots() {
    let stores = world();
    let seeds: Vec<Vec<u8>> = stores.iter().map(snapshot).collect();
    let empty = Store::new(group::limits(), SHARDS, &[]);
    let known = seeds.clone();
    Target::new("store_snapshot", seeds).run(|bytes| {
        let Some(pages) = pages(bytes) else { return Verdict::Refused("no pages".into()) };
        let restored = empty.clone().restore(&mut pages.into_iter());
        if let Ok(store) = &restored {
            assert!(known.contains(&snapshot(store)), "another state than any that was written");
        }
        Verdict::of(&restored)
    });
}

/// Pages whose header names the hash that they have; `None` if they are refused for something else.
fn forged(mut pages: Vec<Page>) -> Option<Store> {
    let empty = || Store::new(group::limits(), SHARDS, &[]);
    let why = match empty().restore(&mut pages.clone().into_iter()) {
        Ok(store) => return Some(store),
        Err(error) => error.to_string(),
    };
    let hash = why.split("state hash ").nth(1)?.get(..32)?;
    let hash = u128::from_str_radix(hash, 16).ok()?;
    // A number of 128 bits is a marker and 16 bytes.
    let (_, written) = pages.first_mut()?.body.split_last_chunk_mut::<16>()?;
    *written = hash.to_le_bytes();
    empty().restore(&mut pages.into_iter()).ok()
}

/// Not damage, but somebody's work: a state that no log leads to. It may be of no use, but it stops nobody.
#[test]
fn fuzz_forged_snapshots() {
    let whole: Vec<Vec<Page>> = world().iter().map(|store| store.pages().collect()).collect();
    let seeds = (0..).zip(&whole).flat_map(|(at, pages)| {
        (0..).zip(pages).map(move |(page, Page { body, .. })| [&[at, page], &body[..]].concat())
    });
    let entries = [entries(), requests().iter().map(codec::encode).collect()].concat();
    // An input is one page, after the number of its store and its own.
    let replaced = |bytes: &[u8]| {
        let ([at, page], body) = bytes.split_first_chunk()?;
        let mut pages = whole.get(usize::from(*at))?.clone();
        pages.get_mut(usize::from(*page))?.body = body.to_vec();
        Some(pages)
    };
    Target::new("store_forged", seeds.collect()).few(1000).run(|bytes| {
        let store = replaced(bytes).and_then(forged);
        let verdict = Verdict::of_option(&store);
        let Some(mut store) = store else { return verdict };
        for (time, entry) in (0..).zip(&entries) {
            let mut batch = BatchBuilder::default();
            batch.push(entry);
            apply_bytes(&mut store, &batch.finish(LogTime(time)));
            assert_eq!(
                store.state_hash(),
                store.recomputed_hash(),
                "the incremental hash is that of the state (P5)"
            );
        }
        let (duties, copies) = (store.duties(), store.copies());
        for shard in copies.iter().map(|copy| copy.shard) {
            let query = Query::Scan {
                shards: vec![ShardCursor { shard, after: None }],
                prefix: Vec::new(),
                limit: 10,
                keys_only: false,
            };
            let _ = (store.is_blocked(&query), store.query(&query));
        }
        let _ = (duties, store.txn_duties(), store.txns(), store.state_bytes(), store.counts());
        assert!(store.pages().count() > 0);
        verdict
    });
}

#[test]
fn fuzz_histories() {
    sequence::run("store_history", 6000, group::history);
}

#[cfg(feature = "server")]
mod files {
    use fuzz::run::{Target, Verdict};
    use kvserver::server::config::Config;
    use kvserver::server::config::layers::{Layers, Origin};

    fn read(text: &str) -> Result<Config, String> {
        let origin = Origin::File("node.toml".to_string());
        let mut layers = Layers::default();
        layers.text(text, origin.clone()).map_err(|error| error.to_string())?;
        Config::from_layers(layers, &origin).map_err(|error| error.to_string())
    }

    #[test]
    fn fuzz_configuration() {
        let full = Config { data_dir: "data".into(), ..Config::example() }.to_toml();
        let minimal = "node = 1\ndata_dir = \"d\"\n[[nodes]]\nid = 1\nclient = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\nhttp = \"127.0.0.1:3\"\n";
        let words = [
            "0",
            "-1",
            "1e308",
            "18446744073709551616",
            "99999999999999999999d",
            "\"\"",
            "\"0ms\"",
            "\"1 TiB\"",
            "\"18446744073709551615 s\"",
            "\"17179869184 GiB\"",
            "[",
            "]",
            "[[nodes]]\n",
            "[limits]\n",
            "[tls]\n",
            "true",
            "\"host:99999\"",
            "=",
            "\n",
            "\"",
            "nan",
            "1979-05-27",
            "{}",
            "\u{0}",
            "é",
            "-9223372036854775808",
        ];
        let target =
            Target::new("config", vec![minimal.as_bytes().to_vec(), full.into_bytes()]).words(&words);
        target.memory(|bytes| (1 << 20) + 1024 * bytes).run(|bytes| {
            let config = read(&String::from_utf8_lossy(bytes));
            match &config {
                Ok(config) => {
                    let again = read(&config.to_toml()).unwrap();
                    assert_eq!(again, *config, "what is shown is what was read");
                    let _ = config.node_options(runtime::env::Env::default(), Vec::new());
                }
                Err(reason) => assert!(reason.starts_with("node.toml"), "says where: {reason}"),
            }
            Verdict::of(&config)
        });
    }
}
