//! Transactions over two groups that are led on different nodes, over loopback: what they do, what waits for them, and
//! that each is done once while leaders change.

#![cfg(feature = "server")]
// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

mod nodes;

use std::time::{Duration, Instant};

use bytes::Bytes;
use kvserver::command::shard_of;
use nodes::{Cluster, PATIENCE, SHARDS, channel, group_of_key, until};
use paxos::ids::{GroupId, NodeId};
use runtime::api::LinkFaults;
use tonic::{Code, Status};
use wire::v1;
use wire::v1::admin_client::AdminClient;
use wire::v1::shardmaster_client::ShardmasterClient;
use wire::v1::txn_compare::Condition;
use wire::v1::txn_op::Op;
use wire::v1::txn_result::Result as Found;

const ONE: GroupId = GroupId(1);
const TWO: GroupId = GroupId(2);

/// The n-th key of its kind that a group serves.
fn key_of(group: GroupId, kind: &str, n: usize) -> Bytes {
    let keys = (0..).map(|n| format!("{kind}{n}").into_bytes());
    keys.filter(|key| group_of_key(key) == group).nth(n).unwrap().into()
}

fn op(op: Op) -> v1::TxnOp {
    v1::TxnOp { op: Some(op) }
}

fn put(key: &Bytes, value: &'static str) -> v1::TxnOp {
    op(Op::Put(v1::TxnPut { key: key.clone(), value: value.into() }))
}

fn incr(key: &Bytes, by: i64) -> v1::TxnOp {
    op(Op::Incr(v1::TxnIncr { key: key.clone(), by }))
}

fn get(key: &Bytes) -> v1::TxnOp {
    op(Op::Get(key.clone()))
}

fn then(then: Vec<v1::TxnOp>) -> v1::TxnRequest {
    v1::TxnRequest { then, ..v1::TxnRequest::default() }
}

fn home_of(request: &v1::TxnRequest) -> Bytes {
    match request.then[0].op.as_ref().unwrap() {
        Op::Get(key) | Op::Delete(key) => key.clone(),
        Op::Put(of) | Op::Append(of) => of.key.clone(),
        Op::Incr(of) => of.key.clone(),
        Op::Cas(of) => of.key.clone(),
        Op::Copy(of) => of.key.clone(),
    }
}

fn values(response: &v1::TxnResponse) -> Vec<Option<Bytes>> {
    let value = |result: &v1::TxnResult| match result.result.as_ref().unwrap() {
        Found::Value(found) => found.found.then(|| found.value.clone()),
        other => panic!("{other:?} is no value"),
    };
    response.results.iter().map(value).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

impl Cluster {
    /// Both groups are led, on two nodes.
    async fn spread(&self) {
        let started = Instant::now();
        loop {
            let (one, two) = (self.leader_of_group(ONE).await, self.leader_of_group(TWO).await);
            if one != two {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "both are led by one node");
            self.hand_over(TWO).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks the leader of a group to hand over to the next node.
    async fn hand_over(&self, group: GroupId) {
        let leader = self.leader_of_group(group).await;
        let to = NodeId((leader as u32 + 1) % 3 + 1);
        let _may_lead_no_more = self.node(leader).handle.transfer(group, Some(to)).await;
    }

    /// Asks one node after the other until the leader of the home group answers, wherever that is by then.
    async fn txn(&self, request: &v1::TxnRequest) -> Result<v1::TxnResponse, Status> {
        let started = Instant::now();
        let mut index = self.leader_of(&home_of(request)).await;
        loop {
            let mut kv = self.kv(index).await;
            match kv.txn(request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => {
                    let again = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Aborted);
                    if !again || started.elapsed() > PATIENCE {
                        return Err(status);
                    }
                    let reads = request.then.iter().all(|op| matches!(op.op, Some(Op::Get(_))));
                    assert!(
                        status.code() != Code::Unknown || request.session.is_some() || reads,
                        "{status:?}"
                    );
                }
            }
            index = (index + 1) % 3;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Begins to move the shard of a key.
    async fn move_shard_of(&self, key: &Bytes, to: GroupId) {
        let mut master = ShardmasterClient::new(channel(self.node(0).client_addr).await);
        let shards = vec![u32::from(shard_of(key, SHARDS).0)];
        let _not_now = master.r#move(v1::MoveRequest { shards, to: to.0, dry_run: false }).await;
    }

    /// The transactions under way, as their groups' leaders tell.
    async fn under_way(&self) -> Vec<v1::Transaction> {
        let mut all = Vec::new();
        for node in self.nodes.iter().flatten() {
            let mut admin = AdminClient::new(channel(node.client_addr).await);
            all.extend(
                admin.transactions(v1::TransactionsRequest {}).await.unwrap().into_inner().transactions,
            );
        }
        all
    }

    async fn until_nothing_is_under_way(&self) {
        until(async || self.under_way().await.is_empty()).await;
    }
}

#[test]
fn a_transaction_over_two_groups_is_done_in_both_or_in_none() {
    run(async {
        let cluster = Cluster::start().await;
        cluster.spread().await;
        let (a, b) = (key_of(ONE, "k", 0), key_of(TWO, "k", 0));
        let put = cluster.txn(&then(vec![put(&a, "1"), put(&b, "2")])).await.unwrap();
        assert!(put.held && put.results.len() == 2);
        let copy =
            |key: &Bytes, from: &Bytes| op(Op::Copy(v1::TxnCopy { key: key.clone(), from: from.clone() }));
        // From the other side.
        cluster.txn(&then(vec![copy(&b, &a), copy(&a, &b)])).await.unwrap();
        let read = cluster.txn(&then(vec![get(&a), get(&b)])).await.unwrap();
        assert_eq!(values(&read), [Some("2".into()), Some("1".into())]);
        // A compare that doesn't hold in the other group.
        let compare = v1::TxnCompare { key: b.clone(), condition: Some(Condition::Present(false)) };
        let request = v1::TxnRequest {
            compares: vec![compare],
            otherwise: vec![get(&b)],
            ..then(vec![incr(&a, 5), incr(&b, 5)])
        };
        let home = v1::TxnRequest { compares: Vec::new(), ..request.clone() };
        assert_eq!(home_of(&home), a);
        let mut kv = cluster.kv(cluster.leader_of(&b).await).await;
        let response = kv.txn(request).await.unwrap().into_inner();
        assert!(!response.held && values(&response) == [Some("1".into())]);
        // An operation that can't be done, in the other group.
        let cas = v1::TxnCas { key: b.clone(), expected: None, value: "x".into() };
        let failed = cluster.txn(&then(vec![incr(&a, 5), op(Op::Cas(cas))])).await.unwrap_err();
        assert_eq!(failed.code(), Code::FailedPrecondition);
        assert_eq!(failed.metadata().get("synod-operation").unwrap(), "1");
        let read = cluster.txn(&then(vec![get(&b), get(&a)])).await.unwrap();
        assert_eq!(values(&read), [Some("1".into()), Some("2".into())], "no effect");
        // Within one group, on another node than the home's leader.
        let follower = (cluster.leader_of(&a).await + 1) % 3;
        let status = cluster.kv(follower).await.txn(then(vec![incr(&a, 1)])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().get("synod-leader").is_some());
        cluster.until_nothing_is_under_way().await;
        cluster.stop().await;
    });
}

/// Three accounts in each group.
fn accounts() -> Vec<Bytes> {
    (0..6).map(|n| key_of(if n % 2 == 0 { ONE } else { TWO }, "account", n / 2)).collect()
}

/// Counts the transfers of a client.
fn counter(client: u8) -> Bytes {
    key_of(if client.is_multiple_of(2) { ONE } else { TWO }, "done", client.into())
}

/// Transfers between accounts, each counted in the same transaction, in a session of its own.
async fn transfer(cluster: &Cluster, client: u8, transfers: usize) {
    let (accounts, count) = (accounts(), counter(client));
    let log_times = cluster.node(0).handle.status().await.unwrap().replicas.into_iter().map(|r| r.log_time);
    let sent_at = log_times.max().unwrap();
    for n in 1..=transfers {
        let (from, to) = (&accounts[(n + usize::from(client)) % 6], &accounts[(n * 5 + 1) % 6]);
        let (sequence, client) = (n as u64, vec![client + 1; 16].into());
        let session = Some(v1::Session { client, sequence, ack_through: sequence - 1, sent_at });
        let ops = vec![incr(from, -1), incr(to, 1), incr(&count, 1)];
        cluster.txn(&v1::TxnRequest { session, ..then(ops) }).await.unwrap();
    }
}

async fn all_accounts(cluster: &Cluster) -> i64 {
    let read = cluster.txn(&then(accounts().iter().map(get).collect())).await.unwrap();
    let number = |value: Option<Bytes>| {
        value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse::<i64>().unwrap())
    };
    values(&read).into_iter().map(number).sum()
}

/// Transfers go on, and `trouble` is made in between, with its number. Nothing is lost, made, or done twice.
async fn money_stays(cluster: &Cluster, trouble: impl AsyncFn(usize)) {
    const CLIENTS: u8 = 6;
    const TRANSFERS: usize = 30;
    cluster.spread().await;
    cluster.txn(&then(accounts().iter().map(|account| incr(account, 100)).collect())).await.unwrap();
    let clients = (0..CLIENTS).map(|client| transfer(cluster, client, TRANSFERS));
    let work = all(clients.collect());
    let trouble = async {
        for n in 0.. {
            tokio::time::sleep(Duration::from_millis(300)).await;
            trouble(n).await;
            assert_eq!(all_accounts(cluster).await, 600);
        }
    };
    tokio::select! {
        () = work => {}
        () = trouble => {}
    }
    assert_eq!(all_accounts(cluster).await, 600);
    for client in 0..CLIENTS {
        let read = cluster.txn(&then(vec![get(&counter(client))])).await.unwrap();
        assert_eq!(values(&read), [Some(TRANSFERS.to_string().into())], "each once");
    }
    cluster.until_nothing_is_under_way().await;
}

#[test]
fn money_is_neither_made_nor_lost_while_leaders_change() {
    run(async {
        let cluster = Cluster::start().await;
        money_stays(&cluster, async |n| cluster.hand_over([ONE, TWO][n % 2]).await).await;
        cluster.stop().await;
    });
}

#[test]
fn money_is_neither_made_nor_lost_while_shards_move() {
    run(async {
        let cluster = Cluster::start().await;
        let trouble = async |n: usize| {
            // There and back.
            let account = &accounts()[n % 6];
            let home = group_of_key(account);
            let other = if home == ONE { TWO } else { ONE };
            cluster.move_shard_of(account, if n % 12 < 6 { other } else { home }).await;
        };
        money_stays(&cluster, trouble).await;
        let mut admin = AdminClient::new(channel(cluster.node(0).client_addr).await);
        let routing = admin.get_routing(v1::RoutingRequest {}).await.unwrap().into_inner();
        assert!(routing.epochs.iter().any(|epoch| *epoch > 1), "nothing has moved");
        cluster.stop().await;
    });
}

#[test]
fn money_is_neither_made_nor_lost_where_messages_are() {
    run(async {
        let cluster = Cluster::start().await;
        for node in cluster.nodes.iter().flatten() {
            node.handle.set_faults(LinkFaults { loss_percent: 10, ..LinkFaults::default() });
        }
        money_stays(&cluster, async |_| {}).await;
        cluster.stop().await;
    });
}

/// All of them, side by side.
async fn all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for future in &mut futures {
            if future.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *future = None;
            }
        }
        match futures.iter().all(Option::is_none) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}
