//! Leaders that die, stop talking or come back; clusters without one.

use std::time::{Duration, Instant};

use client::{Client, ClientOptions, Consistency, ErrorKind, Outcome};
use wire::v1::Code;

use crate::fake::{Act, Fake};

/// Callers that add 1 as fast as they can; each returns when it last was answered and the longest it waited.
fn adders(client: &Client, callers: usize, until: Instant) -> Vec<tokio::task::JoinHandle<(u64, Duration)>> {
    let adder = |client: Client| async move {
        let (mut done, mut longest) = (0, Duration::ZERO);
        while Instant::now() < until {
            let began = Instant::now();
            client.incr(b"count", 1).await.unwrap();
            longest = longest.max(began.elapsed());
            done += 1;
        }
        (done, longest)
    };
    (0..callers).map(|_| tokio::spawn(adder(client.clone()))).collect()
}

async fn assert_counted(client: &Client, adders: Vec<tokio::task::JoinHandle<(u64, Duration)>>) -> Duration {
    let (mut total, mut longest) = (0, Duration::ZERO);
    for adder in adders {
        let (done, waited) = adder.await.unwrap();
        total += done;
        longest = longest.max(waited);
    }
    let found = client.get(b"count", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(found.value).unwrap(), total.to_string(), "each addition took effect once");
    longest
}

#[tokio::test]
async fn a_killed_leader_costs_little_more_than_the_election() {
    let mut fake = Fake::start(1);
    let client = fake.client().await;
    let adders = adders(&client, 64, Instant::now() + Duration::from_millis(1500));
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.kill(1);
    fake.world.hints.lock().extend([(2, 1), (3, 1)]);
    tokio::time::sleep(Duration::from_millis(150)).await;
    fake.world.hints.lock().extend([(2, 0), (3, 0)]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    fake.world.hints.lock().clear();
    fake.elect(3);
    let gap = assert_counted(&client, adders).await;
    assert!(gap > Duration::from_millis(340) && gap < Duration::from_millis(1000), "{gap:?}");
}

#[tokio::test]
async fn a_paused_leader_is_left_and_its_late_answers_do_no_harm() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    let adders = adders(&client, 64, Instant::now() + Duration::from_millis(2500));
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.pause(1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.elect(2);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    fake.resume(1);
    let gap = assert_counted(&client, adders).await;
    assert!(gap < Duration::from_millis(1400), "{gap:?}");
}

#[tokio::test]
async fn leaders_come_and_go() {
    let mut fake = Fake::start(2);
    let client = fake.client().await;
    let adders = adders(&client, 16, Instant::now() + Duration::from_millis(2500));
    for round in 0..5_u32 {
        let (old, new) = (round % 3 + 1, (round + 1) % 3 + 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        fake.kill(old);
        fake.elect(new);
        tokio::time::sleep(Duration::from_millis(200)).await;
        fake.restart(old);
    }
    let gap = assert_counted(&client, adders).await;
    assert!(gap < Duration::from_millis(1200), "{gap:?}");
}

#[tokio::test]
async fn a_leader_that_only_lost_one_call_is_asked_again() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    fake.script(1, &[Act::Lose]);
    let lost = client.clone();
    let lost = tokio::spawn(async move { lost.incr(b"lost", 1).await });
    let until = Instant::now() + Duration::from_millis(1300);
    while Instant::now() < until {
        client.put(b"k", b"v").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(lost.await.unwrap().unwrap().value, 1);
    assert!(fake.writes().iter().all(|seen| seen.node == 1));
}

fn short(fake: &Fake) -> ClientOptions {
    ClientOptions { timeout: Duration::from_millis(400), ..fake.options() }
}

#[tokio::test]
async fn no_leader_until_the_deadline_is_not_executed() {
    let fake = Fake::start(1);
    let client = Client::connect(short(&fake)).await.unwrap();
    fake.elect(0);
    let error = client.put(b"k", b"v").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::NoLeader, Outcome::NotExecuted));
    assert_eq!(error.message, "group 1 has no leader (3 of 3 replicas reachable)");
    let error = client.get(b"k", Consistency::Linearizable).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::NoLeader, Outcome::NotExecuted));
}

#[tokio::test]
async fn nobody_reachable_is_unavailable() {
    let mut fake = Fake::start(1);
    let client = Client::connect(short(&fake)).await.unwrap();
    (1..=3).for_each(|node| fake.kill(node));
    let error = client.put(b"k", b"v").await.unwrap_err();
    assert_eq!((error.kind, error.code()), (ErrorKind::Unavailable, "UNAVAILABLE"));
}

#[tokio::test]
async fn a_lost_try_leaves_the_outcome_unknown_whatever_comes_after() {
    let fake = Fake::start(1);
    let options = ClientOptions { attempt_timeout: Duration::from_millis(100), ..short(&fake) };
    let client = Client::connect(options).await.unwrap();
    fake.script(1, &[Act::Lose]);
    fake.script(1, &[Act::Refuse(Code::Busy); 100]);
    let error = client.put(b"k", b"v").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Busy, Outcome::Unknown));
}

#[tokio::test]
async fn refusals_until_the_deadline_are_not_executed_and_named() {
    for (code, kind) in [(Code::Busy, ErrorKind::Busy), (Code::DiskFull, ErrorKind::DiskFull)] {
        let fake = Fake::start(1);
        let client = Client::connect(short(&fake)).await.unwrap();
        fake.script(1, &[Act::Refuse(code); 200]);
        let error = client.put(b"k", b"v").await.unwrap_err();
        assert_eq!((error.kind, error.outcome), (kind, Outcome::NotExecuted));
        assert!(fake.writes().len() < 30, "backoff");
    }
}

#[tokio::test]
async fn a_refusal_that_may_have_run_leaves_the_outcome_unknown() {
    let fake = Fake::start(1);
    let client = Client::connect(short(&fake)).await.unwrap();
    fake.script(1, &[Act::RefuseUnknown(Code::NotLeader), Act::Refuse(Code::Invalid)]);
    let error = client.put(b"k", b"v").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Invalid, Outcome::Unknown));
    fake.script(1, &[Act::Refuse(Code::TooLarge)]);
    let error = client.put(b"k", b"v").await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::TooLarge, Outcome::NotExecuted));
}

#[tokio::test]
async fn a_node_that_stops_hands_over() {
    let fake = Fake::start(1);
    let client = fake.client().await;
    client.put(b"k", b"v").await.unwrap();
    fake.elect(2);
    fake.script(1, &[Act::Refuse(Code::Stopping)]);
    let began = Instant::now();
    client.put(b"k", b"v").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200));
}
