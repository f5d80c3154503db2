//! Every class of error names file, key and reason; layers win in their order; the documentation says what is so.

use super::layers::{Layers, Origin};
use super::*;

const MINIMAL: &str = r#"
node = 1
data_dir = "d/n1"
[[nodes]]
id = 1
client = "127.0.0.1:7101"
peer = "127.0.0.1:7201"
http = "127.0.0.1:7301"
"#;

fn origin() -> Origin {
    Origin::File("node.toml".to_string())
}

fn read(text: &str) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    layers.text(text, origin())?;
    Config::from_layers(layers, &origin())
}

fn refusal(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

fn with(line: &str) -> String {
    format!("{line}\n{MINIMAL}")
}

fn section(lines: &str) -> String {
    format!("{MINIMAL}\n{lines}")
}

#[test]
fn a_minimal_file_gets_defaults_and_listens_where_others_look() {
    let config = read(MINIMAL).unwrap();
    assert_eq!(config.shards, 256);
    assert_eq!(config.bounds, Bounds::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.listen.client, "127.0.0.1:7101");
    assert_eq!(config.listen.http, "127.0.0.1:7301");
}

#[test]
fn every_key_is_read_from_the_printed_default() {
    let example = Config::example();
    assert_eq!(read(&example.to_toml()), Ok(example));
}

#[test]
fn units_reach_the_limits() {
    let text = section(
        "[limits]\nbatch = \"2MiB\"\n[timing]\nheartbeat = \"20ms\"\nleases = false\n[faults]\nenabled = true",
    );
    let config = read(&text).unwrap();
    assert_eq!(config.bounds.batch_bytes, 2 << 20);
    assert_eq!(config.limits.heartbeat_us, 20_000);
    assert!(!config.limits.leases && config.faults);
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    assert_eq!(
        refusal(&section("[limits]\nbach = \"2MiB\"")),
        "node.toml: limits.bach: unknown key; did you mean limits.batch?"
    );
    assert_eq!(refusal(&with("shard = 3")), "node.toml: shard: unknown key; did you mean shards?");
    assert_eq!(
        refusal(&with("heartbeat = 3")),
        "node.toml: heartbeat: unknown key; did you mean timing.heartbeat?"
    );
    assert_eq!(refusal(&section("prot = 1")), "node.toml: nodes.0.prot: unknown key");
    assert_eq!(
        refusal(&section("htp = 1")),
        "node.toml: nodes.0.htp: unknown key; did you mean nodes.0.http?"
    );
    assert_eq!(refusal(&section("[limts]")), "node.toml: limts: unknown key");
    assert_eq!(refusal(&with("limits = 3")), "node.toml: limits: is a section, not a key");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    let cases = [
        ("[limits]\nbatch = 5", "limits.batch: expected a size in quotes"),
        ("[limits]\nbatch = \"5\"", "limits.batch: \"5\": a size needs a whole number and a unit"),
        ("[limits]\npipeline = \"two\"", "limits.pipeline: expected a whole number"),
        ("[limits]\npipeline = -2", "limits.pipeline: -2 is negative"),
        ("[timing]\nlease = 300", "timing.lease: expected a duration in quotes"),
        ("[timing]\nleases = \"yes\"", "timing.leases: expected true or false"),
        ("[listen]\nhttp = \"localhost\"", "listen.http: \"localhost\" isn't host:port"),
        ("[listen]\nhttp = 80", "listen.http: expected an address in quotes"),
    ];
    for (lines, expected) in cases {
        let refusal = refusal(&section(lines));
        assert!(refusal.contains(expected), "{lines:?}: {refusal}");
    }
}

#[test]
fn a_value_outside_its_bounds_is_refused() {
    assert_eq!(refusal(&with("shards = 0")), "node.toml: shards: 0 is outside 1 to 4096");
    assert_eq!(refusal(&with("shards = 4097")), "node.toml: shards: 4097 is outside 1 to 4096");
    assert_eq!(refusal(&with("groups = 65")), "node.toml: groups: 65 is outside 1 to 64");
    assert_eq!(
        refusal(&section("[limits]\nbatch = \"1GiB\"")),
        "node.toml: limits.batch: 1GiB is outside 1KiB to 32MiB"
    );
}

#[test]
fn what_doesnt_fit_together_is_refused() {
    assert_eq!(refusal(&with("shards = 2\ngroups = 3")), "node.toml: groups: 3 groups can't share 2 shards");
    let late = refusal(&section("[timing]\nheartbeat = \"10s\""));
    assert_eq!(late, "node.toml: timing: limits: heartbeat must be shorter than check_quorum");
    let stranger = MINIMAL.replace("node = 1", "node = 2");
    assert_eq!(refusal(&stranger), "node.toml: node: 2 isn't one of [[nodes]]");
    let twice = section("[[nodes]]\nid = 1\nclient = \"a:1\"\npeer = \"a:2\"\nhttp = \"a:3\"");
    assert_eq!(refusal(&twice), "node.toml: nodes.1.id: 1 stands there twice");
    let shared = section("[[nodes]]\nid = 2\nclient = \"a:1\"\npeer = \"127.0.0.1:7201\"\nhttp = \"a:3\"");
    assert_eq!(refusal(&shared), "node.toml: nodes.1.peer: 127.0.0.1:7201 is used twice");
}

#[test]
fn what_is_missing_is_named() {
    assert!(refusal("").contains("node.toml: node: is missing"));
    assert!(refusal("node = 1").contains("data_dir: is missing"));
    assert!(refusal("node = 1\ndata_dir = \"d\"").contains("nodes: is missing"));
    assert!(refusal(&MINIMAL.replace("id = 1", "")).contains("nodes.0.id: is missing, or zero"));
    assert!(refusal(&MINIMAL.replace("peer = ", "#")).contains("nodes.0.peer: is missing"));
}

#[test]
fn broken_toml_is_refused_with_its_place() {
    let refusal = refusal("node = = 1");
    assert!(refusal.starts_with("node.toml: TOML parse error at line 1"), "{refusal}");
    let mut layers = Layers::default();
    let missing = layers.file(std::path::Path::new("no/such/file.toml")).unwrap_err();
    assert_eq!(missing.origin, Origin::File("no/such/file.toml".to_string()));
}

fn layered(environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    layers.text(&section("[limits]\npipeline = 3\nbatch = \"3MiB\"\nqueue = \"3MiB\""), origin())?;
    layers.environment(environment.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    let others = layers.flags(flags.iter().map(ToString::to_string))?;
    assert_eq!(others, Vec::<String>::new());
    Config::from_layers(layers, &origin())
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let environment = [("KVSERVER_LIMITS__PIPELINE", "4"), ("KVSERVER_LIMITS__BATCH", "4MiB"), ("PATH", "x")];
    let config = layered(&environment, &["--limits.pipeline", "5"]).unwrap();
    assert_eq!(config.bounds.pipeline, 5, "flag");
    assert_eq!(config.bounds.batch_bytes, 4 << 20, "environment");
    assert_eq!(config.bounds.queue_bytes, 3 << 20, "file");
    assert_eq!(config.bounds.segment_bytes, Bounds::default().segment_bytes, "default");
}

#[test]
fn flags_reach_every_kind_of_key() {
    let flags = [
        "--data-dir=elsewhere",
        "--timing.leases",
        "false",
        "--nodes.0.client",
        "h:1",
        "--faults.enabled=true",
    ];
    let config = layered(&[("KVSERVER_SHARDS", "64")], &flags).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("elsewhere"));
    assert_eq!((config.shards, config.limits.leases, config.faults), (64, false, true));
    assert_eq!(config.nodes[0].client, "h:1");
}

#[test]
fn an_error_names_the_flag_or_variable_it_comes_from() {
    let refused =
        |environment: &[(&str, &str)], flags: &[&str]| layered(environment, flags).unwrap_err().to_string();
    assert_eq!(
        refused(&[], &["--limits.bach", "1MiB"]),
        "flag --limits.bach: limits.bach: unknown key; did you mean limits.batch?"
    );
    assert_eq!(refused(&[], &["--limits.batch"]), "flag --limits.batch: limits.batch: needs a value");
    let refusal = refused(&[("KVSERVER_TIMING__LEASE", "soon")], &[]);
    assert!(
        refusal.starts_with("environment KVSERVER_TIMING__LEASE: timing.lease: \"soon\": a duration"),
        "{refusal}"
    );
}

#[test]
fn other_arguments_and_foreign_variables_are_left_alone() {
    let mut layers = Layers::default();
    let args = ["--config", "node.toml", "--limits.queue", "8MiB", "--exit-with-stdin"];
    let others = layers.flags(args.iter().map(ToString::to_string)).unwrap();
    assert_eq!(others, ["--config", "node.toml", "--exit-with-stdin"]);
    assert!(layered(&[("KVSERVER_SERVICE_HOST", "10.0.0.1"), ("KVSERVER_LOG", "info")], &[]).is_ok());
}

/// The rows that docs/configuration.md must hold, one a key.
fn documented_rows() -> Vec<String> {
    let defaults = Config::default();
    let required = ["node", "data_dir"];
    let row = |name: &str, kind: keys::Kind, default: String, bounds: String, about: &str| {
        let kind = format!("{kind:?}").to_lowercase();
        format!("| `{name}` | {kind} | {default} | {bounds} | {about} |")
    };
    let mut rows: Vec<String> = Vec::new();
    for key in KEYS {
        let default = match (key.show(&(key.get)(&defaults)), required.contains(&key.name)) {
            (_, true) => "required".to_string(),
            (text, false) if text.is_empty() => String::new(),
            (text, false) => format!("`{text}`"),
        };
        rows.push(row(key.name, key.kind, default, key.bounds(), key.about));
    }
    for key in NODE_KEYS {
        let name = format!("nodes.N.{}", key.name);
        rows.push(row(&name, key.kind, "required".to_string(), key.bounds(), key.about));
    }
    rows
}

#[test]
fn the_documentation_has_a_row_for_every_key_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = documented_rows();
    let missing: Vec<_> = rows.iter().filter(|row| !text.contains(row.as_str())).cloned().collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{}", missing.join("\n"));
    let documented = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(documented, rows.len(), "docs/configuration.md has rows for keys that don't exist");
}
