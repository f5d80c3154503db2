//! `txn list`: what the leaders of all groups know of the transactions under way, each transaction once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};
use wire::v1::{Routing, RoutingRequest, Transaction, TransactionsRequest, TransactionsResponse};

use crate::context::Context;
use crate::failure::Failure;
use crate::nodes::{self, Node};
use crate::output::{self, hex, human_duration, json_bytes, quoted};

/// Keys of a transaction that a line of text names.
const KEYS_SHOWN: usize = 3;

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let all = nodes::discover(context).await?;
    let reach = nodes::reach(context);
    let tables =
        nodes::on_all(&all, &reach, |mut node| async move { node.get_routing(RoutingRequest {}).await });
    let told =
        nodes::on_all(
            &all,
            &reach,
            |mut node| async move { node.transactions(TransactionsRequest {}).await },
        );
    let (tables, told) = tokio::join!(tables, told);
    if told.iter().all(Result::is_err) {
        return Err(nodes::nobody(&all, told.iter().find_map(|answer| answer.as_ref().err())));
    }
    let routing = tables.into_iter().flatten().max_by_key(|table| table.version);
    let list = List::new(&all, &told, &routing.unwrap_or_default());
    if context.is_json() { output::object(list.json()) } else { output::data(list.text().as_bytes()) }
}

/// Names a try: home shard, number there, client, sequence.
type Name = (u32, u64, Vec<u8>, u64);

/// One try of a transaction, put together from what its shards say.
#[derive(Debug, Default)]
struct Try {
    /// What its coordinator says.
    coordinator: Option<Transaction>,
    /// By shard.
    participants: BTreeMap<u32, Transaction>,
}

/// All that is known.
struct List {
    tries: BTreeMap<Name, Try>,
    /// The group of each shard, by the newest routing table.
    owners: Vec<u32>,
    problems: Vec<String>,
}

impl List {
    fn new(nodes: &[Node], told: &[Result<TransactionsResponse, Failure>], routing: &Routing) -> List {
        let mut tries: BTreeMap<Name, Try> = BTreeMap::new();
        for said in told.iter().flatten().flat_map(|told| &told.transactions) {
            let name = (said.home, said.attempt, said.client.to_vec(), said.sequence);
            let entry = tries.entry(name).or_default();
            if matches!(said.state.as_str(), "prepared" | "waiting") {
                entry.participants.entry(said.shard).or_insert_with(|| said.clone());
            } else {
                entry.coordinator.get_or_insert_with(|| said.clone());
            }
        }
        let spoke: BTreeSet<u32> =
            told.iter().flatten().flat_map(|told| told.groups.iter().copied()).collect();
        let silent = routing.groups.iter().map(|group| group.id).filter(|id| {
            // The shardmaster has no keys.
            *id != shardmaster::ids::SHARDMASTER.0 && !spoke.contains(id)
        });
        let mut problems: Vec<String> = silent
            .map(|id| format!("group {id}: no leader answers, so its transactions aren't shown"))
            .collect();
        for (node, answer) in nodes.iter().zip(told) {
            if let Err(failure) = answer {
                problems.push(format!("{} doesn't answer: {}", node.name(), failure.message()));
            }
        }
        List { tries, owners: routing.owners.clone(), problems }
    }

    /// The group that a shard of a try is in: by who speaks for it, else by the routing table.
    fn group(&self, entry: &Try, shard: u32) -> Option<u32> {
        let said = entry.said().find(|said| said.shard == shard).map(|said| said.group);
        said.or_else(|| self.owners.get(usize::try_from(shard).ok()?).copied())
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.tries.is_empty() {
            let known = if self.problems.is_empty() { "" } else { "known to be " };
            let _ = writeln!(text, "no transaction over several groups is {known}under way");
        } else {
            let header = ["transaction", "state", "age", "coordinator", "participants", "waits for", "keys"];
            let mut table = output::table(header);
            for (name, entry) in &self.tries {
                table.add_row(self.row(name, entry));
            }
            let _ = writeln!(text, "{table}");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "\n{problem}");
        }
        text
    }

    fn row(&self, (home, attempt, client, sequence): &Name, entry: &Try) -> [String; 7] {
        let group =
            |shard| self.group(entry, shard).map_or_else(|| "?".to_owned(), |group| group.to_string());
        let place = |shard: &u32| format!("{shard} (group {})", group(*shard));
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let waits_for = entry.waits_for().iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let keys: Vec<&[u8]> = entry.keys().collect();
        let mut shown: Vec<String> = keys.iter().take(KEYS_SHOWN).map(|key| quoted(key)).collect();
        if keys.len() > KEYS_SHOWN {
            shown.push(format!("and {} more", keys.len() - KEYS_SHOWN));
        }
        [
            // The end of a client's id tells clients apart well enough for people.
            format!("{}:{sequence} try {attempt}", hex(&client[client.len().saturating_sub(4)..])),
            entry.state().to_owned(),
            human_duration(Duration::from_millis(entry.age_ms())),
            place(home),
            or_none(entry.shards().iter().map(place).collect::<Vec<_>>().join(", ")),
            or_none(waits_for),
            or_none(shown.join(" ")),
        ]
    }

    fn json(&self) -> Json {
        let tries = self.tries.iter().map(|((home, attempt, client, sequence), entry)| {
            let participants = entry.shards().into_iter().map(|shard| {
                let said = entry.participants.get(&shard);
                json!({
                    "shard": shard,
                    "group": self.group(entry, shard),
                    "state": said.map(|said| &said.state),
                    "age_ms": said.map(|said| said.since_ms),
                    "keys": said.map(|said| said.keys.iter().map(|key| json_bytes(key)).collect::<Vec<_>>()),
                })
            });
            json!({
                "client": hex(client),
                "sequence": sequence,
                "attempt": attempt,
                "state": entry.state(),
                "age_ms": entry.age_ms(),
                "coordinator": { "shard": home, "group": self.group(entry, *home) },
                "participants": participants.collect::<Vec<_>>(),
                "waits_for": entry.waits_for(),
            })
        });
        json!({ "transactions": tries.collect::<Vec<_>>(), "problems": self.problems })
    }
}

impl Try {
    fn said(&self) -> impl Iterator<Item = &Transaction> {
        self.coordinator.iter().chain(self.participants.values())
    }

    /// The coordinator knows; without it a shard that waits is more telling than one that doesn't.
    fn state(&self) -> &str {
        let waits = || self.participants.values().find(|said| said.state == "waiting");
        let said = self.coordinator.as_ref().or_else(waits).or_else(|| self.participants.values().next());
        said.map_or("", |said| &said.state)
    }

    fn age_ms(&self) -> u64 {
        self.said().map(|said| said.since_ms).max().unwrap_or(0)
    }

    fn waits_for(&self) -> &[u32] {
        self.coordinator.as_ref().map(|said| &said.waits_for[..]).unwrap_or_default()
    }

    /// The shards that take part, as far as anybody names them.
    fn shards(&self) -> BTreeSet<u32> {
        self.participants.keys().chain(self.waits_for()).copied().collect()
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.participants.values().flat_map(|said| said.keys.iter().map(|key| &key[..]))
    }
}

#[cfg(test)]
mod tests {
    use wire::v1::Group;

    use super::*;
    use crate::failure::Exit;

    fn said(group: u32, shard: u32, state: &str, waits_for: &[u32], keys: &[&str]) -> Transaction {
        Transaction {
            group,
            shard,
            client: vec![0xab; 16].into(),
            sequence: 9,
            home: 5,
            attempt: 77,
            state: state.to_owned(),
            since_ms: u64::from(shard) * 100,
            waits_for: waits_for.to_vec(),
            keys: keys.iter().map(|key| key.as_bytes().to_vec().into()).collect(),
        }
    }

    fn list() -> List {
        let node = |id: u32| Node { id: Some(id), address: format!("h:{id}") };
        let told =
            |groups: &[u32], transactions| Ok(TransactionsResponse { transactions, groups: groups.to_vec() });
        let answers = [
            told(&[1], vec![said(1, 5, "undecided", &[7, 8], &[])]),
            // An old leader of group 1 that doesn't know yet.
            told(
                &[1, 2],
                vec![said(1, 5, "undecided", &[7, 8], &[]), said(2, 7, "prepared", &[], &["a", "b"])],
            ),
            Err(Failure::new(Exit::Unavailable, "TIMEOUT", "no answer in 900 ms")),
        ];
        let group = |id| Group { id, ..Group::default() };
        let owners = vec![1, 1, 1, 1, 1, 1, 1, 2, 3];
        let routing = Routing { groups: [0, 1, 2, 3].map(group).to_vec(), owners, ..Routing::default() };
        List::new(&[node(1), node(2), node(3)], &answers, &routing)
    }

    #[test]
    fn a_try_is_put_together_from_what_its_shards_say() {
        let list = list();
        let text = list.text();
        for part in [
            "abababab:9 try 77",
            "undecided",
            "0.7s",
            "5 (group 1)",
            "7 (group 2), 8 (group 3)",
            "7 8",
            "\"a\" \"b\"",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let json = list.json();
        assert_eq!(json["transactions"].as_array().unwrap().len(), 1);
        let first = &json["transactions"][0];
        assert_eq!((first["age_ms"].as_u64(), first["coordinator"]["group"].as_u64()), (Some(700), Some(1)));
        assert_eq!(first["participants"][0]["keys"], json!(["a", "b"]));
        assert_eq!(
            first["participants"][1],
            json!({"shard": 8, "group": 3, "state": null, "age_ms": null, "keys": null})
        );
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let list = list();
        let silent = "group 3: no leader answers, so its transactions aren't shown";
        assert_eq!(list.problems, [silent, "n3 doesn't answer: no answer in 900 ms"]);
        assert!(list.text().contains(silent));
    }

    #[test]
    fn a_participant_alone_is_shown_too() {
        let answers = [Ok(TransactionsResponse {
            transactions: vec![said(2, 7, "waiting", &[], &["k"])],
            groups: vec![2],
        })];
        let list = List::new(&[], &answers, &Routing::default());
        assert!(list.text().contains("waiting") && list.text().contains("5 (group ?)"), "{}", list.text());
    }
}
