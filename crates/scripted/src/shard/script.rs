//! The line language of the golden scripts of sharding. `help` prints the commands. A script stops at the first property
//! that doesn't hold.

use kvserver::command::{Op, ShardId, shard_of};
use kvserver::genesis::Limits;
use paxos::ids::{GroupId, NodeId, Sequence};
use shardmaster::command::Command;
use shardmaster::ids::GroupRef;

use crate::golden::{Language, Trouble};
use crate::shard::ask::Reading;
use crate::shard::message::{Message, Place};
use crate::shard::world::{Settings, World};
use crate::shard::{language, text};
use crate::words;

const HELP: &str = "\
cluster [shards=2] [groups=2] [chunk=1] [lag=0] [rounds=2] [pairs=2] [ttl=100] [ahead=20] [window=9] [txns=9] [parked=9]
                              groups with equal parts of the shards; bounds: bytes of a chunk, items left at the
                              freeze, passes before it, moves from a group to another, ms, transactions of a shard,
                              requests that wait in it
join 3 [1 2 3], leave 1       a group begins on these nodes; a group ends
move 0 1 to 2                 these shards are to be served by group 2
pause moves, resume moves     no move starts
put c1 0/a x [at g2]          c1 writes key a of shard 0; at the owner, if no group is named
append c1 0/a x, delete c1 0/a, incr c1 0/a 5, cas c1 0/a old new
txn c1: OP, .. [at g2]        a transaction: get 0/a, put 0/a x, append 0/a x, delete 0/a, incr 0/a -5, cas 0/a old new,
                              copy 0/a 1/b, swap 0/a 1/b, nothing
txn c1: if 0/a = 5, .. then OP, .. else OP, ..
                              compares: = != < > a value or a version (v3); present, absent
retry c1 [#2] [at g2]         c1's last request again, or another one, bit for bit
give up c1                    c1 waits for no answer any more, and its next request says so
get 0/a, scan 0 [at g2]       a read; waits for transactions that are about to change what it reads
duties                        what is owed
send [m|g2]                   what is owed is sent, unless it is under way
deliver [m->g2] [Stage] [0] [c1] [first=1]
                              what is under way now arrives, in order: of a link, a kind, a shard, a client's transaction
drop, copy, hold [..]         it is lost; a copy of it is kept; it is kept
redirect [..] to g2           what groups say about transactions goes to another group
release                       what was kept is under way
damage [..]                   a byte of it changes
round [3]                     what is owed is sent and arrives, with all that follows
settle                        rounds until they change nothing
finish                        clients ask again, too, until all is answered
expire g1                     what a group coordinates and isn't decided takes too long
down g2, up g2                a group, or m, has no majority; has one again
leader g1 dies                what it had under way is lost
pause g1, resume g1           a leader stops, and another leads; it goes on, and knows nothing of that
tick 100, behind g2 50        time passes, in ms; a clock is late
show [0], queue               what all hold, of a shard; what is under way
quiet COMMAND                 without its trace";

/// A script being run.
#[derive(Default)]
pub struct Script {
    world: Option<World>,
    broken: bool,
}

impl Language for Script {
    fn command(&mut self, words: &[&str], lines: &mut Vec<String>) -> Result<(), Trouble> {
        match words {
            ["help"] => {
                lines.extend(HELP.lines().map(String::from));
                return Ok(());
            }
            ["cluster", words @ ..] => {
                self.world = Some(World::new(&settings(words)?));
                return Ok(());
            }
            _ => {}
        }
        let world = self.world.as_mut().ok_or_else(|| "there is no cluster yet".to_string())?;
        match words {
            ["join", ..] | ["leave", _] | ["move", .., "to", _] | ["pause" | "resume", "moves"] => {
                world.govern(governing(words)?, &words.join(" ")).map_err(Trouble::Broken)
            }
            ["put" | "append" | "delete" | "incr" | "cas" | "txn" | "retry" | "get" | "scan", ..] => {
                asking(world, words)
            }
            ["finish"] => world.finish(),
            ["expire", which] => {
                let at = group(world, which)?;
                world.expire(at).map_err(Trouble::Broken)
            }
            ["round"] => world.round().map_err(Trouble::Broken),
            ["round", count] => {
                (0..number::<u32>(count)?).try_for_each(|_| world.round()).map_err(Trouble::Broken)
            }
            ["settle"] => world.settle().map_err(Trouble::Broken),
            ["leader", which, "dies"] => {
                let place = place(world, which)?;
                world.leader_dies(place).map_err(Trouble::Broken)
            }
            ["deliver" | "drop" | "copy" | "hold" | "damage" | "redirect", ..] => network(world, words),
            _ => Ok(passing(world, words)?),
        }
    }

    fn trace(&mut self) -> Vec<String> {
        self.world.as_mut().map(|world| std::mem::take(&mut world.lines)).unwrap_or_default()
    }

    fn broken(&mut self) -> &mut bool {
        &mut self.broken
    }
}

fn settings(words: &[&str]) -> Result<Settings, String> {
    let limits = Limits {
        handoff_chunk_bytes: 1,
        handoff_freeze_lag: 0,
        handoff_rounds: 2,
        session_ttl_ms: 100,
        ahead_max_ms: 20,
        ..Limits::default()
    };
    let mut settings =
        Settings { shards: 2, groups: 2, limits, master: shardmaster::limits::Limits::default() };
    for word in words {
        let (name, value) = words::setting(word)?;
        match name {
            "shards" => settings.shards = number(value)?,
            "groups" => settings.groups = number(value)?,
            "chunk" => settings.limits.handoff_chunk_bytes = number(value)?,
            "lag" => settings.limits.handoff_freeze_lag = number(value)?,
            "rounds" => settings.limits.handoff_rounds = number(value)?,
            "ttl" => settings.limits.session_ttl_ms = number(value)?,
            "ahead" => settings.limits.ahead_max_ms = number(value)?,
            "window" => settings.limits.session_window = number(value)?,
            "txns" => settings.limits.txns_per_shard = number(value)?,
            "parked" => settings.limits.parked_per_shard = number(value)?,
            "pairs" => settings.master.moves_per_pair = number(value)?,
            _ => return Err(format!("{name} is no setting")),
        }
    }
    let fits = settings.shards > 0 && (1..=u32::from(settings.shards)).contains(&settings.groups);
    if fits { Ok(settings) } else { Err("each group needs a shard".to_string()) }
}

/// The commands of an administrator.
fn governing(words: &[&str]) -> Result<Command, String> {
    match words {
        ["join", group] => {
            Ok(Command::Join { group: text::group_id(group)?, nodes: (1..=3).map(NodeId).collect() })
        }
        ["join", group, nodes @ ..] => {
            let nodes = nodes.iter().map(|word| number(word).map(NodeId)).collect::<Result<_, _>>()?;
            Ok(Command::Join { group: text::group_id(group)?, nodes })
        }
        ["leave", group] => Ok(Command::Leave { group: text::group_id(group)? }),
        ["move", shards @ .., "to", group] => {
            let shards = shards.iter().map(|word| number(word).map(ShardId)).collect::<Result<_, _>>()?;
            Ok(Command::Move { shards, to: text::group_id(group)? })
        }
        ["pause", "moves"] => Ok(Command::SetPaused(true)),
        ["resume", "moves"] => Ok(Command::SetPaused(false)),
        _ => Err(format!("unknown command: {}", words.join(" "))),
    }
}

/// The commands of clients.
fn asking(world: &mut World, words: &[&str]) -> Result<(), Trouble> {
    let (words, at) = match words {
        [words @ .., "at", group] => (words, Some(text::group_id(group)?)),
        _ => (words, None),
    };
    let shards = world.master().shard_count();
    match words {
        ["get", key] => {
            let key = text::key(key, shards)?;
            world.read(Reading::key(&key, shard_of(&key, shards)), at)
        }
        ["scan", shard] => {
            let shard: u16 = number(shard)?;
            let fits = shard < shards;
            fits.then_some(()).ok_or_else(|| format!("there is no shard {shard}"))?;
            world.read(Reading::scan(ShardId(shard)), at)
        }
        ["retry", client] => world.retry(text::client_id(client)?, None, at),
        ["retry", client, sequence] => {
            let sequence = number(sequence.trim_start_matches('#')).map(Sequence)?;
            world.retry(text::client_id(client)?, Some(sequence), at)
        }
        ["txn", client, words @ ..] => {
            let client = text::client_id(client.trim_end_matches(':'))?;
            world.write(client, Op::Txn(Box::new(language::parse(words, shards)?)), at)
        }
        ["cas", client, key, old, new] => {
            let (key, value) = (text::key(key, shards)?, new.as_bytes().to_vec());
            world.write(
                text::client_id(client)?,
                Op::Cas { key, expected: language::expected(old), value },
                at,
            )
        }
        ["incr", client, key, by] => {
            let (key, by) = (text::key(key, shards)?, language::amount(by)?);
            world.write(text::client_id(client)?, Op::Incr { key, by }, at)
        }
        [verb, client, key, value @ ..] => {
            let (key, value) = (text::key(key, shards)?, value.join(" ").into_bytes());
            let op = match *verb {
                "put" => Op::Put { key, value },
                "append" => Op::Append { key, value },
                _ => Op::Delete { key },
            };
            world.write(text::client_id(client)?, op, at)
        }
        _ => Err(Trouble::Unknown(format!("unknown command: {}", words.join(" ")))),
    }
}

/// The commands that are about what is under way. What isn't there can't be meant.
fn network(world: &mut World, words: &[&str]) -> Result<(), Trouble> {
    let Some((verb, which)) = words.split_first() else { return Ok(()) };
    let (which, to) = match which {
        [which @ .., "to", to] => (which, Some(place(world, to)?)),
        _ => (which, None),
    };
    let meant = meant(which)?;
    let count = match *verb {
        "deliver" => world.deliver(meant).map_err(Trouble::Broken)?,
        "drop" => world.lose(meant),
        "copy" => world.copy(meant),
        "hold" => world.hold(meant),
        "redirect" => world.redirect(to.ok_or_else(|| "to whom?".to_string())?, meant),
        _ => world.damage(meant),
    };
    if count == 0 { Err("no such message is under way".to_string().into()) } else { Ok(()) }
}

/// All others; nothing of them can break a property.
fn passing(world: &mut World, words: &[&str]) -> Result<(), String> {
    match words {
        ["duties"] => {
            let owed = world.duties();
            world.lines.extend(owed.iter().map(|message| format!("{} {message}", message.link())));
        }
        ["send"] => world.send(None),
        ["send", which] => {
            let place = place(world, which)?;
            world.send(Some(place));
        }
        ["release"] => world.release(),
        ["give", "up", client] => world.give_up(text::client_id(client)?),
        ["down", which] => {
            let place = place(world, which)?;
            world.set_up(place, false);
        }
        ["up", which] => {
            let place = place(world, which)?;
            world.set_up(place, true);
        }
        ["pause", which] => {
            let at = group(world, which)?;
            world.pause(at);
        }
        ["resume", which] => {
            let at = group(world, which)?;
            world.resume(at);
        }
        ["tick", ms] => world.tick(number(ms)?),
        ["behind", which, ms] => {
            let at = group(world, which)?;
            world.set_behind(at, number(ms)?);
        }
        ["show"] => world.show(None),
        ["show", shard] => world.show(Some(ShardId(number(shard)?))),
        ["queue"] => {
            let queue = world.queue();
            world.lines.extend(queue);
        }
        _ => return Err(format!("unknown command: {}", words.join(" "))),
    }
    Ok(())
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn group(world: &World, word: &str) -> Result<GroupRef, String> {
    let id: GroupId = text::group_id(word)?;
    world.group(id).ok_or_else(|| format!("{word} isn't there"))
}

fn place(world: &World, word: &str) -> Result<Place, String> {
    if word == "m" { Ok(Place::Master) } else { group(world, word).map(Place::Group) }
}

/// Which messages a command means: all that fit each of its words.
fn meant(words: &[&str]) -> Result<impl FnMut(&Message) -> bool, String> {
    let (mut link, mut kind, mut shard, mut client, mut left) = (None, None, None, None, usize::MAX);
    for word in words {
        if let Some(most) = word.strip_prefix("first=") {
            left = number(most)?;
        } else if word.contains("->") {
            link = Some((*word).to_string());
        } else if let Ok(id) = word.parse() {
            shard = Some(ShardId(id));
        } else if let Ok(id) = text::client_id(word) {
            client = Some(id);
        } else {
            kind = Some((*word).to_string());
        }
    }
    Ok(move |message: &Message| {
        let fits = link.as_ref().is_none_or(|link| *link == message.link())
            && kind.as_ref().is_none_or(|kind| kind == message.kind())
            && shard.is_none_or(|shard| message.shard() == Some(shard))
            && client.is_none_or(|client| message.client() == Some(client))
            && left > 0;
        left -= usize::from(fits);
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lines: &[&str]) -> Vec<String> {
        let mut script = Script::default();
        lines.iter().flat_map(|line| script.run(line)).collect()
    }

    #[test]
    fn mistakes_in_a_script_are_errors() {
        let wrong = [
            "show",
            "cluster groups=3",
            "cluster x=1",
            "cluster",
            "dance",
            "put x 0/a 1",
            "put c1 a 1",
            "put c1 2/a 1",
            "retry c1",
            "get 0/a at g7",
            "deliver Stage",
            "txn c1: dance 0/a",
            "txn c1: if 0/a = 1 put 0/a 2",
            "redirect Prepare",
            "expire g7",
            "give up x",
            "scan 2",
            "retry c1 #1",
            "down g7",
            "join",
            "move x to 1",
        ];
        let found = run(&wrong);
        assert_eq!(found.len(), wrong.len() - 1, "all but one are mistakes: {found:?}");
        assert!(found.iter().all(|line| line.starts_with("error: ")), "{found:?}");
    }

    #[test]
    fn a_key_leads_to_the_shard_it_names() {
        for shard in 0..7 {
            let key = text::key(&format!("{shard}/a"), 7);
            assert_eq!(
                key.map(|key| (shard_of(&key, 7), text::name(&key))),
                Ok((ShardId(shard), "a".to_string()))
            );
        }
    }

    #[test]
    fn quiet_commands_say_nothing_and_help_is_about_every_verb() {
        assert_eq!(run(&["cluster", "quiet move 0 to 2", "quiet settle", "settle"]), ["at rest"]);
        let help = run(&["help"]).concat();
        assert!(
            ["join", "retry", "damage", "behind", "txn", "redirect", "expire", "finish"]
                .iter()
                .all(|verb| help.contains(verb))
        );
    }
}
