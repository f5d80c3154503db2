//! How answers are cut into frames, bounded, and ended.

use super::*;

fn take(answers: &Answers) -> Poll<Option<Result<v1::ServerFrame, Status>>> {
    answers.poll(&mut TaskContext::from_waker(Waker::noop()))
}

fn frame(answers: &Answers) -> v1::ServerFrame {
    match take(answers) {
        Poll::Ready(Some(Ok(frame))) => frame,
        other => panic!("{other:?} instead of a frame"),
    }
}

fn reply(answers: &Answers, id: u64, size: usize) -> bool {
    answers.answer(id, Kind::Reply, size, id, |buffer| buffer.resize(buffer.len() + size, id as u8))
}

#[test]
fn many_answers_make_one_frame_each_with_its_own_bytes() {
    let answers = Answers::new(1 << 20);
    answers.submitted(3);
    reply(&answers, 1, 3);
    answers.refused(2, 5, v1::Refusal::default());
    reply(&answers, 3, 0);
    let frame = frame(&answers);
    assert_eq!(frame.log_time, 5);
    let results: Vec<_> = frame.answers.into_iter().map(|a| (a.id, a.result.unwrap())).collect();
    assert_eq!(results[0], (1, v1::answer::Result::Reply(Bytes::from_static(&[1, 1, 1]))));
    assert_eq!(results[1], (2, v1::answer::Result::Refusal(v1::Refusal::default())));
    assert_eq!(results[2], (3, v1::answer::Result::Reply(Bytes::new())));
    assert!(take(&answers).is_pending());
}

#[test]
fn a_large_answer_has_a_frame_of_its_own_and_order_stays() {
    let answers = Answers::new(64 << 20);
    for (id, size) in [(1, 10), (2, LARGE_BYTES), (3, 10), (4, 10)] {
        reply(&answers, id, size);
    }
    let ids = |frame: v1::ServerFrame| frame.answers.iter().map(|a| a.id).collect::<Vec<_>>();
    assert_eq!(ids(frame(&answers)), [1]);
    assert_eq!(ids(frame(&answers)), [2]);
    assert_eq!(ids(frame(&answers)), [3, 4]);
}

#[test]
fn a_read_that_finds_no_room_is_refused_as_busy_and_the_stream_goes_on() {
    let answers = Answers::new(1 << 20);
    let found = |id, size| {
        answers.answer(id, Kind::Found, size, id, |buffer| buffer.resize(buffer.len() + size, id as u8))
    };
    let codes = |frame: v1::ServerFrame| {
        let code = |answer: v1::Answer| match answer.result {
            Some(v1::answer::Result::Refusal(refusal)) => (answer.id, Some(refusal.code)),
            _ => (answer.id, None),
        };
        frame.answers.into_iter().map(code).collect::<Vec<_>>()
    };
    let busy = Some(v1::Code::Busy as i32);
    assert!(!found(1, 700_000) && !found(2, 700_000) && !found(3, 10));
    assert_eq!(codes(frame(&answers)), [(1, None)]);
    assert_eq!(codes(frame(&answers)), [(2, busy), (3, None)]);
    assert!(!found(4, 700_000), "there is room again");
    assert_eq!(codes(frame(&answers)), [(4, None)]);
    assert!(!found(5, 1 << 19) && !reply(&answers, 6, 1 << 18), "what was executed is told");
    assert!(reply(&answers, 7, 1 << 19), "and ends the stream where there is no room");
}

#[test]
fn an_answer_that_is_larger_than_all_the_room_passes_alone() {
    for kind in [Kind::Found, Kind::Reply] {
        let answers = Answers::new(1 << 20);
        assert!(!answers.answer(1, kind, 2 << 20, 1, |buffer| buffer.resize(2 << 20, 1)));
        assert_eq!(frame(&answers).answers.len(), 1);
    }
}

#[test]
fn frames_are_cut_near_their_size() {
    let answers = Answers::new(64 << 20);
    (0..40).for_each(|id| assert!(!reply(&answers, id, FRAME_BYTES / 10)));
    let mut answered = 0;
    while let Poll::Ready(Some(Ok(frame))) = take(&answers) {
        assert!(frame.answers.len() <= 11);
        answered += frame.answers.len();
    }
    assert_eq!(answered, 40);
    assert_eq!(answers.queue.lock().bytes, 0, "what went out no longer counts");
}

#[test]
fn a_client_that_doesnt_read_loses_its_stream() {
    let answers = Answers::new(10_000);
    answers.submitted(3);
    assert!(!reply(&answers, 1, 5000));
    assert!(reply(&answers, 2, 5000), "the one too many");
    assert!(!reply(&answers, 3, 5000), "later ones are dropped");
    assert!(answers.has_ended());
    let Poll::Ready(Some(Err(status))) = take(&answers) else { panic!("no error") };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(matches!(take(&answers), Poll::Ready(None)));
    assert!(matches!(take(&answers), Poll::Ready(None)), "stays ended");
}

#[test]
fn the_stream_ends_after_the_last_answer_when_no_more_calls_come() {
    let answers = Answers::new(10_000);
    answers.submitted(1);
    answers.no_more_calls();
    assert!(take(&answers).is_pending());
    reply(&answers, 1, 1);
    assert_eq!(frame(&answers).answers.len(), 1);
    assert!(matches!(take(&answers), Poll::Ready(None)));
}

#[test]
fn closing_delivers_what_waits() {
    let answers = Answers::new(10_000);
    answers.submitted(2);
    reply(&answers, 1, 1);
    answers.close();
    reply(&answers, 2, 1);
    assert_eq!(frame(&answers).answers.len(), 1);
    assert!(matches!(take(&answers), Poll::Ready(None)));
}

#[test]
fn an_idle_stream_hears_the_log_time_once() {
    let answers = Answers::new(10_000);
    answers.hello(v1::Hello::default(), 7);
    let first = frame(&answers);
    assert!((first.hello.is_some(), first.log_time) == (true, 7) && take(&answers).is_pending());
    answers.hear_log_time(9);
    assert_eq!(frame(&answers).log_time, 9);
    answers.hear_log_time(9);
    assert!(take(&answers).is_pending());
}
