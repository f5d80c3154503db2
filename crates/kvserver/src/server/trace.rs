//! The live trace as a stream of lines, for gRPC and for server-sent events alike. Bounded: a reader that is too slow
//! loses lines and is told how many.

use std::sync::Arc;

use paxos::ids::GroupId;
use tokio::sync::broadcast::{self, error::RecvError};

use super::context::{Context, Phase};

/// A trace line and how many were lost right before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) line: Arc<str>,
    pub(crate) lost_before: u64,
}

/// Reads the trace of a node.
pub(crate) struct Tracing {
    context: Arc<Context>,
    lines: broadcast::Receiver<Arc<str>>,
    /// What the lines of the wanted group hold as a word; `None` for every line.
    word: Option<String>,
}

impl Tracing {
    /// Lines from now on, of one group or of all.
    pub(crate) fn new(context: Arc<Context>, group: Option<GroupId>) -> Tracing {
        let lines = context.node.trace();
        Tracing { context, lines, word: group.map(|group| group.to_string()) }
    }

    /// The next line; `None` when the process ends.
    pub(crate) async fn next(&mut self) -> Option<Traced> {
        let context = self.context.clone();
        tokio::select! {
            biased;
            () = context.reached(Phase::Draining) => None,
            next = self.next_line() => next,
        }
    }

    async fn next_line(&mut self) -> Option<Traced> {
        let mut lost_before = 0;
        loop {
            match self.lines.recv().await {
                Ok(line) if self.wants(&line) => return Some(Traced { line, lost_before }),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => lost_before += lost,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, line: &str) -> bool {
        let Some(word) = &self.word else { return true };
        // Every line begins with its group and node, at most after a time.
        line.split_whitespace().take(3).any(|found| found == word)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeNode;
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn only_lines_of_the_group_are_told() {
        let node = Arc::new(FakeNode::default());
        let context = Arc::new(FakeNode::context(&node, |_| {}));
        let mut tracing = Tracing::new(context, Some(GroupId(1)));
        for line in ["g2 n1 other", "g11 n1 other", "g1 n1 mine"] {
            node.trace.send(line.into()).unwrap();
        }
        assert_eq!(run(tracing.next()), Some(Traced { line: "g1 n1 mine".into(), lost_before: 0 }));
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost() {
        let node = Arc::new(FakeNode::default());
        let context = Arc::new(FakeNode::context(&node, |_| {}));
        let mut tracing = Tracing::new(context.clone(), None);
        // The fake remembers four.
        for n in 0..6 {
            node.trace.send(format!("g1 n1 line {n}").into()).unwrap();
        }
        assert_eq!(run(tracing.next()), Some(Traced { line: "g1 n1 line 2".into(), lost_before: 2 }));
        context.enter(Phase::Draining);
        while run(tracing.next()).is_some() {}
    }
}
