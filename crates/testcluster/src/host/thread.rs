//! A thread with a tokio runtime of its own, on which one node lives: it can be made to stand still, and to end at once.
//!
//! So a node is independent of the test's runtime: a test that blocks its thread doesn't stop the cluster.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc as channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc;

/// How long work beside a node (a checkpoint) may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A checkpoint may go on writing for so long after its node has ended.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// At once. What it had handed to its log is written, nothing else is done or said.
    Crash,
    /// In good order.
    Stop,
}

enum Order {
    /// Stand still until the sender of this is gone.
    Pause(channel::Receiver<()>),
    End(Way),
}

/// A node on a thread.
pub(crate) struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    /// Held while it is paused.
    pause: Option<channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    data_dir: PathBuf,
}

impl Thread {
    /// Runs `start` on a thread of its own; the node writes only into `data_dir`. What that gives is how to stop in good order, and something to take along.
    pub(crate) fn start<T, Stop>(
        name: String,
        data_dir: &Path,
        start: impl AsyncFnOnce() -> Result<(Stop, T), String> + Send + 'static,
    ) -> Result<(Thread, T), String>
    where
        T: Send + 'static,
        Stop: AsyncFnOnce(),
    {
        let (told, hear) = channel::channel();
        let (orders, listen) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || live(start, listen, &told))
            .map_err(|error| error.to_string())?;
        let data_dir = data_dir.to_path_buf();
        let thread = Thread { orders, pause: None, thread: Some(thread), data_dir };
        // A thread that panics drops its end.
        let taken = hear.recv().unwrap_or_else(|_| Err("the node panicked at its start".to_string()))?;
        Ok((thread, taken))
    }

    pub(crate) fn pause(&mut self) {
        let (hold, held) = channel::channel();
        let _may_have_ended = self.orders.send(Order::Pause(held));
        self.pause = Some(hold);
    }

    pub(crate) fn resume(&mut self) {
        self.pause = None;
    }

    pub(crate) fn ended(&self) -> Option<String> {
        let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        is_over.then(|| "its thread panicked".to_string())
    }

    /// Returns when nothing of it is left.
    pub(crate) fn end(mut self, way: Way) {
        self.finish(way);
    }

    fn finish(&mut self, way: Way) {
        let _may_have_ended = self.orders.send(Order::End(way));
        self.pause = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported where it happened.
            let _panicked = thread.join();
            await_unlocked(&self.data_dir.join("lock"));
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.finish(Way::Crash);
    }
}

/// Work beside a node that writes into its directory holds this lock.
fn await_unlocked(lock: &Path) {
    let began = Instant::now();
    while began.elapsed() < UNLOCKED_WITHIN {
        match File::open(lock).map(|file| file.try_lock()) {
            Ok(Err(std::fs::TryLockError::WouldBlock)) => std::thread::sleep(POLL),
            Ok(_) | Err(_) => return,
        }
    }
}

fn live<T, Stop: AsyncFnOnce()>(
    start: impl AsyncFnOnce() -> Result<(Stop, T), String>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    told: &channel::Sender<Result<T, String>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _nobody = told.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let stop = match start().await {
            Ok((stop, taken)) => {
                let _nobody = told.send(Ok(taken));
                stop
            }
            Err(reason) => {
                let _nobody = told.send(Err(reason));
                return;
            }
        };
        loop {
            match orders.recv().await {
                // Blocks all that lives on this thread, which is what is wanted.
                Some(Order::Pause(held)) => while held.recv().is_ok() {},
                Some(Order::End(Way::Stop)) => return stop().await,
                Some(Order::End(Way::Crash)) | None => return,
            }
        }
    });
    runtime.shutdown_timeout(END_WITHIN);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A thread that counts every millisecond, and says how it ended.
    fn counting() -> (Thread, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (count, stops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, stopped) = (count.clone(), stops.clone());
        let start = async move || {
            tokio::spawn(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            let stop = async move || {
                stopped.fetch_add(1, Ordering::Relaxed);
            };
            Ok((stop, ()))
        };
        let (thread, ()) = Thread::start("counting".to_string(), Path::new("/nowhere"), start).unwrap();
        (thread, count, stops)
    }

    fn goes_on(count: &AtomicU64) -> bool {
        let before = count.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        count.load(Ordering::Relaxed) > before
    }

    #[test]
    fn a_paused_thread_stands_still_and_a_crashed_one_is_gone() {
        let (mut thread, count, stops) = counting();
        assert!(goes_on(&count));
        thread.pause();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!goes_on(&count));
        thread.resume();
        assert!(goes_on(&count));
        thread.pause();
        thread.end(Way::Crash);
        assert!(!goes_on(&count) && Arc::strong_count(&count) == 1);
        assert_eq!(stops.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_that_is_stopped_ends_in_good_order_and_one_that_is_dropped_crashes() {
        let (thread, _, stops) = counting();
        thread.end(Way::Stop);
        assert_eq!(stops.load(Ordering::Relaxed), 1);
        let (thread, count, stops) = counting();
        drop(thread);
        assert_eq!((Arc::strong_count(&count), stops.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn it_has_ended_when_nothing_writes_into_its_directory_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let lock = File::create(dir.path().join("lock")).unwrap();
        lock.lock().unwrap();
        let start = async || Ok((async || {}, ()));
        let (thread, ()) = Thread::start("writing".to_string(), dir.path(), start).unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(lock);
        });
        let began = Instant::now();
        thread.end(Way::Crash);
        assert!(began.elapsed() > Duration::from_millis(250));
        writer.join().unwrap();
    }

    #[test]
    fn why_it_doesnt_start_is_told() {
        let start = async || Err::<(fn() -> std::future::Ready<()>, ()), _>("no room".to_string());
        let failed = Thread::start("failing".to_string(), Path::new("/nowhere"), start);
        assert_eq!(failed.err().as_deref(), Some("no room"));
    }
}
