//! Runs a target: first its corpus, then inputs made from it, each with its memory counted.

use std::collections::BTreeSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::corpus::{Corpus, Expected, bytes_of, hex_of};
use crate::dice::Dice;
use crate::mutate::mutate;
use crate::{cases, seed, targets};

/// Inputs that are kept to make others from, beside the corpus.
const KEPT_MAX: usize = 400;

/// What a decoder made of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A value.
    Accepted,
    /// A typed refusal, in its words.
    Refused(String),
}

impl Verdict {
    /// Of a result, whose value is of no interest any more.
    pub fn of<T, E: std::fmt::Display>(result: &Result<T, E>) -> Verdict {
        match result {
            Ok(_) => Verdict::Accepted,
            Err(error) => Verdict::Refused(error.to_string()),
        }
    }

    /// Of what gives no reason.
    pub fn of_option<T>(value: &Option<T>) -> Verdict {
        match value {
            Some(_) => Verdict::Accepted,
            None => Verdict::Refused("no value".to_string()),
        }
    }

    /// The words without numbers, which come in too many kinds.
    fn kind(&self) -> String {
        match self {
            Verdict::Accepted => String::new(),
            Verdict::Refused(why) => why.chars().filter(|c| !c.is_ascii_digit()).take(100).collect(),
        }
    }
}

/// A decoder under attack.
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    few: u64,
    input_bytes_max: usize,
    memory: fn(usize) -> usize,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs.
    pub cases: u64,
    /// Of which a value was made.
    pub accepted: u64,
    /// Most memory that one input took, in bytes.
    pub peak_bytes: u64,
}

/// What `paxos::codec` may take for an input of so many bytes, several times, since lengths nest.
fn decoded(input_bytes: usize) -> usize {
    if input_bytes <= 4 << 10 { 8 << 20 } else { 160 << 20 }
}

impl Target {
    /// `seeds` are valid inputs, made by the code of today.
    ///
    /// # Panics
    /// If the target isn't listed in [`targets::TARGETS`].
    pub fn new(name: &'static str, seeds: Vec<Vec<u8>>) -> Target {
        assert!(targets::is_listed(name), "{name} isn't in the list of targets");
        let longest = seeds.iter().map(Vec::len).max().unwrap_or_default();
        let input_bytes_max = (longest + longest / 2 + 256).max(4096);
        Target { name, seeds, words: Vec::new(), few: 3000, input_bytes_max, memory: decoded }
    }

    /// How many inputs are run in the ordinary suite.
    #[must_use]
    pub fn few(self, few: u64) -> Target {
        Target { few, ..self }
    }

    /// Pieces that are worth putting into inputs.
    #[must_use]
    pub fn words(self, words: &[&str]) -> Target {
        Target { words: words.iter().map(|word| word.as_bytes().to_vec()).collect(), ..self }
    }

    /// How much memory an input of so many bytes may take.
    #[must_use]
    pub fn memory(self, memory: fn(usize) -> usize) -> Target {
        Target { memory, ..self }
    }

    /// Gives `check` the corpus and then mutations of it. `check` panics if a property doesn't hold.
    ///
    /// # Panics
    /// If it does, if an input takes too much memory, or if the corpus is stale.
    pub fn run(self, check: impl Fn(&[u8]) -> Verdict) -> Tally {
        let mut tally = Tally::default();
        if let Some(input) = only_input() {
            if let Some(bytes) = input.strip_prefix(&format!("{}:", self.name)) {
                let bytes = bytes_of(bytes).expect("FUZZ_INPUT is target:hex");
                println!("{}: {:?}", self.name, self.check(&bytes, "one input", &check, &mut tally));
            }
            return tally;
        }
        let corpus = Corpus::open(self.name, &self.seeds);
        let mut kinds = BTreeSet::new();
        for (expected, bytes) in &corpus.inputs {
            let verdict = self.check(bytes, "corpus", &check, &mut tally);
            let fits = (verdict == Verdict::Accepted) == (*expected != Expected::Refused);
            assert!(fits, "{}: a stale input, {expected:?} but {verdict:?}: {}", self.name, hex_of(bytes));
            kinds.insert(verdict.kind());
        }
        let pool: Vec<Vec<u8>> = corpus.inputs.into_iter().map(|(_, bytes)| bytes).collect();
        self.mutated(pool, &mut kinds, &check, &mut tally);
        println!(
            "fuzz {}: {} inputs, {} accepted, {} kinds of refusal, at most {} KiB",
            self.name,
            tally.cases,
            tally.accepted,
            kinds.len() - usize::from(kinds.contains("")),
            tally.peak_bytes >> 10
        );
        tally
    }

    fn mutated(
        &self,
        mut pool: Vec<Vec<u8>>,
        kinds: &mut BTreeSet<String>,
        check: &dyn Fn(&[u8]) -> Verdict,
        tally: &mut Tally,
    ) {
        let corpus = pool.len();
        for case in 0..cases(self.few) {
            let mut dice = Dice::of_case(self.name, seed(), case);
            // Half of them from the corpus itself, however many more were kept.
            let known = if dice.chance(50) { corpus } else { pool.len() };
            let other = dice.below(pool.len());
            let input = match dice.below(200) {
                0 => (0..dice.below(300)).map(|_| dice.draw() as u8).collect(),
                _ => {
                    let from = &pool[dice.below(known)];
                    mutate(&mut dice, from, &pool[other], &self.words, self.input_bytes_max)
                }
            };
            let verdict = self.check(&input, &format!("seed {}, case {case}", seed()), check, tally);
            let is_new = kinds.insert(verdict.kind());
            let keep = is_new || (verdict == Verdict::Accepted && dice.chance(5));
            if keep && pool.len() < corpus + KEPT_MAX {
                pool.push(input);
            } else if keep {
                let at = corpus + dice.below(KEPT_MAX);
                pool[at] = input;
            }
        }
    }

    fn check(
        &self,
        input: &[u8],
        case: &str,
        check: &dyn Fn(&[u8]) -> Verdict,
        tally: &mut Tally,
    ) -> Verdict {
        let mut outcome = None;
        let memory = allocation_counter::measure(|| {
            outcome = Some(catch_unwind(AssertUnwindSafe(|| check(input))));
        });
        tally.cases += 1;
        tally.peak_bytes = tally.peak_bytes.max(memory.bytes_max);
        let most = (self.memory)(input.len()) as u64;
        let trouble = match outcome {
            Some(Ok(verdict)) if memory.bytes_max <= most => {
                tally.accepted += u64::from(verdict == Verdict::Accepted);
                return verdict;
            }
            Some(Ok(_)) => format!("took {} bytes of memory, {most} are allowed", memory.bytes_max),
            Some(Err(_)) | None => "panicked".to_string(),
        };
        let (name, hex) = (self.name, hex_of(input));
        panic!(
            "fuzz {name}, {case}: {trouble}\ninput {hex}\nagain: FUZZ_INPUT='{name}:{hex}' cargo test fuzz"
        );
    }
}

fn only_input() -> Option<String> {
    env::var("FUZZ_INPUT").ok()
}
