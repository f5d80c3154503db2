//! Reads records from a file or from stdin, a few ahead of what is sent; never the whole.

use std::fs::{File, TryLockError};
use std::io::SeekFrom;
use std::path::Path;
use std::time::UNIX_EPOCH;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::mpsc;

use super::note::Mark;
use super::tracker::Place;
use crate::failure::{Exit, Failure};
use crate::records::{LINE_BYTES_MAX, LineFormat, Record};

/// Records that wait to be sent. A few are enough, and each may be large.
const READ_AHEAD: usize = 8;
const BUFFER_BYTES: usize = 256 << 10;

/// What is imported.
pub(super) enum Input {
    Stdin,
    File { file: tokio::fs::File, mark: Mark },
}

impl Input {
    /// Opens it. A file is locked as long as it's read: two imports of one file would share its note.
    pub(super) async fn open(is_stdin: bool, path: &Path) -> Result<Input, Failure> {
        if is_stdin {
            return Ok(Input::Stdin);
        }
        let wrong = |error: std::io::Error| Failure::usage(error.to_string()).at(path.display());
        let file = File::open(path).map_err(wrong)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Failure::usage("another import of this file is running").at(path.display()));
        }
        let facts = file.metadata().map_err(wrong)?;
        if facts.is_dir() {
            return Err(Failure::usage("is a directory").at(path.display()));
        }
        let age = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_ms = age.and_then(|age| u64::try_from(age.as_millis()).ok()).unwrap_or(0);
        let mark = Mark { bytes: facts.len(), modified_ms };
        Ok(Input::File { file: tokio::fs::File::from_std(file), mark })
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        match self {
            Input::Stdin => None,
            Input::File { mark, .. } => Some(*mark),
        }
    }

    /// Its length, if known.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.mark().map(|mark| mark.bytes)
    }
}

/// A record, and the place behind it; or why there is none.
type Read = Result<(Record, Place), Failure>;

/// Reads ahead in a task of its own.
pub(super) struct Reader(mpsc::Receiver<Read>);

impl Reader {
    /// Reads the records after `from`.
    pub(super) async fn start(input: Input, format: LineFormat, from: Place) -> Result<Reader, Failure> {
        let (send, receive) = mpsc::channel(READ_AHEAD);
        match input {
            // What is done has to be read again.
            Input::Stdin => {
                let lines = BufReader::with_capacity(BUFFER_BYTES, tokio::io::stdin());
                tokio::spawn(read_all(lines, format, Place::default(), from.records, send));
            }
            Input::File { mut file, .. } => {
                let sought = file.seek(SeekFrom::Start(from.offset)).await;
                sought.map_err(|e| Failure::local("cannot go to where the last run stopped", &e))?;
                let lines = BufReader::with_capacity(BUFFER_BYTES, file);
                tokio::spawn(read_all(lines, format, from, from.records, send));
            }
        }
        Ok(Reader(receive))
    }

    /// The next record; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Read> {
        self.0.recv().await
    }
}

/// Reads from `place` on, and hands over the records from number `first` on.
async fn read_all(
    mut lines: impl AsyncBufRead + Unpin,
    format: LineFormat,
    mut place: Place,
    first: u64,
    send: mpsc::Sender<Read>,
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = match next_record(&mut lines, format, &mut place, &mut line).await {
            Ok(None) => return,
            Ok(Some(_)) if place.records <= first => continue,
            Ok(Some(record)) => Ok((record, place)),
            Err(failure) => Err(failure.at(format!("line {}", place.lines))),
        };
        let is_last = read.is_err();
        // Nobody receives any more when the import failed.
        if send.send(read).await.is_err() || is_last {
            return;
        }
    }
}

/// Reads lines until one holds a record, and moves `place` behind it.
async fn next_record(
    lines: &mut (impl AsyncBufRead + Unpin),
    format: LineFormat,
    place: &mut Place,
    line: &mut Vec<u8>,
) -> Result<Option<Record>, Failure> {
    loop {
        line.clear();
        let read = (&mut *lines).take(LINE_BYTES_MAX).read_until(b'\n', line).await;
        let bytes = read.map_err(|e| Failure::local("cannot read", &e))?;
        if bytes == 0 {
            return Ok(None);
        }
        place.lines += 1;
        place.offset += bytes as u64;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if bytes as u64 == LINE_BYTES_MAX {
            let message = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(Exit::Usage, "MALFORMED", message));
        }
        let record = format.read(line).map_err(|why| Failure::new(Exit::Usage, "MALFORMED", why))?;
        if record.is_some() {
            place.records += 1;
            return Ok(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &'static str, from: Place, first: u64) -> Vec<Result<(String, Place), Failure>> {
        let (send, mut receive) = mpsc::channel(100);
        read_all(text.as_bytes(), LineFormat::Tsv, from, first, send).await;
        let mut all = Vec::new();
        while let Some(read) = receive.recv().await {
            all.push(read.map(|(record, place)| (String::from_utf8(record.key).unwrap(), place)));
        }
        all
    }

    fn place(records: u64, lines: u64, offset: u64) -> Place {
        Place { records, lines, offset }
    }

    #[tokio::test]
    async fn places_count_blank_lines_but_not_as_records() {
        let read = read("a\t1\n\nb\t2\nc\t3", Place::default(), 0).await;
        let found: Vec<_> = read.into_iter().map(Result::unwrap).collect();
        let expected = [("a", place(1, 1, 4)), ("b", place(2, 3, 9)), ("c", place(3, 4, 12))];
        assert_eq!(found, expected.map(|(key, place)| (key.to_owned(), place)));
    }

    #[tokio::test]
    async fn what_is_done_is_not_read_again() {
        let sought = read("b\t2\n", place(1, 1, 4), 1).await;
        assert_eq!(sought[0].as_ref().unwrap(), &("b".to_owned(), place(2, 2, 8)));
        let skipped = read("a\t1\nb\t2\n", Place::default(), 1).await;
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].as_ref().unwrap(), &("b".to_owned(), place(2, 2, 8)));
    }

    #[tokio::test]
    async fn a_malformed_line_is_named_and_ends_it() {
        let read = read("a\t1\n\nb 2\nc\t3\n", Place::default(), 0).await;
        assert_eq!(read.len(), 2);
        let failure = read[1].as_ref().unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert_eq!(failure.report(), "error[MALFORMED]: line 3: no TAB between key and value\n");
    }
}
