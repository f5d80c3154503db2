//! `import`: the records of a file, each applied once, many in flight, in file order for each key.
//!
//! Records are written in a session, with sequences in file order; `note` keeps both, so a run that was killed is taken
//! up with the same sequences and the shards themselves tell what they have already. A run that ends in order, also by a
//! failure or Ctrl-C, waits for what is in flight and notes exactly what is done; the next one begins a new session.

mod note;
mod pace;
mod reader;
mod tracker;

use std::collections::HashSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use client::{Client, ClientOptions, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use kvserver::command::SESSION_WINDOW;
use paxos::ids::{ClientId, Sequence};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, message};
use crate::records::{LineFormat, Record};
use note::Note;
use pace::Pace;
use reader::{Input, Reader};
use tracker::{Place, Tracker};

pub(crate) const HELP: &str = "\
Examples:
  kvctl import users.jsonl
  kvctl import users.tsv --format tsv
  kvctl export | kvctl -e other:7101 import -

A line is a record: {\"key\":\"a\",\"value\":\"b\"}, where either may be {\"b64\":\"…\"}; with --format tsv KEY TAB VALUE,
with \\t \\n \\r \\\\ for those bytes. Of two records with one key the later one wins.

Run again after an interruption, it goes on where it was and applies each record once: what is done stands in
FILE.kvctl-import, which is removed at the end. (After a kill -9, run it again within the hour that the cluster
remembers a session.)";

/// How often the note is brought up to date.
const NOTE_EVERY: Duration = Duration::from_millis(200);
/// Bytes of records in flight at once; one record is always allowed.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Records from the first that isn't done to the last in flight. A shard remembers so many of a session at least, so a
/// record never waits for room there and takes its sequence at once.
const BEGUN_MAX: usize = 1000;
const _: () = assert!((BEGUN_MAX as u64) < SESSION_WINDOW);
/// A session without records ends after this time; well before a client at rest acknowledges by itself.
const SETTLE_AFTER: Duration = Duration::from_millis(300);

/// Arguments of `import`.
#[derive(clap::Args, Debug)]
pub(crate) struct ImportArgs {
    /// The file, or - for stdin
    file: PathBuf,
    /// The form of a line
    #[arg(long, value_enum, default_value = "jsonl")]
    format: LineFormat,
    /// Records in flight at once
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1000))]
    in_flight: u16,
    /// Where to note what is done [default: FILE.kvctl-import; none for stdin]
    #[arg(long, value_name = "PATH")]
    progress: Option<PathBuf>,
}

impl ImportArgs {
    fn is_stdin(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    fn note_path(&self) -> Option<PathBuf> {
        let beside = || {
            let mut path = self.file.as_os_str().to_owned();
            path.push(".kvctl-import");
            PathBuf::from(path)
        };
        self.progress.clone().or_else(|| (!self.is_stdin()).then(beside))
    }
}

pub(crate) async fn run(args: &ImportArgs, context: &Context) -> Result<(), Failure> {
    if args.is_stdin() && !context.stdin_is_free {
        return Err(Failure::usage("stdin is the shell's own here").hint("import FILE reads a file"));
    }
    let input = Input::open(args.is_stdin(), &args.file).await?;
    let note = Note::open(args.note_path(), input.mark(), args.format)?;
    if note.place.records > 0 {
        message(format!("goes on after {} records", note.place.records));
    }
    let bar = progress_bar(&input);
    let reader = Reader::start(input, args.format, note.place).await?;
    let mut import = Import {
        context,
        session: None,
        tracker: Tracker::new(note.place, note.also_done.clone()),
        note,
        in_flight_max: usize::from(args.in_flight),
        in_flight: JoinSet::new(),
        bytes: 0,
        busy_keys: HashSet::new(),
        failure: None,
        pace: Pace::default(),
        bar,
    };
    let ended = import.work(reader).await;
    import.bar.finish_and_clear();
    import.pace.tell(context)?;
    ended
}

/// An import under way.
struct Import<'a> {
    context: &'a Context,
    /// `None` before the first record, and after a time without any.
    session: Option<Session>,
    note: Note,
    tracker: Tracker,
    in_flight_max: usize,
    in_flight: JoinSet<Sent>,
    /// Of the records in flight.
    bytes: usize,
    busy_keys: HashSet<Vec<u8>>,
    /// The first; nothing is sent after it.
    failure: Option<Failure>,
    pace: Pace,
    bar: ProgressBar,
}

/// A session that records are sent in.
struct Session {
    id: ClientId,
    client: Client,
    /// A run that was killed may have sent records in it.
    was_begun_before: bool,
}

/// What became of a record.
struct Sent {
    number: u64,
    line: u64,
    key: Vec<u8>,
    bytes: usize,
    result: Result<(), client::Error>,
}

impl Import<'_> {
    async fn work(&mut self, mut reader: Reader) -> Result<(), Failure> {
        let mut interrupts =
            signal(SignalKind::interrupt()).map_err(|e| Failure::local("cannot listen for signals", &e))?;
        let mut next: Option<(Record, Place)> = None;
        let mut is_read = false;
        self.pace.begin();
        while !((is_read && next.is_none() || self.failure.is_some()) && self.in_flight.is_empty()) {
            if let Some((record, place)) = next.take_if(|(record, _)| self.has_room(record)) {
                self.send(record, place).await?;
                continue;
            }
            tokio::select! {
                Some(sent) = self.in_flight.join_next() => match sent {
                    Ok(sent) => self.on_sent(sent)?,
                    Err(error) => self.fail(Failure::new(Exit::Unknown, "FAILED", error.to_string())),
                },
                read = reader.next(), if next.is_none() && !is_read && self.failure.is_none() => match read {
                    Some(Ok(record)) => next = Some(record),
                    Some(Err(failure)) => self.fail(failure),
                    None => is_read = true,
                },
                () = tokio::time::sleep(SETTLE_AFTER), if self.session.is_some() && self.in_flight.is_empty() => {
                    self.settle().await?;
                }
                _ = interrupts.recv() => {
                    if self.failure.as_ref().is_some_and(|failure| failure.exit() == Exit::Interrupted) {
                        // The second Ctrl-C doesn't wait; the note still names the session.
                        return Err(Failure::silent(Exit::Interrupted));
                    }
                    self.failure = Some(Failure::silent(Exit::Interrupted));
                }
            }
        }
        self.end().await
    }

    fn has_room(&self, record: &Record) -> bool {
        let bytes = record.key.len() + record.value.len();
        self.failure.is_none()
            && (self.in_flight.is_empty()
                || self.in_flight.len() < self.in_flight_max
                    && self.bytes + bytes <= IN_FLIGHT_BYTES_MAX
                    && self.tracker.begun() < BEGUN_MAX)
            && !self.busy_keys.contains(&record.key)
    }

    /// Sends a record, unless an earlier session did.
    async fn send(&mut self, record: Record, place: Place) -> Result<(), Failure> {
        if self.session.is_none() {
            self.begin_session().await?;
        }
        let (Some(session), Some(sequence)) = (&self.session, self.tracker.begin(place)) else {
            return Ok(());
        };
        let Record { key, value } = record;
        let bytes = key.len() + value.len();
        self.bytes += bytes;
        self.busy_keys.insert(key.clone());
        let client = session.client.clone();
        let mut put = Box::pin(async move {
            let result = client.put(&key, &value).await.map(|_| ());
            Sent { number: place.records - 1, line: place.lines, key, bytes, result }
        });
        // A call takes its sequence when it is first polled, so that happens here, in file order.
        match poll_fn(|task| Poll::Ready(put.as_mut().poll(task))).await {
            Poll::Ready(sent) => self.in_flight.spawn(std::future::ready(sent)),
            Poll::Pending => {
                let next = session.client.session().1;
                assert_eq!(next, Sequence(sequence.0 + 1), "P9: sequences follow the file order");
                self.in_flight.spawn(put)
            }
        };
        Ok(())
    }

    /// Goes on with the session of a run that was killed, else begins a new one; noted before anything is sent in it.
    async fn begin_session(&mut self) -> Result<(), Failure> {
        let noted = self.note.session;
        let (id, sequence) = noted.unwrap_or_else(|| (ClientId(rand::random()), Sequence(1)));
        let options = ClientOptions { session: Some((id, sequence)), ..self.context.client_options()? };
        let client = Client::connect(options).await?;
        self.tracker.begin_session(sequence);
        self.session = Some(Session { id, client, was_begun_before: noted.is_some() });
        self.write_note()
    }

    fn on_sent(&mut self, sent: Sent) -> Result<(), Failure> {
        self.bytes -= sent.bytes;
        self.busy_keys.remove(&sent.key);
        let was_begun_before = self.session.as_ref().is_some_and(|session| session.was_begun_before);
        match sent.result {
            Ok(()) => {}
            // Nobody else uses this session, so whatever its shard knows under this sequence is this record.
            Err(error) if was_begun_before && is_known(error.kind) => {}
            Err(error) => {
                self.fail(Failure::from(error).at(format!("line {}", sent.line)));
                return Ok(());
            }
        }
        self.pace.count();
        self.tracker.finish(sent.number);
        self.bar.set_position(self.tracker.place().offset);
        if self.note.is_older_than(NOTE_EVERY) { self.write_note() } else { Ok(()) }
    }

    fn fail(&mut self, failure: Failure) {
        // Those after the first follow from it, or say the same.
        self.failure.get_or_insert(failure);
    }

    /// Ends the session while nothing is in flight. What is done is known exactly, so no shard will have to tell; and the
    /// session may not be gone on with, since a client at rest acknowledges sequences that no record has had yet, and one
    /// that gave a record up acknowledges that as well.
    async fn settle(&mut self) -> Result<(), Failure> {
        let ended = self.session.take();
        self.write_note()?;
        if let Some(session) = ended {
            session.client.close().await;
        }
        Ok(())
    }

    /// Nothing is in flight any more.
    async fn end(&mut self) -> Result<(), Failure> {
        self.settle().await?;
        let Some(failure) = self.failure.take() else {
            self.note.remove();
            return Ok(());
        };
        if self.note.is_kept() {
            message("the same command goes on from there");
        }
        Err(failure)
    }

    fn write_note(&mut self) -> Result<(), Failure> {
        self.note.place = self.tracker.place();
        self.note.session = self.session.as_ref().map(|session| (session.id, self.tracker.sequence()));
        self.note.also_done = match self.session {
            // The shards know what this session did.
            Some(_) => self.tracker.done_before(),
            None => self.tracker.also_done(),
        };
        self.note.write()
    }
}

fn is_known(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AlreadyAcknowledged | ErrorKind::SequenceReused)
}

fn progress_bar(input: &Input) -> ProgressBar {
    if !output::progress_is_seen() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match input.bytes() {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
