//! Where settings come from: a file, the environment, flags; the later of these wins. Each setting remembers its
//! origin, so that an error names it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::keys::{KEYS, Key, NODE_KEYS, Value};
use super::suggest::nearest;
use super::{Config, ConfigError, NodeEntry};

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, by its path.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => f.write_str(path),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value as it was found.
#[derive(Clone, Debug)]
enum Raw {
    Toml(toml::Value),
    Word(String),
}

/// Settings by dotted name; a later one replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    settings: BTreeMap<String, (Origin, Raw)>,
}

impl Layers {
    /// Adds all settings of a file.
    ///
    /// # Errors
    /// If it can't be read or isn't TOML.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let fail = |reason: String| ConfigError::new(Origin::File(name.clone()), "", reason);
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        self.text(&text, Origin::File(name.clone()))
    }

    /// Adds all settings of a file's text.
    ///
    /// # Errors
    /// If it isn't TOML.
    pub fn text(&mut self, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::new(origin.clone(), "", e.to_string().trim_end()))?;
        self.flatten("", toml::Value::Table(table), &origin);
        Ok(())
    }

    fn flatten(&mut self, prefix: &str, value: toml::Value, origin: &Origin) {
        let join = |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(table) if prefix.is_empty() || !table.is_empty() => {
                table.into_iter().for_each(|(name, value)| self.flatten(&join(&name), value, origin));
            }
            toml::Value::Array(entries) if prefix == "nodes" => {
                let numbered = entries.into_iter().enumerate();
                numbered.for_each(|(index, entry)| self.flatten(&join(&index.to_string()), entry, origin));
            }
            toml::Value::Table(_) if is_section(prefix) => {}
            value => {
                self.settings.insert(prefix.to_string(), (origin.clone(), Raw::Toml(value)));
            }
        }
    }

    /// Adds the settings among environment variables: `KVSERVER_LIMITS__BATCH` is `limits.batch`. A name without
    /// `__` that is no key is left alone: container platforms set such names for services.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix("KVSERVER_") else { continue };
            let key = rest.to_lowercase().replace("__", ".");
            if key.contains('.') || is_key(&key) {
                self.settings.insert(key, (Origin::Environment(name), Raw::Word(value)));
            }
        }
    }

    /// Adds the dotted flags among `args` and returns the other arguments.
    ///
    /// # Errors
    /// If the last one has no value.
    pub fn flags(&mut self, args: impl IntoIterator<Item = String>) -> Result<Vec<String>, ConfigError> {
        let mut others = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag.to_string(), Some(value.to_string())),
                None => (arg.clone(), None),
            };
            let key = flag.strip_prefix("--").map(|key| key.replace('-', "_"));
            let Some(key) = key.filter(|key| key.contains('.') || is_key(key)) else {
                others.push(arg);
                continue;
            };
            let value = value.or_else(|| args.next());
            let origin = Origin::Flag(flag);
            let value = value.ok_or_else(|| ConfigError::new(origin.clone(), &key, "needs a value"))?;
            self.settings.insert(key, (origin, Raw::Word(value)));
        }
        Ok(others)
    }

    /// Adds all settings of `later`, which win.
    pub fn add(&mut self, later: Layers) {
        self.settings.extend(later.settings);
    }

    /// The configuration that the settings give on top of the defaults, not yet validated as a whole.
    ///
    /// # Errors
    /// The first setting that isn't a key or whose value doesn't fit.
    pub(super) fn apply(self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let mut nodes: BTreeMap<usize, NodeEntry> = BTreeMap::new();
        for (name, (origin, raw)) in self.settings {
            if let Some((index, field)) = node_key(&name) {
                set(NODE_KEYS, field, nodes.entry(index).or_default(), &name, origin, &raw)?;
            } else {
                set(KEYS, &name, &mut config, &name, origin, &raw)?;
            }
        }
        config.nodes = nodes.into_values().collect();
        Ok(config)
    }
}

fn set<T>(
    keys: &[Key<T>],
    field: &str,
    owner: &mut T,
    name: &str,
    origin: Origin,
    raw: &Raw,
) -> Result<(), ConfigError> {
    let Some(key) = keys.iter().find(|key| key.name == field) else {
        return Err(ConfigError::new(origin, name, unknown(name)));
    };
    let value: Result<Value, String> = match raw {
        Raw::Toml(value) => key.parse(value),
        Raw::Word(word) => key.parse_word(word),
    };
    (key.set)(owner, value.map_err(|reason| ConfigError::new(origin, name, reason))?);
    Ok(())
}

/// `nodes.2.client` as (2, `client`).
fn node_key(name: &str) -> Option<(usize, &str)> {
    let (index, field) = name.strip_prefix("nodes.")?.split_once('.')?;
    Some((index.parse().ok()?, field))
}

fn is_key(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name))
}

fn unknown(name: &str) -> String {
    if is_section(name) {
        return "is a section, not a key".to_string();
    }
    let suggestion = match node_key(name) {
        Some((index, field)) => {
            nearest(field, NODE_KEYS.iter().map(|key| key.name)).map(|field| format!("nodes.{index}.{field}"))
        }
        None => {
            let known = KEYS.iter().map(|key| key.name);
            nearest(name, known.chain(["nodes"])).or_else(|| by_last_word(name)).map(str::to_string)
        }
    };
    match suggestion {
        Some(suggestion) => format!("unknown key; did you mean {suggestion}?"),
        None => "unknown key".to_string(),
    }
}

/// A key that was put into another section, or into none.
fn by_last_word(name: &str) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().map(str::to_string);
    KEYS.iter().map(|key| key.name).find(|key| last(key) == last(name))
}
