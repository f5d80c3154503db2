//! Keys and values as lines of a file: JSON Lines or tab-separated. Any bytes come back as they were.
//!
//! JSON Lines: `{"key":"a","value":"b"}`; either may be `{"b64":"…"}`, and is where it isn't UTF-8.
//! Tab-separated: KEY TAB VALUE, as raw bytes but for four: `\t` `\n` `\r` `\\` stand for tab, newline, carriage return
//! and backslash.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvserver::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// No line of a legal record is longer: JSON may need six bytes (`\u0000`) for one.
pub(crate) const LINE_BYTES_MAX: u64 = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) as u64 + 64;

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LineFormat {
    /// {"key":…,"value":…}, with {"b64":…} for what isn't UTF-8
    #[default]
    Jsonl,
    /// KEY TAB VALUE, with \t \n \r \\ for those bytes
    Tsv,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub(crate) key: Vec<u8>,
    #[serde(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
    pub(crate) value: Vec<u8>,
}

impl LineFormat {
    /// Reads a line, without its newline; `None` if it's blank.
    pub(crate) fn read(self, line: &[u8]) -> Result<Option<Record>, String> {
        match self {
            LineFormat::Jsonl if line.trim_ascii().is_empty() => Ok(None),
            LineFormat::Jsonl => serde_json::from_slice(line).map(Some).map_err(|e| e.to_string()),
            LineFormat::Tsv if line.is_empty() => Ok(None),
            LineFormat::Tsv => {
                let tab =
                    line.iter().position(|byte| *byte == b'\t').ok_or("no TAB between key and value")?;
                Ok(Some(Record { key: unescape(&line[..tab])?, value: unescape(&line[tab + 1..])? }))
            }
        }
    }

    /// Adds a line with its newline.
    pub(crate) fn write(self, record: &Record, to: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            LineFormat::Jsonl => serde_json::to_writer(&mut *to, record)?,
            LineFormat::Tsv => {
                escape(&record.key, to);
                to.push(b'\t');
                escape(&record.value, to);
            }
        }
        to.push(b'\n');
        Ok(())
    }
}

/// Adds bytes to a tab-separated line.
pub(crate) fn escape(bytes: &[u8], to: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\t' => to.extend(b"\\t"),
            b'\n' => to.extend(b"\\n"),
            b'\r' => to.extend(b"\\r"),
            b'\\' => to.extend(b"\\\\"),
            byte => to.push(*byte),
        }
    }
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'\\') => b'\\',
                Some(other) => {
                    return Err(format!("\\{} isn't one of \\t \\n \\r \\\\", other.escape_ascii()));
                }
                None => return Err("a \\ at the end; \\\\ stands for one".to_owned()),
            },
            b'\t' => return Err("a second TAB; \\t stands for one in a value".to_owned()),
            byte => *byte,
        });
    }
    Ok(bytes)
}

#[derive(Serialize)]
struct Base64 {
    b64: String,
}

fn write_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => to.serialize_str(text),
        Err(_) => Base64 { b64: STANDARD.encode(bytes) }.serialize(to),
    }
}

fn read_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    from.deserialize_any(TextOrBase64)
}

struct TextOrBase64;

impl<'de> Visitor<'de> for TextOrBase64 {
    type Value = Vec<u8>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a string or {\"b64\":\"…\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Vec<u8>, E> {
        Ok(text.into_bytes())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u8>, A::Error> {
        let Some(name) = map.next_key::<String>()? else { return Err(de::Error::missing_field("b64")) };
        if name != "b64" {
            return Err(de::Error::unknown_field(&name, &["b64"]));
        }
        let text: String = map.next_value()?;
        if let Some(more) = map.next_key::<String>()? {
            return Err(de::Error::unknown_field(&more, &["b64"]));
        }
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(format: LineFormat, line: &str) -> Result<Option<Record>, String> {
        format.read(line.as_bytes())
    }

    #[test]
    fn json_lines() {
        let record = Record { key: b"a".to_vec(), value: "é\n".as_bytes().to_vec() };
        assert_eq!(read(LineFormat::Jsonl, r#"{"value":"é\n","key":{"b64":"YQ=="}}"#), Ok(Some(record)));
        assert_eq!(read(LineFormat::Jsonl, " "), Ok(None));
        let mut line = Vec::new();
        LineFormat::Jsonl.write(&Record { key: b"k".to_vec(), value: vec![0xff] }, &mut line).unwrap();
        assert_eq!(line, b"{\"key\":\"k\",\"value\":{\"b64\":\"/w==\"}}\n");
    }

    #[test]
    fn tab_separated() {
        let record = Record { key: b"a\tb".to_vec(), value: b"c\\\nd".to_vec() };
        assert_eq!(read(LineFormat::Tsv, "a\\tb\tc\\\\\\nd"), Ok(Some(record)));
        assert_eq!(read(LineFormat::Tsv, ""), Ok(None));
        assert_eq!(read(LineFormat::Tsv, "\t"), Ok(Some(Record { key: vec![], value: vec![] })));
    }

    #[test]
    fn malformed_lines_say_why() {
        let why = |format, line| read(format, line).unwrap_err();
        assert!(why(LineFormat::Jsonl, r#"{"key":"a"}"#).contains("missing field `value`"));
        assert!(why(LineFormat::Jsonl, r#"{"key":1,"value":"b"}"#).contains("a string or {\"b64\""));
        assert!(why(LineFormat::Jsonl, r#"{"key":"a","value":{"b65":""}}"#).contains("b65"));
        assert!(why(LineFormat::Jsonl, r#"{"key":"a","value":{"b64":"*"}}"#).contains("Invalid symbol"));
        assert!(why(LineFormat::Jsonl, r#"{"key":"a","value":"b","ttl":1}"#).contains("ttl"));
        assert!(why(LineFormat::Tsv, "a b").contains("no TAB"));
        assert!(why(LineFormat::Tsv, "a\tb\tc").contains("second TAB"));
        assert!(why(LineFormat::Tsv, "a\t\\x").contains("\\x"));
        assert!(why(LineFormat::Tsv, "a\tb\\").contains("at the end"));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(key: Vec<u8>, value: Vec<u8>) {
            let record = Record { key, value };
            for format in [LineFormat::Jsonl, LineFormat::Tsv] {
                let mut line = Vec::new();
                format.write(&record, &mut line).unwrap();
                prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
                prop_assert_eq!(format.read(&line[..line.len() - 1]), Ok(Some(record.clone())));
            }
        }

        #[test]
        fn no_line_breaks_the_reader(line: Vec<u8>) {
            let _ = LineFormat::Jsonl.read(&line);
            let _ = LineFormat::Tsv.read(&line);
        }
    }
}
