//! Commands on several keys in one step: mget, mput, swap. Each is one transaction.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, json_bytes, quoted};
use crate::records::escape;
use crate::values::{Key, Value};

/// Arguments of `mget`.
#[derive(clap::Args, Debug)]
pub(crate) struct MgetArgs {
    /// The keys
    #[arg(required = true, value_name = "KEY", allow_negative_numbers = true)]
    keys: Vec<Key>,
}

/// Arguments of `mput`.
#[derive(clap::Args, Debug)]
pub(crate) struct MputArgs {
    /// Keys and values, divided by the first = of each; values may be - and @FILE as in put
    #[arg(required = true, value_name = "KEY=VALUE", allow_negative_numbers = true)]
    pairs: Vec<OsString>,
}

/// Arguments of `swap`.
#[derive(clap::Args, Debug)]
pub(crate) struct SwapArgs {
    /// One key
    #[arg(allow_negative_numbers = true)]
    a: Key,
    /// The other
    #[arg(allow_negative_numbers = true)]
    b: Key,
}

pub(crate) async fn mget(args: &MgetArgs, context: &Context) -> Result<(), Failure> {
    let keys: Vec<&[u8]> = args.keys.iter().map(|key| &key.0[..]).collect();
    let found = context.client().await?.multi_get(&keys).await?;
    let pairs = || keys.iter().zip(&found);
    if context.is_json() {
        let told = pairs().map(|(key, found)| match found {
            Some(found) => json!({
                "key": json_bytes(key),
                "found": true,
                "value": json_bytes(&found.value),
                "version": found.version,
            }),
            None => json!({ "key": json_bytes(key), "found": false }),
        });
        output::object(json!({ "keys": told.collect::<Vec<_>>() }))?;
    } else {
        let mut lines = Vec::new();
        for (key, found) in pairs() {
            let Some(found) = found else { continue };
            escape(key, &mut lines);
            lines.push(b'\t');
            escape(&found.value, &mut lines);
            lines.push(b'\n');
        }
        output::data(&lines)?;
    }
    let absent: Vec<String> =
        pairs().filter(|(_, found)| found.is_none()).map(|(key, _)| quoted(key)).collect();
    let verb = if absent.len() == 1 { "is" } else { "are" };
    match absent.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::new(Exit::NotFound, "NOT_FOUND", format!("{} {verb} absent", absent.join(", "))))
        }
    }
}

pub(crate) async fn mput(args: &MputArgs, context: &Context) -> Result<(), Failure> {
    let parsed = args.pairs.iter().map(|pair| split(pair.clone())).collect::<Result<Vec<_>, _>>()?;
    if parsed.iter().filter(|(_, value)| *value == Value::Stdin).count() > 1 {
        return Err(Failure::usage("stdin can be the value of one key only"));
    }
    let mut pairs = Vec::with_capacity(parsed.len());
    for (key, value) in parsed {
        pairs.push((key, value.read(context).await?));
    }
    context.client().await?.multi_put(&pairs).await?;
    if context.is_json() {
        let told = pairs.iter().map(|(key, value)| json!({ "key": json_bytes(key), "length": value.len() }));
        return output::object(json!({ "keys": told.collect::<Vec<_>>() }));
    }
    for (key, value) in &pairs {
        output::line(format!("{} {} bytes", quoted(key), value.len()))?;
    }
    Ok(())
}

/// `KEY=VALUE`, at the first `=`.
fn split(pair: OsString) -> Result<(Vec<u8>, Value), Failure> {
    let mut key = pair.into_vec();
    let Some(at) = key.iter().position(|byte| *byte == b'=') else {
        let message = format!("{} has no =", quoted(&key));
        return Err(Failure::usage(message).hint("a pair is written KEY=VALUE, such as mput a=1 b=2"));
    };
    let value = key.split_off(at + 1);
    key.truncate(at);
    Ok((key, Value::from(OsString::from_vec(value))))
}

pub(crate) async fn swap(args: &SwapArgs, context: &Context) -> Result<(), Failure> {
    let (Key(a), Key(b)) = (&args.a, &args.b);
    let (a_existed, b_existed) = context.client().await?.swap(a, b).await?;
    if context.is_json() {
        let told = |key, existed| json!({ "key": json_bytes(key), "existed": existed });
        output::object(json!({ "swapped": [told(a, a_existed), told(b, b_existed)] }))?;
    }
    let (a, b) = (quoted(a), quoted(b));
    let text = match (a_existed, b_existed) {
        (false, false) => {
            return Err(Failure::new(Exit::NotFound, "NOT_FOUND", format!("{a} and {b} are absent")));
        }
        (true, true) => format!("{a} and {b} swapped"),
        (true, false) => format!("{b} has the value of {a}, which is absent now"),
        (false, true) => format!("{a} has the value of {b}, which is absent now"),
    };
    if context.is_json() { Ok(()) } else { output::line(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_divides() {
        let split = |pair: &str| split(OsString::from(pair));
        assert_eq!(split("a=b=c").unwrap(), (b"a".to_vec(), Value::Inline(b"b=c".to_vec())));
        assert_eq!(split("=").unwrap(), (Vec::new(), Value::Inline(Vec::new())));
        assert_eq!(split("a=-").unwrap().1, Value::Stdin);
        assert_eq!(split("a=@f").unwrap().1, Value::File("f".into()));
        assert_eq!(split("a").unwrap_err().exit(), Exit::Usage);
    }
}
