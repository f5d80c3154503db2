//! `scan`: pairs in key order, shown page by page as they come.

use client::{Pair, ScanOptions};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Format, json_bytes};
use crate::records::{LineFormat, Record, escape};
use crate::values::Key;

/// Arguments of `scan`.
#[derive(clap::Args, Debug)]
pub(crate) struct ScanArgs {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: Key,
    /// At most this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
}

pub(crate) async fn run(args: &ScanArgs, context: &Context) -> Result<(), Failure> {
    let options = ScanOptions {
        limit: args.limit,
        keys_only: args.keys_only,
        consistency: context.consistency(),
        ..ScanOptions::default()
    };
    let mut scan = context.client().await?.scan(&args.prefix.0, options);
    let mut writer = Writer { format: context.settings.output, keys_only: args.keys_only, count: 0 };
    let mut bytes = Vec::new();
    writer.begin(&mut bytes);
    while let Some(page) = scan.next_page().await? {
        for pair in page {
            writer.pair(pair, &mut bytes)?;
        }
        output::data(&bytes)?;
        bytes.clear();
    }
    writer.end(&mut bytes);
    output::data(&bytes)
}

/// One JSON object however many pages there are, or a line per pair.
struct Writer {
    format: Format,
    keys_only: bool,
    count: u64,
}

impl Writer {
    fn begin(&self, to: &mut Vec<u8>) {
        if self.format == Format::Json {
            to.extend(b"{\"v\":1,\"pairs\":[");
        }
    }

    fn pair(&mut self, pair: Pair, to: &mut Vec<u8>) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                if self.count > 0 {
                    to.push(b',');
                }
                let mut shown = json!({ "key": json_bytes(&pair.key), "version": pair.version });
                if !self.keys_only {
                    shown["value"] = json_bytes(&pair.value);
                }
                to.extend(shown.to_string().as_bytes());
            }
            Format::Text | Format::Raw if self.keys_only => {
                escape(&pair.key, to);
                to.push(b'\n');
            }
            Format::Text | Format::Raw => {
                LineFormat::Tsv.write(&Record { key: pair.key, value: pair.value }, to)?;
            }
        }
        self.count += 1;
        Ok(())
    }

    fn end(&self, to: &mut Vec<u8>) {
        if self.format == Format::Json {
            to.extend(format!("],\"count\":{}}}\n", self.count).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, keys_only: bool, keys: &[&str]) -> String {
        let mut writer = Writer { format, keys_only, count: 0 };
        let mut bytes = Vec::new();
        writer.begin(&mut bytes);
        for key in keys {
            let pair = Pair { key: key.as_bytes().to_vec(), value: b"v\t".to_vec(), version: 7 };
            writer.pair(pair, &mut bytes).unwrap();
        }
        writer.end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object() {
        for keys in [&[][..], &["a"], &["a", "b"]] {
            let value: serde_json::Value = serde_json::from_str(&written(Format::Json, false, keys)).unwrap();
            assert_eq!((value["v"].as_u64(), value["count"].as_u64()), (Some(1), Some(keys.len() as u64)));
            assert_eq!(value["pairs"].as_array().unwrap().len(), keys.len());
        }
        let text = written(Format::Json, true, &["a"]);
        assert_eq!(text, "{\"v\":1,\"pairs\":[{\"key\":\"a\",\"version\":7}],\"count\":1}\n");
    }

    #[test]
    fn text_is_a_line_a_pair() {
        assert_eq!(written(Format::Text, false, &["a", "b"]), "a\tv\\t\nb\tv\\t\n");
        assert_eq!(written(Format::Text, true, &["a", "b"]), "a\nb\n");
        assert_eq!(written(Format::Text, false, &[]), "");
    }
}
