//! The corpus: one text file a target. A line `seed` is a valid input that the code of today makes: if it makes others,
//! the corpus is stale, which is an error. A line `accepted` or `refused` is an input that once found something, below the
//! reason, with what is to become of it.
//!
//! Bytes are written in hex; `{00*512}` is a byte and how often it comes.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

/// Shortest run that is written as one.
const RUN: usize = 8;

/// What is to become of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is made by the code of today, and accepted.
    Seed,
    /// It is taken.
    Accepted,
    /// It is refused.
    Refused,
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Expected::Seed => "seed",
            Expected::Accepted => "accepted",
            Expected::Refused => "refused",
        }
    }
}

/// The corpus of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// In order.
    pub inputs: Vec<(Expected, Vec<u8>)>,
    /// The lines of what was found, as they stand, comments included.
    found: String,
}

/// Where the corpus of a target stands.
pub fn path(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

impl Corpus {
    /// Reads the corpus of a target, and writes its seeds anew if asked to.
    ///
    /// # Panics
    /// If there is none, if it can't be read, or if its seeds aren't those that the code of today makes.
    pub fn open(target: &str, seeds: &[Vec<u8>]) -> Corpus {
        let text = fs::read_to_string(path(target)).unwrap_or_default();
        let mut corpus =
            Corpus::parse(&text).unwrap_or_else(|line| panic!("corpus of {target}, line {line}"));
        let recorded: Vec<&Vec<u8>> = corpus.seeds().collect();
        if env::var_os("FUZZ_RECORD").is_some() {
            corpus.inputs.retain(|(expected, _)| *expected != Expected::Seed);
            corpus.inputs.extend(seeds.iter().map(|seed| (Expected::Seed, seed.clone())));
            fs::write(path(target), corpus.text()).expect("the corpus can be written");
        } else if !recorded.into_iter().eq(seeds) {
            panic!(
                "the corpus of {target} is stale: the code makes other valid inputs than it holds. If the encoding is \
                 meant to have changed, FUZZ_RECORD=1 writes them anew"
            );
        }
        corpus
    }

    fn seeds(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.inputs.iter().filter(|(expected, _)| *expected == Expected::Seed).map(|(_, bytes)| bytes)
    }

    /// The number of a line that can't be read, if one can't.
    fn parse(text: &str) -> Result<Corpus, usize> {
        let mut corpus = Corpus::default();
        for (number, line) in (1..).zip(text.lines()) {
            let (word, bytes) = line.split_once(' ').unwrap_or((line, ""));
            let expected = match word {
                "seed" => Expected::Seed,
                "accepted" => Expected::Accepted,
                "refused" => Expected::Refused,
                "#" => {
                    corpus.found.push_str(&format!("{line}\n"));
                    continue;
                }
                _ => return Err(number),
            };
            if expected != Expected::Seed {
                corpus.found.push_str(&format!("{line}\n"));
            }
            corpus.inputs.push((expected, bytes_of(bytes).ok_or(number)?));
        }
        Ok(corpus)
    }

    fn text(&self) -> String {
        let seeds = self.seeds().map(|bytes| format!("{} {}\n", Expected::Seed.word(), hex_of(bytes)));
        self.found.clone() + &seeds.collect::<String>()
    }
}

/// Bytes as the corpus writes them.
pub fn hex_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|a, b| a == b) {
        match run.len() {
            RUN.. => drop(write!(text, "{{{:02x}*{}}}", run[0], run.len())),
            length => text.push_str(&format!("{:02x}", run[0]).repeat(length)),
        }
    }
    text
}

/// What [`hex_of`] wrote.
pub fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(run) = rest.strip_prefix('{') {
            let (run, after) = run.split_once('}')?;
            let (byte, count) = run.split_once('*')?;
            let count: usize = count.parse().ok().filter(|count| *count <= 1 << 20)?;
            bytes.resize(bytes.len() + count, u8::from_str_radix(byte, 16).ok()?);
            rest = after;
        } else {
            bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
            rest = rest.get(2..)?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for bytes in [&b""[..], b"a", &[0; 7], &[0; 8], &[1, 2, 2, 0xff], &[7; 1000]] {
            assert_eq!(bytes_of(&hex_of(bytes)).as_deref(), Some(bytes));
        }
        assert_eq!(hex_of(&[0, 0, 0, 0, 0, 0, 0, 0, 1]), "{00*8}01");
        assert!(
            ["0", "zz", "{00*8", "{00}", "{00*99999999}", "é"].iter().all(|text| bytes_of(text).is_none())
        );
        let text = "# once too long\nrefused ff\nseed 00\nseed {07*9}\n";
        let corpus = Corpus::parse(text).expect("a corpus");
        assert_eq!((corpus.inputs.len(), corpus.text()), (3, text.to_string()));
        assert_eq!(Corpus::parse("seed 0\n"), Err(1));
        assert_eq!(Corpus::parse("seed 00\nsomething 00\n"), Err(2));
    }
}
