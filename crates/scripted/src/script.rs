//! The line language of golden scripts: one command a line, its effects in the words of [`paxos::trace`].
//!
//! `help` in a script prints the commands. A script stops at the first property that doesn't hold.

use paxos::ids::{NodeId, Slot};
use paxos::io::{Input, Timer};
use paxos::limits::Limits;
use paxos::message::{Entry, Envelope, Message};

use crate::command::Text;
use crate::golden::{Language, Trouble};
use crate::group::{Group, Jitter};
use crate::net::{Net, Which};
use crate::words;

const HELP: &str = "\
cluster nodes=3 [window_slots=4 ..]   start a group; limits by the names of their fields
campaign n1                           its election timer fires
propose n1 x [bytes=100]              a client's command arrives
read n1 [lease]                       a read arrives, confirmed by a round or under the lease
transfer n1 [n2]                      n1 is asked to hand over
deliver [n1->n2] [Accept] [s1] [first=1]
                                      what is queued now arrives, in order
drop, copy, hold [..]                 it is lost; a copy of it is kept; it is kept
release                               what was copied or held is queued
reverse                               the queue turns around
stabilize                             everything arrives until nothing is on its way
cut n1 n2, cut n1->n2, isolate n1     links lose what they carry
heal                                  all links carry again
disk n1 slow, disk n1 fast            a disk syncs only when told, or at once
sync n1 [1]                           a slow disk syncs its oldest steps
crash n1 [survive=1]                  n1 dies; some unsynced writes may have reached the disk
restart n1                            it starts from its disk
checkpoint n1, trim n1                its state is on disk; and its log below that is cut
lose-checkpoint n1                    a node that is down loses its checkpoint
expire n1 Election                    a timer fires now
tick 300ms, run 300ms                 time passes, timers fire; with run, messages arrive at once
drift n1 -10000                       n1's clock runs so many parts per million fast
forge n9->n1 Accepted b1.1 s1         a message that nobody sent
status, log n1, queue                 what replicas, a log and the network hold
quiet COMMAND                         without its trace";

/// A script being run.
#[derive(Default)]
pub struct Script {
    net: Option<Net>,
    broken: bool,
}

impl Language for Script {
    fn command(&mut self, words: &[&str], lines: &mut Vec<String>) -> Result<(), Trouble> {
        match words {
            ["help"] => {
                lines.extend(HELP.lines().map(String::from));
                return Ok(());
            }
            ["cluster", settings @ ..] => return self.cluster(settings),
            _ => {}
        }
        let net = self.net.as_mut().ok_or("there is no cluster yet".to_string())?;
        match words {
            ["status"] => lines.extend(status(&net.group)),
            ["log", id] => lines.extend(log(&net.group, words::node(id)?)),
            ["queue"] => lines.extend(
                net.queue()
                    .iter()
                    .map(|e| format!("{}->{} {}", e.from, e.to, paxos::trace::message(&e.message))),
            ),
            ["campaign", id] => net.group.expire(up(net, id)?, Timer::Election)?,
            ["expire", id, timer] => net.group.expire(up(net, id)?, words::timer(timer)?)?,
            ["propose", id, name] => propose(net, id, name, 1)?,
            ["propose", id, name, size] => {
                let (_, bytes) = words::setting(size)?;
                propose(net, id, name, number(bytes)?)?;
            }
            ["read", id] => net.group.read(up(net, id)?)?,
            ["read", id, "lease"] => match net.group.read_lease(up(net, id)?)? {
                Some(state) => lines.push(format!("{id} reads {} under its lease", state.summary())),
                None => lines.push(format!("{id} holds no lease")),
            },
            ["transfer", id] => net.group.step(up(net, id)?, Input::Transfer(None))?,
            ["transfer", id, to] => {
                net.group.step(up(net, id)?, Input::Transfer(Some(words::node(to)?)))?;
            }
            ["crash", id] => net.group.crash(up(net, id)?, 0)?,
            ["crash", id, survive] => {
                let (_, survive) = words::setting(survive)?;
                net.group.crash(up(net, id)?, number(survive)?)?;
            }
            ["restart", id] => net.group.start(words::node(id)?)?,
            ["checkpoint", id] => net.group.checkpoint(up(net, id)?, false),
            ["trim", id] => net.group.checkpoint(up(net, id)?, true),
            ["lose-checkpoint", id] => {
                let id = words::node(id)?;
                let node = net.group.nodes.get_mut(&id).ok_or(format!("{id} is no node here"))?;
                node.disk.lose_checkpoint();
            }
            ["drift", id, ppm] => {
                let ppm = ppm.parse().map_err(|_| format!("{ppm} is no number"))?;
                net.group.set_drift(up(net, id)?, ppm);
            }
            ["disk", id, speed @ ("slow" | "fast")] => net.set_slow_disk(up(net, id)?, *speed == "slow"),
            ["sync", id] => net.group.sync(up(net, id)?, usize::MAX)?,
            ["sync", id, steps] => net.group.sync(up(net, id)?, number(steps)?)?,
            _ => return network(net, words, lines),
        }
        Ok(net.settle()?)
    }

    fn trace(&mut self) -> Vec<String> {
        self.net.as_mut().map(|net| std::mem::take(&mut net.group.lines)).unwrap_or_default()
    }

    fn broken(&mut self) -> &mut bool {
        &mut self.broken
    }
}

impl Script {
    fn cluster(&mut self, settings: &[&str]) -> Result<(), Trouble> {
        let (mut nodes, mut limits) = (3, Limits { leases: false, ..Limits::default() });
        for setting in settings {
            match words::setting(setting)? {
                ("nodes", value) => nodes = number(value)?,
                (name, value) => words::set_limit(&mut limits, name, value)?,
            }
        }
        limits.validate().map_err(|e| e.to_string())?;
        let mut group = Group::new(nodes, &limits, Jitter::Staggered);
        group.tracing = false;
        for node in (1..=nodes).map(NodeId) {
            group.start(node)?;
        }
        group.tracing = true;
        let mut net = Net::new(group);
        net.settle()?;
        self.net = Some(net);
        Ok(())
    }
}

/// The commands that are about messages.
fn network(net: &mut Net, words: &[&str], lines: &mut Vec<String>) -> Result<(), Trouble> {
    match words {
        ["deliver", which @ ..] => nothing(net.deliver(&meant(which)?)?, lines),
        ["drop", which @ ..] => nothing(net.drop(&meant(which)?), lines),
        ["copy", which @ ..] => nothing(net.copy(&meant(which)?), lines),
        ["hold", which @ ..] => nothing(net.hold(&meant(which)?), lines),
        ["release"] => net.release(),
        ["reverse"] => net.reverse(),
        ["stabilize"] => net.stabilize()?,
        ["heal"] => net.heal(),
        ["cut", a, b] => {
            let (a, b) = (words::node(a)?, words::node(b)?);
            net.cut(a, b);
            net.cut(b, a);
        }
        ["cut", link] => {
            let (from, to) = words::link(link)?;
            net.cut(from, to);
        }
        ["isolate", id] => {
            let id = words::node(id)?;
            for other in net.group.nodes.keys().copied().filter(|o| *o != id).collect::<Vec<_>>() {
                net.cut(id, other);
                net.cut(other, id);
            }
        }
        ["tick", time] => net.pass(words::micros(time)?, false)?,
        ["run", time] => net.pass(words::micros(time)?, true)?,
        ["forge", link, message @ ..] => {
            let (from, to) = words::link(link)?;
            net.forge(Envelope { from, to, message: forged(message)? });
        }
        _ => return Err(Trouble::Unknown(format!("unknown command: {}", words.join(" ")))),
    }
    Ok(())
}

/// A message named that isn't there is a mistake in the script.
fn nothing(count: usize, lines: &mut Vec<String>) {
    if count == 0 {
        lines.push("error: no such message is queued".to_string());
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn up(net: &Net, word: &str) -> Result<NodeId, String> {
    let id = words::node(word)?;
    net.group.replica(id).map(|_| id).ok_or(format!("{id} is down"))
}

fn propose(net: &mut Net, id: &str, name: &str, bytes: u64) -> Result<(), Trouble> {
    let id = up(net, id)?;
    Ok(net.group.step(id, Input::Propose(Text::new(name, bytes)))?)
}

fn meant(words: &[&str]) -> Result<Which, String> {
    let mut which = Which::default();
    for word in words {
        if let Some(most) = word.strip_prefix("first=") {
            which.most = Some(number(most)?);
            continue;
        }
        match (words::link(word), words::slot(word)) {
            (Ok(link), _) => which.link = Some(link),
            (Err(_), Ok(slot)) => which.slot = Some(slot),
            (Err(_), Err(_)) => which.kind = Some((*word).to_string()),
        }
    }
    Ok(which)
}

fn forged(words: &[&str]) -> Result<Message<Text>, String> {
    let chosen_end = paxos::replica::FIRST_SLOT;
    match words {
        ["Accepted", ballot, slot] => {
            Ok(Message::Accepted { ballot: words::ballot(ballot)?, slot: words::slot(slot)? })
        }
        ["Prepare", ballot] => {
            Ok(Message::Prepare { ballot: words::ballot(ballot)?, chosen_end, released: None })
        }
        ["Preempted", ballot, promised] => Ok(Message::Preempted {
            ballot: words::ballot(ballot)?,
            promised: words::ballot(promised)?,
            leader: None,
        }),
        ["Accept", ballot, slot, name] => Ok(Message::Accept {
            ballot: words::ballot(ballot)?,
            slot: words::slot(slot)?,
            entry: Entry::Batch(Text::new(name, 1)),
            chosen_end,
        }),
        ["Transfer", ballot] => Ok(Message::Transfer { ballot: words::ballot(ballot)? }),
        _ => Err(format!("can't forge {}", words.join(" "))),
    }
}

fn status(group: &Group) -> Vec<String> {
    let line = |id: &NodeId| match &group.node(*id).life {
        None => format!("{id} down"),
        Some(life) => {
            let replica = &life.replica;
            let lost = if replica.state_lost() { " state lost" } else { "" };
            let kept = match replica.log().compacted_end() {
                paxos::replica::FIRST_SLOT => String::new(),
                end => format!(" compacted_end={end}"),
            };
            format!(
                "{id} {} promised={} chosen_end={} applied_end={}{kept}{lost} {}",
                replica.role_name(),
                replica.promised(),
                replica.chosen_end(),
                replica.applied_end(),
                life.state.summary()
            )
        }
    };
    group.nodes.keys().map(line).collect()
}

fn log(group: &Group, id: NodeId) -> Vec<String> {
    let Some(replica) = group.replica(id) else { return vec![format!("{id} is down")] };
    let held = replica.log().from(Slot::default()).map(|(slot, held)| {
        let vote = held.vote.as_ref().map_or(String::new(), |(b, e)| format!(" {b}={}", e.summary()));
        let chosen = held.chosen.as_ref().map_or(String::new(), |e| format!(" chosen={}", e.summary()));
        format!("{slot}{vote}{chosen}")
    });
    held.collect()
}
