//! stdout carries data, stderr messages; neither panics when its reader is gone.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object with "v":1; stable, for scripts.
    Json,
    /// The bytes of the value and nothing else (get); the same as text elsewhere.
    Raw,
}

/// Writes bytes to stdout.
pub(crate) fn data(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes a line to stdout.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    data(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes one JSON object on a line to stdout; `"v":1` is added in front.
pub(crate) fn object(value: impl Serialize) -> Result<(), Failure> {
    line(versioned(value))
}

/// The text of a JSON object with `"v":1` in front of its other fields.
pub(crate) fn versioned(value: impl Serialize) -> String {
    let text = json!(value).to_string();
    match text.strip_prefix('{') {
        Some("}") => "{\"v\":1}".to_owned(),
        Some(fields) => format!("{{\"v\":1,{fields}"),
        None => format!("{{\"v\":1,\"value\":{text}}}"),
    }
}

/// Writes a message line to stderr.
pub(crate) fn message(text: impl AsRef<str>) {
    message_raw(&format!("{}\n", text.as_ref()));
}

/// Writes to stderr as it stands.
pub(crate) fn message_raw(text: &str) {
    // Nowhere to report to if even this fails.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether a progress bar would be seen by a person.
pub(crate) fn progress_is_seen() -> bool {
    io::stderr().is_terminal()
}

/// Bytes in JSON: a string, or `{"b64":"…"}` where they aren't UTF-8.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "b64": STANDARD.encode(bytes) }),
    }
}

/// Bytes in a message: quoted, with what can't be printed escaped, cut where it gets long.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    match std::str::from_utf8(bytes) {
        Ok(whole) if whole.len() <= SHOWN && !whole.contains(char::is_control) => format!("\"{whole}\""),
        _ => format!("\"{text}{more}\""),
    }
}

/// Bytes as digits, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An empty table in the style of all tables here.
pub(crate) fn table<T: Into<comfy_table::Row>>(header: T) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// `1536` as `1.5 KiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `3_725_000` ms as `1h02m`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_says_its_version_first() {
        assert_eq!(versioned(json!({"a": 1})), r#"{"v":1,"a":1}"#);
        assert_eq!(versioned(json!({})), r#"{"v":1}"#);
    }

    #[test]
    fn bytes_that_are_not_text_are_base64() {
        assert_eq!(json_bytes("é\n".as_bytes()), json!("é\n"));
        assert_eq!(json_bytes(&[0xff, 0]), json!({"b64": "/wA="}));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(64 << 20), "64.0 MiB");
        assert_eq!(human_duration(Duration::from_millis(1_250)), "1.2s");
        assert_eq!(human_duration(Duration::from_secs(3_725)), "1h02m");
    }

    #[test]
    fn quoted_bytes_stay_on_one_line() {
        assert_eq!(quoted(b"key"), "\"key\"");
        assert_eq!(quoted("é".as_bytes()), "\"é\"");
        assert_eq!(quoted(b"a\nb\xff"), "\"a\\nb\\xff\"");
        assert!(quoted(&[b'x'; 100]).ends_with("…\""));
    }
}
