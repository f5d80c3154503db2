//! Transactions in the words of the unary service, and back.

use tonic::Status;
use wire::v1;
use wire::v1::txn_compare::Condition as WireCondition;
use wire::v1::txn_op::Op as WireOp;
use wire::v1::txn_result::Result as WireResult;

use crate::txn::{Compare, Condition, Relation, Txn, TxnOp, TxnReply, TxnResult};

/// The transaction that a request says; its bounds are for others to check.
pub(crate) fn txn_of(request: v1::TxnRequest) -> Result<Txn, Status> {
    let v1::TxnRequest { compares, then, otherwise, session: _ } = request;
    let ops = |ops: Vec<v1::TxnOp>| ops.into_iter().map(op_of).collect::<Result<Vec<_>, Status>>();
    let compares = compares.into_iter().map(compare_of).collect::<Result<Vec<_>, Status>>()?;
    Ok(Txn { compares, then: ops(then)?, otherwise: ops(otherwise)? })
}

fn compare_of(compare: v1::TxnCompare) -> Result<Compare, Status> {
    let condition = match compare.condition {
        Some(WireCondition::Present(present)) => Condition::Present(present),
        Some(WireCondition::Value(of)) => Condition::Value(relation_of(of.relation)?, of.value.into()),
        Some(WireCondition::Version(of)) => Condition::Version(relation_of(of.relation)?, of.version),
        None => return Err(Status::invalid_argument("a compare without a condition")),
    };
    Ok(Compare { key: compare.key.into(), condition })
}

fn relation_of(number: i32) -> Result<Relation, Status> {
    match v1::Relation::try_from(number) {
        Ok(v1::Relation::Equal) => Ok(Relation::Equal),
        Ok(v1::Relation::NotEqual) => Ok(Relation::NotEqual),
        Ok(v1::Relation::Less) => Ok(Relation::Less),
        Ok(v1::Relation::Greater) => Ok(Relation::Greater),
        Err(_) => Err(Status::invalid_argument("unknown relation")),
    }
}

fn op_of(op: v1::TxnOp) -> Result<TxnOp, Status> {
    Ok(match op.op {
        Some(WireOp::Get(key)) => TxnOp::Get { key: key.into() },
        Some(WireOp::Put(v1::TxnPut { key, value })) => TxnOp::Put { key: key.into(), value: value.into() },
        Some(WireOp::Append(v1::TxnPut { key, value })) => {
            TxnOp::Append { key: key.into(), value: value.into() }
        }
        Some(WireOp::Delete(key)) => TxnOp::Delete { key: key.into() },
        Some(WireOp::Incr(v1::TxnIncr { key, by })) => TxnOp::Incr { key: key.into(), by },
        Some(WireOp::Cas(v1::TxnCas { key, expected, value })) => {
            TxnOp::Cas { key: key.into(), expected: expected.map(Vec::from), value: value.into() }
        }
        Some(WireOp::Copy(v1::TxnCopy { key, from })) => TxnOp::Copy { key: key.into(), from: from.into() },
        None => return Err(Status::invalid_argument("an operation that says nothing")),
    })
}

/// What a transaction came to.
pub(crate) fn response_of(reply: TxnReply) -> v1::TxnResponse {
    let result = |result| {
        let result = match result {
            TxnResult::Value(Some((value, version))) => {
                WireResult::Value(v1::GetResponse { found: true, value: value.into(), version })
            }
            TxnResult::Value(None) => WireResult::Value(v1::GetResponse::default()),
            TxnResult::Written { length } => WireResult::Length(length),
            TxnResult::Deleted { existed } | TxnResult::Copied { existed } => WireResult::Existed(existed),
            TxnResult::Number { value } => WireResult::Number(value),
        };
        v1::TxnResult { result: Some(result) }
    };
    v1::TxnResponse { held: reply.held, results: reply.results.into_iter().map(result).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_counterpart() {
        let compare = |condition| v1::TxnCompare { key: "c".into(), condition: Some(condition) };
        let op = |op| v1::TxnOp { op: Some(op) };
        let put = || v1::TxnPut { key: "k".into(), value: "v".into() };
        let value = v1::ValueCondition { relation: v1::Relation::Less.into(), value: "x".into() };
        let version = v1::VersionCondition { relation: v1::Relation::Greater.into(), version: 4 };
        let cas = v1::TxnCas { key: "k".into(), expected: Some("e".into()), value: "v".into() };
        let request = v1::TxnRequest {
            compares: vec![
                compare(WireCondition::Present(false)),
                compare(WireCondition::Value(value)),
                compare(WireCondition::Version(version)),
            ],
            then: vec![
                op(WireOp::Get("k".into())),
                op(WireOp::Put(put())),
                op(WireOp::Append(put())),
                op(WireOp::Delete("k".into())),
            ],
            otherwise: vec![
                op(WireOp::Incr(v1::TxnIncr { key: "k".into(), by: -2 })),
                op(WireOp::Cas(cas)),
                op(WireOp::Copy(v1::TxnCopy { key: "k".into(), from: "f".into() })),
            ],
            session: None,
        };
        let (key, value) = (b"k".to_vec(), b"v".to_vec());
        let compare = |condition| Compare { key: b"c".to_vec(), condition };
        let expected = Txn {
            compares: vec![
                compare(Condition::Present(false)),
                compare(Condition::Value(Relation::Less, b"x".to_vec())),
                compare(Condition::Version(Relation::Greater, 4)),
            ],
            then: vec![
                TxnOp::Get { key: key.clone() },
                TxnOp::Put { key: key.clone(), value: value.clone() },
                TxnOp::Append { key: key.clone(), value: value.clone() },
                TxnOp::Delete { key: key.clone() },
            ],
            otherwise: vec![
                TxnOp::Incr { key: key.clone(), by: -2 },
                TxnOp::Cas { key: key.clone(), expected: Some(b"e".to_vec()), value },
                TxnOp::Copy { key, from: b"f".to_vec() },
            ],
        };
        assert_eq!(txn_of(request).unwrap(), expected);
    }

    #[test]
    fn what_says_nothing_is_refused() {
        let nothing = v1::TxnRequest { then: vec![v1::TxnOp { op: None }], ..v1::TxnRequest::default() };
        assert!(txn_of(nothing).is_err());
        let condition = v1::VersionCondition { relation: 9, version: 1 };
        let condition = Some(WireCondition::Version(condition));
        let compares = vec![v1::TxnCompare { key: "k".into(), condition }];
        assert!(txn_of(v1::TxnRequest { compares, ..v1::TxnRequest::default() }).is_err());
    }

    #[test]
    fn every_result_is_told() {
        let results = vec![
            TxnResult::Value(Some((b"v".to_vec(), 3))),
            TxnResult::Value(None),
            TxnResult::Written { length: 5 },
            TxnResult::Deleted { existed: true },
            TxnResult::Number { value: -1 },
            TxnResult::Copied { existed: false },
        ];
        let response = response_of(TxnReply { held: true, results });
        let found = v1::GetResponse { found: true, value: "v".into(), version: 3 };
        let expected = [
            WireResult::Value(found),
            WireResult::Value(v1::GetResponse::default()),
            WireResult::Length(5),
            WireResult::Existed(true),
            WireResult::Number(-1),
            WireResult::Existed(false),
        ];
        let told: Vec<WireResult> = response.results.into_iter().filter_map(|result| result.result).collect();
        assert!(response.held && told == expected);
    }
}
