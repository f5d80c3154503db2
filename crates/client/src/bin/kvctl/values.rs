//! Keys and values as arguments.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use kvserver::command::VALUE_BYTES_MAX;
use tokio::io::AsyncReadExt as _;

use crate::context::Context;
use crate::failure::Failure;

/// A key: the bytes of the argument, whatever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<u8>);

impl From<OsString> for Key {
    fn from(argument: OsString) -> Key {
        Key(argument.into_vec())
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// The bytes of the argument.
    Inline(Vec<u8>),
    /// `-`: all of stdin.
    Stdin,
    /// `@file`.
    File(PathBuf),
}

impl From<OsString> for Value {
    fn from(argument: OsString) -> Value {
        let bytes = argument.into_vec();
        match bytes.as_slice() {
            b"-" => Value::Stdin,
            [b'@', path @ ..] => Value::File(OsString::from_vec(path.to_vec()).into()),
            _ => Value::Inline(bytes),
        }
    }
}

impl Value {
    /// The bytes. Reads no more than shows that a value is too large.
    pub(crate) async fn read(&self, context: &Context) -> Result<Vec<u8>, Failure> {
        let most = VALUE_BYTES_MAX as u64 + 1;
        let mut bytes = Vec::new();
        match self {
            Value::Inline(bytes) => return Ok(bytes.clone()),
            Value::Stdin if !context.stdin_is_free => {
                return Err(Failure::usage("stdin is the shell's own here").hint("put K @file reads a file"));
            }
            Value::Stdin => {
                let read = tokio::io::stdin().take(most).read_to_end(&mut bytes).await;
                read.map_err(|e| Failure::usage(e.to_string()).at("stdin"))?;
            }
            Value::File(path) => {
                let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
                read.map_err(|e| Failure::usage(e.to_string()).at(path.display()))?;
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dash_is_stdin_and_at_is_a_file() {
        assert_eq!(Value::from(OsString::from("-")), Value::Stdin);
        assert_eq!(Value::from(OsString::from("@a b")), Value::File("a b".into()));
        assert_eq!(Value::from(OsString::from("a@b")), Value::Inline(b"a@b".to_vec()));
        assert_eq!(Value::from(OsString::from("")), Value::Inline(Vec::new()));
        assert_eq!(Key::from(OsString::from_vec(vec![0xff, b'-'])), Key(vec![0xff, b'-']));
    }
}
