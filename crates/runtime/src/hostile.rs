//! Hostile bytes where a node reads its own files and what peers send: identity, log records, Genesis, frames of links.

use std::path::Path;
use std::sync::Arc;

use ::fuzz::run::{Target, Verdict};
use bytes::Bytes;
use parking_lot::Mutex;
use paxos::codec;
use paxos::ids::{Ballot, Generation, GroupId, Incarnation, NodeId, Slot};
use paxos::io::Write;
use paxos::message::{Entry, Message, Payload};
use tokio::sync::Notify;
use wire::v1;

use crate::fs::Fs;
use crate::fs::sim::SimFs;
use crate::genesis::Genesis;
use crate::identity::Identity;
use crate::peers::{Arrivals, Myself, Network, inbound};
use crate::record::{LogRecord, Replayed};

const NODE: NodeId = NodeId(3);

fn dir() -> &'static Path {
    Path::new("/data")
}

/// The file of a directory that was started twice.
fn identity() -> (SimFs, Vec<u8>) {
    let fs = SimFs::new(1);
    fs.create_dir(dir()).unwrap();
    let mut first = Identity::open_on(Arc::new(fs.clone()), dir(), NODE, Incarnation(9)).unwrap();
    first.set_cluster(77).unwrap();
    drop(first);
    let bytes = fs.contents(&dir().join("identity"));
    (fs, bytes)
}

fn opened(fs: &SimFs, bytes: &[u8]) -> Result<(Option<u128>, Incarnation, u64), String> {
    let fs = fs.fork(0);
    fs.put(&dir().join("identity"), Some(bytes.to_vec()));
    let identity = Identity::open_on(Arc::new(fs), dir(), NODE, Incarnation(5)).map_err(|e| e.to_string())?;
    Ok((identity.cluster(), identity.incarnation(), identity.boot()))
}

#[test]
fn fuzz_a_damaged_identity() {
    let (fs, bytes) = identity();
    Target::new("identity_file", vec![bytes]).memory(|_| 1 << 20).run(|bytes| {
        let found = opened(&fs, bytes);
        if let Ok(found) = &found {
            assert_eq!(*found, (Some(77), Incarnation(9), 2), "the directory is who it was");
        }
        Verdict::of(&found)
    });
}

/// As above, but with a sum that fits.
#[test]
fn fuzz_a_forged_identity() {
    let (fs, bytes) = identity();
    Target::new("identity_forged", vec![bytes]).run(|bytes| {
        let mut bytes = bytes.to_vec();
        if let Some((sealed, crc)) = bytes.split_last_chunk_mut::<4>() {
            *crc = crc32c::crc32c(sealed).to_le_bytes();
        }
        Verdict::of(&opened(&fs, &bytes))
    });
}

fn genesis() -> Genesis {
    let voters = [1, 2, 3].map(|node| (NodeId(node), Incarnation(u64::from(node) * 100))).to_vec();
    Genesis::new(voters, vec![GroupId(0), GroupId(1)], b"configuration".to_vec())
}

#[test]
fn fuzz_genesis() {
    Target::new("node_genesis", vec![genesis().encode()]).run(|bytes| {
        let decoded = Genesis::decode(bytes);
        if let Ok(genesis) = &decoded {
            assert_eq!(Genesis::decode(&genesis.encode()).as_ref(), Ok(genesis));
        }
        Verdict::of(&decoded)
    });
}

/// A history of log records, as they are replayed at a start.
#[test]
fn fuzz_log_records() {
    let ballot = Ballot { round: 300, node: NODE };
    let batch = || Entry::Batch(Payload(Bytes::from_static(b"batch")));
    let records = [
        LogRecord::Genesis(genesis()),
        LogRecord::Hosted { voters: vec![NodeId(1), NodeId(2), NODE] },
        LogRecord::Write(Write::Promised(ballot)),
        LogRecord::Write(Write::Accepted { slot: Slot(7), ballot, entry: batch() }),
        LogRecord::Write(Write::Chosen { slot: Slot(6), entry: Entry::Noop }),
        LogRecord::Write(Write::ChosenEnd(Slot(8))),
        LogRecord::State { promised: ballot, chosen_end: Slot(9), trimmed_end: Slot(3) },
        LogRecord::Write(Write::Installed(Slot(12))),
        LogRecord::Dropped,
    ];
    let lives = (0..).map(|n| (n % 2, n % 3));
    let log: Vec<_> = lives.zip(records).map(|(life, record)| (life, codec::encode(&record))).collect();
    let seeds = vec![codec::encode(&log), codec::encode(&log[3..5].to_vec())];
    Target::new("log_record", seeds).run(|bytes| {
        type Log = Vec<((u32, u64), Vec<u8>)>;
        let Ok(log) = codec::decode::<Log>(bytes) else { return Verdict::Refused("no log".into()) };
        let mut replayed = Replayed::default();
        let replay = log.iter().try_for_each(|((group, generation), bytes)| {
            if let Ok(record) = codec::decode::<LogRecord>(bytes) {
                assert_eq!(codec::decode::<LogRecord>(&codec::encode(&record)), Ok(record));
            }
            replayed.replay((GroupId(*group), Generation(*generation)), bytes)
        });
        Verdict::of(&replay)
    });
}

fn network() -> Network {
    Network {
        env: crate::env::Env::default(),
        myself: Myself { node: NodeId(1), incarnation: Incarnation(100), boot: 3 },
        genesis: Mutex::new(Some(genesis())),
        later: Mutex::default(),
        arrivals: Arrivals::new(Arc::new(|| {})),
        faults: Mutex::default(),
        heard: Mutex::default(),
        forgot: Mutex::default(),
        stopping: tokio::sync::watch::Sender::new(false),
        changed: Notify::new(),
    }
}

fn frames() -> Vec<v1::PeerFrame> {
    let mut hello = network().hello(Some(NodeId(2)));
    (hello.node, hello.incarnation, hello.boot) = (2, 200, 9);
    hello.heard = vec![v1::HeardPromise { group: 1, round: 300, node: 3, generation: 1 }];
    let ballot = Ballot { round: 300, node: NODE };
    let message: Message<Payload> = Message::Accepted { ballot, slot: Slot(7) };
    let envelope = |message, digest| v1::PeerEnvelope { group: 1, generation: 1, message, digest };
    let digest = v1::StateDigest { applied_end: 7, hash: vec![7; 16].into() };
    let envelopes =
        vec![envelope(codec::encode(&message).into(), None), envelope(Bytes::new(), Some(digest))];
    vec![
        v1::PeerFrame { hello: Some(hello), envelopes: Vec::new() },
        v1::PeerFrame { hello: None, envelopes },
    ]
}

/// What begins a link, and what comes on it. Whoever isn't named by Genesis, down to its data directory, gets nowhere.
#[test]
fn fuzz_peer_frames() {
    use prost::Message as _;
    let network = Arc::new(network());
    let seeds = frames().iter().map(prost::Message::encode_to_vec).collect();
    Target::new("peer_frame", seeds).run(|bytes| {
        let frame = match v1::PeerFrame::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => return Verdict::Refused(error.to_string()),
        };
        assert_eq!(v1::PeerFrame::decode(&frame.encode_to_vec()[..]).as_ref(), Ok(&frame));
        network.heard.lock().clear();
        let admitted = frame.hello.as_ref().map(|hello| network.admit(hello));
        if let (Some(Ok(node)), Some(hello)) = (&admitted, &frame.hello) {
            assert_ne!(*node, network.myself.node, "nobody else is this node");
            assert_eq!((u64::from(node.0) * 100, hello.protocol), (hello.incarnation, wire::PEER_PROTOCOL));
            assert_eq!(hello.cluster.as_ref(), genesis().cluster.to_be_bytes());
        }
        let envelopes = frame.envelopes.len();
        let taken = inbound::take(&network, NodeId(2), frame);
        let arrived = network.arrivals.take();
        assert_eq!(
            arrived.len(),
            if taken.is_ok() { envelopes } else { 0 },
            "a frame is taken whole, or not"
        );
        match (admitted, taken) {
            (Some(Err(reason)), _) | (_, Err(reason)) => Verdict::Refused(reason),
            (_, Ok(())) => Verdict::Accepted,
        }
    });
}
