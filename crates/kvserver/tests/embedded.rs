//! Three nodes in one process over loopback: both client protocols, what a follower says, restarts, hostile bytes on
//! every port, and a stop that doesn't hang on open streams.

#![cfg(feature = "server")]
// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

mod nodes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvserver::command::{Op, Reply, Request, shard_of};
use kvserver::query::{Answer, Query};
use kvserver::routing::group_of;
use kvserver::server::serve;
use nodes::{Cluster, GROUPS, SHARDS, channel, fetch, until};
use paxos::codec;
use paxos::ids::{ClientId, LogTime, Sequence};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use wire::v1;
use wire::v1::client_client::ClientClient;

/// A client stream, used one frame at a time.
struct Stream {
    calls: mpsc::Sender<v1::ClientFrame>,
    frames: Streaming<v1::ServerFrame>,
    hello: v1::Hello,
    log_time: u64,
}

impl Stream {
    async fn open(address: SocketAddr) -> Stream {
        let mut client = ClientClient::new(channel(address).await);
        let (calls, receiver) = mpsc::channel(4);
        let mut frames = client.connect(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let first = frames.message().await.unwrap().unwrap();
        Stream { calls, frames, hello: first.hello.unwrap(), log_time: first.log_time }
    }

    async fn ask(&mut self, calls: Vec<v1::Call>) -> Vec<v1::Answer> {
        let count = calls.len();
        self.calls.send(v1::ClientFrame { calls }).await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < count {
            answers.extend(self.frames.message().await.unwrap().unwrap().answers);
        }
        answers
    }

    fn put(&self, sequence: u64, key: &[u8], value: &[u8]) -> v1::Call {
        let shard = shard_of(key, SHARDS);
        let request = Request {
            client: ClientId(77),
            sequence: Sequence(sequence),
            ack_through: Sequence(0),
            sent_at: LogTime(self.log_time),
            shard,
            op: Op::Put { key: key.to_vec(), value: value.to_vec() },
        };
        let kind = Some(v1::call::Kind::Write(codec::encode(&request).into()));
        v1::Call { id: sequence, group: group_of(shard, SHARDS, GROUPS).unwrap().0, kind, consistency: 0 }
    }

    fn get(&self, id: u64, key: &[u8]) -> v1::Call {
        let shard = shard_of(key, SHARDS);
        let query = Query::Get { shard, key: key.to_vec() };
        let kind = Some(v1::call::Kind::Read(codec::encode(&query).into()));
        v1::Call { id, group: group_of(shard, SHARDS, GROUPS).unwrap().0, kind, consistency: 0 }
    }
}

fn reply(answer: &v1::Answer) -> Reply {
    match answer.result.as_ref().unwrap() {
        v1::answer::Result::Reply(bytes) => codec::decode(bytes).unwrap(),
        other => panic!("{other:?} instead of a reply"),
    }
}

fn refusal(answer: &v1::Answer) -> &v1::Refusal {
    match answer.result.as_ref().unwrap() {
        v1::answer::Result::Refusal(refusal) => refusal,
        other => panic!("{other:?} instead of a refusal"),
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(100), test).await.expect("in time") });
}

#[test]
fn both_protocols_serve_and_a_follower_names_the_leader() {
    run(async {
        let cluster = Cluster::start().await;
        let leader = cluster.leader_of(b"key").await;
        let mut stream = Stream::open(cluster.node(leader).client_addr).await;
        let routing = stream.hello.routing.clone().unwrap();
        assert_eq!((routing.owners.len(), routing.groups.len()), (usize::from(SHARDS), usize::from(GROUPS)));

        let answers = stream.ask(vec![stream.put(1, b"key", b"one"), stream.put(2, b"key", b"three")]).await;
        assert!(matches!(reply(&answers[0]), Reply::Written { length: 3, .. }));
        assert!(matches!(reply(&answers[1]), Reply::Written { length: 5, .. }));
        let again = stream.ask(vec![stream.put(1, b"key", b"one")]).await;
        assert_eq!(reply(&again[0]), reply(&answers[0]), "a retry is answered, not executed");
        let found = stream.ask(vec![stream.get(9, b"key")]).await;
        let v1::answer::Result::Found(bytes) = found[0].result.clone().unwrap() else { panic!("not found") };
        let Answer::Value(Some((value, _))) = codec::decode(&bytes).unwrap() else { panic!("no value") };
        assert_eq!(value, b"three");

        let mut kv = cluster.kv(leader).await;
        let append = v1::AppendRequest { key: "key".into(), value: "!".into(), session: None };
        assert_eq!(kv.append(append).await.unwrap().into_inner().length, 6);
        let get = v1::GetRequest { key: "key".into(), consistency: 1 };
        assert_eq!(kv.get(get).await.unwrap().into_inner().value.as_ref(), b"three!");

        let follower = (leader + 1) % 3;
        let hint = cluster.configs[leader].listen.client.clone();
        let mut stream = Stream::open(cluster.node(follower).client_addr).await;
        let refused = stream.ask(vec![stream.put(3, b"key", b"x")]).await;
        let refusal = refusal(&refused[0]);
        assert_eq!((refusal.code(), refusal.leader_address.as_str()), (v1::Code::NotLeader, hint.as_str()));
        let put = v1::PutRequest { key: "key".into(), value: "x".into(), session: None };
        let status = cluster.kv(follower).await.put(put).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get("synod-leader").unwrap().to_str().unwrap(), hint);
        let stale = v1::ScanRequest { consistency: 2, ..v1::ScanRequest::default() };
        let mut kv = cluster.kv(follower).await;
        until(async || {
            let page = kv.scan(stale.clone()).await.unwrap().into_inner();
            page.done && page.pairs.iter().any(|pair| pair.value.as_ref() == b"three!")
        })
        .await;
        cluster.stop().await;
    });
}

#[test]
fn a_node_comes_back_with_its_data() {
    run(async {
        let mut cluster = Cluster::start().await;
        let leader = cluster.leader_of(b"kept").await;
        let put = v1::PutRequest { key: "kept".into(), value: "v".into(), session: None };
        cluster.kv(leader).await.put(put).await.unwrap();

        let _open = Stream::open(cluster.node(leader).client_addr).await;
        let started = Instant::now();
        cluster.nodes[leader].take().unwrap().stop().await;
        assert!(started.elapsed() < Duration::from_millis(2500), "stopping took {:?}", started.elapsed());
        let next = cluster.leader_of(b"kept").await;
        let get = || v1::GetRequest { key: "kept".into(), consistency: 0 };
        let mut kv = cluster.kv(next).await;
        until(async || kv.get(get()).await.is_ok_and(|found| found.into_inner().found)).await;

        cluster.nodes[leader] = Some(serve(cluster.configs[leader].clone()).await.unwrap());
        cluster.until_ready(leader).await;
        let stale = v1::GetRequest { key: "kept".into(), consistency: 2 };
        let mut kv = cluster.kv(leader).await;
        until(async || kv.get(stale.clone()).await.unwrap().into_inner().found).await;
        cluster.stop().await;
    });
}

#[test]
fn garbage_on_every_port_changes_nothing() {
    run(async {
        let cluster = Cluster::start().await;
        let entry = cluster.configs[0].nodes[0].clone();
        let hostile: [&[u8]; 5] = [
            b"\0\xff\xfe\xfd",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            &[0x80; 100_000],
        ];
        for address in [&entry.client, &entry.peer, &entry.http] {
            for bytes in hostile {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _refused = stream.write_all(bytes).await;
                let _ended = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 64])).await;
            }
        }
        // Well-formed frames with nonsense inside.
        let mut stream = Stream::open(cluster.node(0).client_addr).await;
        let nonsense = |id: u64, group, kind| v1::Call { id, group, kind, consistency: 77 };
        let write = |bytes: &'static [u8]| Some(v1::call::Kind::Write(bytes.into()));
        let read = |bytes: &'static [u8]| Some(v1::call::Kind::Read(bytes.into()));
        let calls = vec![
            nonsense(1, 0, None),
            nonsense(2, u32::MAX, write(&[0xfd; 64])),
            nonsense(3, 1, read(&[0xfc; 64])),
            v1::Call { id: 4, group: 1, kind: write(b""), consistency: 0 },
        ];
        let answers = stream.ask(calls).await;
        assert!(answers.iter().all(|answer| refusal(answer).code() == v1::Code::Invalid));

        let leader = cluster.leader_of(b"after").await;
        let put = v1::PutRequest { key: "after".into(), value: "all".into(), session: None };
        cluster.kv(leader).await.put(put).await.unwrap();
        let http = cluster.node(0).http_addr;
        assert!(fetch(http, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(http, "/metrics").await.contains("synod_replica_applied_end{group=\"1\"}"));
        cluster.stop().await;
    });
}
