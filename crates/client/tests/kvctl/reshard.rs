//! Groups, shards, ShardMaps, migrations and the balance: output and exit codes.

use serde_json::{Value, json};

use crate::fake::{Fake, SHARDS};
use crate::run;

fn json_of(cluster: &Fake, args: &[&str]) -> Value {
    let args: Vec<&str> = ["-o", "json"].iter().chain(args).copied().collect();
    let (code, stdout, stderr) = run(cluster, &args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["v"], 1, "{stdout}");
    told
}

#[test]
fn groups_come_and_go() {
    let cluster = Fake::start(2);
    let dry = json_of(&cluster, &["group", "join", "3", "1", "2", "3", "--dry-run"]);
    assert_eq!(
        (&dry["config"], &dry["dry_run"], dry["changes"].as_array().unwrap().len()),
        (&json!(1), &json!(true), 3)
    );
    assert_eq!(json_of(&cluster, &["config", "query"])["newest"], 1, "nothing was changed");

    cluster.world.master.lock().slowness = 4;
    let joined = json_of(&cluster, &["group", "join", "3", "1", "2", "3", "--wait"]);
    assert_eq!(
        (&joined["config"], &joined["already"], &joined["waited"]),
        (&json!(2), &json!(false), &json!(true))
    );
    assert_eq!(cluster.world.owners.lock().iter().filter(|group| **group == 3).count(), 3);
    let again = run(&cluster, &["group", "join", "3", "1", "2", "3", "--wait"]);
    assert_eq!(again, (0, "join of group 3: it was so already (config 2)\n".into(), String::new()));

    let groups = json_of(&cluster, &["group", "list"]);
    assert_eq!(
        groups["groups"][2],
        json!({
            "id": 3, "generation": 2, "state": "active", "nodes": [1, 2, 3], "leader": 1, "shards": 3, "desired": 3,
        })
    );
    assert!(run(&cluster, &["group", "list"]).1.contains("active"));
    assert_eq!(json_of(&cluster, &["group", "leave", "3", "--wait"])["config"], 3);
}

#[test]
fn what_does_not_fit_is_exit_4_and_what_is_no_number_exit_2() {
    let cluster = Fake::start(1);
    for args in [
        &["group", "leave", "9"][..],
        &["group", "leave", "1"],
        &["group", "join", "1", "1"],
        &["shard", "move", "0", "--to", "7"],
        &["shard", "move", "99", "--to", "1"],
        &["config", "query", "12"],
    ] {
        let (code, stdout, stderr) = run(&cluster, args);
        assert_eq!((code, stdout.as_str()), (4, ""), "{args:?}: {stderr}");
        assert!(
            stderr.starts_with("error[PRECONDITION]: ") && stderr.contains("outcome: not executed\n"),
            "{stderr}"
        );
    }
    for args in [
        &["group", "join", "0", "1"][..],
        &["group", "join", "1"],
        &["shard", "move", "5..5", "--to", "1"],
        &["shard", "move", "0"],
        &["rebalance", "policy", "--by", "luck"],
        &["group", "leave", "1", "--wait", "--dry-run"],
    ] {
        assert_eq!(run(&cluster, args).0, 2, "{args:?}");
    }
}

#[test]
fn shards_move_and_are_listed() {
    let cluster = Fake::start(2);
    run(&cluster, &["put", "a", "b"]);
    cluster.world.master.lock().slowness = usize::MAX;
    let moved = json_of(&cluster, &["shard", "move", "0..2", "1", "--to", "2"]);
    assert_eq!(moved["changes"], json!([{"shard": 0, "from": 1, "to": 2}, {"shard": 1, "from": 1, "to": 2}]));
    let shards = json_of(&cluster, &["shard", "list"]);
    assert_eq!(shards["shards"].as_array().unwrap().len(), usize::from(SHARDS));
    let first = &shards["shards"][0];
    assert_eq!((&first["group"], &first["desired"], &first["epoch"]), (&json!(1), &json!(2), &json!(1)));
    assert_eq!((&first["state"], &shards["shards"][7]["state"]), (&json!("copying"), &json!("serving")));

    let list = json_of(&cluster, &["migration", "list"]);
    assert_eq!(
        list["migrations"][1],
        json!({
            "shard": 1, "from": 1, "to": 2, "epoch": 2, "state": "copying", "reason": "", "copied": 3, "total": 10,
        })
    );
    let (code, _, stderr) =
        run(&cluster, &["shard", "move", "0", "--to", "2", "--wait", "--wait-timeout", "300ms"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.starts_with("error[TIMEOUT]: ") && stderr.contains("outcome: executed\n"), "{stderr}");

    cluster.world.master.lock().slowness = 2;
    let (code, stdout, stderr) = run(&cluster, &["migration", "watch", "--until-done"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("shard 0, 1 -> 2: copying 3/10\n") && stdout.contains("shard 0, 1 -> 2: done\n"),
        "{stdout}"
    );
    assert_eq!(run(&cluster, &["migration", "list"]).1, "no shard is on its way\n");
}

#[test]
fn a_superseded_change_is_not_waited_for() {
    let cluster = Fake::start(2);
    cluster.world.master.lock().slowness = usize::MAX;
    let waiting = crate::kvctl(&cluster, &["shard", "move", "0", "--to", "2", "--wait"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(run(&cluster, &["shard", "move", "0", "--to", "1"]).0, 0);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn maps_have_numbers_and_a_history() {
    let cluster = Fake::start(2);
    run(&cluster, &["shard", "move", "3", "--to", "2"]);
    let first = json_of(&cluster, &["config", "query", "1"]);
    assert_eq!(
        (&first["config"], &first["newest"], &first["change"]),
        (&json!(1), &json!(2), &json!("genesis"))
    );
    assert_eq!(first["desired"].as_array().unwrap().len(), usize::from(SHARDS));
    let history = json_of(&cluster, &["config", "history"]);
    let changes: Vec<_> =
        history["configs"].as_array().unwrap().iter().map(|map| map["change"].clone()).collect();
    assert_eq!(changes, ["genesis", "move -> 2"]);
    assert_eq!(json_of(&cluster, &["config", "history", "--limit", "1"])["configs"][0]["config"], 2);
    assert!(run(&cluster, &["config", "query"]).1.starts_with("config 2 of 2: move -> 2\n"));
}

#[test]
fn the_balance_is_told_and_set() {
    let cluster = Fake::start(1);
    let args = [
        "rebalance",
        "policy",
        "--by",
        "load",
        "--tolerance",
        "20%",
        "--cooldown",
        "30s",
        "--p99-max",
        "50ms",
    ];
    let policy =
        json!({ "by": "load", "tolerance_percent": 20, "cooldown_ms": 30_000, "p99_max_us": 50_000 });
    assert_eq!(json_of(&cluster, &args)["policy"], policy);
    assert_eq!(json_of(&cluster, &["rebalance", "pause"])["paused"], true);
    assert!(run(&cluster, &["rebalance", "status"]).1.contains("does nothing: it is paused"));
    assert_eq!(json_of(&cluster, &["rebalance", "resume"])["paused"], false);
    assert_eq!(json_of(&cluster, &["rebalance", "run"])["planned"], json!([]));
    assert_eq!(json_of(&cluster, &["rebalance", "status"])["policy"], policy);
}

#[test]
fn locate_tells_the_epoch_and_status_the_migrations() {
    let cluster = Fake::start(2);
    let told = json_of(&cluster, &["locate", "a"]);
    let key = &told["keys"][0];
    assert_eq!((&key["epoch"], &key["generation"], &key["config"]), (&json!(1), &json!(1), &json!(1)));
    cluster.world.master.lock().slowness = usize::MAX;
    run(&cluster, &["shard", "move", "0", "--to", "2"]);
    let status = json_of(&cluster, &["status"]);
    assert_eq!((&status["config"], &status["migrations"][0]["shard"]), (&json!(2), &json!(0)));
    assert_eq!(
        status["problems"][0], "group 1 has no leader (0 of 3 replicas reachable)",
        "a fake has no replicas"
    );
}

#[test]
fn completion_knows_the_verbs() {
    let cluster = Fake::start(1);
    let script = run(&cluster, &["completion", "bash"]).1;
    for verb in ["group", "migration", "rebalance", "wait-timeout", "dry-run"] {
        assert!(script.contains(verb), "{verb}");
    }
}
