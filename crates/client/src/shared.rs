//! The engine behind its lock, and the tasks around it: one a node, one that ticks, one that fetches routing tables.
//!
//! Whoever holds the lock only thinks; waking happens after it is given back, and nothing is awaited under it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::v1::RoutingRequest;

use crate::access::Access;
use crate::engine::Engine;
use crate::outcome::LinkId;
use crate::routing::Routing;
use crate::stream;

/// Between two fetches of the routing table.
const REFRESH_PAUSE: Duration = Duration::from_millis(20);
/// The same, while there is none.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);

/// What all clones of a client and its tasks share.
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    links: usize,
    stopped: bool,
}

impl Shared {
    pub(crate) fn new(engine: Engine) -> Arc<Shared> {
        Arc::new(Shared { engine: Mutex::new(engine), tasks: Mutex::default() })
    }

    /// Thinks under the lock, then wakes whom that concerns.
    pub(crate) fn with<T>(&self, think: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.engine.lock();
        let thought = think(&mut engine);
        let wakers = engine.take_wakers();
        drop(engine);
        wakers.into_iter().for_each(std::task::Waker::wake);
        thought
    }

    /// Starts the tasks that live as long as the client.
    pub(crate) fn start(self: &Arc<Self>) {
        let mut tasks = self.tasks.lock();
        tasks.set.spawn(tick(self.clone()));
        tasks.set.spawn(refresh(self.clone()));
        drop(tasks);
        self.start_links();
    }

    /// Starts a task for each link that has none.
    pub(crate) fn start_links(self: &Arc<Self>) {
        let links = self.with(|engine| engine.links());
        let mut tasks = self.tasks.lock();
        while tasks.links < links && !tasks.stopped {
            let link = LinkId(tasks.links);
            tasks.set.spawn(stream::run(self.clone(), link));
            tasks.links += 1;
        }
    }

    /// Runs something beside the callers.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        if !tasks.stopped {
            while tasks.set.try_join_next().is_some() {}
            tasks.set.spawn(work);
        }
    }

    /// Ends all calls, streams and tasks.
    pub(crate) fn stop(&self) {
        self.with(Engine::shut);
        let mut tasks = self.tasks.lock();
        tasks.stopped = true;
        tasks.set.abort_all();
    }
}

/// Looks at everything while something is in flight, and sleeps while nothing is.
async fn tick(shared: Arc<Shared>) {
    // A client that calls once a millisecond shouldn't start and stop this each time.
    const LINGER: u32 = 100;
    const IDLE: Duration = Duration::from_millis(20);
    let mut idle = 0;
    loop {
        let next = shared.with(|engine| engine.tick(Instant::now()));
        // Answers name nodes that nobody had heard of.
        shared.start_links();
        idle = if next.is_some() { 0 } else { idle + 1 };
        let hurry = poll_fn(|context| shared.with(|engine| engine.poll_hurry(context)));
        if idle > LINGER {
            acknowledge_later(&shared);
            shared.with(Engine::park);
            hurry.await;
            idle = 0;
        } else {
            let _woken = tokio::time::timeout(next.unwrap_or(IDLE), hurry).await;
        }
    }
}

/// Lets the shards forget replies that this client has seen.
fn acknowledge_later(shared: &Arc<Shared>) {
    if shared.with(|engine| engine.session().idle_homes().next().is_some()) {
        let acknowledging = shared.clone();
        shared.spawn(async move { crate::call::acknowledge(&acknowledging).await });
    }
}

/// Fetches the routing table when a node's answer shows that ours is old.
async fn refresh(shared: Arc<Shared>) {
    let access = shared.with(|engine| engine.options().access.clone());
    loop {
        poll_fn(|context| shared.with(|engine| engine.poll_refresh(context))).await;
        for address in shared.with(|engine| engine.reachable()).into_iter().take(3) {
            let Some(table) = fetch(&address, &access).await else { continue };
            let is_news = shared.with(|engine| engine.learn(&table, Instant::now()));
            shared.start_links();
            // Who asked for a table knows of something that ours lacks: another node may know more.
            if is_news {
                break;
            }
        }
        if shared.with(|engine| engine.router().is_ready()) {
            tokio::time::sleep(REFRESH_PAUSE).await;
        } else {
            // The cluster is just being made.
            tokio::time::sleep(FIRST_PAUSE).await;
            shared.with(Engine::want_refresh);
        }
    }
}

async fn fetch(address: &str, access: &Access) -> Option<Routing> {
    let mut node = crate::admin(address, REFRESH_TIMEOUT, access).await.ok()?;
    let table = node.get_routing(RoutingRequest {}).await.ok()?.into_inner();
    Routing::from_wire(table)
}
