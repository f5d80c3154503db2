//! The text of a transaction: blocks of compares and operations, one a line, in the words of the everyday commands.

use client::{Condition, Relation, Transaction, Txn, TxnOp};
use kvserver::txn::Compare;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::quoted;
use crate::shell::words;
use crate::values::Value;

/// What `kvctl txn --help` says of it.
pub(crate) const HELP: &str = "\
The text has up to three blocks. All compares are judged on one state; if all hold, or there are none, `then` is run,
else `else`, each in one step and in order. Lines before the first block go where they fit: compares, or `then`.

  compare:                     then: and else:
    value K = V                  get K               copy FROM TO
    version K = N                put K V             swap A B
    present K                    append K V          incr K [N]
    absent K                     del K...            cas K OLD NEW
                                                     cas --absent K NEW

  = may be != < > too. An absent key has version 0, and no value: only != holds of it. `copy` reads the state before the
  transaction; every other operation sees what earlier ones did. If an operation can't be done (a cas that meets another
  value, an incr of a word), nothing is changed.

Lines are split into words as in `kvctl shell`: quotes, \\ and # work, ; ends a line. V may be @FILE. At a terminal the
blocks are asked for one after the other; an empty line ends one.

If a compare doesn't hold, that is exit code 4 without an `else` block, and 0 with one.

Example, in a file buy.txn and, without its else, in one line:
  compare:
    value seat/12a = free
  then:
    put seat/12a ann
    incr sold
  else:
    get seat/12a

  kvctl txn buy.txn
  kvctl txn -c 'value seat/12a = free; then: put seat/12a ann; incr sold'";

/// A part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Compare,
    Then,
    Else,
}

impl Block {
    /// All of them, in the order in which they are asked for.
    pub(crate) const ALL: [Block; 3] = [Block::Compare, Block::Then, Block::Else];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Block::Compare => "compare",
            Block::Then => "then",
            Block::Else => "else",
        }
    }

    /// The block that a word such as `then:` begins.
    fn begun_by(word: &str) -> Option<Block> {
        Block::ALL.into_iter().find(|block| word.strip_suffix(':') == Some(block.word()))
    }
}

/// A transaction as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) txn: Txn,
    /// Whether there is an `else:`, even an empty one.
    pub(crate) has_else: bool,
    /// Where the next line goes; `None` before the first block.
    block: Option<Block>,
}

impl Script {
    /// Reads a whole text.
    pub(crate) async fn parse(text: &str, context: &Context) -> Result<Script, Failure> {
        let mut script = Script::default();
        for (number, line) in (1..).zip(text.lines()) {
            script.line(line, context).await.map_err(|failure| failure.at(format!("line {number}")))?;
        }
        Ok(script)
    }

    /// What follows belongs to this block.
    pub(crate) fn begin(&mut self, block: Block) {
        self.block = Some(block);
        self.has_else |= block == Block::Else;
    }

    /// Reads a line; nothing of it is taken if something is wrong with it.
    pub(crate) async fn line(&mut self, line: &str, context: &Context) -> Result<(), Failure> {
        let mut next = self.clone();
        for words in words::split(line)? {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Some(block) = Block::begun_by(words[0]) {
                next.begin(block);
                words.remove(0);
            }
            if !words.is_empty() {
                next.part(&words, context).await?;
            }
        }
        *self = next;
        Ok(())
    }

    async fn part(&mut self, words: &[&str], context: &Context) -> Result<(), Failure> {
        let is_compare = matches!(words[0], "value" | "version" | "present" | "absent");
        match (self.block, is_compare) {
            // What it is says where it belongs.
            (None | Some(Block::Compare), true) => self.txn.compares.push(compare(words, context).await?),
            (None | Some(Block::Then), false) => self.txn.then.extend(operations(words, context).await?),
            (Some(Block::Else), false) => self.txn.otherwise.extend(operations(words, context).await?),
            (Some(_), true) => {
                return Err(
                    Failure::usage(format!("{} is a compare", words[0])).hint("it goes under compare:")
                );
            }
            (Some(Block::Compare), false) => {
                let message = format!("{} isn't a compare", quoted(words[0].as_bytes()));
                return Err(Failure::usage(message)
                    .hint("value, version, present, absent; operations go under then:"));
            }
        }
        Ok(())
    }
}

fn bytes(word: &str) -> Vec<u8> {
    word.as_bytes().to_vec()
}

async fn value(word: &str, context: &Context) -> Result<Vec<u8>, Failure> {
    match Value::from(std::ffi::OsString::from(word)) {
        Value::Stdin => {
            Err(Failure::usage("a value in a transaction can't come from stdin").hint("@FILE can"))
        }
        value => value.read(context).await,
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, Failure> {
    word.parse().map_err(|_| Failure::usage(format!("{} isn't such a number", quoted(word.as_bytes()))))
}

fn relation(word: &str) -> Result<Relation, Failure> {
    match word {
        "=" => Ok(Relation::Equal),
        "!=" => Ok(Relation::NotEqual),
        "<" => Ok(Relation::Less),
        ">" => Ok(Relation::Greater),
        _ => Err(Failure::usage(format!("{} isn't = != < or >", quoted(word.as_bytes())))),
    }
}

async fn compare(words: &[&str], context: &Context) -> Result<Compare, Failure> {
    let (key, condition) = match words {
        ["present", key] => (key, Condition::Present(true)),
        ["absent", key] => (key, Condition::Present(false)),
        ["value", key, sign, given] => (key, Condition::Value(relation(sign)?, value(given, context).await?)),
        ["version", key, sign, given] => (key, Condition::Version(relation(sign)?, number(given)?)),
        _ => return Err(misused(words[0])),
    };
    Ok(Compare { key: bytes(key), condition })
}

async fn operations(words: &[&str], context: &Context) -> Result<Vec<TxnOp>, Failure> {
    let none = Transaction::new();
    let done = match words {
        ["get", key] => none.get(key),
        ["put", key, given] => none.put(key, value(given, context).await?),
        ["append", key, given] => none.append(key, value(given, context).await?),
        ["del", keys @ ..] if !keys.is_empty() => keys.iter().fold(none, Transaction::delete),
        ["incr", key] => none.incr(key, 1),
        ["incr", key, by] => none.incr(key, number(by)?),
        ["cas", "--absent", key, new] => none.cas(key, None, value(new, context).await?),
        ["cas", key, old, new] => {
            none.cas(key, Some(&value(old, context).await?), value(new, context).await?)
        }
        ["copy", from, to] => none.copy(to, from),
        ["swap", a, b] => none.copy(b, a).copy(a, b),
        _ => return Err(misused(words[0])),
    };
    Ok(Txn::from(done).then)
}

/// A line that begins well, or doesn't.
fn misused(word: &str) -> Failure {
    let usage = match word {
        "value" => "value K = V",
        "version" => "version K = N",
        "present" => "present K",
        "absent" => "absent K",
        "get" => "get K",
        "put" => "put K V",
        "append" => "append K V",
        "del" => "del K...",
        "incr" => "incr K [N]",
        "cas" => "cas K OLD NEW, or cas --absent K NEW",
        "copy" => "copy FROM TO",
        "swap" => "swap A B",
        _ => {
            let message = format!("{} is no operation of a transaction", quoted(word.as_bytes()));
            return Failure::usage(message).hint("get, put, append, del, incr, cas, copy, swap");
        }
    };
    Failure::usage(format!("{word} is used otherwise")).hint(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Connected;
    use crate::failure::Exit;
    use crate::settings::{Flags, Settings};

    fn context() -> Context {
        let settings = Settings::load(&Flags::default(), None).unwrap();
        Context::new(settings, Connected::default(), None, false)
    }

    async fn parse(text: &str) -> Result<Script, Failure> {
        Script::parse(text, &context()).await
    }

    #[tokio::test]
    async fn blocks_compares_and_operations() {
        let text = "# a comment\ncompare:\n  value 'a b' != \"\"; version k > 7\n present p\nabsent q\n\
            then: put k v\nincr n -3\ndel x y\nelse:\n cas --absent k new\n cas k old new\ncopy from to\n";
        let script = parse(text).await.unwrap();
        let expected = Transaction::new()
            .when("a b", Condition::Value(Relation::NotEqual, Vec::new()))
            .when("k", Condition::Version(Relation::Greater, 7))
            .when_present("p")
            .when_absent("q")
            .put("k", "v")
            .incr("n", -3)
            .delete("x")
            .delete("y")
            .otherwise()
            .cas("k", None, "new")
            .cas("k", Some(b"old"), "new")
            .copy("to", "from");
        assert_eq!(script.txn, Txn::from(expected));
        assert!(script.has_else);
    }

    #[tokio::test]
    async fn one_line_needs_no_headers_but_else() {
        let script = parse("absent lock; put lock me; swap a b").await.unwrap();
        let expected = Transaction::new().when_absent("lock").put("lock", "me").copy("b", "a").copy("a", "b");
        assert_eq!((script.txn, script.has_else), (Txn::from(expected), false));
        assert!(parse("get a; else:").await.unwrap().has_else);
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_with_its_line() {
        for (line, part) in [
            ("nonsense a", "no operation"),
            ("put a", "hint: put K V"),
            ("del", "hint: del K..."),
            ("put a -", "stdin"),
            ("put a @/nonexistent", "/nonexistent"),
            ("incr a x", "such a number"),
            ("version a = -1", "such a number"),
            ("value a == b", "= != < or >"),
            ("compare: get a", "isn't a compare"),
            ("then: present a", "under compare:"),
            ("get 'a", "isn't closed"),
        ] {
            let failure = parse(&format!("get first\n{line}")).await.unwrap_err();
            let report = failure.report();
            assert!(report.starts_with("error[USAGE]: line 2: ") && report.contains(part), "{report}");
            assert_eq!(failure.exit(), Exit::Usage);
        }
    }

    #[tokio::test]
    async fn of_a_wrong_line_nothing_is_taken() {
        let mut script = Script::default();
        script.line("get a", &context()).await.unwrap();
        let before = script.clone();
        script.line("else: get b; nonsense", &context()).await.unwrap_err();
        assert_eq!(script, before);
    }
}
