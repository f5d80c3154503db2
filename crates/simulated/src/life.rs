//! The tasks of one life of a machine: they stand still while it is paused, and are gone the moment it ends.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use runtime::env::Task;
use tokio::task::AbortHandle;

/// What a life is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Runs,
    Paused,
    Over,
}

/// One life.
pub(crate) struct Life {
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// Why it ended, if it did by itself.
    why: Option<String>,
    tasks: BTreeMap<u64, Held>,
    next_task: u64,
    /// Tasks that would run if it weren't paused.
    held_up: Vec<Waker>,
}

/// A task, and the task of tokio that polls it.
struct Held {
    cell: Arc<Cell>,
    polled_by: Option<AbortHandle>,
}

/// Empty when the task is over.
type Cell = Mutex<Option<Task>>;

impl Life {
    pub(crate) fn new() -> Arc<Life> {
        let (tasks, held_up) = Default::default();
        let inner = Inner { state: State::Runs, why: None, tasks, next_task: 0, held_up };
        Arc::new(Life { inner: Mutex::new(inner) })
    }

    pub(crate) fn state(&self) -> State {
        self.inner.lock().state
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state() == State::Over
    }

    /// Why it ended, if it did by itself.
    pub(crate) fn why(&self) -> Option<String> {
        self.inner.lock().why.clone()
    }

    pub(crate) fn spawn(self: &Arc<Life>, task: Task) {
        let cell = Arc::new(Mutex::new(Some(task)));
        let mut inner = self.inner.lock();
        if inner.state == State::Over {
            drop(inner);
            return;
        }
        let id = inner.next_task;
        inner.next_task += 1;
        inner.tasks.insert(id, Held { cell: cell.clone(), polled_by: None });
        drop(inner);
        let handle = tokio::spawn(Living { life: Arc::downgrade(self), id, cell }).abort_handle();
        if let Some(held) = self.inner.lock().tasks.get_mut(&id) {
            held.polled_by = Some(handle);
        }
    }

    pub(crate) fn pause(&self) {
        let mut inner = self.inner.lock();
        if inner.state == State::Runs {
            inner.state = State::Paused;
        }
    }

    pub(crate) fn resume(&self) {
        let mut inner = self.inner.lock();
        if inner.state != State::Paused {
            return;
        }
        inner.state = State::Runs;
        let held_up = std::mem::take(&mut inner.held_up);
        drop(inner);
        held_up.into_iter().for_each(Waker::wake);
    }

    /// It has ended: nothing of it runs any more. False if it had ended before.
    pub(crate) fn end(&self, why: Option<&str>) -> bool {
        let mut inner = self.inner.lock();
        if inner.state == State::Over {
            return false;
        }
        inner.state = State::Over;
        inner.why = why.map(str::to_string);
        inner.held_up.clear();
        true
    }

    /// Drops all tasks, in the order in which they began, but one that is running: that goes when it rests.
    pub(crate) fn bury(&self) {
        let tasks = std::mem::take(&mut self.inner.lock().tasks);
        for held in tasks.into_values() {
            let task = held.cell.try_lock().and_then(|mut cell| cell.take());
            drop(task);
            if let Some(polled_by) = held.polled_by {
                polled_by.abort();
            }
        }
    }
}

/// A task of a life, as tokio runs it.
struct Living {
    life: Weak<Life>,
    id: u64,
    cell: Arc<Cell>,
}

/// Ends a life whose task panics: in production that is the end of the process.
struct Panics<'a>(&'a Life);

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Some("it panicked"));
        }
    }
}

impl Future for Living {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(life) = self.life.upgrade() else { return Poll::Ready(()) };
        {
            let mut inner = life.inner.lock();
            match inner.state {
                State::Runs => {}
                State::Paused => {
                    inner.held_up.push(context.waker().clone());
                    return Poll::Pending;
                }
                State::Over => return Poll::Ready(()),
            }
        }
        let mut cell = self.cell.lock();
        let Some(task) = cell.as_mut() else { return Poll::Ready(()) };
        let panics = Panics(&life);
        let polled = task.as_mut().poll(context);
        drop(panics);
        if polled.is_pending() && !life.is_over() {
            return Poll::Pending;
        }
        let task = cell.take();
        drop(cell);
        drop(task);
        life.inner.lock().tasks.remove(&self.id);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Says when it is dropped.
    struct Dropped(u32, Arc<Mutex<Vec<u32>>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.1.lock().push(self.0);
        }
    }

    fn counting(life: &Arc<Life>) -> Arc<Mutex<u32>> {
        let count = Arc::new(Mutex::new(0));
        let counted = count.clone();
        life.spawn(Box::pin(async move {
            loop {
                *counted.lock() += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_stands_still_goes_on_and_ends_at_once() {
        let life = Life::new();
        let count = counting(&life);
        let passes = async |ms| {
            let before = *count.lock();
            tokio::time::sleep(Duration::from_millis(ms)).await;
            *count.lock() - before
        };
        assert!(passes(10).await > 5);
        life.pause();
        assert!(passes(10).await <= 1);
        assert_eq!(passes(10).await, 0);
        life.resume();
        assert!(passes(10).await > 5);
        assert!(life.end(None) && !life.end(Some("again")));
        life.bury();
        assert_eq!((passes(10).await, Arc::strong_count(&count), life.why()), (0, 1, None));
        life.spawn(Box::pin(async { panic!("a life that is over begins nothing") }));
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_are_dropped_in_the_order_in_which_they_began_also_by_one_of_them() {
        let (life, order) = (Life::new(), Arc::new(Mutex::new(Vec::new())));
        for number in 0..5 {
            let (dropped, ending) = (Dropped(number, order.clone()), life.clone());
            life.spawn(Box::pin(async move {
                let _dropped = dropped;
                if number == 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    ending.end(Some("told to"));
                    ending.bury();
                }
                std::future::pending::<()>().await;
            }));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(*order.lock(), [0, 1, 3, 4, 2], "the one that runs goes when it rests");
        assert_eq!(life.why().as_deref(), Some("told to"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_ends_its_life() {
        let life = Life::new();
        let count = counting(&life);
        life.spawn(Box::pin(async { panic!("this panic is part of the test") }));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!((life.why().as_deref(), *count.lock()), (Some("it panicked"), 1));
    }
}
