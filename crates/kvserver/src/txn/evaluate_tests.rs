//! Tests of [`super::evaluate`]: each rule by itself, then any transactions against a model that copies whole states.

use proptest::prelude::*;

use super::*;

type State = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

const WIDE: Bounds = Bounds { value_bytes_max: 1 << 20, txn_bytes_max: 1 << 20 };

fn state(pairs: &[(&str, &str)]) -> State {
    let versions = 1_u64..;
    pairs.iter().zip(versions).map(|((key, value), version)| (bytes(key), (bytes(value), version))).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn run(txn: &Txn, bounds: &Bounds, state: &State) -> Result<Evaluated, (u32, TxnError)> {
    let accesses = txn.accesses();
    evaluate(txn, bounds, |key| {
        assert!(
            accesses.get(key).is_some_and(|access| access.reads),
            "a key that is only written is unknown"
        );
        state.get(key).map(|(value, version)| (&value[..], *version))
    })
}

fn then(then: Vec<TxnOp>) -> Txn {
    Txn { then, ..Txn::default() }
}

fn get(key: &str) -> TxnOp {
    TxnOp::Get { key: bytes(key) }
}

fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::Put { key: bytes(key), value: bytes(value) }
}

fn append(key: &str, value: &str) -> TxnOp {
    TxnOp::Append { key: bytes(key), value: bytes(value) }
}

fn delete(key: &str) -> TxnOp {
    TxnOp::Delete { key: bytes(key) }
}

fn copy(key: &str, from: &str) -> TxnOp {
    TxnOp::Copy { key: bytes(key), from: bytes(from) }
}

fn value(value: &str, version: u64) -> TxnResult {
    TxnResult::Value(Some((bytes(value), version)))
}

fn writes(pairs: &[(&str, Option<&str>)]) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    pairs.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
}

#[test]
fn operations_see_what_earlier_ones_wrote_without_a_version() {
    let txn = then(vec![get("a"), append("a", "2"), get("a"), delete("a"), get("a"), append("a", "3")]);
    let done = run(&txn, &WIDE, &state(&[("a", "1")])).unwrap();
    let results = vec![
        value("1", 1),
        TxnResult::Written { length: 2 },
        value("12", 0),
        TxnResult::Deleted { existed: true },
        TxnResult::Value(None),
        TxnResult::Written { length: 1 },
    ];
    assert_eq!(done.reply, TxnReply { held: true, results });
    assert_eq!(done.writes, writes(&[("a", Some("3"))]));
}

#[test]
fn two_copies_swap_and_a_copy_of_nothing_removes() {
    let txn = then(vec![copy("a", "b"), copy("b", "a"), copy("c", "none")]);
    let done = run(&txn, &WIDE, &state(&[("a", "1"), ("b", "2"), ("c", "3")])).unwrap();
    assert_eq!(done.writes, writes(&[("a", Some("2")), ("b", Some("1")), ("c", None)]));
    assert_eq!(done.reply.results[2], TxnResult::Copied { existed: false });
}

#[test]
fn a_copy_reads_the_state_before_the_transaction() {
    let done = run(&then(vec![put("a", "new"), copy("b", "a")]), &WIDE, &state(&[("a", "old")])).unwrap();
    assert_eq!(done.writes, writes(&[("a", Some("new")), ("b", Some("old"))]));
}

#[test]
fn deleting_what_is_absent_writes_nothing_and_the_same_value_is_a_write() {
    let done = run(&then(vec![delete("none"), put("a", "1")]), &WIDE, &state(&[("a", "1")])).unwrap();
    assert_eq!(done.writes, writes(&[("a", Some("1"))]));
    assert_eq!(done.reply.results[0], TxnResult::Deleted { existed: false });
}

#[test]
fn a_compare_that_does_not_hold_runs_the_other_branch() {
    let compares = vec![Compare { key: bytes("a"), condition: Condition::Present(false) }];
    let txn = Txn { compares, then: vec![put("a", "x")], otherwise: vec![get("a")] };
    let done = run(&txn, &WIDE, &state(&[("a", "1")])).unwrap();
    assert_eq!(done.reply, TxnReply { held: false, results: vec![value("1", 1)] });
    assert_eq!(done.writes, writes(&[]));
    assert!(run(&txn, &WIDE, &state(&[])).unwrap().reply.held);
}

#[test]
fn an_absent_key_has_no_value_and_version_0() {
    let holds = |condition| holds(&Compare { key: bytes("a"), condition }, None);
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater] {
        assert_eq!(holds(Condition::Value(relation, Vec::new())), relation == Relation::NotEqual);
        assert_eq!(holds(Condition::Version(relation, 0)), relation == Relation::Equal);
        let below = matches!(relation, Relation::NotEqual | Relation::Less);
        assert_eq!(holds(Condition::Version(relation, 1)), below);
    }
    assert!(holds(Condition::Present(false)) && !holds(Condition::Present(true)));
}

#[test]
fn one_operation_that_cannot_be_done_is_named() {
    let state = state(&[("a", "1"), ("n", "9223372036854775807"), ("spaced", " 1")]);
    let failed = |op| run(&then(vec![put("b", "1"), op]), &WIDE, &state).unwrap_err();
    let incr = |key: &str| TxnOp::Incr { key: bytes(key), by: 1 };
    assert_eq!(failed(incr("n")), (1, TxnError::NotANumber));
    assert_eq!(failed(incr("spaced")), (1, TxnError::NotANumber));
    let cas = |key: &str, expected: Option<&str>| TxnOp::Cas {
        key: bytes(key),
        expected: expected.map(bytes),
        value: bytes("x"),
    };
    assert_eq!(failed(cas("a", Some("2"))), (1, TxnError::Mismatch));
    assert_eq!(failed(cas("a", None)), (1, TxnError::Mismatch));
    assert_eq!(failed(cas("none", Some(""))), (1, TxnError::Mismatch));
    assert_eq!(failed(cas("b", None)), (1, TxnError::Mismatch), "it sees the put before it");
}

#[test]
fn the_bounds_hold_to_the_byte() {
    let state = state(&[("a", "12345"), ("b", "12345")]);
    let within = |txn: &Txn, value_bytes_max, txn_bytes_max| {
        run(txn, &Bounds { value_bytes_max, txn_bytes_max }, &state).map(|_| ())
    };
    let too_large = |op| Err((op, TxnError::TooLarge));
    let read = then(vec![get("a"), get("b")]);
    assert_eq!(within(&read, 5, 10), Ok(()));
    assert_eq!(within(&read, 5, 9), too_large(0), "what it reads counts as a whole");
    let told = then(vec![get("a"), get("a"), get("a")]);
    assert_eq!(within(&told, 5, 15), Ok(()));
    assert_eq!(within(&told, 5, 14), too_large(2));
    let written = then(vec![put("x", "123"), put("y", "12"), put("x", "12")]);
    assert_eq!(within(&written, 3, 5), Ok(()));
    assert_eq!(within(&written, 3, 4), too_large(1));
    assert_eq!(within(&written, 2, 5), too_large(0));
    let grown = then(vec![append("a", "6"), append("a", "7")]);
    assert_eq!(within(&grown, 7, 7), Ok(()));
    assert_eq!(within(&grown, 6, 7), too_large(1));
    assert_eq!(within(&grown, 7, 6), too_large(1));
}

/// A state with the values that a transaction made, the slow way: versions of what it wrote are 0.
fn naive(txn: &Txn, bounds: &Bounds, before: &State) -> Result<(TxnReply, State), (u32, TxnError)> {
    let mut read_keys: Vec<&Vec<u8>> = txn.compares.iter().map(|compare| &compare.key).collect();
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            TxnOp::Put { .. } => {}
            TxnOp::Copy { from, .. } => read_keys.push(from),
            TxnOp::Get { key }
            | TxnOp::Append { key, .. }
            | TxnOp::Delete { key }
            | TxnOp::Incr { key, .. }
            | TxnOp::Cas { key, .. } => read_keys.push(key),
        }
    }
    read_keys.sort();
    read_keys.dedup();
    let total: usize = read_keys.iter().map(|key| before.get(*key).map_or(0, |(value, _)| value.len())).sum();
    if total as u64 > bounds.txn_bytes_max {
        return Err((0, TxnError::TooLarge));
    }
    let mut held = true;
    for Compare { key, condition } in &txn.compares {
        let found = before.get(key);
        held &= match (condition, found) {
            (Condition::Present(wanted), _) => *wanted == found.is_some(),
            (Condition::Value(Relation::NotEqual, given), _) => found.map(|(value, _)| value) != Some(given),
            (Condition::Value(_, _), None) => false,
            (Condition::Value(Relation::Equal, given), Some((value, _))) => value == given,
            (Condition::Value(Relation::Less, given), Some((value, _))) => value < given,
            (Condition::Value(Relation::Greater, given), Some((value, _))) => value > given,
            (Condition::Version(relation, given), _) => {
                let version = found.map_or(0, |(_, version)| *version);
                match relation {
                    Relation::Equal => version == *given,
                    Relation::NotEqual => version != *given,
                    Relation::Less => version < *given,
                    Relation::Greater => version > *given,
                }
            }
        };
    }
    let (mut state, mut results, mut touched) = (before.clone(), Vec::new(), Vec::new());
    for (index, op) in if held { &txn.then } else { &txn.otherwise }.iter().enumerate() {
        let fail = |error| (u32::try_from(index).unwrap(), error);
        let there = state.get(op.key()).cloned();
        let mut set = |value: Option<Vec<u8>>| {
            touched.push(op.key().to_vec());
            match value {
                Some(value) => state.insert(op.key().to_vec(), (value, 0)),
                None => state.remove(op.key()),
            };
        };
        let (result, length) = match op {
            TxnOp::Get { .. } => (TxnResult::Value(there), None),
            TxnOp::Put { value, .. } => {
                set(Some(value.clone()));
                (TxnResult::Written { length: value.len() as u64 }, Some(value.len()))
            }
            TxnOp::Append { value, .. } => {
                let joined = [there.map(|(head, _)| head).unwrap_or_default(), value.clone()].concat();
                set(Some(joined.clone()));
                (TxnResult::Written { length: joined.len() as u64 }, Some(joined.len()))
            }
            TxnOp::Delete { .. } => {
                if there.is_some() {
                    set(None);
                }
                (TxnResult::Deleted { existed: there.is_some() }, None)
            }
            TxnOp::Incr { by, .. } => {
                let text = there.map_or(bytes("0"), |(value, _)| value);
                let parsed = String::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
                let sum = parsed.map(|number| i128::from(number) + i128::from(*by));
                let value = sum.and_then(|sum| i64::try_from(sum).ok()).ok_or(fail(TxnError::NotANumber))?;
                set(Some(value.to_string().into_bytes()));
                (TxnResult::Number { value }, None)
            }
            TxnOp::Cas { expected, value, .. } => {
                if there.map(|(value, _)| value) != *expected {
                    return Err(fail(TxnError::Mismatch));
                }
                set(Some(value.clone()));
                (TxnResult::Written { length: value.len() as u64 }, Some(value.len()))
            }
            TxnOp::Copy { from, .. } => {
                let source = before.get(from).map(|(value, _)| value.clone());
                set(source.clone());
                (TxnResult::Copied { existed: source.is_some() }, None)
            }
        };
        results.push(result);
        let told = results.iter().map(|result| match result {
            TxnResult::Value(Some((value, _))) => value.len(),
            _ => 0,
        });
        touched.sort();
        touched.dedup();
        let written = touched.iter().filter_map(|key| state.get(key)).map(|(value, _)| value.len());
        let (told, written) = (told.sum::<usize>() as u64, written.sum::<usize>() as u64);
        if length.is_some_and(|length| length as u64 > bounds.value_bytes_max)
            || told > bounds.txn_bytes_max
            || written > bounds.txn_bytes_max
        {
            return Err(fail(TxnError::TooLarge));
        }
    }
    Ok((TxnReply { held, results }, state))
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![bytes("a"), bytes("b"), bytes("c"), bytes("d")])
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (-2_i64..3).prop_map(|number| number.to_string().into_bytes()),
        prop::sample::select(vec![bytes(""), bytes("+1"), bytes("x"), bytes("9223372036854775807")]),
    ]
}

fn any_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        any_key().prop_map(|key| TxnOp::Get { key }),
        (any_key(), any_value()).prop_map(|(key, value)| TxnOp::Put { key, value }),
        (any_key(), any_value()).prop_map(|(key, value)| TxnOp::Append { key, value }),
        any_key().prop_map(|key| TxnOp::Delete { key }),
        (any_key(), -2_i64..3).prop_map(|(key, by)| TxnOp::Incr { key, by }),
        (any_key(), prop::option::of(any_value()), any_value())
            .prop_map(|(key, expected, value)| TxnOp::Cas { key, expected, value }),
        (any_key(), any_key()).prop_map(|(key, from)| TxnOp::Copy { key, from }),
    ]
}

fn any_compare() -> impl Strategy<Value = Compare> {
    let relation =
        || prop::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    let condition = prop_oneof![
        any::<bool>().prop_map(Condition::Present),
        (relation(), any_value()).prop_map(|(relation, value)| Condition::Value(relation, value)),
        (relation(), 0_u64..4).prop_map(|(relation, version)| Condition::Version(relation, version)),
    ];
    (any_key(), condition).prop_map(|(key, condition)| Compare { key, condition })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(any_op(), 0..8);
    (prop::collection::vec(any_compare(), 0..3), ops(), ops()).prop_map(|(compares, then, otherwise)| Txn {
        compares,
        then,
        otherwise,
    })
}

fn any_state() -> impl Strategy<Value = State> {
    prop::collection::btree_map(any_key(), (any_value(), 1_u64..4), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_does_what_the_model_does(
        txn in any_txn(),
        before in any_state(),
        value_bytes_max in 19_u64..24,
        txn_bytes_max in 0_u64..60,
    ) {
        let bounds = Bounds { value_bytes_max, txn_bytes_max };
        let done = run(&txn, &bounds, &before);
        let expected = naive(&txn, &bounds, &before);
        let Ok(done) = done else {
            prop_assert_eq!(done.unwrap_err(), expected.unwrap_err());
            return Ok(());
        };
        let accesses = txn.accesses();
        let mut after = before;
        for (key, value) in done.writes {
            prop_assert!(accesses[&key[..]].writes, "it writes only what it said");
            match value {
                Some(value) => after.insert(key, (value, 0)),
                None => after.remove(&key),
            };
        }
        prop_assert_eq!(Ok((done.reply, after)), expected);
    }
}
