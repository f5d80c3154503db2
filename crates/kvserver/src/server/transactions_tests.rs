//! What is sent of what is owed, when it is sent again, and what comes of the answers. All groups are led here, so that
//! the node below sees everything.

use paxos::ids::{ClientId, LogTime, NodeId, Sequence};
use runtime::api::{Refused, RefusedReason};

use super::super::fake::FakeNode;
use super::*;
use crate::command::Reply;
use crate::entry::GroupCommand;
use crate::txn::{Age, Attempt, Conflict, Decision, Grant};

/// Shards 0 to 127 are served by group 1, the others by group 2.
const HOME: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);
const THERE: ShardId = ShardId(200);

type Logged = Arc<Mutex<Vec<(GroupId, TxnCommand)>>>;
/// What a group says to a command.
type Says = Box<dyn Fn(GroupId, &TxnCommand) -> Option<TxnAnswer> + Send>;

struct Rig {
    node: Arc<FakeNode>,
    agent: Arc<TxnAgent>,
    /// What came to the logs.
    logged: Logged,
    /// What the groups owe.
    owed: Arc<Mutex<Vec<(GroupId, TxnDuty)>>>,
}

/// `None` of what a group says: it refuses.
fn rig(says: impl Fn(GroupId, &TxnCommand) -> Option<TxnAnswer> + Send + 'static) -> Rig {
    let node = Arc::new(FakeNode::default());
    *node.leader.lock() = Some(NodeId(1));
    let context = Arc::new(FakeNode::context(&node, |config| config.serving.prepare_timeout_us = 2_000_000));
    let agent = TxnAgent::new(context.clone(), Agent::new(context));
    let (logged, owed): (Logged, Arc<Mutex<Vec<_>>>) = Default::default();
    let (log, owes, says) = (logged.clone(), owed.clone(), Box::new(says) as Says);
    *node.respond.lock() = Some(Box::new(move |(group, call, _)| match call {
        Call::Write { request, .. } => {
            let GroupCommand::Txn(command) = GroupRequest::decode(request).unwrap().command else {
                panic!("not about a transaction")
            };
            log.lock().push((*group, command.clone()));
            match says(*group, &command) {
                Some(answer) => CallResult::Reply(machine::Reply::Store(Reply::Between(Box::new(answer)))),
                None => {
                    let reason = RefusedReason::NotLeader;
                    CallResult::Refused(Refused { reason, leader: None, outcome_unknown: false })
                }
            }
        }
        Call::Read { .. } => {
            let of = |(by, duty): &(GroupId, TxnDuty)| (by == group).then(|| duty.clone());
            let duties = owes.lock().iter().filter_map(of).collect();
            CallResult::Found(machine::Answer::Store(Answer::TxnDuties(duties)))
        }
    }));
    Rig { node, agent, logged, owed }
}

impl Rig {
    fn take_logged(&self) -> Vec<(GroupId, TxnCommand)> {
        std::mem::take(&mut *self.logged.lock())
    }

    /// One look at all groups, as if it were time for each.
    async fn look(&self) {
        let led = self.agent.led();
        self.agent.let_go(&led);
        self.agent.look_at(led).await;
    }

    /// As if so much time had gone by since everything that is remembered.
    fn pass(&self, time: Duration) {
        for care in self.agent.cares.lock().values_mut() {
            let earlier = |at: Instant| at.checked_sub(time).unwrap();
            (care.since, care.seen) = (earlier(care.since), earlier(care.seen));
            (care.due, care.expired) = (care.due.map(earlier), care.expired.map(earlier));
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn attempt(number: u64) -> Attempt {
    let age = Age { sent_at: LogTime(1), client: ClientId(7), sequence: Sequence(number) };
    Attempt { home: ShardId(3), number, age }
}

fn prepare(number: u64) -> TxnCommand {
    TxnCommand::Prepare { attempt: attempt(number), shard: THERE, keys: Vec::new() }
}

fn grant() -> Grant {
    Grant { lock: 4, found: Vec::new() }
}

fn duty(command: TxnCommand) -> TxnDuty {
    TxnDuty { to: command.to(), urgent: true, command }
}

#[test]
fn a_duty_goes_out_at_once_and_what_its_answer_says_into_the_own_log() {
    let rig = rig(|_, command| match command {
        TxnCommand::Prepare { .. } => Some(TxnAnswer::Granted(grant())),
        _ => Some(TxnAnswer::Done),
    });
    rig.node.dues.lock().push((HOME, duty(prepare(1))));
    run(async {
        let acting = tokio::spawn(rig.agent.clone().act());
        while rig.logged.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        acting.abort();
    });
    let vote = TxnCommand::Vote { attempt: attempt(1), shard: THERE, grant: grant() };
    assert_eq!(rig.take_logged(), [(OTHER, prepare(1)), (HOME, vote)]);
}

#[test]
fn what_is_owed_still_is_sent_again_but_not_while_it_may_be_in_the_own_log() {
    let rig = rig(|_, command| matches!(command, TxnCommand::Decide { .. }).then_some(TxnAnswer::Done));
    let decide = TxnCommand::Decide { attempt: attempt(1), shard: THERE, decision: Decision::Abort };
    let acked = TxnCommand::Acked { attempt: attempt(1), shard: THERE };
    *rig.owed.lock() = vec![(HOME, duty(prepare(1))), (HOME, duty(decide.clone()))];
    run(async {
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(1)), (OTHER, decide.clone()), (HOME, acked.clone())]);
        rig.look().await;
        assert_eq!(rig.take_logged(), []);
        rig.pass(RETRY);
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(1))], "it wasn't answered; the other was");
        rig.pass(LOGGED);
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(1)), (OTHER, decide), (HOME, acked)]);
        rig.pass(2 * RETRY);
        rig.look().await;
        assert_eq!(rig.take_logged(), [], "the longer in vain, the later");
        rig.owed.lock().clear();
        rig.look().await;
        assert!(rig.agent.cares.lock().is_empty(), "nothing is remembered of what isn't owed");
    });
}

#[test]
fn a_question_waits_and_who_has_to_wait_is_not_asked_at_once() {
    let rig = rig(|_, command| match command {
        TxnCommand::Prepare { .. } => Some(TxnAnswer::Waiting),
        _ => Some(TxnAnswer::Undecided),
    });
    let vote = TxnCommand::Vote { attempt: attempt(1), shard: THERE, grant: grant() };
    let question = TxnDuty { urgent: false, ..duty(vote.clone()) };
    *rig.owed.lock() = vec![(OTHER, question), (HOME, duty(prepare(2)))];
    run(async {
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(2))]);
        rig.pass(Duration::from_millis(400));
        rig.look().await;
        assert_eq!(rig.take_logged(), []);
        rig.pass(Duration::from_millis(150));
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(2)), (HOME, vote.clone())]);
        // A late grant is told at once, though the question was asked a moment ago.
        rig.agent.do_what_is_due(vec![(OTHER, duty(vote.clone()))], Instant::now());
        assert_eq!(rig.take_logged(), [(HOME, vote)]);
    });
}

#[test]
fn an_attempt_without_votes_is_given_up_in_the_own_log() {
    let rig = rig(|_, _| None);
    let second = TxnCommand::Prepare { attempt: attempt(1), shard: ShardId(201), keys: Vec::new() };
    *rig.owed.lock() = vec![(HOME, duty(prepare(1))), (HOME, duty(second.clone()))];
    let expire = || (HOME, TxnCommand::Expire { attempt: attempt(1) });
    run(async {
        rig.look().await;
        rig.pass(Duration::from_millis(1900));
        rig.look().await;
        assert!(!rig.take_logged().contains(&expire()));
        rig.pass(Duration::from_millis(100));
        rig.look().await;
        let logged = rig.take_logged();
        assert_eq!(logged.iter().filter(|entry| **entry == expire()).count(), 1, "{logged:?}");
        rig.look().await;
        assert_eq!(rig.take_logged(), []);
        rig.pass(LOGGED);
        rig.look().await;
        assert!(rig.take_logged().contains(&expire()), "it got lost");
    });
}

#[test]
fn a_refused_prepare_ends_the_attempt_and_a_shard_on_its_way_is_asked_again() {
    let rig = rig(|_, command| match command {
        TxnCommand::Prepare { attempt, .. } if attempt.number == 1 => {
            Some(TxnAnswer::Refused(Conflict::Older))
        }
        TxnCommand::Prepare { .. } => Some(TxnAnswer::Later),
        _ => Some(TxnAnswer::Done),
    });
    *rig.owed.lock() = vec![(HOME, duty(prepare(1))), (HOME, duty(prepare(2)))];
    let refuse = TxnCommand::Refuse { attempt: attempt(1), shard: THERE, conflict: Conflict::Older };
    run(async {
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(1)), (OTHER, prepare(2)), (HOME, refuse)]);
        rig.pass(RETRY);
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(2))]);
    });
}

#[test]
fn who_does_not_lead_does_nothing_and_remembers_nothing() {
    let rig = rig(|_, _| None);
    *rig.owed.lock() = vec![(HOME, duty(prepare(1)))];
    run(async {
        rig.look().await;
        assert_eq!(rig.take_logged(), [(OTHER, prepare(1))]);
        *rig.node.leader.lock() = Some(NodeId(2));
        rig.pass(RETRY);
        rig.look().await;
        assert_eq!(rig.take_logged(), []);
        assert!(rig.agent.cares.lock().is_empty());
    });
}

#[test]
fn a_group_that_owes_is_looked_at_when_something_is_to_be_sent_again() {
    let rig = rig(|_, command| match command {
        TxnCommand::Prepare { attempt, .. } => (attempt.number == 1).then(|| TxnAnswer::Granted(grant())),
        _ => Some(TxnAnswer::Done),
    });
    *rig.owed.lock() = vec![(HOME, duty(prepare(1)))];
    run(async {
        let began = Instant::now();
        let next = rig.agent.look_at(vec![HOME, OTHER]).await;
        assert!(next[0].1 >= began + LOGGED, "nothing to do before");
        assert!(next[1].1 < began + LOGGED, "it owes nothing: that is read in no time");
        rig.owed.lock().push((HOME, duty(prepare(2))));
        let next = rig.agent.look_at(vec![HOME]).await;
        assert!(next[0].1 < began + LOGGED, "one wasn't answered");
    });
}
