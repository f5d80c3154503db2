//! Hostile bytes for what replicas say to each other, and for batches.

use bytes::Bytes;
use fuzz::run::{Target, Verdict};
use paxos::codec;
use paxos::ids::{Ballot, LogTime, Moment, NodeId, Slot};
use paxos::message::{Caught, Entry, Known, Message, Payload};
use paxos::rsm::batch::{BatchBuilder, BatchError, BatchView};

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(2) }
}

/// One of each kind.
fn messages() -> Vec<Message<Payload>> {
    let batch = || Entry::Batch(Payload(Bytes::from_static(b"a batch")));
    let (chosen_end, compacted_end) = (Slot(300), Slot(7));
    let known =
        vec![(Slot(300), Known::Accepted(ballot(3), batch())), (Slot(302), Known::Chosen(Entry::Noop))];
    vec![
        Message::Canvass { ballot: ballot(9), chosen_end },
        Message::Canvassed {
            ballot: ballot(9),
            granted: true,
            promised: ballot(8),
            leader: Some(ballot(8)),
            chosen_end,
            compacted_end,
        },
        Message::Prepare { ballot: ballot(9), chosen_end, released: Some(ballot(8)) },
        Message::Promise { ballot: ballot(9), chosen_end, compacted_end, known, chunk: 0, chunks: 1 },
        Message::Accept { ballot: ballot(9), slot: Slot(301), entry: batch(), chosen_end },
        Message::Accepted { ballot: ballot(9), slot: Slot(301) },
        Message::Preempted { ballot: ballot(9), promised: ballot(10), leader: None },
        Message::AlreadyChosen { ballot: ballot(9), slot: Slot(3), chosen_end },
        Message::Heartbeat {
            ballot: ballot(9),
            chosen_end,
            keep_end: Slot(200),
            round: 70_000,
            sent_at: Some(Moment(1_000_000)),
        },
        Message::HeartbeatAck { ballot: ballot(9), round: 70_000, sent_at: None, chosen_end },
        Message::CatchUp { from: Slot(290), held: vec![(Slot(291), ballot(3))] },
        Message::Caught {
            from: Slot(290),
            entries: vec![Caught::Entry(batch()), Caught::Same(ballot(3))],
            chosen_end,
            compacted_end,
        },
        Message::Transfer { ballot: ballot(9) },
    ]
}

#[test]
fn fuzz_messages() {
    Target::new("paxos_message", messages().iter().map(codec::encode).collect()).run(|bytes| {
        let decoded = codec::decode::<Message<Payload>>(bytes);
        if let Ok(message) = &decoded {
            assert_eq!(codec::decode::<Message<Payload>>(&codec::encode(message)).as_ref(), Ok(message));
        }
        Verdict::of(&decoded)
    });
}

fn read(bytes: &[u8]) -> Result<(LogTime, Vec<&[u8]>), BatchError> {
    let batch = BatchView::new(bytes)?;
    Ok((batch.time, batch.collect::<Result<_, _>>()?))
}

#[test]
fn fuzz_batches() {
    let batch = |requests: &[&[u8]]| {
        let mut batch = BatchBuilder::default();
        requests.iter().for_each(|request| batch.push(request));
        batch.finish(LogTime(77_000))
    };
    let seeds = vec![batch(&[]), batch(&[b"one"]), batch(&[b"one", b"", b"three"])];
    Target::new("paxos_batch", seeds).memory(|bytes| 1024 + 16 * bytes).run(|bytes| {
        let requests = read(bytes);
        if let Ok((time, requests)) = &requests {
            let mut again = BatchBuilder::default();
            requests.iter().for_each(|request| again.push(request));
            assert_eq!(again.finish(*time), bytes, "a batch is written in one way");
        }
        Verdict::of(&requests)
    });
}
