//! Every seeded bug is caught, and `docs/mutants.md` says by what. `UPDATE_MUTANTS=1` records the table anew; review the
//! difference.
#![cfg(feature = "mutants")]

use std::path::Path;
use std::process::Command;

use paxos::mutants::Mutant;
use serde_json::Value;

const BEGIN: &str = "<!-- recorded by model/tests/mutants.rs -->\n";
const END: &str = "<!-- end of what is recorded -->\n";

/// What `model mutants` said, and its exit code.
fn mutants(names: &[&str]) -> (Value, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_model"))
        .args(["mutants", "-o", "json"])
        .args(names)
        .output()
        .expect("the binary starts");
    let said = serde_json::from_slice(&output.stdout);
    (said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))), output.status.code())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('|', "\\|")
}

/// The table as it should be.
fn table(said: &Value) -> String {
    let mut lines = vec![
        "| # | name | what goes wrong | rule | place | caught by | after |".to_string(),
        "|---|---|---|---|---|---|---|".to_string(),
    ];
    for mutant in Mutant::ALL {
        let rows = said["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["name"] == mutant.name()).expect("a row for each bug");
        let first = &row["caught"][0];
        let number = if mutant.number() == 0 { "-".to_string() } else { mutant.number().to_string() };
        // A hash says nothing to anybody.
        let what = text(&first["what"]);
        let by =
            format!("{}: {}", text(&first["layer"]), what.split(": state hash").next().unwrap_or_default());
        let after = format!("{} {}", first["after"], text(&first["unit"]));
        let (bug, rule, place) = (mutant.bug(), mutant.rule(), mutant.place());
        lines.push(format!("| {number} | `{mutant}` | {bug} | {rule} | `{place}` | {by} | {after} |"));
    }
    lines.join("\n") + "\n"
}

#[test]
fn caught_30_of_30() {
    let (said, code) = mutants(&[]);
    let missed: Vec<&Value> = said["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .filter(|row| row["name"].is_null() != row["caught"].as_array().is_none_or(Vec::is_empty))
        .collect();
    assert!(missed.is_empty(), "false alarms, or not caught: {missed:#?}");
    assert_eq!((said["caught"].as_u64(), said["of"].as_u64(), code), (Some(30), Some(30), Some(0)));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mutants.md");
    let recorded = std::fs::read_to_string(&path).expect("docs/mutants.md");
    let (head, rest) = recorded.split_once(BEGIN).expect("where the table begins");
    let (old, tail) = rest.split_once(END).expect("where the table ends");
    let fresh = table(&said);
    if std::env::var_os("UPDATE_MUTANTS").is_some() {
        std::fs::write(&path, [head, BEGIN, &fresh, END, tail].concat()).expect("docs/mutants.md is written");
    } else {
        assert_eq!(old, fresh, "UPDATE_MUTANTS=1 records it anew");
    }
}

#[test]
fn a_name_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_model")).args(["mutants", "no-such-bug"]).output();
    assert_eq!(output.expect("the binary starts").status.code(), Some(2));
}
