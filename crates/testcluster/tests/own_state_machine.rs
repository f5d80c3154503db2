//! A state machine of one's own: the example runs, all replicas come back from their disks, and one that isn't deterministic
//! is found.

// Helpers of tests aren't recognised as tests.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paxos::ids::{ClientId, LogTime, Sequence, Slot};
use paxos::rsm::state_machine::{Page, RequestId, RestoreError, StateMachine};
use testcluster::{Error, GroupError, Mode, TestGroup};

#[path = "../examples/queue.rs"]
mod queue;

use queue::{Queue, request};

fn id(sequence: u64) -> RequestId {
    RequestId { client: ClientId(1), sequence: Sequence(sequence) }
}

#[test]
fn the_example_runs() {
    queue::main().unwrap();
}

#[tokio::test]
async fn the_state_survives_the_crash_of_all_replicas() {
    survives(Mode::Live).await;
}

#[tokio::test]
async fn the_state_survives_the_crash_of_all_simulated_replicas() {
    survives(Mode::Sim).await;
    let refused = TestGroup::start_in(Mode::Process, 1, Queue::default).await.err().unwrap();
    assert!(matches!(refused, GroupError::Cluster(Error::Unsupported { mode: Mode::Process, .. })));
}

async fn survives(mode: Mode) {
    let mut group = TestGroup::start_in(mode, 3, Queue::default).await.unwrap();
    for (sequence, job) in [(1, "a"), (2, "b"), (3, "")] {
        group.propose(id(sequence), request(id(sequence), job)).await.unwrap();
    }
    group.nodes().into_iter().for_each(|node| group.crash(node).unwrap());
    group.set_timeout(Duration::from_millis(200));
    assert!(matches!(group.read(()).await, Err(GroupError::TimedOut { .. })));
    group.set_timeout(Duration::from_secs(30));
    group.nodes().into_iter().for_each(|node| group.restart(node).unwrap());
    assert_eq!(group.read(()).await.unwrap(), ["b"]);
    assert_eq!(group.propose(id(3), request(id(3), "")).await.unwrap().as_deref(), Some("a"), "a retry");
    assert!(matches!(group.crash(9), Err(GroupError::Cluster(Error::NoSuchNode { node: 9, .. }))));
    group.agree().await.unwrap();
}

/// A queue that does something else on each replica: it looks at what isn't in the log.
#[derive(Clone)]
struct Lucky {
    inner: Queue,
    luck: u64,
}

static REPLICAS: AtomicU64 = AtomicU64::new(0);

impl StateMachine for Lucky {
    type Reply = Option<String>;
    type Query = ();
    type Answer = Vec<String>;
    type Due = ();

    fn apply(&mut self, slot: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Option<String>)>) {
        self.inner.apply(slot, batch, replies);
    }

    fn query(&self, query: &()) -> Vec<String> {
        self.inner.query(query)
    }

    fn log_time(&self) -> LogTime {
        self.inner.log_time()
    }

    fn state_hash(&self) -> u128 {
        // Equal as long as nothing is done, then not.
        let is_used = self.inner.log_time().0 > 0;
        self.inner.state_hash().wrapping_add(if is_used { u128::from(self.luck) } else { 0 })
    }

    fn state_bytes(&self) -> u64 {
        self.inner.state_bytes()
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        self.inner.pages()
    }

    fn restore(self, pages: &mut dyn Iterator<Item = Page>) -> Result<Lucky, RestoreError> {
        Ok(Lucky { inner: self.inner.restore(pages)?, luck: self.luck })
    }
}

#[tokio::test]
async fn p5_a_state_machine_that_isnt_deterministic_is_found() {
    let machine = || Lucky { inner: Queue::default(), luck: REPLICAS.fetch_add(1, Ordering::Relaxed) };
    let group = TestGroup::start(3, machine).await.unwrap();
    group.propose(id(1), request(id(1), "a")).await.unwrap();
    let error = group.agree().await.unwrap_err();
    assert!(matches!(error, GroupError::Diverged { .. }), "{error}");
}
