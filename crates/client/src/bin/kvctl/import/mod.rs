//! `import`: the records of a file, each applied once, many in flight, in file order for each key.
//!
//! Records are written in one session, with sequences in file order; `note` keeps both, so a run that was killed is
//! taken up with the same sequences and the shards themselves tell what they have already. A run that ends in order, also
//! by a failure or Ctrl-C, waits for what is in flight and notes exactly what is done; the next one begins a new session.

mod note;
mod reader;
mod tracker;

use std::collections::HashSet;
use std::future::poll_fn;
use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, Instant};

use client::{Client, ClientOptions, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};
use paxos::ids::{ClientId, Sequence};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, message};
use crate::records::{LineFormat, Record};
use note::Note;
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
/// A courtesy to the shards; they forget the session by themselves.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

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
    let goes_on = note.session.is_some();
    let session = note.session.unwrap_or_else(|| (ClientId(rand::random()), Sequence(1)));
    let options = ClientOptions { session: Some(session), ..context.client_options()? };
    let client = Client::connect(options).await?;
    if note.place.records > 0 || goes_on {
        message(format!("goes on after {} records", note.place.records));
    }
    let bar = progress_bar(&input);
    let reader = Reader::start(input, args.format, note.place).await?;
    let mut import = Import {
        client,
        goes_on,
        tracker: Tracker::new(note.place, session.1, note.also_done.clone()),
        note,
        session: session.0,
        in_flight_max: usize::from(args.in_flight),
        in_flight: JoinSet::new(),
        bytes: 0,
        busy_keys: HashSet::new(),
        failure: None,
        pace: Pace::default(),
        bar,
    };
    import.write_note(true)?;
    let ended = import.work(reader).await;
    import.bar.finish_and_clear();
    import.pace.tell(context)?;
    ended
}

/// An import under way.
struct Import {
    client: Client,
    session: ClientId,
    /// An earlier run may have sent records in this session.
    goes_on: bool,
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

/// What became of a record.
struct Sent {
    number: u64,
    line: u64,
    key: Vec<u8>,
    bytes: usize,
    result: Result<(), client::Error>,
}

impl Import {
    async fn work(&mut self, mut reader: Reader) -> Result<(), Failure> {
        let mut interrupts =
            signal(SignalKind::interrupt()).map_err(|e| Failure::local("cannot listen for signals", &e))?;
        let mut next: Option<(Record, Place)> = None;
        let mut is_read = false;
        self.pace.begin();
        while !((is_read || self.failure.is_some()) && self.in_flight.is_empty()) {
            if self.failure.is_none()
                && let Some((record, place)) = next.take_if(|(record, _)| self.has_room(record))
            {
                self.send(record, place).await;
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
        let is_alone = self.in_flight.is_empty();
        let has_room = self.in_flight.len() < self.in_flight_max && self.bytes + bytes <= IN_FLIGHT_BYTES_MAX;
        (is_alone || has_room) && !self.busy_keys.contains(&record.key)
    }

    /// Sends a record, unless an earlier session did.
    async fn send(&mut self, record: Record, place: Place) {
        let Some(sequence) = self.tracker.begin(place) else { return };
        let Record { key, value } = record;
        let bytes = key.len() + value.len();
        self.bytes += bytes;
        self.busy_keys.insert(key.clone());
        let client = self.client.clone();
        let mut put = Box::pin(async move {
            let result = client.put(&key, &value).await.map(|_| ());
            Sent { number: place.records - 1, line: place.lines, key, bytes, result }
        });
        // A call takes its sequence when it is first polled, so that happens here, in file order.
        match poll_fn(|task| Poll::Ready(put.as_mut().poll(task))).await {
            Poll::Ready(sent) => self.in_flight.spawn(std::future::ready(sent)),
            Poll::Pending => {
                let taken = self.client.session().1;
                assert_eq!(taken, Sequence(sequence.0 + 1), "P9: sequences follow the file order");
                self.in_flight.spawn(put)
            }
        };
    }

    fn on_sent(&mut self, sent: Sent) -> Result<(), Failure> {
        self.bytes -= sent.bytes;
        self.busy_keys.remove(&sent.key);
        match sent.result {
            Ok(()) => {}
            // Nobody else uses this session, so whatever its shard knows under this sequence is this record.
            Err(error) if self.goes_on && is_known(error.kind) => {}
            Err(error) => {
                self.fail(Failure::from(error).at(format!("line {}", sent.line)));
                return Ok(());
            }
        }
        self.pace.count();
        self.tracker.finish(sent.number);
        self.bar.set_position(self.tracker.place().offset);
        self.write_note(false)
    }

    fn fail(&mut self, failure: Failure) {
        // Those after the first follow from it, or say the same.
        self.failure.get_or_insert(failure);
    }

    /// Nothing is in flight any more.
    async fn end(&mut self) -> Result<(), Failure> {
        let closing = self.client.clone();
        let _ = tokio::time::timeout(CLOSE_WITHIN, closing.close()).await;
        match self.failure.take() {
            None => {
                self.note.remove();
                Ok(())
            }
            Some(failure) => {
                // What is done is known exactly, so the next run needs no shard to tell, and begins a new session:
                // a sequence that was given up may not be used again.
                self.note.place = self.tracker.place();
                self.note.also_done = self.tracker.also_done();
                self.note.session = None;
                self.note.write()?;
                if self.note.is_kept() {
                    message("the same command goes on from there");
                }
                Err(failure)
            }
        }
    }

    fn write_note(&mut self, now: bool) -> Result<(), Failure> {
        if !now && !self.note.is_older_than(NOTE_EVERY) {
            return Ok(());
        }
        self.note.place = self.tracker.place();
        self.note.also_done = self.tracker.done_before();
        self.note.session = Some((self.session, self.tracker.sequence()));
        self.note.write()
    }
}

fn is_known(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::AlreadyAcknowledged | ErrorKind::SequenceReused)
}

/// How fast it went.
#[derive(Default)]
struct Pace {
    began: Option<Instant>,
    last: Option<Instant>,
    records: u64,
    longest_pause: Duration,
}

impl Pace {
    fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    fn count(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_pause = self.longest_pause.max(now - last);
        }
        self.records += 1;
    }

    fn tell(&self, context: &Context) -> Result<(), Failure> {
        let seconds = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let rate = if seconds > 0.0 { (self.records as f64 / seconds).round() } else { 0.0 };
        let pause = self.longest_pause.as_millis();
        if context.is_json() {
            return output::object(json!({
                "records": self.records,
                "seconds": (seconds * 1e3).round() / 1e3,
                "records_per_s": rate,
                "longest_pause_ms": pause as u64,
            }));
        }
        let records = self.records;
        message(format!(
            "imported {records} records in {seconds:.3} s, {rate} records/s, longest pause {pause} ms"
        ));
        Ok(())
    }
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
