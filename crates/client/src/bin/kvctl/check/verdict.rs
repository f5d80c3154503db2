//! What a run is told as: the verdict with its figures, and the exit code.

use serde_json::json;

use super::judge::Tally;
use crate::failure::{Exit, Failure};
use crate::output;

/// All that came out of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) tally: Tally,
    /// Faults that were asked for, and how often each came.
    pub(super) faults: Vec<(&'static str, u32)>,
    /// Moves of shards, if they were wanted.
    pub(super) moves: Option<u32>,
    /// Rounds whose keys couldn't be read at the end.
    pub(super) unread: u64,
    pub(super) clients: u32,
    pub(super) groups: usize,
    pub(super) seconds: f64,
    pub(super) seed: u64,
}

/// What is to be written to stdout, and how the command ends.
pub(super) type Told = (String, Result<(), Failure>);

impl Report {
    pub(super) fn tell(&self, as_json: bool) -> Told {
        let doubts = self.doubts();
        let (verdict, end) = match (&self.tally.violation, doubts.is_empty()) {
            (Some(_), _) => (
                "violation",
                Err(Failure::new(Exit::CheckFailed, "VIOLATION", "the history is not linearizable")
                    .hint("the operations shown can't have happened in any order; please report them")),
            ),
            (None, true) => ("linearizable", Ok(())),
            (None, false) => {
                ("undecided", Err(Failure::new(Exit::Undecided, "UNDECIDED", doubts.join("; "))))
            }
        };
        let text = if as_json { self.json(verdict, &doubts) } else { self.text(verdict) };
        (text, end)
    }

    /// Why it can't be said that all is right, a violation apart.
    fn doubts(&self) -> Vec<String> {
        let Tally { rounds, operations, unknown, not_executed, undecided, .. } = self.tally;
        let mut doubts = Vec::new();
        if undecided > 0 {
            let what = "nor that there is none";
            doubts.push(format!("for {undecided} of {rounds} rounds no order was found, {what}"));
        }
        if self.unread > 0 {
            doubts.push(format!("the keys of {} rounds couldn't be read once more", self.unread));
        }
        if operations == unknown + not_executed {
            doubts.push("not one operation was answered".to_owned());
        }
        let moves = self.moves.map(|times| ("move", times));
        let never = self.faults.iter().copied().chain(moves).filter(|(_, times)| *times == 0);
        doubts.extend(never.map(|(kind, _)| format!("a {kind} was asked for and never came")));
        doubts
    }

    fn text(&self, verdict: &str) -> String {
        let tally = &self.tally;
        let mut text = format!(
            "{verdict}: {} operations by {} clients in {:.1} s\n  \
             rounds of keys: {}, groups: {}, outcomes unknown: {}, not executed: {}\n",
            tally.operations,
            self.clients,
            self.seconds,
            tally.rounds,
            self.groups,
            tally.unknown,
            tally.not_executed,
        );
        if !self.faults.is_empty() {
            let faults: Vec<String> =
                self.faults.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
            text += &format!("  faults: {}\n", faults.join(", "));
        }
        if let Some(moves) = self.moves {
            text += &format!("  moves of shards: {moves}\n");
        }
        text += &format!("  judged in {:.2} s; seed {}\n", tally.took.as_secs_f64(), self.seed);
        if let Some(window) = &tally.violation {
            text += &format!("\n{window}");
        }
        text
    }

    fn json(&self, verdict: &str, doubts: &[String]) -> String {
        let tally = &self.tally;
        let faults: serde_json::Map<_, _> =
            self.faults.iter().map(|(kind, times)| ((*kind).to_owned(), json!(times))).collect();
        let object = json!({
            "verdict": verdict,
            "operations": tally.operations,
            "unknown": tally.unknown,
            "not_executed": tally.not_executed,
            "rounds": tally.rounds,
            "undecided_rounds": tally.undecided,
            "unread_rounds": self.unread,
            "clients": self.clients,
            "groups": self.groups,
            "seconds": self.seconds,
            "judge_s": tally.took.as_secs_f64(),
            "judge_steps": tally.steps,
            "seed": self.seed,
            "faults": faults,
            "moves": self.moves,
            "doubts": doubts,
            "window": tally.violation.as_ref().map(ToString::to_string),
        });
        format!("{}\n", output::versioned(object))
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::stale_read;
    use super::*;

    fn right() -> Report {
        let tally = Tally { rounds: 1, operations: 3, unknown: 1, ..Tally::default() };
        Report { tally, clients: 2, groups: 2, seed: 7, ..Report::default() }
    }

    fn exit(told: &Told) -> u8 {
        told.1.as_ref().err().map_or(0, |failure| failure.exit() as u8)
    }

    #[test]
    fn a_planted_stale_read_is_exit_9_with_its_window() {
        let mut report = right();
        report.tally.add(&stale_read());
        let told = report.tell(false);
        assert_eq!(exit(&told), 9);
        assert!(told.0.starts_with("violation: 6 operations"), "{}", told.0);
        for line in ["no order of these operations", "before: k = \"newer\"", "get k -> \"old\""] {
            assert!(told.0.contains(line), "{line}: {}", told.0);
        }
        let words = told.1.unwrap_err().report();
        assert!(words.starts_with("error[VIOLATION]: the history is not linearizable\n"), "{words}");
        // A violation counts, whatever else is to be said.
        report.faults = vec![("kill", 0)];
        let told = report.tell(true);
        assert_eq!(exit(&told), 9);
        let object: serde_json::Value = serde_json::from_str(&told.0).unwrap();
        assert_eq!((&object["v"], &object["verdict"]), (&json!(1), &json!("violation")));
        assert!(object["window"].as_str().unwrap().contains("get k -> \"old\""));
    }

    #[test]
    fn a_right_history_is_exit_0() {
        let mut report = right();
        (report.faults, report.moves) = (vec![("kill", 2), ("loss", 1)], Some(3));
        let told = report.tell(false);
        assert_eq!(exit(&told), 0);
        let expected = "linearizable: 3 operations by 2 clients in 0.0 s\n  \
            rounds of keys: 1, groups: 2, outcomes unknown: 1, not executed: 0\n  \
            faults: 2 kill, 1 loss\n  moves of shards: 3\n  judged in 0.00 s; seed 7\n";
        assert_eq!(told.0, expected);
        assert!(report.tell(true).0.starts_with("{\"v\":1,"));
    }

    #[test]
    fn what_proves_nothing_is_exit_10() {
        let never = Report { faults: vec![("kill", 1), ("pause", 0)], ..right() };
        let still = Report { moves: Some(0), ..right() };
        let unread = Report { unread: 2, ..right() };
        let undecided = Report { tally: Tally { undecided: 1, ..right().tally }, ..right() };
        let idle = Report { tally: Tally { unknown: 1, not_executed: 2, ..right().tally }, ..right() };
        let words = ["a pause was", "a move was", "2 rounds couldn't", "1 of 1 rounds no order", "answered"];
        for (report, words) in [never, still, unread, undecided, idle].into_iter().zip(words) {
            let told = report.tell(false);
            assert_eq!(exit(&told), 10, "{words}");
            assert!(told.0.starts_with("undecided: "), "{}", told.0);
            let told = told.1.unwrap_err().report();
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
