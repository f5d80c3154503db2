//! Single keys, scans, exports: output and exit codes.

use crate::fake::{Act, Fake};
use crate::{kvctl, run, run_with};

#[test]
fn single_keys() {
    let cluster = Fake::start(2);
    assert_eq!(run(&cluster, &["put", "a", "hello"]), (0, "5 bytes, version 1\n".into(), String::new()));
    assert_eq!(run(&cluster, &["append", "a", " you"]).1, "9 bytes, version 2\n");
    assert_eq!(run(&cluster, &["get", "a"]).1, "hello you\n");
    assert_eq!(run(&cluster, &["get", "a", "-o", "raw"]).1, "hello you");
    assert_eq!(
        run(&cluster, &["get", "a", "-o", "json"]).1,
        "{\"v\":1,\"found\":true,\"key\":\"a\",\"value\":\"hello you\",\"version\":2}\n"
    );
    assert_eq!(run(&cluster, &["-o", "json", "incr", "n", "-5"]).1, "{\"v\":1,\"value\":-5,\"version\":1}\n");
    assert_eq!(run(&cluster, &["incr", "n"]).1, "-4\n");
    assert_eq!(run(&cluster, &["del", "n", "n"]).1, "\"n\" removed\n\"n\" was absent\n");
    assert_eq!(run(&cluster, &["cas", "--absent", "n", "x"]).0, 0);
    assert_eq!(run(&cluster, &["cas", "n", "x", "y"]).0, 0);
}

#[test]
fn exit_codes_tell_what_happened() {
    let cluster = Fake::start(1);
    let (code, stdout, stderr) = run(&cluster, &["get", "a"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (3, "", "error[NOT_FOUND]: \"a\" is absent\n"));

    run(&cluster, &["put", "a", "b"]);
    let (code, _, stderr) = run(&cluster, &["cas", "a", "x", "y"]);
    assert_eq!(code, 4);
    assert!(stderr.starts_with("error[MISMATCH]: ") && stderr.contains("outcome: executed\n"), "{stderr}");
    assert_eq!(run(&cluster, &["incr", "a"]).0, 4);

    let (code, _, stderr) = run_with(&cluster, &["put", "a", "-"], &vec![0; (8 << 20) + 1]);
    assert_eq!(code, 8, "{stderr}");
    let (code, _, stderr) = run(&cluster, &["put", "a", "@/nonexistent/file"]);
    assert_eq!(code, 2, "{stderr}");

    cluster.elect(0);
    let (code, _, stderr) = run(&cluster, &["--timeout", "300ms", "put", "a", "c"]);
    assert_eq!(code, 5, "{stderr}");
    assert!(stderr.contains("outcome: not executed\n"), "{stderr}");

    cluster.elect(1);
    cluster.script(1, &[Act::Lose; 20]);
    let (code, _, stderr) = run(&cluster, &["--timeout", "300ms", "put", "a", "d"]);
    assert_eq!(code, 6, "{stderr}");
    assert!(stderr.contains("outcome: unknown\n"), "{stderr}");
}

#[test]
fn what_is_exported_is_imported_byte_for_byte() {
    let cluster = Fake::start(2);
    run(&cluster, &["put", "text", "a\tb\\n\n\r é"]);
    run_with(&cluster, &["put", "binary", "-"], &[0, 255, 9, 10, 13, 92]);
    run(&cluster, &["put", "", ""]);
    for format in ["jsonl", "tsv"] {
        let exported = kvctl(&cluster, &["export", "--format", format]).output().unwrap();
        assert!(String::from_utf8_lossy(&exported.stderr).starts_with("exported 3 records in "));
        let other = Fake::start(1);
        let (code, _, stderr) = run_with(&other, &["import", "-", "--format", format], &exported.stdout);
        assert_eq!(code, 0, "{stderr}");
        let again = kvctl(&other, &["export", "--format", format]).output().unwrap();
        assert_eq!(again.stdout, exported.stdout);
        assert_eq!(run(&other, &["scan", "--keys-only"]).1, "\nbinary\ntext\n");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let cluster = Fake::start(1);
    run(&cluster, &["put", "a", "b"]);
    let mut child = kvctl(&cluster, &["scan"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_shell_goes_on_after_an_error() {
    let cluster = Fake::start(1);
    let script = b"put a 'b c'\nget nothing\nnonsense\nget a; exit\nput a d\n";
    let (code, stdout, stderr) = run_with(&cluster, &["shell"], script);
    assert_eq!((code, stdout.as_str()), (3, "3 bytes, version 1\nb c\n"), "{stderr}");
    assert!(stderr.contains("error[USAGE]: unrecognized subcommand 'nonsense'"), "{stderr}");
}

#[test]
fn a_bench_gives_one_object() {
    let cluster = Fake::start(2);
    for workload in
        [&["put"][..], &["get"], &["mixed"], &["append"], &["txn"], &["txn", "--local"], &["txn", "--across"]]
    {
        let mut args =
            vec!["-o", "json", "bench", "--seconds", "1", "--keys", "50", "--conns", "2", "--workload"];
        args.extend(workload);
        let (code, stdout, stderr) = run(&cluster, &args);
        assert_eq!(code, 0, "{stderr}");
        let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let names: Vec<_> = told.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["errors", "max_us", "ops_per_s", "p50_us", "p999_us", "p99_us", "v"]);
        assert_eq!(told["errors"], 0);
        assert!(told["ops_per_s"].as_f64() > Some(0.0), "{stdout}");
    }
}
