//! The work of a log's threads as one task, for nodes whose disk takes time that isn't real.
//!
//! A frame is written, then some time passes, then it is synced and published: so a crash in between finds it in whatever
//! state the disk leaves what was never synced.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::shared::{Performed, Shared};
use crate::env::Machine;

/// See the module.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    work: Arc<Notify>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, work: Arc<Notify>) -> Driver {
        Driver { shared, work }
    }

    /// Until the log is dropped and all is written, or it fails.
    pub(crate) async fn run(self, machine: Arc<dyn Machine>) {
        let shared = &self.shared;
        loop {
            shared.do_chores();
            let (job, wake_at, is_over) = {
                let mut queue = shared.queue.lock();
                let now = Instant::now();
                let mark_at = queue.mark_due(shared.options.idle);
                let with_mark = queue.stop || queue.mark_wanted || mark_at.is_some_and(|at| at <= now);
                let job = queue.take(with_mark);
                let times = [mark_at, queue.stalled_until, queue.full_until];
                let wake_at = times.into_iter().flatten().filter(|at| *at > now).min();
                (job, wake_at, queue.failed || (queue.stop && !queue.has_hope()))
            };
            match job {
                Some(job) => {
                    let Ok(written) = shared.write(job) else { continue };
                    machine.sync_pause().await;
                    if shared.sync(written) == Performed::Durable {
                        (shared.hooks.waker)();
                    }
                }
                None if is_over => return,
                None => match wake_at {
                    Some(at) => drop(timeout_at(at, self.work.notified()).await),
                    None => self.work.notified().await,
                },
            }
        }
    }
}
