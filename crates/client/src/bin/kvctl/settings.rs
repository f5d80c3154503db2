//! What holds for every command, and where it comes from: the flag, then `KVCTL_*`, then the configuration file, then
//! the default.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::Access;
use serde::Deserialize;

use crate::credentials::AccessFiles;
use crate::failure::Failure;
use crate::output::Format;

/// Asked when nobody says otherwise: the ports `kvctl demo` takes first.
const DEFAULT_ENDPOINTS: [&str; 3] = ["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"];
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags that every command takes.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Flags {
    /// Some nodes; they name the others [env: KVCTL_ENDPOINTS] [default: 127.0.0.1:7101,…]
    #[arg(long, short = 'e', global = true, value_name = "A,B", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,

    /// text, json (stable, for scripts) or raw (the bytes of a value) [env: KVCTL_OUTPUT]
    #[arg(long, short = 'o', global = true, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    pub(crate) output: Option<Format>,

    /// For one operation and all its tries: 500ms, 2m … [env: KVCTL_TIMEOUT] [default: 5s]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Of reads: linearizable (default), lease or stale [env: KVCTL_CONSISTENCY]
    #[arg(long, global = true, value_enum, value_name = "KIND", hide_possible_values = true)]
    pub(crate) consistency: Option<ReadConsistency>,

    /// TLS: the authority that signed the nodes' certificates (PEM) [env: KVCTL_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// TLS: this client's certificate (PEM), where nodes ask for one [env: KVCTL_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// TLS: the private key of --cert (PEM) [env: KVCTL_KEY]
    #[arg(id = "private_key", long = "key", global = true, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// A file whose first line is the token to show [env: KVCTL_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Flags {
    /// These flags, and those of the surrounding shell where one isn't given.
    #[must_use]
    pub(crate) fn or(mut self, outer: &Flags) -> Flags {
        if self.endpoints.is_empty() {
            self.endpoints.clone_from(&outer.endpoints);
        }
        self.output = self.output.or(outer.output);
        self.timeout = self.timeout.or(outer.timeout);
        self.consistency = self.consistency.or(outer.consistency);
        self.cacert = self.cacert.or_else(|| outer.cacert.clone());
        self.cert = self.cert.or_else(|| outer.cert.clone());
        self.key = self.key.or_else(|| outer.key.clone());
        self.token_file = self.token_file.or_else(|| outer.token_file.clone());
        self
    }
}

/// What a read promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadConsistency {
    /// Sees every write that was answered before it began.
    #[default]
    Linearizable,
    /// The same, answered by a leader under its lease.
    Lease,
    /// Whatever the node asked has applied.
    Stale,
}

/// Where the nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    /// At these addresses.
    Listed(Vec<String>),
    /// In `demo.json` of this directory, read anew for each command.
    Demo(PathBuf),
}

/// The settings of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) endpoints: Endpoints,
    pub(crate) output: Format,
    pub(crate) timeout: Duration,
    pub(crate) consistency: ReadConsistency,
    /// What nodes are shown, and whom it trusts.
    pub(crate) access: Access,
    /// The directory of the demo cluster that is spoken to, if it is one.
    pub(crate) demo: Option<PathBuf>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    endpoints: Option<Vec<String>>,
    output: Option<Format>,
    timeout: Option<String>,
    consistency: Option<ReadConsistency>,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Settings {
    /// The settings from flags, environment and file. `demo` is the directory of the demo whose shell this is.
    pub(crate) fn load(flags: &Flags, demo: Option<&Path>) -> Result<Settings, Failure> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = read_file(&env)?;
        Settings::resolve(flags, demo, &env, file)
    }

    fn resolve(
        flags: &Flags,
        demo: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
        file: File,
    ) -> Result<Settings, Failure> {
        let demo = demo.map(Path::to_owned).or_else(|| env("KVCTL_DEMO").map(PathBuf::from));
        let listed = |text: String| text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>();
        let endpoints = if !flags.endpoints.is_empty() {
            Endpoints::Listed(flags.endpoints.clone())
        } else if let Some(directory) = &demo {
            Endpoints::Demo(directory.clone())
        } else {
            Endpoints::Listed(
                env("KVCTL_ENDPOINTS")
                    .map(listed)
                    .or(file.endpoints)
                    .unwrap_or_else(|| DEFAULT_ENDPOINTS.map(str::to_owned).to_vec()),
            )
        };
        let access = match &endpoints {
            // A demo speaks plainly, whatever other clusters want.
            Endpoints::Demo(_) => AccessFiles::of_flags(flags),
            Endpoints::Listed(_) => {
                let of_file = AccessFiles {
                    cacert: file.cacert,
                    cert: file.cert,
                    key: file.key,
                    token_file: file.token_file,
                };
                AccessFiles::of_flags(flags).or(AccessFiles::of_environment(env)).or(of_file)
            }
        };
        let timeout = match (flags.timeout, env("KVCTL_TIMEOUT"), file.timeout) {
            (Some(timeout), ..) => timeout,
            (None, Some(text), _) => duration(&text).map_err(|e| Failure::usage(e).at("KVCTL_TIMEOUT"))?,
            (None, None, Some(text)) => duration(&text).map_err(|e| Failure::usage(e).at("timeout"))?,
            (None, None, None) => DEFAULT_TIMEOUT,
        };
        Ok(Settings {
            endpoints,
            timeout,
            output: pick(flags.output, env("KVCTL_OUTPUT"), "KVCTL_OUTPUT", file.output)?,
            consistency: pick(
                flags.consistency,
                env("KVCTL_CONSISTENCY"),
                "KVCTL_CONSISTENCY",
                file.consistency,
            )?,
            access: access.read()?,
            demo,
        })
    }
}

/// The first of flag, environment, file and default.
fn pick<T: clap::ValueEnum + Default>(
    flag: Option<T>,
    env: Option<String>,
    name: &str,
    file: Option<T>,
) -> Result<T, Failure> {
    match (flag, env) {
        (Some(value), _) => Ok(value),
        (None, Some(text)) => T::from_str(&text, true).map_err(|_| {
            Failure::usage(format!("{name} is \"{text}\"")).hint(format!("one of {}", names::<T>()))
        }),
        (None, None) => Ok(file.unwrap_or_default()),
    }
}

fn names<T: clap::ValueEnum>() -> String {
    let names = T::value_variants().iter().filter_map(T::to_possible_value);
    names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ")
}

fn read_file(env: &dyn Fn(&str) -> Option<String>) -> Result<File, Failure> {
    let named = env("KVCTL_CONFIG").map(PathBuf::from);
    let is_named = named.is_some();
    let home = || env("HOME").map(|home| Path::new(&home).join(".config"));
    let usual = || env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    let Some(path) = named.or_else(|| usual().map(|dir| dir.join("synod").join("kvctl.toml"))) else {
        return Ok(File::default());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            toml::from_str(&text).map_err(|e| Failure::usage(e.to_string().trim_end()).at(path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => Ok(File::default()),
        Err(error) => Err(Failure::usage(error.to_string()).at(path.display())),
    }
}

/// A time with its unit: `500ms`, `5s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 =
        number.parse().map_err(|_| format!("\"{text}\" isn't a time such as 500ms, 5s or 2m"))?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "" => return Err(format!("\"{text}\" has no unit: ms, s, m or h")),
        _ => return Err(format!("\"{unit}\" isn't a unit of time: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &Flags, env: &[(&str, &str)], file: &str) -> Result<Settings, Failure> {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::resolve(flags, None, &env, toml::from_str(file).unwrap())
    }

    #[test]
    fn flag_then_environment_then_file_then_default() {
        let file = "endpoints = ['f:1']\ntimeout = '3s'\noutput = 'json'\n";
        let env = [("KVCTL_ENDPOINTS", "e:1, e:2"), ("KVCTL_TIMEOUT", "2s")];
        let flags = Flags { endpoints: vec!["g:1".into()], ..Flags::default() };

        let none = resolve(&Flags::default(), &[], "").unwrap();
        assert_eq!(none.endpoints, Endpoints::Listed(DEFAULT_ENDPOINTS.map(str::to_owned).to_vec()));
        assert_eq!(none.timeout, DEFAULT_TIMEOUT);

        let only_file = resolve(&Flags::default(), &[], file).unwrap();
        assert_eq!(only_file.endpoints, Endpoints::Listed(vec!["f:1".into()]));
        assert_eq!((only_file.timeout, only_file.output), (Duration::from_secs(3), Format::Json));

        let with_env = resolve(&Flags::default(), &env, file).unwrap();
        assert_eq!(with_env.endpoints, Endpoints::Listed(vec!["e:1".into(), "e:2".into()]));
        assert_eq!(with_env.timeout, Duration::from_secs(2));

        let with_flag = resolve(&flags, &env, file).unwrap();
        assert_eq!(with_flag.endpoints, Endpoints::Listed(vec!["g:1".into()]));
    }

    #[test]
    fn a_demo_gives_the_endpoints_unless_a_flag_does() {
        let env = [("KVCTL_DEMO", "/d"), ("KVCTL_ENDPOINTS", "e:1")];
        let demo = resolve(&Flags::default(), &env, "").unwrap();
        assert_eq!(demo.endpoints, Endpoints::Demo("/d".into()));
        let flags = Flags { endpoints: vec!["g:1".into()], ..Flags::default() };
        assert_eq!(resolve(&flags, &env, "").unwrap().endpoints, Endpoints::Listed(vec!["g:1".into()]));
    }

    #[test]
    fn a_wrong_value_in_the_environment_is_a_usage_error() {
        let failure = resolve(&Flags::default(), &[("KVCTL_OUTPUT", "xml")], "").unwrap_err();
        assert!(failure.report().contains("hint: one of text, json, raw"), "{}", failure.report());
        assert_eq!(failure.exit(), crate::failure::Exit::Usage);
    }

    #[test]
    fn times_carry_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").unwrap_err().contains("no unit"));
        assert!(duration("5 parsecs").is_err());
        assert!(duration("s").is_err());
    }
}
