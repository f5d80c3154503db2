//! The network: who listens where, the links between machines and what is wrong with them, the calls that are open.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use tonic::codegen::{BoxFuture, StdError};
use tonic::service::Routes;
use wire::channel::{Channel, Dial, Patience};

use crate::call::dial;
use crate::life::Life;
use crate::pipe::Pipe;

/// Where clients are: a machine that never ends.
pub(crate) const OUTSIDE: u32 = 0;

/// A machine in one of its lives, as an end of calls; outside there are none.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) machine: u32,
    pub(crate) life: Option<Arc<Life>>,
}

impl Place {
    pub(crate) fn outside() -> Place {
        Place { machine: OUTSIDE, life: None }
    }

    /// Whether nothing there may be said or heard any more.
    pub(crate) fn is_over(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.is_over())
    }

    /// Runs something there.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.life {
            Some(life) => life.spawn(Box::pin(task)),
            None => drop(tokio::spawn(task)),
        }
    }
}

/// Who serves at an address.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) number: u64,
    pub(crate) place: Place,
    pub(crate) routes: Routes,
}

/// What is wrong with the way from one machine to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    cut: bool,
    clogged: bool,
    /// Added to each delay.
    slower: Duration,
}

/// What went over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Calls that began.
    pub calls: u64,
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that arrived.
    pub arrived: u64,
    /// Frames that were lost with their connection.
    pub lost: u64,
}

/// See the module.
pub(crate) struct Net {
    state: Mutex<State>,
    /// Somebody may go on who waits for a link.
    changed: Notify,
}

struct State {
    luck: SmallRng,
    delay: (Duration, Duration),
    next: u64,
    listeners: BTreeMap<String, Listener>,
    links: BTreeMap<(u32, u32), Link>,
    pipes: BTreeMap<u64, Weak<Pipe>>,
    traffic: Traffic,
}

impl Net {
    pub(crate) fn new(seed: u64, delay: (Duration, Duration)) -> Arc<Net> {
        let luck = SmallRng::seed_from_u64(seed);
        let (listeners, links, pipes) = Default::default();
        let traffic = Traffic::default();
        let state = State { luck, delay, next: 1, listeners, links, pipes, traffic };
        Arc::new(Net { state: Mutex::new(state), changed: Notify::new() })
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.state.lock().traffic
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Traffic)) {
        count(&mut self.state.lock().traffic);
    }

    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next += 1;
        state.next
    }

    // ------------------------------------------------------------------------------------------ who listens

    pub(crate) fn listen(&self, address: &str, place: Place, routes: Routes) -> Result<u64, String> {
        if place.is_over() {
            return Err("the machine is down".to_string());
        }
        let number = self.number();
        let mut state = self.state.lock();
        if state.listeners.contains_key(address) {
            return Err(format!("somebody listens at {address}"));
        }
        let routes = routes.prepare();
        state.listeners.insert(address.to_string(), Listener { number, place, routes });
        Ok(number)
    }

    pub(crate) fn unlisten(&self, address: &str, number: u64) {
        let mut state = self.state.lock();
        if state.listeners.get(address).is_some_and(|listener| listener.number == number) {
            state.listeners.remove(address);
        }
    }

    pub(crate) fn listener(&self, address: &str) -> Option<Listener> {
        self.state.lock().listeners.get(address).cloned()
    }

    // ------------------------------------------------------------------------------------------ links

    /// How long something takes that is sent now.
    pub(crate) fn delay(&self, from: u32, to: u32) -> Duration {
        let mut state = self.state.lock();
        let (least, most) = state.delay;
        let delay = state.luck.random_range(least..=most);
        delay + state.links.get(&(from, to)).map_or(Duration::ZERO, |link| link.slower)
    }

    pub(crate) fn is_cut(&self, from: u32, to: u32) -> bool {
        self.state.lock().links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    pub(crate) fn is_clogged(&self, from: u32, to: u32) -> bool {
        self.state.lock().links.get(&(from, to)).is_some_and(|link| link.clogged)
    }

    /// Returns when nothing is held back between two machines.
    pub(crate) async fn unclogged(&self, from: u32, to: u32) {
        loop {
            let changed = self.changed.notified();
            if !self.is_clogged(from, to) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn cut(&self, from: u32, to: u32, cut: bool) {
        self.state.lock().links.entry((from, to)).or_default().cut = cut;
        if cut {
            let broken = |pipe: &Pipe| {
                let ends = (pipe.from.machine, pipe.to.machine);
                ends == (from, to) || ends == (to, from)
            };
            self.pipes(broken).iter().for_each(|pipe| pipe.sever(|_| 0));
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn clog(&self, from: u32, to: u32, clogged: bool) {
        self.state.lock().links.entry((from, to)).or_default().clogged = clogged;
        if !clogged {
            let free = |pipe: &Pipe| (pipe.from.machine, pipe.to.machine) == (from, to);
            self.pipes(free).iter().for_each(|pipe| pipe.look_again());
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn slow(&self, from: u32, to: u32, slower: Duration) {
        self.state.lock().links.entry((from, to)).or_default().slower = slower;
    }

    /// Nothing is wrong with any link.
    pub(crate) fn heal(&self) {
        self.state.lock().links.clear();
        self.pipes(|_| true).iter().for_each(|pipe| pipe.look_again());
        self.changed.notify_waiters();
    }

    // ------------------------------------------------------------------------------------------ open calls

    pub(crate) fn opened(&self, pipe: &Arc<Pipe>) {
        self.state.lock().pipes.insert(pipe.number, Arc::downgrade(pipe));
    }

    pub(crate) fn closed(&self, number: u64) {
        self.state.lock().pipes.remove(&number);
    }

    /// The open pipes that fit, in the order in which they were opened.
    fn pipes(&self, fits: impl Fn(&Pipe) -> bool) -> Vec<Arc<Pipe>> {
        let open = self.state.lock().pipes.values().filter_map(Weak::upgrade).collect::<Vec<_>>();
        open.into_iter().filter(|pipe| fits(pipe)).collect()
    }

    /// A life is over: nobody listens for it, its calls break. What it had sent may still arrive.
    pub(crate) fn died(&self, machine: u32) {
        self.state.lock().listeners.retain(|_, listener| listener.place.machine != machine);
        for pipe in self.pipes(|pipe| pipe.to.machine == machine || pipe.from.machine == machine) {
            let sent = pipe.from.machine == machine;
            pipe.sever(|count| if sent { self.state.lock().luck.random_range(0..=count) } else { 0 });
        }
    }
}

/// Connects from outside, as clients do.
#[derive(Clone)]
pub struct Outside {
    pub(crate) net: Arc<Net>,
}

impl Dial for Outside {
    fn dial(&self, address: &str, patience: Patience) -> BoxFuture<Channel, StdError> {
        Box::pin(dial(self.net.clone(), Place::outside(), address.to_string(), patience))
    }
}
