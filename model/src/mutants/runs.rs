//! Runs layers in processes of their own, with a bug or without.

use std::io::{self, Write};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use paxos::mutants::{Mutant, switch_on};
use serde_json::{Value, json};

use super::layers::{Found, LAYERS, Layer};

/// A layer takes seconds; one that goes on for so long, also on a busy machine, goes on for ever.
const LIMIT: Duration = Duration::from_secs(1200);

/// Who noticed a bug.
#[derive(Clone, Debug)]
pub struct Caught {
    /// By this layer.
    pub layer: &'static Layer,
    /// What it noticed, and after how much of it.
    pub found: Found,
}

/// What came of a bug, or of running without one.
#[derive(Clone, Debug)]
pub struct Row {
    /// The bug; none is on if there is none.
    pub mutant: Option<Mutant>,
    /// The layers that noticed it: the cheapest, or all of them.
    pub caught: Vec<Caught>,
    /// How much of each layer that passed was run.
    pub passed: Vec<(&'static Layer, u64)>,
    /// How long it took.
    pub time: Duration,
}

/// What came of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was wrong, in so much of it.
    Passed(u64),
    /// Something was.
    Found(Found),
}

/// Runs a layer in this process, which it may end, and says on standard output how it goes: [`run`] reads that.
///
/// # Errors
/// If nobody reads it.
pub fn run_here(layer: &Layer, mutant: Option<Mutant>) -> Result<()> {
    let _on = mutant.map(switch_on);
    thread::spawn(|| {
        thread::sleep(LIMIT);
        say(&json!({ "stuck": LIMIT.as_secs() }));
        std::process::exit(1);
    });
    let outcome = (layer.run)(&mut |part, after| say(&json!({ "at": part, "after": after })));
    say(&match outcome {
        Ok(all) => json!({ "passed": all }),
        Err(Found { what, after }) => json!({ "found": what, "after": after }),
    });
    Ok(())
}

/// A line for whoever started this process. If that is gone, nobody is there to hear of it.
fn say(line: &Value) {
    let mut out = io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn run(layer: &'static Layer, mutant: Option<Mutant>) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["mutants", "--layer", layer.name]).args(mutant.map(Mutant::name));
    // What an assertion said ends where the backtrace begins.
    command.env("RUST_BACKTRACE", "0");
    let output = command.output().context("starting a layer")?;
    outcome(&output).with_context(|| format!("{} with {mutant:?}", layer.name))
}

fn outcome(output: &Output) -> Result<Outcome> {
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let number = |line: &Value, name: &str| line[name].as_u64();
    let text = |line: &Value, name: &str| line[name].as_str().map(str::to_string);
    let Some(last) = lines.last() else {
        bail!("it said nothing: {}", String::from_utf8_lossy(&output.stderr))
    };
    if let Some(all) = number(last, "passed") {
        return Ok(Outcome::Passed(all));
    }
    let after = number(last, "after").unwrap_or(0);
    if let Some(what) = text(last, "found") {
        return Ok(Outcome::Found(Found { what, after }));
    }
    let at = lines.iter().rev().find_map(|line| Some((text(line, "at")?, number(line, "after")?)));
    let (part, before) = at.unwrap_or_default();
    let what = match number(last, "stuck") {
        Some(seconds) => format!("{part}: no end after {seconds} s"),
        None => format!("{part}: {}", assertion(&String::from_utf8_lossy(&output.stderr))?),
    };
    Ok(Outcome::Found(Found { what, after: before + 1 }))
}

/// What the assertion said that ended a process.
fn assertion(stderr: &str) -> Result<String> {
    let lines = stderr.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    let said: Vec<&str> = lines.take_while(|line| !line.starts_with("note:")).map(str::trim).collect();
    if said.is_empty() {
        bail!("it ended without a word: {stderr}");
    }
    Ok(said.join(" "))
}

fn row(mutant: Option<Mutant>, every_layer: bool) -> Result<Row> {
    let began = Instant::now();
    let (mut caught, mut passed) = (Vec::new(), Vec::new());
    for layer in LAYERS {
        match run(layer, mutant)? {
            Outcome::Passed(all) => passed.push((layer, all)),
            Outcome::Found(found) => {
                caught.push(Caught { layer, found });
                if !every_layer && mutant.is_some() {
                    break;
                }
            }
        }
    }
    Ok(Row { mutant, caught, passed, time: began.elapsed() })
}

/// Runs without a bug, then with each of these, on so many processes at a time. `told` hears of each in their order.
///
/// # Errors
/// If a layer couldn't be run.
pub fn all(
    mutants: &[Mutant],
    every_layer: bool,
    processes: usize,
    mut told: impl FnMut(&Row) -> Result<()>,
) -> Result<Vec<Row>> {
    let wanted: Vec<Option<Mutant>> = [None].into_iter().chain(mutants.iter().copied().map(Some)).collect();
    let next = AtomicUsize::new(0);
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..processes.max(1) {
            let (sender, next, wanted) = (sender.clone(), &next, &wanted);
            scope.spawn(move || {
                while let Some(mutant) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((*mutant, row(*mutant, every_layer))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = Vec::new();
        let mut rows = Vec::new();
        for mutant in &wanted {
            let row = loop {
                if let Some(place) = early.iter().position(|(of, _): &(Option<Mutant>, _)| of == mutant) {
                    break early.swap_remove(place).1;
                }
                early.push(receiver.recv()?);
            };
            let row: Row = row?;
            told(&row)?;
            rows.push(row);
        }
        Ok(rows)
    })
}
