//! What happens to the cluster while a plan runs: events begin, last and end; nodes that ended come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use paxos::invariants::Violation;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use wire::v1;

use super::cluster::{Cluster, Order, Standing};
use crate::plan::{Event, Network, Plan, What};

/// How often it is looked whether nodes are as they are to be.
const LOOK: Duration = Duration::from_millis(20);
/// After this time a node that ended by itself, or couldn't start, is started again.
const AGAIN_MS: u64 = 300;
/// How long a node may take to be told of what becomes of messages.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// In the reason of a node that ended at a step of a transaction, since it was told to.
const TOLD_TO_END: &str = "told to end";
/// In the reason of a node that couldn't start on a full disk, which may have room again by now.
const NO_ROOM: &str = "no storage space";
/// In the reason of a node whose sync failed since it was told to: it may have started meanwhile, and the fault be over.
const INJECTED: &str = "injected EIO";
/// Room on a full disk.
const FULL_BYTES: u64 = 0;

/// A fault in force; nodes are those that were found when it began.
#[derive(Clone, Debug)]
struct InForce {
    what: What,
    nodes: Vec<u32>,
    ends_ms: Option<u64>,
}

type Links = BTreeSet<(u32, u32)>;

/// What a node was told of its messages, and in which of its lives.
#[derive(Clone, Debug, PartialEq)]
enum Word {
    /// It is being told: what comes next waits, since it could overtake.
    UnderWay,
    /// It may know or not.
    Unsure,
    Known(u64, v1::Faults),
}

/// See the module.
pub(super) struct Faults<'a> {
    cluster: &'a Arc<Cluster>,
    plan: &'a Plan,
    network: Network,
    in_force: Vec<InForce>,
    cut: Links,
    clogged: Links,
    slowed: BTreeMap<(u32, u32), u64>,
    /// Nodes that ended by themselves, or couldn't start, and when they are started again.
    again: BTreeMap<u32, u64>,
    told: Arc<Mutex<BTreeMap<u32, Word>>>,
    tellings: JoinSet<()>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(plan: &'a Plan, cluster: &'a Arc<Cluster>) -> Faults<'a> {
        let (in_force, cut, clogged, slowed, again, told, tellings) = Default::default();
        Faults { cluster, plan, network: plan.network, in_force, cut, clogged, slowed, again, told, tellings }
    }

    /// Until all faults are over, or a property doesn't hold. When that was, in µs.
    pub(super) async fn run(mut self) -> u64 {
        let mut events = self.plan.events.iter().peekable();
        let mut next_look = Instant::now();
        let calm_ms = self.plan.calm_ms;
        while self.now_ms() < calm_ms && self.cluster.watch.violation().is_none() {
            while let Some(event) = events.next_if(|event| event.at_ms <= self.now_ms()) {
                self.begin(event);
            }
            self.end_what_is_over();
            self.look_after_nodes();
            self.tell_all();
            next_look += LOOK;
            let next_event = events.peek().map_or(calm_ms, |event| event.at_ms.min(calm_ms));
            let next_event = self.cluster.began() + Duration::from_millis(next_event);
            sleep_until(next_look.min(next_event)).await;
        }
        self.calm_down().await;
        self.cluster.now_us()
    }

    fn now_ms(&self) -> u64 {
        self.cluster.now_us() / 1_000
    }

    fn is_hit(&self, node: u32, by: impl Fn(&What) -> bool) -> bool {
        self.in_force.iter().any(|fault| fault.nodes.contains(&node) && by(&fault.what))
    }

    // ------------------------------------------------------------------------------------------ events

    fn begin(&mut self, event: &Event) {
        let Event { what, lasts_ms, .. } = event;
        self.cluster.watch.say(|| format!("---- {event}"));
        let ends_ms = lasts_ms.map(|lasts| self.now_ms() + lasts);
        let find = |who: &_| vec![self.cluster.find(*who)];
        let nodes = match what {
            What::Crash(whom) => {
                let found: BTreeSet<u32> = whom.iter().map(|who| self.cluster.find(*who)).collect();
                found.into_iter().collect()
            }
            What::Pause(who) | What::Stall(who) | What::FailSync(who) | What::Fill(who) => find(who),
            What::Drift(who, _) | What::CrashAt(who, _) => find(who),
            What::Cut(..) | What::OneWay { .. } | What::Clog { .. } | What::Slow { .. } => Vec::new(),
            What::Move { shard, to } => {
                return self.cluster.order(Order::Move { shard: u32::from(*shard), to: *to });
            }
            What::Join(group) => return self.cluster.order(Order::Join(*group)),
            What::Leave(group) => return self.cluster.order(Order::Leave(*group)),
            What::Heal => return self.end(|_| true),
        };
        self.count(what, nodes.len() as u64);
        let fault = InForce { what: what.clone(), nodes, ends_ms };
        self.set(&fault);
        self.in_force.push(fault);
        self.set_links();
    }

    fn count(&self, what: &What, nodes: u64) {
        self.cluster.watch.count(|figures| match what {
            What::Crash(_) => figures.crashes += nodes,
            What::FailSync(_) => {
                figures.crashes += 1;
                figures.disk_faults += 1;
            }
            What::Stall(_) | What::Fill(_) => figures.disk_faults += 1,
            What::Cut(..) | What::OneWay { .. } | What::Clog { .. } => figures.partitions += 1,
            _ => {}
        });
    }

    /// What a fault does to its nodes.
    fn set(&mut self, fault: &InForce) {
        for node in &fault.nodes {
            let machine = self.cluster.machine(*node);
            match &fault.what {
                What::Crash(_) => self.cluster.crash(*node),
                What::Pause(_) => machine.pause(),
                What::Stall(_) => machine.stall_disk(true),
                What::FailSync(_) => machine.fail_sync(),
                What::Fill(_) => machine.limit_disk(Some(FULL_BYTES)),
                What::Drift(_, ppm) => machine.drift_clock(i32::try_from(*ppm).unwrap_or(0)),
                _ => {}
            }
        }
    }

    fn end_what_is_over(&mut self) {
        let now_ms = self.now_ms();
        self.end(|fault| fault.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms));
    }

    fn end(&mut self, is_over: impl Fn(&InForce) -> bool) {
        let (over, stay): (Vec<InForce>, Vec<InForce>) = self.in_force.drain(..).partition(is_over);
        if over.is_empty() {
            self.in_force = stay;
            return;
        }
        self.in_force = stay;
        for fault in over {
            self.cluster.watch.say(|| format!("---- over: {}", fault.what));
            for node in &fault.nodes {
                self.release(*node, &fault.what);
            }
        }
        self.set_links();
    }

    /// Takes from a node what no other fault holds it in.
    fn release(&mut self, node: u32, what: &What) {
        let machine = self.cluster.machine(node);
        match what {
            What::Crash(_) | What::CrashAt(..) | What::FailSync(_) => {
                let is_down = self.is_hit(node, |what| matches!(what, What::Crash(_)));
                machine.spare_sync();
                if !is_down && !machine.is_up() {
                    self.start(node);
                }
            }
            What::Pause(_) if !self.is_hit(node, |what| matches!(what, What::Pause(_))) => machine.resume(),
            What::Stall(_) if !self.is_hit(node, |what| matches!(what, What::Stall(_))) => {
                machine.stall_disk(false)
            }
            What::Fill(_) if !self.is_hit(node, |what| matches!(what, What::Fill(_))) => {
                machine.limit_disk(None)
            }
            What::Drift(..) => machine.drift_clock(0),
            _ => {}
        }
    }

    // ------------------------------------------------------------------------------------------ links

    fn set_links(&mut self) {
        let (mut cut, mut clogged, mut slowed) = (Links::new(), Links::new(), BTreeMap::new());
        for fault in &self.in_force {
            match &fault.what {
                What::Cut(a, b) => {
                    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
                    cut.extend(pairs.flat_map(|(a, b)| [(a, b), (b, a)]));
                }
                What::Clog { from, to } => drop(clogged.insert((*from, *to))),
                What::Slow { a, b, delay_ms } => {
                    for link in [(*a, *b), (*b, *a)] {
                        let slower = slowed.entry(link).or_insert(0);
                        *slower = (*delay_ms).max(*slower);
                    }
                }
                _ => {}
            }
        }
        let world = &self.cluster.world;
        self.cut.difference(&cut).for_each(|(from, to)| world.cut(*from, *to, false));
        cut.difference(&self.cut).for_each(|(from, to)| world.cut(*from, *to, true));
        self.clogged.difference(&clogged).for_each(|(from, to)| world.clog(*from, *to, false));
        clogged.difference(&self.clogged).for_each(|(from, to)| world.clog(*from, *to, true));
        for link @ (from, to) in self.slowed.keys().chain(slowed.keys()) {
            let delay_ms = slowed.get(link).copied().unwrap_or_default();
            world.slow(*from, *to, Duration::from_millis(delay_ms));
        }
        (self.cut, self.clogged, self.slowed) = (cut, clogged, slowed);
    }

    /// What a node is to do with messages: what a connection of TCP doesn't do by itself.
    fn messages_of(&self, node: u32) -> v1::Faults {
        let percent = |percent: u64| u32::try_from(percent).unwrap_or(100);
        let mut faults = v1::Faults {
            loss_percent: percent(self.network.lost),
            doubled_percent: percent(self.network.doubled),
            shuffled_percent: percent(self.network.reordered),
            ..v1::Faults::default()
        };
        for fault in &self.in_force {
            if let What::CrashAt(_, step) = &fault.what
                && fault.nodes.contains(&node)
            {
                faults.crash_at = step.clone();
            }
            if let What::OneWay { from, to } = &fault.what {
                if *from == node && !faults.mute_to.contains(to) {
                    faults.mute_to.push(*to);
                }
                if *to == node && !faults.deaf_to.contains(from) {
                    faults.deaf_to.push(*from);
                }
            }
        }
        faults
    }

    /// Whoever serves and hasn't been told is told.
    fn tell_all(&mut self) {
        while self.tellings.try_join_next().is_some() {}
        for node in self.cluster.nodes() {
            let Some((life, Standing::Serves)) = self.cluster.standing(node) else { continue };
            let wanted = self.messages_of(node);
            // A life begins without any.
            let knows = match self.told.lock().get(&node) {
                Some(Word::UnderWay) => continue,
                Some(Word::Unsure) => None,
                Some(Word::Known(of, known)) if *of == life => Some(known.clone()),
                Some(Word::Known(..)) | None => Some(v1::Faults::default()),
            };
            if knows.as_ref() == Some(&wanted) {
                continue;
            }
            self.told.lock().insert(node, Word::UnderWay);
            let (told, access, address) =
                (self.told.clone(), self.cluster.access(), self.cluster.client_address(node));
            self.tellings.spawn(async move {
                let telling = async {
                    let mut admin = client::admin(&address, TELL_WITHIN, &access).await.ok()?;
                    admin.set_faults(wanted.clone()).await.ok()
                };
                let word = match tokio::time::timeout(TELL_WITHIN, telling).await {
                    Ok(Some(_)) => Word::Known(life, wanted),
                    Ok(None) | Err(_) => Word::Unsure,
                };
                told.lock().insert(node, word);
            });
        }
    }

    // ------------------------------------------------------------------------------------------ nodes

    fn start(&mut self, node: u32) {
        self.again.remove(&node);
        self.cluster.start(node);
        // A new life on the same machine: what is wrong with that is still wrong.
        let held: Vec<InForce> =
            self.in_force.iter().filter(|fault| fault.nodes.contains(&node)).cloned().collect();
        for fault in held {
            if matches!(fault.what, What::Pause(_)) {
                self.cluster.machine(node).pause();
            }
        }
    }

    fn look_after_nodes(&mut self) {
        let now_ms = self.now_ms();
        for node in self.cluster.nodes().collect::<Vec<_>>() {
            if self.is_hit(node, |what| matches!(what, What::Crash(_))) {
                continue;
            }
            if let Some(at_ms) = self.again.get(&node) {
                if *at_ms <= now_ms {
                    self.start(node);
                }
                continue;
            }
            let machine = self.cluster.machine(node);
            let failed = match self.cluster.standing(node) {
                Some((_, Standing::Failed(why))) => Some(why),
                _ => None,
            };
            let ended = machine.ended().filter(|_| !machine.is_up());
            let Some(why) = failed.or(ended) else { continue };
            self.cluster.watch.say(|| format!("---- node {node}: {why}"));
            if self.is_hit(node, |what| matches!(what, What::CrashAt(..))) {
                self.cluster.watch.count(|figures| figures.crashes += 1);
            }
            // It may not have heard yet that it needn't.
            let may = |what: &What| matches!(what, What::CrashAt(..) | What::FailSync(_) | What::Fill(_));
            let expected = [TOLD_TO_END, NO_ROOM, INJECTED].iter().any(|reason| why.contains(reason));
            if !self.is_hit(node, may) && !expected {
                let detail = format!("node {node} ended by itself: {why}");
                self.cluster.watch.violated(Violation { property: "P10", detail });
            }
            self.again.insert(node, now_ms + AGAIN_MS);
        }
    }

    // ------------------------------------------------------------------------------------------ the end of it

    /// All is well from here on.
    async fn calm_down(&mut self) {
        self.cluster.watch.say(|| "---- calm".to_string());
        self.end(|_| true);
        self.network = Network { lost: 0, doubled: 0, reordered: 0, ..self.network };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.look_after_nodes();
            self.tell_all();
            let all_serve = self.cluster.nodes().all(|node| {
                matches!(self.cluster.standing(node), Some((_, Standing::Serves)))
                    && self.cluster.machine(node).is_up()
            });
            let all_know = self.tellings.is_empty();
            if (all_serve && all_know && self.again.is_empty()) || Instant::now() > deadline {
                break;
            }
            sleep(LOOK).await;
        }
    }
}
