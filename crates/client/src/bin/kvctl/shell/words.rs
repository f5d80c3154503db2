//! A line of the shell as commands and words, quoted as in other shells.

use crate::failure::Failure;

/// The commands of a line, separated by `;`, each a list of words. `'…'` is taken as it stands, `"…"` and `\` as in
/// other shells, `#` at the beginning of a word starts a comment.
pub(crate) fn split(line: &str) -> Result<Vec<Vec<String>>, Failure> {
    let mut commands = vec![Vec::new()];
    // `None` between words; a word may be empty ("").
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => quoted(&mut chars, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut chars, '"', word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '#' if word.is_none() => break,
            ';' => {
                end_word(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            c if c.is_whitespace() => end_word(&mut commands, &mut word),
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut commands, &mut word);
    commands.retain(|words| !words.is_empty());
    Ok(commands)
}

fn quoted(chars: &mut std::str::Chars, quote: char, word: &mut String) -> Result<(), Failure> {
    loop {
        match chars.next() {
            None => return Err(Failure::usage(format!("a {quote} isn't closed"))),
            Some(c) if c == quote => return Ok(()),
            Some('\\') if quote == '"' => match chars.next() {
                Some(c @ ('"' | '\\')) => word.push(c),
                other => {
                    word.push('\\');
                    word.extend(other);
                }
            },
            Some(c) => word.push(c),
        }
    }
}

fn end_word(commands: &mut [Vec<String>], word: &mut Option<String>) {
    if let (Some(words), Some(word)) = (commands.last_mut(), word.take()) {
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: &[&[&str]]) {
        assert_eq!(split(line).unwrap(), expected, "{line}");
    }

    #[test]
    fn words_and_commands() {
        check("", &[]);
        check("  ;; # nothing", &[]);
        check("put a b", &[&["put", "a", "b"]]);
        check(" get a;get b ; ", &[&["get", "a"], &["get", "b"]]);
        check("put a#b c # why", &[&["put", "a#b", "c"]]);
    }

    #[test]
    fn quotes_keep_what_they_hold() {
        check("put 'a b;c' \"d \\\"e\\\" \\n\"", &[&["put", "a b;c", "d \"e\" \\n"]]);
        check("put k ''", &[&["put", "k", ""]]);
        check(r"put a\ b\;c d'e'f", &[&["put", "a b;c", "def"]]);
        assert_eq!(split("get 'a").unwrap_err().exit(), crate::failure::Exit::Usage);
    }
}
