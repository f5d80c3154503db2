//! What breaks while the clients work: one fault at a time, at a node that leads, drawn from a seed; and its mending.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::fault::{Demo, LinkFault};
use crate::nodes;
use crate::output::message;

/// A fault lasts at least as long; a group that lost its leader has a new one in half of that.
const HOLD_MIN_MS: u64 = 500;
/// A fault of a long run lasts at most this longer.
const HOLD_MORE_MAX_MS: u64 = 2_000;
/// The cluster is whole for a while between two faults.
const WHOLE_MS: std::ops::Range<u64> = 150..500;
/// Of the messages between nodes, when some are lost.
const LOSS_PERCENT: std::ops::Range<u32> = 10..40;
/// When nobody leads just now.
const NO_LEADER: Duration = Duration::from_millis(50);
/// How long a run goes on after its time for a kind of fault that hasn't come yet.
pub(super) const LATE: Duration = Duration::from_secs(60);
/// Mending is tried anew for so long: on a busy machine a node that starts isn't reached at once.
const MEND_WITHIN: Duration = Duration::from_secs(60);
const MEND_PAUSE: Duration = Duration::from_millis(300);

/// Which faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Faults {
    /// None
    None,
    /// Kill -9 of leaders, started again
    Kill,
    /// Leaders cut off, messages lost in one direction only, and at random
    Partition,
    /// Leaders held still (SIGSTOP), which go on later (SIGCONT)
    Pause,
    /// All of these
    All,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Kill,
    Pause,
    Isolate,
    Oneway,
    Loss,
}

impl Faults {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Faults::None => &[],
            Faults::Kill => &[Kind::Kill],
            Faults::Partition => &[Kind::Isolate, Kind::Oneway, Kind::Loss],
            Faults::Pause => &[Kind::Pause],
            Faults::All => &[Kind::Kill, Kind::Pause, Kind::Isolate, Kind::Oneway, Kind::Loss],
        }
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Isolate => "isolate",
            Kind::Oneway => "oneway",
            Kind::Loss => "loss",
        }
    }
}

/// The faults of a run.
pub(super) struct Trouble<'a> {
    context: &'a Context,
    /// Draws in which order kinds come, and nothing else: that doesn't hang on how the cluster fares.
    order: SmallRng,
    random: SmallRng,
    kinds: &'static [Kind],
    /// Each kind once in a random order, then anew.
    deck: Vec<Kind>,
    groups: Vec<u32>,
    hold_more_ms: u64,
    fired: BTreeMap<Kind, u32>,
    is_broken: bool,
}

impl<'a> Trouble<'a> {
    /// Refused where something is broken already.
    pub(super) async fn new(
        context: &'a Context,
        mut random: SmallRng,
        faults: Faults,
        groups: Vec<u32>,
        length: Duration,
    ) -> Result<Trouble<'a>, Failure> {
        let kinds = faults.kinds();
        if !kinds.is_empty() {
            refuse_if_broken(context, kinds).await?;
        }
        let tenth = u64::try_from(length.as_millis() / 10).unwrap_or(u64::MAX);
        Ok(Trouble {
            context,
            order: SmallRng::seed_from_u64(random.random()),
            random,
            kinds,
            deck: Vec::new(),
            groups,
            hold_more_ms: tenth.clamp(1, HOLD_MORE_MAX_MS),
            fired: BTreeMap::new(),
            is_broken: false,
        })
    }

    /// How often each kind that was asked for came.
    pub(super) fn fired(&self) -> Vec<(&'static str, u32)> {
        let times = |kind: &Kind| self.fired.get(kind).copied().unwrap_or(0);
        self.kinds.iter().map(|kind| (kind.name(), times(kind))).collect()
    }

    /// Breaks and mends until then, and until each kind came once.
    pub(super) async fn go_on(&mut self, until: Instant) -> Result<(), Failure> {
        if self.kinds.is_empty() {
            tokio::time::sleep_until(until.into()).await;
            return Ok(());
        }
        loop {
            let now = Instant::now();
            let is_missing = self.fired().iter().any(|(_, times)| *times == 0);
            if now >= until && !(is_missing && now < until + LATE) {
                return Ok(());
            }
            let whole_ms = self.random.random_range(WHOLE_MS);
            tokio::time::sleep(Duration::from_millis(whole_ms)).await;
            self.strike().await?;
        }
    }

    /// One fault, from its begin to its end.
    async fn strike(&mut self) -> Result<(), Failure> {
        let kind = self.draw();
        let group = self.groups[self.random.random_range(0..self.groups.len())];
        let nodes = nodes::discover(self.context).await?;
        let statuses = nodes::statuses(&nodes, &nodes::reach(self.context)).await;
        let Some(leader) = nodes::leader_of(group, &statuses) else {
            self.deck.push(kind);
            tokio::time::sleep(NO_LEADER).await;
            return Ok(());
        };
        self.is_broken = true;
        match self.inject(kind, leader).await {
            Ok(()) => {
                *self.fired.entry(kind).or_default() += 1;
                let hold_ms = HOLD_MIN_MS + self.random.random_range(0..self.hold_more_ms);
                tokio::time::sleep(Duration::from_millis(hold_ms)).await;
            }
            // It isn't counted; the next one may succeed.
            Err(failure) => message(failure.at(kind.name()).report().trim_end()),
        }
        self.mend().await
    }

    fn draw(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = self.kinds.to_vec();
            self.deck.shuffle(&mut self.order);
        }
        self.deck.pop().unwrap_or(Kind::Kill)
    }

    async fn inject(&mut self, kind: Kind, leader: u32) -> Result<(), Failure> {
        let demo = Demo::open(self.context, true)?;
        match kind {
            Kind::Kill => demo.kill(&[leader]).await,
            Kind::Pause => demo.pause(&[leader]),
            Kind::Isolate => demo.cut(&LinkFault::Isolate(leader)).await,
            Kind::Oneway => {
                let others: Vec<u32> = demo.ids().into_iter().filter(|id| *id != leader).collect();
                let other = others[self.random.random_range(0..others.len())];
                let speaks = self.random.random_bool(0.5);
                let (from, to) = if speaks { (leader, other) } else { (other, leader) };
                demo.cut(&LinkFault::Oneway { from, to }).await
            }
            Kind::Loss => demo.cut(&LinkFault::Loss(self.random.random_range(LOSS_PERCENT))).await,
        }
    }

    /// Makes the cluster whole, whatever a fault was at when it ended.
    pub(super) async fn mend(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + MEND_WITHIN;
        while self.is_broken {
            match Demo::open(self.context, true)?.mend().await {
                Ok(()) => self.is_broken = false,
                Err(failure) if Instant::now() >= end => {
                    return Err(failure.at("not all is mended").hint(
                        "`kvctl fault list` shows what is broken; then fault resume, fault start, fault heal",
                    ));
                }
                Err(_) => tokio::time::sleep(MEND_PAUSE).await,
            }
        }
        Ok(())
    }
}

/// Faults hit the demo in the directory; the clients must talk to the same.
pub(super) fn refuse_elsewhere(context: &Context) -> Result<(), Failure> {
    Demo::open(context, true)?;
    if context.speaks_to_demo() {
        return Ok(());
    }
    Err(Failure::usage("faults are only for demo clusters, and --endpoints may name another one")
        .hint("leave --endpoints out: KVCTL_DEMO says where the demo is"))
}

async fn refuse_if_broken(context: &Context, kinds: &[Kind]) -> Result<(), Failure> {
    let demo = Demo::open(context, true)?;
    if demo.ids().len() < 2 && kinds.iter().any(|kind| !matches!(kind, Kind::Kill | Kind::Pause)) {
        return Err(Failure::new(Exit::Precondition, "ONE_NODE", "there are no links to cut with one node"));
    }
    let broken = demo.broken().await?;
    if broken.is_empty() {
        return Ok(());
    }
    let what = broken.join(", ");
    Err(Failure::new(Exit::Precondition, "BROKEN", format!("something is broken already: {what}"))
        .hint("all must be whole at first: kvctl fault resume, fault start, fault heal"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::context::Connected;
    use crate::settings::{Flags, Settings};

    async fn trouble(context: &Context, seed: u64) -> Trouble<'_> {
        let random = SmallRng::seed_from_u64(seed);
        let none = Trouble::new(context, random, Faults::None, vec![1], Duration::from_secs(4)).await;
        Trouble { kinds: Faults::All.kinds(), ..none.unwrap() }
    }

    #[tokio::test]
    async fn every_kind_comes_before_one_comes_again_and_the_seed_says_when() {
        let settings = Settings::load(&Flags::default(), None).unwrap();
        let context = Context::new(settings, Connected::default(), None, true);
        let mut drawn = Vec::new();
        for seed in [7, 7, 8] {
            let mut trouble = trouble(&context, seed).await;
            drawn.push((0..20).map(|_| trouble.draw()).collect::<Vec<_>>());
        }
        assert_eq!(drawn[0], drawn[1]);
        assert_ne!(drawn[0], drawn[2]);
        for deck in drawn[0].chunks(5) {
            assert_eq!(deck.iter().collect::<BTreeSet<_>>().len(), 5);
        }
        let fired = trouble(&context, 7).await.fired();
        assert_eq!(fired, [("kill", 0), ("pause", 0), ("isolate", 0), ("oneway", 0), ("loss", 0)]);
    }
}
