//! `export`: all records in key order, page by page, as `import` reads them back.

use std::io::IsTerminal as _;
use std::time::Instant;

use client::ScanOptions;
use indicatif::{ProgressBar, ProgressStyle};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, message};
use crate::records::{LineFormat, Record};
use crate::values::Key;

/// Arguments of `export`.
#[derive(clap::Args, Debug)]
pub(crate) struct ExportArgs {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: Key,
    /// The form of a line
    #[arg(long, value_enum, default_value = "jsonl")]
    format: LineFormat,
}

pub(crate) async fn run(args: &ExportArgs, context: &Context) -> Result<(), Failure> {
    let options = ScanOptions { consistency: context.consistency(), ..ScanOptions::default() };
    let mut scan = context.client().await?.scan(&args.prefix.0, options);
    let progress = progress();
    let began = Instant::now();
    let mut lines = Vec::new();
    while let Some(page) = scan.next_page().await? {
        progress.inc(page.len() as u64);
        for pair in page {
            args.format.write(&Record { key: pair.key, value: pair.value }, &mut lines)?;
        }
        output::data(&lines)?;
        lines.clear();
    }
    progress.finish_and_clear();
    let (records, seconds) = (progress.position(), began.elapsed().as_secs_f64());
    let rate = if seconds > 0.0 { records as f64 / seconds } else { 0.0 };
    message(format!("exported {records} records in {seconds:.3} s, {rate:.0} records/s"));
    Ok(())
}

/// Seen only where it can't be mixed up with the records.
fn progress() -> ProgressBar {
    if std::io::stdout().is_terminal() || !output::progress_is_seen() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} records, {per_sec}") {
        bar.set_style(style);
    }
    bar
}
