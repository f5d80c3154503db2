//! Runs a search to its end or its budget, and says what came of it.

use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries};

use crate::notes;
use crate::search::Search;

/// How often a search is looked after.
const LOOK: Duration = Duration::from_millis(5);

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest time to spend.
    pub budget: Duration,
    /// Threads to use.
    pub threads: usize,
    /// End at a violation of this property only; at any violation if `None`.
    pub sought: Option<&'static str>,
}

/// What is known of one property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds in every state seen.
    Holds,
    /// A state that shows it was found, as it should.
    Possible,
    /// A state breaks it.
    Violated,
    /// No state shows it, and one should.
    NotSeen,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different states seen.
    pub states: usize,
    /// States generated, repeats included.
    pub generated: usize,
    /// Longest of the paths on which states were first met, in events.
    pub depth: usize,
    /// Different steps of the shipped code taken.
    pub steps: usize,
    /// How long it took.
    pub time: Duration,
    /// Whether all states were seen.
    pub exhausted: bool,
    /// The verdicts, in the order of the properties.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// The run that breaks the first property broken, as trace lines.
    pub counterexample: Option<Vec<String>>,
}

impl Outcome {
    /// The verdict of a property.
    pub fn verdict(&self, property: &str) -> Option<Verdict> {
        self.verdicts.iter().find(|(name, _)| *name == property).map(|(_, verdict)| *verdict)
    }

    /// The first property that doesn't hold, as far as the search got.
    pub fn failed(&self) -> Option<&'static str> {
        let fails = |verdict| verdict == Verdict::Violated || (verdict == Verdict::NotSeen && self.exhausted);
        self.verdicts.iter().find(|(_, verdict)| fails(*verdict)).map(|(name, _)| *name)
    }
}

/// Searches all states of a model.
pub fn run<M: Search>(mut model: M, options: Options) -> Outcome {
    notes::note_broken_assertions();
    let began = Instant::now();
    let mut threads = options.threads;
    loop {
        if let Some(outcome) = attempt(&model, threads, options, began) {
            return outcome;
        }
        // A step broke an assertion and is noted as such. One thread meets it again on a shortest path.
        model = model.anew();
        threads = 1;
    }
}

/// One search; `None` if a step broke an assertion that wasn't noted before.
fn attempt<M: Search>(model: &M, threads: usize, options: Options, began: Instant) -> Option<Outcome> {
    let noted = model.assertions_broken();
    let until = match options.sought {
        Some(property) => HasDiscoveries::AllOf([property].into_iter().collect()),
        None => HasDiscoveries::AnyFailures,
    };
    let mut checker = model.clone().checker().threads(threads).finish_when(until).spawn_bfs();
    let handles = checker.handles();
    while !handles.iter().all(|handle| handle.is_finished()) {
        std::thread::sleep(LOOK);
        if cfg!(not(panic = "unwind")) && model.assertions_broken() > noted {
            // The thread that did it sleeps for good; the others run out of work.
            model.watch().stop();
            return None;
        }
        if began.elapsed() > options.budget {
            model.watch().stop();
        }
    }
    for handle in handles {
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let in_time = !model.watch().stopped();
    model.watch().go_on();
    let discoveries = checker.discoveries();
    let properties = model.properties();
    let verdicts: Vec<_> = properties
        .iter()
        .map(|property| {
            let found = discoveries.contains_key(property.name);
            let verdict = match (&property.expectation, found) {
                (Expectation::Sometimes, true) => Verdict::Possible,
                (Expectation::Sometimes, false) => Verdict::NotSeen,
                (Expectation::Always | Expectation::Eventually, false) => Verdict::Holds,
                (Expectation::Always | Expectation::Eventually, true) => Verdict::Violated,
            };
            (property.name, verdict)
        })
        .collect();
    let violated =
        verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Violated).map(|(name, _)| *name);
    let shown = violated.clone().find(|name| options.sought.is_none_or(|sought| sought == *name));
    let counterexample = shown.and_then(|name| discoveries.get(name)).map(|path| {
        let steps = path.clone().into_vec();
        let acted = steps.iter().filter_map(|(state, action)| Some((state, action.as_ref()?)));
        acted.flat_map(|(state, action)| model.trace(state, action)).collect()
    });
    Some(Outcome {
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth().saturating_sub(1),
        steps: model.steps_taken(),
        time: began.elapsed(),
        exhausted: in_time && violated.count() == 0,
        verdicts,
        counterexample,
    })
}
