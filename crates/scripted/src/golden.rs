//! Golden scripts: files in which every command is followed by what it printed.
//!
//! `> ` begins a command, `#` a comment; the lines below a command are its output, recorded. [`replay`] runs the commands and
//! gives the file as it should be; a difference is either a bug or a change to review.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What the commands of a script mean.
pub trait Language: Default {
    /// Runs one command; what it printed.
    fn run(&mut self, line: &str) -> Vec<String>;
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
