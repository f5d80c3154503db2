//! The note of what an import has done, in a file beside its input.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use paxos::ids::{ClientId, Sequence};
use serde::{Deserialize, Serialize};

use super::tracker::Place;
use crate::cluster::replace_file;
use crate::failure::Failure;
use crate::records::LineFormat;

/// What tells an input file from one with other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) bytes: u64,
    pub(super) modified_ms: u64,
}

/// What is done, and under which session.
#[derive(Debug)]
pub(super) struct Note {
    path: Option<PathBuf>,
    written: Instant,
    mark: Option<Mark>,
    format: LineFormat,
    /// Every record before it is done.
    pub(super) place: Place,
    /// Numbers of records after it that earlier sessions did.
    pub(super) also_done: BTreeSet<u64>,
    /// The session under way, and the sequence of the record at `place`; `None` if none is.
    pub(super) session: Option<(ClientId, Sequence)>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    v: u32,
    input: Option<Mark>,
    format: LineFormat,
    done: Place,
    also_done: BTreeSet<u64>,
    session: Option<WrittenSession>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSession {
    /// In hexadecimal.
    client: String,
    sequence: u64,
}

impl Note {
    /// The note at `path`, or a new one. Without a path nothing is kept.
    pub(super) fn open(
        path: Option<PathBuf>,
        mark: Option<Mark>,
        format: LineFormat,
    ) -> Result<Note, Failure> {
        let mut note = Note {
            path,
            written: Instant::now(),
            mark,
            format,
            place: Place::default(),
            also_done: BTreeSet::new(),
            session: None,
        };
        let Some(path) = &note.path else { return Ok(note) };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(note),
            Err(error) => return Err(Failure::local(path.display(), &error)),
        };
        let hint = format!("to import all records again: rm {}", path.display());
        let wrong = |why: &str| Failure::usage(why).at(path.display()).hint(hint.clone());
        let written: Written = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
        if written.v != 1 {
            return Err(wrong(&format!("version {} isn't known here", written.v)));
        }
        if written.input != mark || written.format != format {
            return Err(wrong("an import of another content or format isn't complete"));
        }
        note.place = written.done;
        note.also_done = written.also_done;
        if let Some(session) = written.session {
            let client = u128::from_str_radix(&session.client, 16).map_err(|e| wrong(&e.to_string()))?;
            note.session = Some((ClientId(client), Sequence(session.sequence)));
        }
        Ok(note)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.written.elapsed() >= age
    }

    pub(super) fn write(&mut self) -> Result<(), Failure> {
        self.written = Instant::now();
        let Some(path) = &self.path else { return Ok(()) };
        let session = |(client, sequence): (ClientId, Sequence)| WrittenSession {
            client: format!("{:032x}", client.0),
            sequence: sequence.0,
        };
        let written = Written {
            v: 1,
            input: self.mark,
            format: self.format,
            done: self.place,
            also_done: self.also_done.clone(),
            session: self.session.map(session),
        };
        let text = serde_json::to_string(&written).map_err(|e| Failure::usage(e.to_string()))?;
        replace_file(path, text.as_bytes())
            .map_err(|failure| failure.hint("--progress PATH notes it elsewhere"))
    }

    /// All is done.
    pub(super) fn remove(&self) {
        if let Some(path) = &self.path {
            // If it stays, the next run finds everything done.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_and_belongs_to_its_input() {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path().join("a.kvctl-import"));
        let mark = Some(Mark { bytes: 100, modified_ms: 5 });
        let mut note = Note::open(path.clone(), mark, LineFormat::Jsonl).unwrap();
        assert_eq!((note.place, note.session), (Place::default(), None));
        note.place = Place { records: 3, lines: 4, offset: 50 };
        note.also_done = [5].into();
        note.session = Some((ClientId(u128::MAX - 1), Sequence(4)));
        note.write().unwrap();

        let again = Note::open(path.clone(), mark, LineFormat::Jsonl).unwrap();
        assert_eq!((again.place, again.also_done.clone()), (note.place, note.also_done.clone()));
        assert_eq!(again.session, note.session);

        let other = Some(Mark { bytes: 101, modified_ms: 5 });
        let refused = Note::open(path.clone(), other, LineFormat::Jsonl).unwrap_err();
        assert_eq!(refused.exit(), crate::failure::Exit::Usage);
        Note::open(path.clone(), mark, LineFormat::Tsv).unwrap_err();

        again.remove();
        assert_eq!(Note::open(path, mark, LineFormat::Jsonl).unwrap().place, Place::default());
    }

    #[test]
    fn without_a_path_nothing_is_kept() {
        let mut note = Note::open(None, None, LineFormat::Jsonl).unwrap();
        note.write().unwrap();
        note.remove();
        assert!(!note.is_kept());
    }
}
