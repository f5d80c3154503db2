//! A plan drawn from a seed. First which kinds of faults there are at all, then how many of each (A. Groce et al., "Swarm
//! Testing", 2012): a run without loss finds what a run with every fault at once hides.

use std::collections::BTreeMap;

use scripted::prng::Prng;

use super::{Event, Log, Network, Plan, Shape, Step, TXN_STEPS, What, Who};

/// How much faster or slower a clock may run, in parts per million: within the bound that leases count on.
const DRIFT_PPM_MAX: u64 = 9_000;

/// A kind of event, as a seed may have it or not.
#[derive(Clone, Copy)]
enum Kind {
    CrashOne,
    CrashLeader,
    CrashMinority,
    CrashMajority,
    CrashAll,
    CrashAt,
    Pause,
    Isolate,
    Split,
    Partial,
    OneWay,
    Clog,
    Slow,
    Stall,
    FailSync,
    Fill,
    Drift,
    Move,
    Groups,
    Heal,
}

const KINDS: [Kind; 20] = [
    Kind::CrashOne,
    Kind::CrashLeader,
    Kind::CrashMinority,
    Kind::CrashMajority,
    Kind::CrashAll,
    Kind::CrashAt,
    Kind::Pause,
    Kind::Isolate,
    Kind::Split,
    Kind::Partial,
    Kind::OneWay,
    Kind::Clog,
    Kind::Slow,
    Kind::Stall,
    Kind::FailSync,
    Kind::Fill,
    Kind::Drift,
    Kind::Move,
    Kind::Groups,
    Kind::Heal,
];

/// The plan of a seed.
pub fn draw(seed: u64) -> Plan {
    let mut luck = Prng::new(seed);
    let luck = &mut luck;
    let groups = *luck.pick(&[1, 2, 2, 3]);
    let shape = Shape { nodes: *luck.pick(&[3, 3, 3, 5]), groups, shards: *luck.pick(&[4, 8, 16]) };
    let network = Network {
        delay_us: *luck.pick(&[(50, 500), (200, 2_000), (1_000, 30_000)]),
        lost: *luck.pick(&[0, 0, 0, 1, 5, 20]),
        doubled: *luck.pick(&[0, 0, 0, 2, 30]),
        reordered: *luck.pick(&[0, 0, 0, 5, 30]),
    };
    let log = Log {
        keep_bytes: *luck.pick(&[500, 5_000, 1 << 20]),
        checkpoint_bytes: *luck.pick(&[100_000, 300_000, 64 << 20]),
    };
    let calm_ms = luck.between(2_000, 8_000);
    let patience_ms = *luck.pick(&[1_000, 4_000, 20_000, 20_000]);
    let mut drawing = Drawing { luck, shape, calm_ms, events: Vec::new() };
    let per_mille = *drawing.luck.pick(&[0, 100, 250, 250, 400]);
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| drawing.luck.chance(per_mille)).collect();
    for kind in kinds {
        for _ in 0..drawing.luck.between(1, 4) {
            drawing.push(kind);
        }
    }
    let mut events = drawing.events;
    events.sort_by_key(|event| event.at_ms);
    let clients = clients(luck);
    Plan { seed, shape, network, log, patience_ms, calm_ms, events, clients }
}

struct Drawing<'a> {
    luck: &'a mut Prng,
    shape: Shape,
    calm_ms: u64,
    events: Vec<Event>,
}

impl Drawing<'_> {
    fn node(&mut self) -> u32 {
        u32::try_from(self.luck.between(1, u64::from(self.shape.nodes))).unwrap_or(1)
    }

    fn two_nodes(&mut self) -> (u32, u32) {
        let nodes = self.shuffled();
        (nodes[0], nodes[1])
    }

    fn shuffled(&mut self) -> Vec<u32> {
        let mut nodes: Vec<u32> = (1..=self.shape.nodes).collect();
        for end in (1..nodes.len()).rev() {
            let other = usize::try_from(self.luck.below(end as u64 + 1)).unwrap_or(0);
            nodes.swap(end, other);
        }
        nodes
    }

    /// Leaders are where it hurts.
    fn who(&mut self) -> Who {
        if self.luck.chance(500) { Who::Leader(self.group()) } else { Who::Node(self.node()) }
    }

    /// The shardmaster among them.
    fn group(&mut self) -> u32 {
        u32::try_from(self.luck.below(u64::from(self.shape.groups) + 1)).unwrap_or(0)
    }

    fn crash(&mut self, nodes: u32) -> What {
        let nodes = self.shuffled().into_iter().take(nodes as usize);
        What::Crash(nodes.map(Who::Node).collect())
    }

    fn push(&mut self, kind: Kind) {
        let minority = (self.shape.nodes - 1) / 2;
        let what = match kind {
            Kind::CrashOne => self.crash(1),
            Kind::CrashLeader => What::Crash(vec![Who::Leader(self.group())]),
            Kind::CrashMinority => self.crash(minority),
            Kind::CrashMajority => self.crash(minority + 1),
            Kind::CrashAll => self.crash(self.shape.nodes),
            Kind::CrashAt => {
                let step = self.luck.pick(&TXN_STEPS).to_string();
                What::CrashAt(Who::Leader(self.group().max(1)), step)
            }
            Kind::Pause => What::Pause(self.who()),
            Kind::Isolate => self.cut(1),
            Kind::Split => {
                let side = self.luck.between(1, u64::from(self.shape.nodes) - 1);
                self.cut(usize::try_from(side).unwrap_or(1))
            }
            Kind::Partial => {
                let (a, b) = self.two_nodes();
                What::Cut(vec![a], vec![b])
            }
            Kind::OneWay => {
                let (from, to) = self.two_nodes();
                What::OneWay { from, to }
            }
            Kind::Clog => {
                let (from, to) = self.two_nodes();
                What::Clog { from, to }
            }
            Kind::Slow => {
                let (a, b) = self.two_nodes();
                What::Slow { a, b, delay_ms: self.luck.between(5, 100) }
            }
            Kind::Stall => What::Stall(self.who()),
            Kind::FailSync => What::FailSync(self.who()),
            Kind::Fill => What::Fill(self.who()),
            Kind::Drift => {
                let ppm = i64::try_from(self.luck.between(0, 2 * DRIFT_PPM_MAX)).unwrap_or_default();
                What::Drift(Who::Node(self.node()), ppm - i64::try_from(DRIFT_PPM_MAX).unwrap_or_default())
            }
            Kind::Move => {
                let shard = u16::try_from(self.luck.below(u64::from(self.shape.shards))).unwrap_or(0);
                What::Move { shard, to: self.group().max(1) }
            }
            Kind::Groups => {
                let new = u32::from(self.shape.groups) + 1;
                let group = self.group().max(1);
                if self.luck.chance(600) {
                    What::Join(new)
                } else {
                    What::Leave(*self.luck.pick(&[new, group]))
                }
            }
            Kind::Heal => What::Heal,
        };
        let lasts = match &what {
            What::Move { .. } | What::Join(_) | What::Leave(_) | What::Heal => None,
            What::Drift(..) => self.luck.chance(300).then_some((500, 4_000)),
            What::Crash(_) | What::CrashAt(..) | What::FailSync(_) => Some((10, 2_500)),
            // Some leave it for good, that is until all is well again.
            _ => self.luck.chance(850).then_some((20, 3_000)),
        };
        let lasts_ms = lasts.map(|(min, max)| self.luck.between(min, max));
        let at_ms = self.luck.below(self.calm_ms);
        self.events.push(Event { at_ms, what, lasts_ms });
    }

    fn cut(&mut self, side: usize) -> What {
        let mut nodes = self.shuffled();
        let mut other = nodes.split_off(side);
        nodes.sort_unstable();
        other.sort_unstable();
        What::Cut(nodes, other)
    }
}

/// What clients do goes on for about as long as the faults do, and a little longer.
fn clients(luck: &mut Prng) -> BTreeMap<u32, Vec<Step>> {
    let clients = luck.between(2, 5);
    let transactions = *luck.pick(&[0, 100, 400]);
    let pause_ms = *luck.pick(&[5, 40, 200]);
    let keys = *luck.pick(&[1, 2, 4]);
    let steps = luck.between(20, 60);
    let of_client = |number| {
        let mut steps_of = Vec::new();
        for _ in 0..steps {
            if luck.chance(600) {
                steps_of.push(Step::Wait(luck.between(1, 2 * pause_ms)));
            }
            steps_of.push(step(luck, keys, transactions));
        }
        (number, steps_of)
    };
    (1..=u32::try_from(clients).unwrap_or(2)).map(of_client).collect()
}

/// Keys of one kind are only appended to, of another only added to: there P9 can say more.
fn step(luck: &mut Prng, keys: u64, transactions: u64) -> Step {
    let mut key = |kind: &str| format!("{kind}{}", luck.below(keys));
    let (register, register_b, log) = (key("r"), key("r"), key("log"));
    let (counter, account_a, account_b) = (key("n"), key("a"), key("b"));
    let by = i64::try_from(luck.between(1, 9)).unwrap_or(1);
    if luck.chance(transactions) {
        return match luck.below(4) {
            0 => Step::Transfer(account_a, account_b, by),
            1 => Step::Transfer(account_b, account_a, by),
            2 => Step::Look(vec![account_a, account_b]),
            _ if register != register_b => Step::Swap(register, register_b),
            _ => Step::Look(vec![register, log]),
        };
    }
    match luck.below(10) {
        0 => Step::Get(register),
        1 => Step::GetLeased(register),
        2 => Step::GetLeased(log),
        3 => Step::Get(counter),
        4 => Step::Put(register),
        5..7 => Step::Append(log),
        7 => Step::Incr(counter, by),
        8 => Step::Create(register),
        _ => Step::Delete(register),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_draws_one_plan_and_another_one_another() {
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1).to_string(), draw(2).to_string());
    }

    #[test]
    fn seeds_have_every_kind_and_some_have_none() {
        let plans: Vec<Plan> = (0..300).map(draw).collect();
        let word = |event: &Event| event.what.to_string().split(' ').next().unwrap_or_default().to_string();
        let words: BTreeSet<String> = plans.iter().flat_map(|plan| plan.events.iter().map(word)).collect();
        let all = [
            "clog",
            "crash",
            "crash-at",
            "cut",
            "drift",
            "fail-sync",
            "fill",
            "heal",
            "join",
            "leave",
            "move",
            "one-way",
            "pause",
            "slow",
            "stall",
        ];
        assert_eq!(words, all.map(str::to_string).into());
        assert!(plans.iter().any(|plan| plan.events.is_empty() && plan.network.lost == 0));
        let steps = plans.iter().flat_map(|plan| plan.clients.values().flatten());
        let first = |step: &Step| step.to_string().split(' ').next().unwrap_or_default().to_string();
        assert_eq!(steps.map(first).collect::<BTreeSet<_>>().len(), 11);
    }

    #[test]
    fn events_come_before_the_calm_and_name_nodes_that_are_there() {
        for plan in (0..300).map(draw) {
            for event in &plan.events {
                assert!(event.at_ms < plan.calm_ms);
                if let What::Cut(a, b) = &event.what {
                    assert!(a.iter().chain(b).all(|node| (1..=plan.shape.nodes).contains(node)));
                    assert!(a.iter().all(|node| !b.contains(node)) && !a.is_empty() && !b.is_empty());
                }
            }
        }
    }
}
