//! Whether a request took effect, joined over all its tries.
//!
//! Only refusals say "not executed"; a try that ended without an answer leaves the request *unknown* until the session
//! table answers it, since the try may sit in a log and be chosen later.

use std::fmt;

/// Whether a request took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It didn't, and never will.
    NotExecuted,
    /// Nobody can say; it may still take effect until the session has moved on.
    Unknown,
    /// It did.
    Executed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NotExecuted => "not executed",
            Outcome::Unknown => "unknown",
            Outcome::Executed => "executed",
        })
    }
}

/// A connection that tries travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkId(pub(crate) usize);

/// A try that was sent and isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    number: u32,
    pub(crate) link: LinkId,
}

/// The tries of one request.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    sent: u32,
    current: Option<Open>,
    // Nearly always empty, so it costs no allocation.
    older: Vec<Open>,
    lost: bool,
}

impl Attempts {
    /// A try goes out; its number.
    pub(crate) fn send(&mut self, link: LinkId) -> u32 {
        self.sent += 1;
        self.older.extend(self.current.take());
        self.current = Some(Open { number: self.sent, link });
        self.sent
    }

    /// An answer to try `number` (its lowest `bits` bits) came; the try, and whether it was the newest.
    pub(crate) fn answered(&mut self, number: u32, mask: u32) -> Option<(Open, bool)> {
        if let Some(open) = self.current.take_if(|o| o.number & mask == number) {
            return Some((open, true));
        }
        let index = self.older.iter().position(|o| o.number & mask == number)?;
        Some((self.older.swap_remove(index), false))
    }

    /// A node said of a try that it may or may not have run.
    pub(crate) fn unknown(&mut self) {
        self.lost = true;
    }

    /// A connection broke: its tries end without an answer.
    pub(crate) fn broken(&mut self, link: LinkId) {
        self.lost |= self.current.take_if(|o| o.link == link).is_some();
        let before = self.older.len();
        self.older.retain(|o| o.link != link);
        self.lost |= self.older.len() < before;
    }

    /// The tries without an answer.
    pub(crate) fn open(&self) -> impl Iterator<Item = Open> + '_ {
        self.current.into_iter().chain(self.older.iter().copied())
    }

    /// The outcome if nobody asks on.
    pub(crate) fn given_up(&self) -> Outcome {
        match self.lost || self.open().next().is_some() {
            true => Outcome::Unknown,
            false => Outcome::NotExecuted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LinkId = LinkId(0);
    const B: LinkId = LinkId(1);
    const MASK: u32 = 0xfff;

    #[test]
    fn never_sent_and_refused_are_not_executed() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.given_up(), Outcome::NotExecuted);
        let number = attempts.send(A);
        assert_eq!(attempts.given_up(), Outcome::Unknown);
        assert!(matches!(attempts.answered(number, MASK), Some((_, true))));
        assert_eq!(attempts.given_up(), Outcome::NotExecuted);
    }

    #[test]
    fn a_later_refusal_says_nothing_about_a_silent_try() {
        let mut attempts = Attempts::default();
        attempts.send(A);
        let second = attempts.send(B);
        assert!(attempts.answered(second, MASK).is_some());
        assert_eq!(attempts.given_up(), Outcome::Unknown, "the first may still be chosen");
        assert!(matches!(attempts.answered(1, MASK), Some((_, false))));
        assert_eq!(attempts.given_up(), Outcome::NotExecuted, "both were refused");
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_unknown() {
        let mut attempts = Attempts::default();
        attempts.send(A);
        attempts.broken(B);
        assert_eq!(attempts.open().count(), 1);
        attempts.broken(A);
        assert_eq!(attempts.open().count(), 0);
        let second = attempts.send(B);
        attempts.answered(second, MASK);
        assert_eq!(attempts.given_up(), Outcome::Unknown);
    }

    #[test]
    fn an_answer_counts_once() {
        let mut attempts = Attempts::default();
        let number = attempts.send(A);
        assert!(attempts.answered(number, MASK).is_some());
        assert!(attempts.answered(number, MASK).is_none());
    }
}
