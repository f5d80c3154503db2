//! What came of the bugs, for people and for programs.

use std::collections::BTreeMap;

use paxos::mutants::Mutant;
use serde_json::{Value, json};

use super::layers::{LAYERS, Layer};
use super::runs::{Caught, Row};

/// A line about a row, or several.
pub fn text(row: &Row) -> Vec<String> {
    let seconds = row.time.as_secs_f64();
    let Some(mutant) = row.mutant else { return unmutated(row) };
    let (number, name) = (number(mutant), mutant.name());
    if row.caught.is_empty() {
        return vec![format!("{number:>3} {name:<24} NOT CAUGHT by {} layers, {seconds:.1} s", LAYERS.len())];
    }
    let line = |Caught { layer, found }: &Caught| {
        let after = format!("after {} {}", found.after, layer.unit);
        format!("{number:>3} {name:<24} {:<12} {after:<20} {seconds:>5.1} s  {}", layer.name, found.what)
    };
    row.caught.iter().map(line).collect()
}

fn unmutated(row: &Row) -> Vec<String> {
    let passed = |(layer, all): &(&Layer, u64)| {
        format!("  - no bug                   {:<12} {all} {}: {}", layer.name, layer.unit, layer.about)
    };
    let failed = |Caught { layer, found }: &Caught| {
        format!("  - no bug                   {:<12} FALSE ALARM: {}", layer.name, found.what)
    };
    row.passed.iter().map(passed).chain(row.caught.iter().map(failed)).collect()
}

fn number(mutant: Mutant) -> String {
    match mutant.number() {
        0 => "-".to_string(),
        number => number.to_string(),
    }
}

/// How many of the numbers were caught, each in all its variants, and how many there are.
pub fn caught(rows: &[Row]) -> (usize, usize) {
    let mut numbers: BTreeMap<u8, bool> = BTreeMap::new();
    for row in rows {
        if let Some(number) = row.mutant.map(Mutant::number).filter(|number| *number > 0) {
            *numbers.entry(number).or_insert(true) &= !row.caught.is_empty();
        }
    }
    (numbers.values().filter(|caught| **caught).count(), numbers.len())
}

/// Whether everything came as it should: no false alarm, every bug caught, the canary too.
pub fn is_good(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.mutant.is_none() == row.caught.is_empty())
}

/// All of it as one value.
pub fn json(rows: &[Row]) -> Value {
    let (caught, of) = caught(rows);
    let by = |Caught { layer, found }: &Caught| json!({ "layer": layer.name, "what": found.what, "after": found.after, "unit": layer.unit });
    let one = |row: &Row| {
        json!({
            "number": row.mutant.map(Mutant::number),
            "name": row.mutant.map(Mutant::name),
            "caught": row.caught.iter().map(by).collect::<Vec<_>>(),
            "passed": row.passed.iter().map(|(layer, all)| (layer.name, *all)).collect::<BTreeMap<_, _>>(),
            "seconds": row.time.as_secs_f64(),
        })
    };
    json!({ "v": 1, "rows": rows.iter().map(one).collect::<Vec<_>>(), "caught": caught, "of": of })
}
