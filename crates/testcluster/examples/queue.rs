//! A queue of jobs of one's own, replicated: a worker that is handed a job owns it, whoever crashes meanwhile.
//!
//! `cargo run -p testcluster --example queue`. What the state machine must do itself: know a request that comes again
//! ([`Queue::known`]), and put everything that matters into its hash and its pages.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;

use bytes::Bytes;
use paxos::ids::{ClientId, LogTime, Sequence, Slot};
use paxos::rsm::batch::BatchView;
use paxos::rsm::state_machine::{Page, RequestId, RestoreError, StateMachine};
use testcluster::TestGroup;

/// Jobs, first in, first out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    jobs: VecDeque<String>,
    /// The last request of each client, and what it was answered with: one that comes again isn't done again.
    known: BTreeMap<u128, (u64, Option<String>)>,
    time: u64,
}

/// A request: who, the how manieth of this client, and the job to add; an empty one takes the first.
pub(crate) fn request(id: RequestId, job: &str) -> Bytes {
    let mut bytes = id.client.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&id.sequence.0.to_le_bytes());
    bytes.extend_from_slice(job.as_bytes());
    bytes.into()
}

fn parse(request: &[u8]) -> Option<(RequestId, String)> {
    let (client, rest) = request.split_first_chunk()?;
    let (sequence, job) = rest.split_first_chunk()?;
    let client = ClientId(u128::from_le_bytes(*client));
    let sequence = Sequence(u64::from_le_bytes(*sequence));
    Some((RequestId { client, sequence }, String::from_utf8_lossy(job).into_owned()))
}

impl Queue {
    fn answer(&mut self, id: RequestId, job: String) -> Option<String> {
        if let Some((_, reply)) = self.known.get(&id.client.0).filter(|(last, _)| *last == id.sequence.0) {
            return reply.clone();
        }
        let reply = if job.is_empty() {
            self.jobs.pop_front()
        } else {
            self.jobs.push_back(job);
            None
        };
        self.known.insert(id.client.0, (id.sequence.0, reply.clone()));
        reply
    }
}

impl StateMachine for Queue {
    type Reply = Option<String>;
    type Query = ();
    type Answer = Vec<String>;
    type Due = ();

    fn apply(&mut self, _: Slot, batch: &[u8], replies: &mut Vec<(RequestId, Option<String>)>) {
        let Ok(batch) = BatchView::new(batch) else { return };
        self.time = self.time.max(batch.time.0);
        for (id, job) in batch.into_iter().flatten().filter_map(parse) {
            replies.push((id, self.answer(id, job)));
        }
    }

    fn query(&self, (): &()) -> Vec<String> {
        self.jobs.iter().cloned().collect()
    }

    fn log_time(&self) -> LogTime {
        LogTime(self.time)
    }

    fn state_hash(&self) -> u128 {
        let bytes = self.pages().flat_map(|page| [page.key, vec![0], page.body, vec![0]]).flatten();
        bytes.fold(0, |hash: u128, byte| {
            hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u128::from(byte) + 1)
        })
    }

    fn state_bytes(&self) -> u64 {
        self.jobs.iter().map(|job| job.len() as u64).sum()
    }

    fn pages(&self) -> Box<dyn Iterator<Item = Page> + '_> {
        let time = Page { key: vec![0], body: self.time.to_le_bytes().to_vec() };
        let jobs = (0_u64..).zip(&self.jobs).map(|(at, job)| {
            let key = [&[1], &at.to_be_bytes()[..]].concat();
            Page { key, body: job.clone().into_bytes() }
        });
        let known = self.known.iter().map(|(client, (sequence, reply))| {
            let is_some = [u8::from(reply.is_some())];
            let reply = reply.as_deref().unwrap_or_default().as_bytes();
            let key = [&[2], &client.to_be_bytes()[..]].concat();
            Page { key, body: [&sequence.to_le_bytes()[..], &is_some, reply].concat() }
        });
        Box::new(std::iter::once(time).chain(jobs).chain(known))
    }

    fn restore(mut self, pages: &mut dyn Iterator<Item = Page>) -> Result<Queue, RestoreError> {
        for Page { key, body } in pages {
            let number = || body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let bad = || RestoreError("a page is cut short".to_string());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match key.split_first() {
                Some((0, _)) => self.time = number().ok_or_else(bad)?,
                Some((1, _)) => self.jobs.push_back(text(&body)),
                Some((2, client)) => {
                    let client = client.first_chunk().map(|bytes| u128::from_be_bytes(*bytes));
                    let reply = (body.get(8) == Some(&1)).then(|| text(&body[9..]));
                    self.known.insert(client.ok_or_else(bad)?, (number().ok_or_else(bad)?, reply));
                }
                _ => return Err(bad()),
            }
        }
        Ok(self)
    }
}

/// Hands out jobs while the leader crashes.
///
/// # Errors
/// What the group says.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let mut group = TestGroup::start(3, Queue::default).await?;
    let mut next = 0;
    let mut id = || {
        next += 1;
        RequestId { client: ClientId(7), sequence: Sequence(next) }
    };
    for job in ["wash", "dry", "fold"] {
        let id = id();
        group.propose(id, request(id, job)).await?;
    }
    let (taken, leader) = (id(), group.leader().await?);
    let first = group.propose(taken, request(taken, "")).await?;
    group.crash(leader)?;
    // The worker didn't hear the answer, and asks again: it is the same job, not the next one.
    let again = group.propose(taken, request(taken, "")).await?;
    println!("node {leader} crashed; before and after it: {first:?}, {again:?}");
    assert_eq!((first.as_deref(), again.as_deref()), (Some("wash"), Some("wash")));
    assert_eq!(group.read(()).await?, ["dry", "fold"]);
    group.restart(leader)?;
    group.agree().await?;
    println!("all three replicas hold the same");
    Ok(())
}
