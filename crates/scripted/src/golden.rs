//! Golden scripts: files in which every command is followed by what it printed.
//!
//! `> ` begins a command, `#` a comment; the lines below a command are its output, recorded. [`replay`] runs the commands and
//! gives the file as it should be; a difference is either a bug or a change to review.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use paxos::invariants::Violation;

/// Why a command of a script didn't go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A property doesn't hold.
    Broken(String),
    /// The command means nothing here.
    Unknown(String),
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Trouble {
        Trouble::Broken(violation.to_string())
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Trouble {
        Trouble::Unknown(reason)
    }
}

/// What the commands of a script mean.
pub trait Language: Default {
    /// Carries a command out. What it says itself goes to `lines`.
    ///
    /// # Errors
    /// A property that doesn't hold, or a mistake in the script.
    fn command(&mut self, words: &[&str], lines: &mut Vec<String>) -> Result<(), Trouble>;

    /// Takes the trace of what happened since it was last taken.
    fn trace(&mut self) -> Vec<String>;

    /// Whether a property didn't hold: nothing is run after that.
    fn broken(&mut self) -> &mut bool;

    /// Runs one line; what it printed.
    fn run(&mut self, line: &str) -> Vec<String> {
        if *self.broken() {
            return vec!["not run".to_string()];
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let quiet = words.first() == Some(&"quiet");
        if quiet {
            words.remove(0);
        }
        let mut said = Vec::new();
        let outcome = self.command(&words, &mut said);
        // Traces first: what a command says itself describes the end.
        let mut lines = self.trace();
        lines.append(&mut said);
        if quiet {
            lines.clear();
        }
        match outcome {
            Ok(()) => {}
            Err(Trouble::Broken(violation)) => {
                *self.broken() = true;
                lines.push(format!("violated {violation}"));
            }
            Err(Trouble::Unknown(reason)) => lines.push(format!("error: {reason}")),
        }
        lines
    }
}

/// The file with the output of a fresh run.
pub fn replay<L: Language>(file: &str) -> String {
    let mut script = L::default();
    let mut fresh = String::new();
    for line in file.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            fresh.push_str(line);
            fresh.push('\n');
            for output in script.run(command) {
                fresh.push_str(&output);
                fresh.push('\n');
            }
        } else if line.starts_with('#') || line.is_empty() {
            fresh.push_str(line);
            fresh.push('\n');
        }
    }
    fresh
}

/// The lines around the first difference; None if there is none.
pub fn difference(recorded: &str, fresh: &str) -> Option<String> {
    let (recorded, fresh): (Vec<&str>, Vec<&str>) = (recorded.lines().collect(), fresh.lines().collect());
    let same = recorded.iter().zip(&fresh).take_while(|(a, b)| a == b).count();
    if same == recorded.len() && same == fresh.len() {
        return None;
    }
    let mut text = String::new();
    for line in &recorded[same.saturating_sub(8)..same] {
        let _ = writeln!(text, "   {line}");
    }
    for line in recorded.iter().skip(same).take(6) {
        let _ = writeln!(text, " - {line}");
    }
    for line in fresh.iter().skip(same).take(6) {
        let _ = writeln!(text, " + {line}");
    }
    Some(format!("line {}:\n{text}", same + 1))
}

/// The scripts of a folder, in the order of the course.
///
/// # Errors
/// If the folder can't be read.
pub fn scripts(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// Runs all scripts of a folder; with `update`, records what they print. What differs, a text a file.
///
/// # Errors
/// If a file can't be read or written.
pub fn check<L: Language>(folder: &Path, update: bool) -> std::io::Result<Vec<String>> {
    let mut differences = Vec::new();
    for path in scripts(folder)? {
        let recorded = std::fs::read_to_string(&path)?;
        let fresh = replay::<L>(&recorded);
        let broken = fresh.lines().find(|line| line.starts_with("violated ") || line.starts_with("error: "));
        if let Some(line) = broken {
            differences.push(format!("{}: {line}", path.display()));
        }
        match difference(&recorded, &fresh) {
            Some(_) if update => std::fs::write(&path, fresh)?,
            Some(text) => differences.push(format!("{}, {text}", path.display())),
            None => {}
        }
    }
    Ok(differences)
}
