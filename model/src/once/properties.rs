//! The properties, as predicates over one state. What an answer must be is judged in the step that gives it, see
//! [`crate::once::world`].

use kvserver::command::{BusyReason, Op, Refusal, Reply};
use stateright::Property;

use crate::once::bounds::Bounds;
use crate::once::world::{Action, Once, Sent, State};

/// The shipped code asserts and judges itself; a restored snapshot is the state it was made of.
pub const P0: &str = "P0, P5: no assertion fails, hash and snapshot are those of the state";
/// In the step that answers.
pub const ANSWERS: &str = "P9: an answer is the first one, a refusal has its reason and leaves no trace";
/// In every state.
pub const ONCE: &str = "P9: what is written is what was executed, once each";
/// From every state.
pub const COMPLETES: &str =
    "completes: who asks again is answered, or refused for a reason that only time ends";

/// The properties of a model within `bounds`. Each is asked under a number of its own, see [`Once::finds`].
pub fn all(bounds: &Bounds) -> Vec<Property<Once>> {
    let mut all = vec![
        always(P0, |model, state| {
            let broken =
                || state.held.fault.is_some() || fault(state).is_some_and(|fault| !fault.starts_with("P9"));
            !model.finds(0, broken)
        }),
        always(ANSWERS, |model, state| {
            !model.finds(1, || fault(state).is_some_and(|fault| fault.starts_with("P9")))
        }),
        always(ONCE, |model, state| !model.finds(2, || !written_once(model, state))),
        always(COMPLETES, |model, state| !model.finds(3, || !completes(model, state))),
        sometimes("an answer that was lost is given again", |model, state| {
            model.finds(4, || {
                would(model, state, |sent, reply| {
                    sent.heard.is_none() && sent.executed.as_deref() == Some(reply)
                })
            })
        }),
        sometimes("what was executed is too old to be asked for again", |model, state| {
            let expired = Reply::Refused(Refusal::SessionExpired);
            model.finds(5, || would(model, state, |sent, reply| sent.executed.is_some() && *reply == expired))
        }),
        sometimes("what was never executed comes too late", |model, state| {
            let expired = Reply::Refused(Refusal::SessionExpired);
            model.finds(6, || would(model, state, |sent, reply| sent.executed.is_none() && *reply == expired))
        }),
        sometimes("a stamp is too far ahead", |model, state| {
            model
                .finds(7, || would(model, state, |_, reply| *reply == Reply::Refused(Refusal::FromTheFuture)))
        }),
        sometimes("a client is forgotten", |model, state| {
            let rows = state.held.status.map(|status| status.sessions);
            model.finds(8, || {
                rows == Some(0) && state.sent.iter().flatten().any(|sent| sent.executed.is_some())
            })
        }),
    ];
    if bounds.gives_up {
        all.push(sometimes("what was given up is refused when it comes", |model, state| {
            let over = Reply::Refused(Refusal::AlreadyAcknowledged);
            model.finds(9, || would(model, state, |sent, reply| sent.executed.is_none() && *reply == over))
        }));
    }
    if bounds.clients < 2 {
        all.push(sometimes("there is no room for a client", |model, state| {
            let full = Reply::Refused(Refusal::Busy(BusyReason::Sessions));
            model.finds(10, || would(model, state, |_, reply| *reply == full))
        }));
    }
    all
}

/// With the types that a closure in a list doesn't know.
fn always(name: &'static str, holds: fn(&Once, &State) -> bool) -> Property<Once> {
    Property::always(name, holds)
}

fn sometimes(name: &'static str, shows: fn(&Once, &State) -> bool) -> Property<Once> {
    Property::sometimes(name, shows)
}

fn fault(state: &State) -> Option<&str> {
    state.fault.as_deref()
}

/// Whether a request that was sent would be answered so if it arrived now.
fn would(model: &Once, state: &State, shows: impl Fn(&Sent, &Reply) -> bool) -> bool {
    state.sent.iter().enumerate().any(|(n, sent)| {
        sent.as_ref().is_some_and(|sent| {
            let done = model.steps.request(&model.bounds, &state.held, n, sent.stamp);
            done.is_ok_and(|done| shows(sent, &done.reply))
        })
    })
}

/// Each byte at the key is that of one executed append.
fn written_once(model: &Once, state: &State) -> bool {
    let executed = model.bounds.ops.iter().zip(&state.sent);
    let executed = executed.filter(|(_, sent)| sent.as_ref().is_some_and(|sent| sent.executed.is_some()));
    let mut bytes: Vec<u8> = executed
        .flat_map(|(op, _)| match &op.op {
            Op::Append { value, .. } => value.clone(),
            _ => Vec::new(),
        })
        .collect();
    let mut found = state.held.value.clone();
    bytes.sort_unstable();
    found.sort_unstable();
    bytes == found
}

/// All who wait ask again, and say what they heard, twice.
fn completes(model: &Once, state: &State) -> bool {
    let mut state = state.clone();
    let waits = |state: &State, n: usize| {
        state.sent[n].as_ref().is_some_and(|sent| sent.heard.is_none() && !sent.given_up)
    };
    for _ in 0..2 {
        for n in (0..model.bounds.ops.len()).filter(|n| waits(&state, *n)).collect::<Vec<_>>() {
            let arrives = Action::Arrive { op: n, heard: true };
            state = model.after(&state, &arrives).unwrap_or(state);
        }
        state = model.acknowledged(&state);
    }
    let excused = |n: usize| {
        let Some(sent) = &state.sent[n] else { return true };
        let done = model.steps.request(&model.bounds, &state.held, n, sent.stamp);
        done.is_ok_and(|done| {
            matches!(
                done.reply,
                Reply::Refused(
                    Refusal::SessionExpired | Refusal::FromTheFuture | Refusal::Busy(BusyReason::Sessions)
                )
            )
        })
    };
    state.fault.is_some() || (0..model.bounds.ops.len()).all(|n| !waits(&state, n) || excused(n))
}
