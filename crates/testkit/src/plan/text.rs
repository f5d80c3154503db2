//! The text form of a plan: one line a thing, words and numbers with their units; `#` begins a comment.
//!
//! ```text
//! seed 42
//! cluster nodes=3 groups=2 shards=8
//! network delay=50us..500us lost=20 doubled=0 reordered=0
//! log keep=2000 checkpoint=98304
//! patience 20000ms
//! calm 8000ms
//! at 1200ms crash 2,leader-1 for 500ms
//! at 1500ms cut 1 | 2,3
//! client 3: append log0
//! ```

use std::fmt;
use std::str::FromStr;

use super::{Event, Log, Network, Plan, Shape, Step, TXN_STEPS, What, Who};

/// A line that isn't part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PlanError {
    /// From 1; 0 where a line is missing.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Node(node) => write!(f, "{node}"),
            Who::Leader(group) => write!(f, "leader-{group}"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Crash(nodes) => write!(f, "crash {}", list(nodes)),
            What::Pause(who) => write!(f, "pause {who}"),
            What::Cut(a, b) => write!(f, "cut {} | {}", list(a), list(b)),
            What::OneWay { from, to } => write!(f, "one-way {from} {to}"),
            What::Clog { from, to } => write!(f, "clog {from} {to}"),
            What::Slow { a, b, delay_ms } => write!(f, "slow {a} {b} {delay_ms}ms"),
            What::CrashAt(who, step) => write!(f, "crash-at {who} {step}"),
            What::Stall(who) => write!(f, "stall {who}"),
            What::FailSync(who) => write!(f, "fail-sync {who}"),
            What::Fill(who) => write!(f, "fill {who}"),
            What::Drift(who, ppm) => write!(f, "drift {who} {ppm}ppm"),
            What::Move { shard, to } => write!(f, "move {shard} {to}"),
            What::Join(group) => write!(f, "join {group}"),
            What::Leave(group) => write!(f, "leave {group}"),
            What::Heal => f.write_str("heal"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}ms {}", self.at_ms, self.what)?;
        self.lasts_ms.map_or(Ok(()), |ms| write!(f, " for {ms}ms"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Wait(ms) => write!(f, "wait {ms}ms"),
            Step::Get(key) => write!(f, "get {key}"),
            Step::GetLeased(key) => write!(f, "get-leased {key}"),
            Step::Put(key) => write!(f, "put {key}"),
            Step::Append(key) => write!(f, "append {key}"),
            Step::Delete(key) => write!(f, "delete {key}"),
            Step::Create(key) => write!(f, "create {key}"),
            Step::Incr(key, by) => write!(f, "incr {key} {by}"),
            Step::Transfer(from, to, by) => write!(f, "transfer {from} {to} {by}"),
            Step::Swap(a, b) => write!(f, "swap {a} {b}"),
            Step::Look(keys) => write!(f, "look {}", keys.join(" ")),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, shape: Shape { nodes, groups, shards }, network, .. } = self;
        let Network { delay_us: (min, max), lost, doubled, reordered } = network;
        writeln!(f, "seed {seed}")?;
        writeln!(f, "cluster nodes={nodes} groups={groups} shards={shards}")?;
        writeln!(f, "network delay={min}us..{max}us lost={lost} doubled={doubled} reordered={reordered}")?;
        let Log { keep_bytes, checkpoint_bytes } = self.log;
        writeln!(f, "log keep={keep_bytes} checkpoint={checkpoint_bytes}")?;
        writeln!(f, "patience {}ms\ncalm {}ms", self.patience_ms, self.calm_ms)?;
        self.events.iter().try_for_each(|event| writeln!(f, "{event}"))?;
        for (client, steps) in &self.clients {
            steps.iter().try_for_each(|step| writeln!(f, "client {client}: {step}"))?;
        }
        Ok(())
    }
}

// ------------------------------------------------------------------------------------------------ reading

/// The words of a line, taken one by one.
struct Words<'a> {
    words: std::str::SplitWhitespace<'a>,
}

type Read<T> = Result<T, String>;

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        Words { words: line.split_whitespace() }
    }

    fn word(&mut self) -> Read<&'a str> {
        self.words.next().ok_or_else(|| "the line is cut short".to_string())
    }

    fn key(&mut self) -> Read<String> {
        self.word().map(str::to_string)
    }

    fn number<T: FromStr>(&mut self) -> Read<T> {
        number(self.word()?)
    }

    fn with_unit<T: FromStr>(&mut self, unit: &str) -> Read<T> {
        with_unit(self.word()?, unit)
    }

    /// `name=value`
    fn field(&mut self, name: &str) -> Read<&'a str> {
        let word = self.word()?;
        let value = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        value.ok_or_else(|| format!("`{word}` where `{name}=…` is due"))
    }

    fn exactly(&mut self, wanted: &str) -> Read<()> {
        let word = self.word()?;
        if word == wanted { Ok(()) } else { Err(format!("`{word}` where `{wanted}` is due")) }
    }

    fn end(mut self) -> Read<()> {
        self.words.next().map_or(Ok(()), |word| Err(format!("`{word}` is too much")))
    }
}

fn number<T: FromStr>(word: &str) -> Read<T> {
    word.parse().map_err(|_| format!("`{word}` isn't a number that fits"))
}

fn with_unit<T: FromStr>(word: &str, unit: &str) -> Read<T> {
    number(word.strip_suffix(unit).ok_or_else(|| format!("`{word}` lacks its unit, {unit}"))?)
}

fn who(word: &str) -> Read<Who> {
    match word.strip_prefix("leader-") {
        Some(group) => Ok(Who::Leader(number(group)?)),
        None => Ok(Who::Node(number(word)?)),
    }
}

fn step_of_txn(word: &str) -> Read<String> {
    match TXN_STEPS.contains(&word) {
        true => Ok(word.to_string()),
        false => Err(format!("`{word}` is none of {}", TXN_STEPS.join(", "))),
    }
}

fn what(words: &mut Words<'_>) -> Read<What> {
    Ok(match words.word()? {
        "crash" => What::Crash(words.word()?.split(',').map(who).collect::<Read<_>>()?),
        "pause" => What::Pause(who(words.word()?)?),
        "cut" => {
            let side = |word: &str| word.split(',').map(number).collect::<Read<Vec<u32>>>();
            let a = side(words.word()?)?;
            words.exactly("|")?;
            What::Cut(a, side(words.word()?)?)
        }
        "one-way" => What::OneWay { from: words.number()?, to: words.number()? },
        "clog" => What::Clog { from: words.number()?, to: words.number()? },
        "slow" => What::Slow { a: words.number()?, b: words.number()?, delay_ms: words.with_unit("ms")? },
        "crash-at" => {
            let who = who(words.word()?)?;
            What::CrashAt(who, step_of_txn(words.word()?)?)
        }
        "stall" => What::Stall(who(words.word()?)?),
        "fail-sync" => What::FailSync(who(words.word()?)?),
        "fill" => What::Fill(who(words.word()?)?),
        "drift" => What::Drift(who(words.word()?)?, words.with_unit("ppm")?),
        "move" => What::Move { shard: words.number()?, to: words.number()? },
        "join" => What::Join(words.number()?),
        "leave" => What::Leave(words.number()?),
        "heal" => What::Heal,
        other => return Err(format!("`{other}` is nothing that happens")),
    })
}

fn event(mut words: Words<'_>) -> Read<Event> {
    let at_ms = words.with_unit("ms")?;
    let what = what(&mut words)?;
    let lasts_ms = match words.words.clone().next() {
        Some(_) => {
            words.exactly("for")?;
            Some(words.with_unit("ms")?)
        }
        None => None,
    };
    words.end()?;
    Ok(Event { at_ms, what, lasts_ms })
}

fn step(mut words: Words<'_>) -> Read<Step> {
    let step = match words.word()? {
        "wait" => Step::Wait(words.with_unit("ms")?),
        "get" => Step::Get(words.key()?),
        "get-leased" => Step::GetLeased(words.key()?),
        "put" => Step::Put(words.key()?),
        "append" => Step::Append(words.key()?),
        "delete" => Step::Delete(words.key()?),
        "create" => Step::Create(words.key()?),
        "incr" => Step::Incr(words.key()?, words.number()?),
        "transfer" => Step::Transfer(words.key()?, words.key()?, words.number()?),
        "swap" => Step::Swap(words.key()?, words.key()?),
        "look" => return Ok(Step::Look(words.words.map(str::to_string).collect())),
        other => return Err(format!("`{other}` is nothing that a client does")),
    };
    words.end()?;
    Ok(step)
}

fn shape(mut words: Words<'_>) -> Read<Shape> {
    let nodes = number(words.field("nodes")?)?;
    let (groups, shards) = (number(words.field("groups")?)?, number(words.field("shards")?)?);
    words.end()?;
    Ok(Shape { nodes, groups, shards })
}

fn network(mut words: Words<'_>) -> Read<Network> {
    let delay = words.field("delay")?;
    let (min, max) = delay.split_once("..").ok_or_else(|| format!("`{delay}` isn't a range"))?;
    let delay_us = (with_unit(min, "us")?, with_unit(max, "us")?);
    let (lost, doubled) = (number(words.field("lost")?)?, number(words.field("doubled")?)?);
    let reordered = number(words.field("reordered")?)?;
    words.end()?;
    Ok(Network { delay_us, lost, doubled, reordered })
}

fn log(mut words: Words<'_>) -> Read<Log> {
    let keep_bytes = number(words.field("keep")?)?;
    let checkpoint_bytes = number(words.field("checkpoint")?)?;
    words.end()?;
    Ok(Log { keep_bytes, checkpoint_bytes })
}

/// What was read so far.
#[derive(Default)]
struct Draft {
    seed: Option<u64>,
    shape: Option<Shape>,
    network: Option<Network>,
    log: Option<Log>,
    patience_ms: Option<u64>,
    calm_ms: Option<u64>,
    events: Vec<Event>,
    clients: std::collections::BTreeMap<u32, Vec<Step>>,
}

impl Draft {
    fn take(&mut self, line: &str) -> Read<()> {
        let mut words = Words::of(line);
        match words.word()? {
            "seed" => self.seed = Some(words.number()?),
            "cluster" => self.shape = Some(shape(words)?),
            "network" => self.network = Some(network(words)?),
            "log" => self.log = Some(log(words)?),
            "patience" => self.patience_ms = Some(words.with_unit("ms")?),
            "calm" => self.calm_ms = Some(words.with_unit("ms")?),
            "at" => self.events.push(event(words)?),
            "client" => {
                let client = with_unit(words.word()?, ":")?;
                self.clients.entry(client).or_default().push(step(words)?);
            }
            other => return Err(format!("`{other}` is no word that a line begins with")),
        }
        Ok(())
    }

    fn finish(self) -> Option<Plan> {
        let Draft { seed, shape, network, log, patience_ms, calm_ms, mut events, clients } = self;
        events.sort_by_key(|event| event.at_ms);
        let (seed, shape, network) = (seed?, shape?, network?);
        let (log, patience_ms, calm_ms) = (log?, patience_ms?, calm_ms?);
        Some(Plan { seed, shape, network, log, patience_ms, calm_ms, events, clients })
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Plan, PlanError> {
        let mut draft = Draft::default();
        for (index, line) in text.lines().enumerate() {
            let told = line.split('#').next().unwrap_or_default().trim();
            if !told.is_empty() {
                draft.take(told).map_err(|what| PlanError { line: index + 1, what })?;
            }
        }
        let missing =
            "`seed`, `cluster`, `network`, `log`, `patience` and `calm` must all be said".to_string();
        draft.finish().ok_or(PlanError { line: 0, what: missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read_as_it_is_written() {
        let text = "seed 42\ncluster nodes=3 groups=2 shards=8\n\
            network delay=50us..500us lost=20 doubled=1 reordered=2\nlog keep=2000 checkpoint=98304\npatience 2000ms\ncalm 8000ms\n\
            at 1ms crash 2,leader-1 for 500ms\nat 2ms pause leader-0 for 5ms\nat 3ms cut 1 | 2,3\n\
            at 4ms one-way 1 2\nat 5ms clog 2 1 for 9ms\nat 6ms slow 1 3 40ms\nat 7ms stall 1 for 2ms\n\
            at 8ms fail-sync 3\nat 9ms fill 2\nat 10ms drift 1 -9000ppm\nat 11ms move 3 2\nat 12ms join 3\n\
            at 13ms leave 1\nat 14ms heal\nat 15ms crash-at leader-1 told for 9ms\n\
            client 1: wait 20ms\nclient 1: get a\nclient 1: get-leased a\nclient 1: put a\nclient 1: append log0\nclient 1: delete a\n\
            client 1: create a\nclient 2: incr n0 -3\nclient 2: transfer n0 n1 5\nclient 2: swap a b\n\
            client 2: look a b n0\n";
        let plan: Plan = text.parse().unwrap();
        assert_eq!(plan.to_string(), text);
        assert_eq!(plan.parts(), 26);
    }

    #[test]
    fn drawn_plans_are_read_back() {
        for seed in 0..200 {
            let plan = super::super::draw(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
    }

    #[test]
    fn comments_and_empty_lines_say_nothing_and_events_are_put_in_order() {
        let head = "seed 1\n\n# what for\ncluster nodes=1 groups=1 shards=1 # small\n\
            network delay=1us..2us lost=0 doubled=0 reordered=0\nlog keep=0 checkpoint=1\npatience 1ms\ncalm 9ms\n";
        let plan: Plan = format!("{head}at 5ms heal\nat 3ms join 2\n").parse().unwrap();
        assert_eq!(plan.events.iter().map(|event| event.at_ms).collect::<Vec<_>>(), [3, 5]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let wrong = |text: &str| text.parse::<Plan>().unwrap_err().to_string();
        assert_eq!(wrong("seed 1\nat 5ms jump 1"), "line 2: `jump` is nothing that happens");
        assert_eq!(wrong("at 5 heal"), "line 1: `5` lacks its unit, ms");
        assert_eq!(wrong("at 5ms heal now"), "line 1: `now` where `for` is due");
        assert_eq!(wrong("client 1: get"), "line 1: the line is cut short");
        assert_eq!(wrong("client 1: get a b"), "line 1: `b` is too much");
        assert!(wrong("seed 1").starts_with("line 0: "));
    }
}
