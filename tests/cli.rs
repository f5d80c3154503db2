//! `kvctl` as people and scripts meet it: data verbs, every exit code, bad input on every port.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Output, Stdio};
use std::time::Duration;

use tests::{Demo, kvctl_alone};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn data_verbs_and_their_exit_codes() {
    let demo = Demo::start(&["--groups", "2"]);
    demo.ok(&["put", "name", "synod"]);
    assert_eq!(demo.ok(&["-o", "raw", "get", "name"]), "synod");
    demo.ok(&["append", "name", "!"]);
    assert_eq!(demo.ok(&["-o", "raw", "get", "name"]), "synod!");
    for consistency in ["linearizable", "lease"] {
        assert_eq!(demo.ok(&["--consistency", consistency, "-o", "raw", "get", "name"]), "synod!");
    }
    demo.ok(&["cas", "name", "synod!", "paxos"]);
    let mismatch = demo.kvctl(&["cas", "name", "synod!", "raft"]);
    assert_eq!(code(&mismatch), 4, "{}", words(&mismatch));
    assert!(words(&mismatch).starts_with("error["), "{}", words(&mismatch));
    demo.ok(&["incr", "visits"]);
    assert_eq!(demo.ok(&["incr", "visits", "41"]).split_whitespace().next(), Some("42"));
    let no_number = demo.kvctl(&["incr", "name"]);
    assert!(matches!(code(&no_number), 1 | 4), "{}", words(&no_number));
    demo.ok(&["del", "name"]);
    let absent = demo.kvctl(&["get", "name"]);
    assert_eq!(code(&absent), 3, "{}", words(&absent));
    let keys: Vec<String> = (0..50).map(|i| format!("k{i:03}")).collect();
    for key in &keys {
        demo.ok(&["put", key, key]);
    }
    let scanned = demo.ok(&["scan", "k", "--keys-only"]);
    assert_eq!(scanned.lines().collect::<Vec<_>>(), keys.iter().map(String::as_str).collect::<Vec<_>>());
    let first = demo.ok(&["scan", "k", "--keys-only", "--limit", "3"]);
    assert_eq!(first.lines().count(), 3);
}

#[test]
fn bad_usage_and_limits() {
    let demo = Demo::start(&["--groups", "1"]);
    for wrong in
        [&["put", "k"][..], &["--no-such-flag"], &["frobnicate"], &["get", "k", "--consistency", "sloppy"]]
    {
        let output = demo.kvctl(wrong);
        assert_eq!(code(&output), 2, "{wrong:?}: {}", words(&output));
    }
    let long_key = "k".repeat((16 << 10) + 1);
    let output = demo.kvctl(&["put", &long_key, "v"]);
    assert_eq!(code(&output), 8, "{}", words(&output));
    demo.ok(&["put", &"k".repeat(16 << 10), "v"]);
    let file = demo.dir().join("value");
    let at_file = format!("@{}", file.display());
    std::fs::write(&file, vec![b'v'; 8 << 20]).unwrap();
    demo.ok(&["put", "large", &at_file]);
    assert_eq!(demo.ok(&["-o", "raw", "get", "large"]).len(), 8 << 20);
    std::fs::write(&file, vec![b'v'; (8 << 20) + 1]).unwrap();
    let output = demo.kvctl(&["put", "large", &at_file]);
    assert_eq!(code(&output), 8, "{}", words(&output));
    assert!(words(&output).contains("outcome: not executed"), "{}", words(&output));
    let output = demo.kvctl(&["append", "large", "!"]);
    assert_eq!(code(&output), 8, "an append past the limit: {}", words(&output));
    let output = demo.kvctl(&["import", "/no/such/file"]);
    assert!(matches!(code(&output), 1 | 2), "{}", words(&output));
    let malformed = demo.dir().join("malformed.jsonl");
    std::fs::write(&malformed, "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\n").unwrap();
    let output = demo.kvctl(&["import", &malformed.display().to_string()]);
    assert_eq!(code(&output), 2, "{}", words(&output));
    assert!(words(&output).contains('2'), "names the line: {}", words(&output));
}

#[test]
fn faults_are_refused_outside_demo_clusters() {
    let output = kvctl_alone(&["fault", "kill", "--node", "1"]);
    assert_eq!(code(&output), 2, "{}", words(&output));
}

#[test]
fn unavailable_unknown_and_interrupted() {
    let output = kvctl_alone(&["-e", "127.0.0.1:1", "--timeout", "300ms", "put", "k", "v"]);
    assert_eq!(code(&output), 5, "{}", words(&output));
    assert!(words(&output).contains("outcome: not executed"), "{}", words(&output));

    let demo = Demo::start(&["--groups", "1"]);
    demo.ok(&["put", "k", "v"]);
    let mut trace = demo.command(&["trace"]);
    let mut trace = trace.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 1];
    trace.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&trace), rustix::process::Signal::INT)
        .unwrap();
    assert_eq!(trace.wait().unwrap().code(), Some(130));

    // With both followers paused the leader proposes what can't be chosen: nobody can say whether it ever will be.
    let leader = demo.leader(1);
    let followers: Vec<String> = (1..=3).filter(|n| *n != leader).map(|n| n.to_string()).collect();
    for follower in &followers {
        demo.ok(&["fault", "pause", "--node", follower]);
    }
    let output = demo.kvctl(&["--timeout", "2s", "append", "k", "!"]);
    assert!(matches!(code(&output), 5 | 6), "{}", words(&output));
    let status = std::time::Instant::now();
    let partial = demo.kvctl(&["-o", "json", "status"]);
    assert!(status.elapsed() < Duration::from_secs(4), "status took {:?}", status.elapsed());
    assert!(!partial.stdout.is_empty(), "{}", words(&partial));
    for follower in &followers {
        demo.ok(&["fault", "resume", "--node", follower]);
    }
    demo.ok(&["--timeout", "20s", "put", "after", "all"]);
    let value = demo.ok(&["-o", "raw", "get", "k"]);
    if code(&output) == 5 {
        assert_eq!(value, "v", "not executed means not executed");
    } else {
        assert!(value == "v" || value == "v!", "{value}");
    }
}

#[test]
fn garbage_on_every_port_leaves_the_node_alive() {
    let demo = Demo::start(&["--groups", "1"]);
    for port in ["client", "peer", "http"] {
        for garbage in [
            &b"\0\xff\xfe\xfd"[..],
            b"GET / HTTP/9.9\r\n\r\n",
            &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc],
            &[b'A'; 100_000],
        ] {
            let mut stream = TcpStream::connect(demo.port(1, port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let _reset = stream.write_all(garbage);
            let _closed = stream.read(&mut [0; 1024]);
        }
        // The HTTP/2 preface, then frames that claim the largest length.
        let mut stream = TcpStream::connect(demo.port(1, port)).unwrap();
        let _reset =
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\xff\xff\xff\xff");
    }
    demo.ok(&["put", "still", "here"]);
    let status = demo.ok(&["-o", "json", "status"]);
    assert!(status.contains("\"ok\""), "{status}");
    assert!(http(&demo, "/livez").starts_with("HTTP/1.1 200"));
    assert!(http(&demo, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(http(&demo, "/metrics").contains("_total"));
    assert!(http(&demo, "/api/v1/state").contains("\"v\":1"));
    assert!(http(&demo, "/no/such/page").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_cluster_that_wants_a_token_says_so_with_exit_7() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "a-token-for-this-test\n").unwrap();
    let held: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let port = |at: usize| held[at].local_addr().unwrap().to_string();
    let (client, peer, http) = (port(0), port(1), port(2));
    drop(held);
    let mut command = std::process::Command::new(tests::binaries().join("kvserver"));
    command.args(["--node", "1", "--nodes.0.id", "1", "--nodes.0.client", &client, "--nodes.0.peer", &peer]);
    command.args(["--nodes.0.http", &http, "--exit-with-stdin", "--data-dir"]).arg(dir.path().join("data"));
    command.arg("--auth.token_file").arg(&tokens).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.spawn().unwrap();
    let tokens = tokens.display().to_string();
    let written = kvctl_alone(&["-e", &client, "--timeout", "30s", "--token-file", &tokens, "put", "k", "v"]);
    assert_eq!(code(&written), 0, "{}", words(&written));
    let refused = kvctl_alone(&["-e", &client, "put", "k", "w"]);
    assert_eq!(code(&refused), 7, "{}", words(&refused));
    assert!(words(&refused).starts_with("error[NOT_AUTHENTICATED]: "), "{}", words(&refused));
    assert!(words(&refused).contains("outcome: not executed"), "{}", words(&refused));
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

fn http(demo: &Demo, path: &str) -> String {
    let mut stream = TcpStream::connect(demo.port(1, "http")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    let _closed_early = stream.read_to_string(&mut text);
    text
}

#[test]
fn import_and_export_are_inverse_and_a_demo_comes_back_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::start_in(dir.path(), &["--groups", "2", "--shards", "16"]);
    let ports = demo.endpoints();
    let mut lines: Vec<String> =
        (0..2000).map(|i| format!("{{\"key\":\"key-{i:05}\",\"value\":\"value {i}\"}}\n")).collect();
    lines.push("{\"key\":{\"b64\":\"/wA=\"},\"value\":{\"b64\":\"gIGC\"}}\n".to_string());
    let input = dir.path().join("in.jsonl");
    std::fs::write(&input, lines.concat()).unwrap();
    demo.ok(&["import", &input.display().to_string()]);
    assert_eq!(demo.ok(&["export"]), lines.concat());
    assert!(demo.stop(), "a clean stop ends with 0");
    let demo = Demo::start_in(dir.path(), &[]);
    assert_eq!(demo.endpoints(), ports, "the same ports");
    assert_eq!(demo.ok(&["export"]), lines.concat());
    let located = demo.ok(&["-o", "json", "locate", "key-00001"]);
    assert!(located.contains("\"shard\""), "{located}");
    let log = demo.ok(&["log", "show", "--group", "1"]);
    assert!(log.contains("APPLIED"), "{log}");
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    std::fs::write(&file, "nodes = []\nshardz = 3\n").unwrap();
    let mut check = std::process::Command::new(tests::binaries().join("kvserver"));
    let output = check.args(["config", "check"]).arg(&file).output().unwrap();
    assert_eq!(code(&output), 2, "{}", words(&output));
    assert!(words(&output).contains("shards"), "{}", words(&output));
}
