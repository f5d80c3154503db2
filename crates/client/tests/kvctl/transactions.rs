//! Several keys in one step: output and exit codes.

use kvserver::txn::Conflict;
use serde_json::{Value, json};
use wire::v1::{Transaction, TransactionsResponse};

use crate::fake::{Act, Fake};
use crate::{run, run_with};

fn json_of(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap()
}

#[test]
fn many_keys_at_once() {
    let cluster = Fake::start(2);
    let (code, stdout, stderr) = run(&cluster, &["mput", "a=1", "b=x=y\t", "c="]);
    assert_eq!((code, stdout.as_str()), (0, "\"a\" 1 bytes\n\"b\" 4 bytes\n\"c\" 0 bytes\n"), "{stderr}");
    assert_eq!(run(&cluster, &["mget", "b", "a"]), (0, "b\tx=y\\t\na\t1\n".into(), String::new()));
    let (code, stdout, stderr) = run(&cluster, &["mget", "a", "none", "c"]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (3, "a\t1\nc\t\n", "error[NOT_FOUND]: \"none\" is absent\n")
    );
    let (code, stdout, _) = run(&cluster, &["-o", "json", "mget", "a", "none"]);
    let told = json_of(&stdout);
    assert_eq!(
        (code, &told["keys"][0]["value"], &told["keys"][1]),
        (3, &json!("1"), &json!({"key": "none", "found": false}))
    );
    assert_eq!(
        run_with(&cluster, &["mput", "-o", "json", "d=-"], b"in").1,
        "{\"v\":1,\"keys\":[{\"key\":\"d\",\"length\":2}]}\n"
    );

    assert_eq!(run(&cluster, &["swap", "a", "d"]).1, "\"a\" and \"d\" swapped\n");
    assert_eq!(run(&cluster, &["swap", "a", "e"]).1, "\"e\" has the value of \"a\", which is absent now\n");
    assert_eq!(run(&cluster, &["mget", "d", "e"]).1, "d\t1\ne\tin\n");
    assert_eq!(run(&cluster, &["swap", "x", "y"]).0, 3);

    for args in [&["mget"][..], &["mput"], &["mput", "a"], &["mput", "a=-", "b=-"], &["swap", "a"]] {
        assert_eq!(run(&cluster, args).0, 2, "{args:?}");
    }
    let many: Vec<String> = (0..129).map(|n| format!("k{n}=v")).collect();
    let args: Vec<&str> = ["mput"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let (code, _, stderr) = run(&cluster, &args);
    assert!(code == 8 && stderr.contains("outcome: not executed"), "{stderr}");
}

#[test]
fn a_transaction_from_stdin_a_file_and_the_line() {
    let cluster = Fake::start(2);
    let text = "compare:\n  absent seat\nthen:\n  put seat ann # hers\n  incr sold\n  append log 'a b'\n  get seat\n  del x\n\
        else:\n  get seat\n";
    let (code, stdout, stderr) = run_with(&cluster, &["txn"], text.as_bytes());
    let expected =
        "then:\n\"seat\" 3 bytes\n\"sold\" = 1\n\"log\" 3 bytes\n\"seat\" = ann\n\"x\" was absent\n";
    assert_eq!((code, stdout.as_str()), (0, expected), "{stderr}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("buy.txn");
    std::fs::write(&file, text).unwrap();
    let (code, stdout, _) = run(&cluster, &["txn", "-o", "json", file.to_str().unwrap()]);
    let told = json_of(&stdout);
    assert_eq!(
        (code, &told["v"], &told["held"], &told["branch"]),
        (0, &json!(1), &json!(false), &json!("else"))
    );
    assert_eq!(told["results"][0]["op"], "get");
    assert_eq!((&told["results"][0]["value"], &told["results"][0]["found"]), (&json!("ann"), &json!(true)));

    let (code, stdout, _) =
        run(&cluster, &["txn", "-c", "copy seat other; cas --absent new 1; del log; get nothing"]);
    let expected =
        "\"other\" copied from \"seat\"\n\"new\" 1 bytes\n\"log\" removed\n\"nothing\" is absent\n";
    assert_eq!((code, stdout.as_str()), (0, expected));
    let (_, stdout, _) = run(&cluster, &["-o", "json", "txn", "-c", "put a 1; get a; copy none a"]);
    let expected = json!([
        {"op": "put", "key": "a", "length": 1},
        {"op": "get", "key": "a", "found": true, "value": "1", "version": null},
        {"op": "copy", "key": "a", "from": "none", "existed": false},
    ]);
    assert_eq!(json_of(&stdout)["results"], expected);
}

#[test]
fn exit_codes_of_transactions() {
    let cluster = Fake::start(1);
    run(&cluster, &["put", "word", "text"]);
    let (code, stdout, stderr) = run(&cluster, &["txn", "-c", "value word = other; put word x"]);
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert_eq!(stderr, "error[COMPARE_FAILED]: a compare doesn't hold\noutcome: executed\n");
    assert_eq!(run(&cluster, &["txn", "-c", "value word = other; put word x; else:"]).0, 0);
    let (code, stdout, _) = run(&cluster, &["-o", "json", "txn", "-c", "version word > 9; get word"]);
    assert_eq!((code, &json_of(&stdout)["held"]), (4, &json!(false)));

    let (code, _, stderr) = run(&cluster, &["txn", "-c", "put a 1; cas word other new"]);
    assert!(code == 4 && stderr.starts_with("error[MISMATCH]: operation 2 of the transaction"), "{stderr}");
    assert!(stderr.contains("outcome: executed"), "{stderr}");
    let (code, _, stderr) = run(&cluster, &["txn", "-c", "incr word"]);
    assert!(code == 4 && stderr.starts_with("error[NOT_A_NUMBER]: "), "{stderr}");
    assert_eq!(run(&cluster, &["get", "a"]).0, 3, "nothing was changed");

    let (code, _, stderr) = run_with(&cluster, &["txn", "-"], b"get a\nput b\n");
    assert!(code == 2 && stderr.starts_with("error[USAGE]: line 2: "), "{stderr}");
    for args in [&["txn"][..], &["txn", "/nonexistent"], &["txn", "-c", "get a", "file"], &["txn", "-c", ""]]
    {
        assert_eq!(run(&cluster, args).0, 2, "{args:?}");
    }

    cluster.script(1, &[Act::GiveWay(Conflict::Older); 300]);
    let (code, _, stderr) = run(&cluster, &["--timeout", "300ms", "mput", "a=1", "b=2"]);
    assert!(code == 5 && stderr.starts_with("error[CONFLICT]: "), "{stderr}");
    assert!(
        stderr.contains("hint: `kvctl txn list`") && stderr.contains("outcome: not executed"),
        "{stderr}"
    );
    cluster.forget();
    cluster.script(1, &[Act::RefuseUnknown(wire::v1::Code::Busy)]);
    cluster.script(1, &[Act::GiveWay(Conflict::TimedOut); 300]);
    let (code, _, stderr) = run(&cluster, &["--timeout", "300ms", "swap", "word", "b"]);
    assert!(code == 6 && stderr.starts_with("error[CONFLICT]: "), "{stderr}");
}

#[test]
fn transactions_in_a_shell() {
    let cluster = Fake::start(1);
    let script = b"mput a=1 'b=2 3'; swap a b\ntxn -c 'get a; get b'\ntxn\nmget a\n";
    let (code, stdout, stderr) = run_with(&cluster, &["shell"], script);
    assert_eq!(code, 2, "stdin is the shell's own");
    for part in ["\"a\" and \"b\" swapped\n\"a\" = 2 3 (version ", "\n\"b\" = 1 (version ", ")\na\t2 3\n"] {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }
    assert!(stderr.contains("txn -c TEXT"), "{stderr}");
}

#[test]
fn transactions_under_way_are_listed_also_when_a_node_is_down() {
    let mut cluster = Fake::start(2);
    assert_eq!(run(&cluster, &["txn", "list"]).0, 0);
    let prepared = Transaction {
        group: 2,
        shard: 5,
        client: vec![1; 16].into(),
        sequence: 3,
        home: 1,
        attempt: 4,
        state: "prepared".to_owned(),
        since_ms: 1500,
        keys: vec![b"k".to_vec().into()],
        ..Transaction::default()
    };
    let told = TransactionsResponse { transactions: vec![prepared], groups: vec![2] };
    cluster.world.transactions.lock().insert(2, told);
    cluster.kill(1);
    let began = std::time::Instant::now();
    let (code, stdout, stderr) = run(&cluster, &["-o", "json", "txn", "list"]);
    assert!(began.elapsed() < std::time::Duration::from_secs(2));
    assert_eq!(code, 0, "{stderr}");
    let told = json_of(&stdout);
    let first = &told["transactions"][0];
    assert_eq!(
        (&told["v"], &first["state"], &first["age_ms"]),
        (&json!(1), &json!("prepared"), &json!(1500))
    );
    assert_eq!(first["participants"][0]["keys"], json!(["k"]));
    assert_eq!(told["problems"].as_array().unwrap().len(), 2, "{told}");
    let (_, stdout, _) = run(&cluster, &["txn", "list"]);
    assert!(stdout.contains("prepared") && stdout.contains("group 1: no leader answers"), "{stdout}");
}
