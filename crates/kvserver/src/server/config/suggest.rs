//! "Did you mean": the known word nearest to one that isn't known.

/// The word of `known` with the fewest edits to `word`, if those are few.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(2);
    let ranked = known.into_iter().map(|candidate| (edits(word, candidate), candidate));
    ranked.min().filter(|(distance, _)| *distance <= allowed).map(|(_, candidate)| candidate)
}

/// Insertions, deletions and substitutions from `a` to `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let known = ["limits.batch", "limits.queue", "timing.lease"];
        assert_eq!(nearest("limts.batch", known), Some("limits.batch"));
        assert_eq!(nearest("limits.qeue", known), Some("limits.queue"));
        assert_eq!(nearest("zebra", known), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
