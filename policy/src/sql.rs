//! SQL text → parse tree of the real PostgreSQL grammar, behind guards.
//!
//! Not a judgement: what the tree means is read by [`facts`] and [`lineage`]. Invariant: whatever arrives here, the process lives:
//! every quantity the C library or a walk of ours could choke on is bounded before it is asked, and a panic inside the library's
//! typed accessors becomes [`Refusal::Unclear`]. Source: PostgreSQL's scan.l and gram.y, through `pg_raw_parse` (grammar of 18).

mod always;
pub(crate) mod behind;
mod bulk;
pub(crate) mod children;
pub(crate) mod commands;
pub(crate) mod facts;
pub(crate) mod known;
pub(crate) mod lineage;
pub(crate) mod literal;
pub mod mentions;
pub(crate) mod plpgsql;
pub(crate) mod swept;
pub(crate) mod trace;
pub(crate) mod views;
pub(crate) mod with;

use memchr::{memchr, memchr2};
use pg_raw_parse::ParseResult;

/// Longest text looked at; the same number as `flow::limits::STATEMENT_BYTES_MAX`, which this crate may not import.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// The same for a text that is rows of constants and is judged by its first.
pub const BULK_BYTES_MAX: usize = 6 << 20;
/// Nested comments are quadratic in the lexer: 80 kB of `/*` took seconds.
const COMMENT_DEPTH_MAX: usize = 16;
/// Open parentheses and brackets. bison's stack ends at 10,000 symbols; a level costs up to three of them.
const BRACKET_DEPTH_MAX: usize = 1_000;
/// What one text may cost, from lexing to the last proof, in nanoseconds of the machine the [`cost`]s were measured on.
const WORK_MAX: usize = 5_000_000;

/// Upper bounds, in nanoseconds, of what each part of a text costs by the time it is judged: lexed, parsed, walked, looked up, freed.
/// Measured by `examples/worst.rs`, which holds them against every shape.
mod cost {
    pub(super) const WORD: usize = 300;
    /// Besides being a word: SELECT and TABLE begin one of the largest nodes, and settings are looked up.
    pub(super) const LARGE: usize = 620;
    pub(super) const NUMBER: usize = 75;
    pub(super) const NUMBER_BYTE: usize = 9;
    pub(super) const STRING: usize = 100;
    pub(super) const DOLLAR_STRING: usize = 150;
    /// A bracket opens a call, more often than not.
    pub(super) const OPEN: usize = 80;
    /// Besides: it does open one, which is a node of its own, a name to look up and a list.
    pub(super) const CALL: usize = 330;
    pub(super) const CLOSE: usize = 20;
    /// `,` and `.`.
    pub(super) const COMMA: usize = 40;
    pub(super) const PARAMETER: usize = 30;
    pub(super) const OPERATOR: usize = 140;
    /// One character of a run that the lexer reads again.
    pub(super) const RUN_BYTE: usize = 4;
    /// A statement's own overhead: facts, rules, proof.
    pub(super) const SEMICOLON: usize = 1_100;
    pub(super) const SPACE_BYTE: usize = 2;
    pub(super) const STRING_BYTE: usize = 2;
    /// E'…' and $$…$$.
    pub(super) const HARD_STRING_BYTE: usize = 8;
    pub(super) const COMMENT_BYTE: usize = 12;
    pub(super) const WORD_BYTE: usize = 6;
}

/// Why a text was not analysed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not SQL for any server: the grammar says no.
    #[error("{0}")]
    Syntax(String),
    /// Beyond a bound of ours.
    #[error("{0}")]
    Limit(&'static str),
    /// Maybe SQL, but nobody can say which.
    #[error("{0}")]
    Unclear(&'static str),
}

/// Rows of constants may have been left out of a text of this length, those after the second of an INSERT.
pub(crate) fn rows_left_out(text: &[u8]) -> bool {
    text.len() >= bulk::BYTES_MIN
}

/// Checks the bounds and parses.
pub(crate) fn parse(text: &[u8]) -> Result<ParseResult, Refusal> {
    let short = if text.len() <= BULK_BYTES_MAX { bulk::shorten(text) } else { None };
    let text = match &short {
        Some((short, spent)) => guard(short, *spent)?,
        None => guard(text, 0)?,
    };
    match pg_raw_parse::parse(text) {
        Ok(tree) => Ok(tree),
        Err(pg_raw_parse::Error::Parse(error)) => {
            let message = error.to_string();
            if message.contains("memory exhausted")
                || message.contains("stack depth")
                || message.contains("out of memory")
            {
                Err(Refusal::Limit("the statement is nested too deeply"))
            } else {
                Err(Refusal::Syntax(message))
            }
        }
        Err(pg_raw_parse::Error::PgError(_)) => Err(Refusal::Unclear("the parser failed")),
        Err(pg_raw_parse::Error::StatementContainedNul(_)) => Err(Refusal::Unclear("it contains a NUL byte")),
    }
}

/// What a text has cost so far.
struct Work<'a> {
    text: &'a [u8],
    spent: usize,
    /// End of the run of operator characters looked at last.
    run_end: usize,
}

impl Work<'_> {
    fn add(&mut self, cost: usize) -> Result<(), Refusal> {
        self.spent += cost;
        if self.spent > WORK_MAX { Err(Refusal::Limit("it is too large")) } else { Ok(()) }
    }

    /// The lexer reads the whole run of operator characters at a token's or comment's beginning, and then takes back all but one or
    /// two: `+-+-…` and `/**//**/…` are quadratic in it (scan.l: `operator`, `xcstart`).
    fn run(&mut self, rest: &[u8]) -> Result<(), Refusal> {
        let at = self.text.len() - rest.len();
        if at >= self.run_end {
            let length = rest.iter().position(|b| !operator(*b)).unwrap_or(rest.len());
            self.run_end = at + length;
        }
        self.add((self.run_end - at) * cost::RUN_BYTE)
    }
}

/// `op_chars` of scan.l.
fn operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

/// One pass that knows where strings, quoted names and comments begin and end (scan.l, with `standard_conforming_strings = on`).
fn guard(bytes: &[u8], spent: usize) -> Result<&str, Refusal> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(Refusal::Limit("it is longer than 1 MiB"));
    }
    if memchr(0, bytes).is_some() {
        return Err(Refusal::Unclear("it contains a NUL byte"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Unclear("it is not valid UTF-8"))?;
    let mut rest = bytes;
    let mut depth = 0usize;
    let mut work = Work { text: bytes, spent, run_end: 0 };
    // The byte before an opening quote decides how the string reads: E'…' has backslashes, and so has what continues it: a
    // doubled quote, or another part on the next line (scan.l, `quotecontinue`).
    let mut before = 0u8;
    let mut escapes = false;
    // A name came last, spaces and comments aside: what opens now is a call, or costs no less.
    let mut named = false;
    while let Some((&byte, tail)) = rest.split_first() {
        let mut next = tail;
        let passed = |next: &[u8]| rest.len() - next.len();
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                work.add(cost::SPACE_BYTE)?;
                before = byte;
                rest = next;
                continue;
            }
            b'(' | b'[' => {
                depth += 1;
                if depth > BRACKET_DEPTH_MAX {
                    return Err(Refusal::Limit("it is nested too deeply"));
                }
                work.add(cost::OPEN + if named { cost::CALL } else { 0 })?;
            }
            b')' | b']' => {
                depth = depth.saturating_sub(1);
                work.add(cost::CLOSE)?;
            }
            b'\'' if escapes || matches!(before, b'e' | b'E') => {
                next = after_escape_string(tail)?;
                work.add(cost::STRING + passed(next) * cost::HARD_STRING_BYTE)?;
                escapes = true;
                before = byte;
                rest = next;
                continue;
            }
            b'\'' => {
                next = after(tail, b'\'');
                // X'…', B'…', N'…' and U&'…' are read once more.
                let twice = !matches!(before, 0 | b'\'' | b' ' | b'(' | b',' | b'=');
                let byte = if twice { cost::HARD_STRING_BYTE } else { cost::STRING_BYTE };
                work.add(cost::STRING + passed(next) * byte)?;
            }
            b'"' => {
                next = after(tail, b'"');
                work.add(cost::WORD + passed(next) * cost::WORD_BYTE)?;
            }
            b'-' if tail.first() == Some(&b'-') => {
                let end = memchr2(b'\n', b'\r', tail).unwrap_or(tail.len());
                work.run(rest)?;
                work.add((end + 1) * cost::SPACE_BYTE + cost::COMMA)?;
                before = byte;
                rest = tail.get(end..).unwrap_or_default();
                continue;
            }
            b'/' if tail.first() == Some(&b'*') => {
                work.run(rest)?;
                next = after_comment(tail.get(1..).unwrap_or_default(), &mut work)?;
                work.add(cost::COMMA + passed(next) * cost::COMMENT_BYTE)?;
            }
            b'$' => {
                let digits = tail.iter().position(|b| !b.is_ascii_digit()).unwrap_or(tail.len());
                if digits > 0 {
                    next = tail.get(digits..).unwrap_or_default();
                    work.add(cost::PARAMETER + digits)?;
                } else {
                    next = after_dollar(tail);
                    work.add(cost::DOLLAR_STRING + passed(next) * cost::HARD_STRING_BYTE)?;
                }
            }
            b';' => work.add(cost::SEMICOLON)?,
            b',' | b'.' => work.add(cost::COMMA)?,
            _ if word(byte) => {
                let dollars = !byte.is_ascii_digit();
                let end =
                    tail.iter().position(|b| !(word(*b) || dollars && *b == b'$')).unwrap_or(tail.len());
                let name = rest.get(..=end).unwrap_or_default();
                let price = if !dollars {
                    cost::NUMBER + end * cost::NUMBER_BYTE
                } else if [&b"select"[..], b"table", b"set_config"]
                    .iter()
                    .any(|w| name.eq_ignore_ascii_case(w))
                {
                    cost::WORD + cost::LARGE
                } else {
                    cost::WORD + end * cost::WORD_BYTE
                };
                work.add(price)?;
                escapes = false;
                named = dollars;
                before = if end == 0 { byte } else { 0 };
                rest = tail.get(end..).unwrap_or_default();
                continue;
            }
            _ => {
                if operator(byte) {
                    work.run(rest)?;
                }
                work.add(cost::OPERATOR)?;
            }
        }
        escapes = false;
        named = byte == b'"' || (named && byte == b'/' && tail.first() == Some(&b'*'));
        before = byte;
        rest = next;
    }
    Ok(text)
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// What follows the closing quote (a doubled quote simply opens the next string); everything when there is none.
fn after(text: &[u8], quote: u8) -> &[u8] {
    memchr(quote, text).and_then(|end| text.get(end + 1..)).unwrap_or_default()
}

/// The same for E'…'. Escapes that can spell bytes outside of ASCII are refused: the tree would hold invalid UTF-8.
fn after_escape_string(text: &[u8]) -> Result<&[u8], Refusal> {
    let mut rest = text;
    while let Some(at) = memchr2(b'\'', b'\\', rest) {
        let tail = rest.get(at + 1..).unwrap_or_default();
        if rest.get(at) == Some(&b'\'') {
            return Ok(tail);
        }
        match tail.first() {
            Some(b'x') if matches!(tail.get(1), Some(b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F')) => {
                return Err(Refusal::Unclear("it has a string with escaped bytes above 7f"));
            }
            Some(b'2' | b'3') if matches!(tail.get(1), Some(b'0'..=b'7')) => {
                return Err(Refusal::Unclear("it has a string with escaped bytes above 7f"));
            }
            _ => {}
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    Ok(&[])
}

fn after_comment<'t>(text: &'t [u8], work: &mut Work<'_>) -> Result<&'t [u8], Refusal> {
    let mut rest = text;
    let mut depth = 1usize;
    while let Some(at) = memchr2(b'*', b'/', rest) {
        let tail = rest.get(at + 1..).unwrap_or_default();
        rest = match (rest.get(at), tail.first()) {
            (Some(b'*'), Some(b'/')) => {
                depth -= 1;
                tail.get(1..).unwrap_or_default()
            }
            (Some(b'/'), Some(b'*')) => {
                depth += 1;
                work.run(rest.get(at..).unwrap_or_default())?;
                if depth > COMMENT_DEPTH_MAX {
                    return Err(Refusal::Limit("its comments are nested too deeply"));
                }
                tail.get(1..).unwrap_or_default()
            }
            _ => tail,
        };
        if depth == 0 {
            return Ok(rest);
        }
    }
    Ok(&[])
}

/// `$tag$…$tag$`, or `$1`.
fn after_dollar(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !word(*b)).unwrap_or(text.len());
    if text.get(end) != Some(&b'$') || text.first().is_some_and(u8::is_ascii_digit) {
        return text;
    }
    let body = text.get(end + 1..).unwrap_or_default();
    let mut tag = vec![b'$'];
    tag.extend_from_slice(text.get(..=end).unwrap_or_default());
    memchr::memmem::find(body, &tag).and_then(|at| body.get(at + tag.len()..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Refusal {
        match parse(text.as_bytes()) {
            Ok(_) => panic!("parsed: {}", &text[..text.len().min(60)]),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn what_the_lexer_skips_is_not_counted() {
        let many = "(".repeat(5_000);
        for text in [
            format!("select '{many}'"),
            format!("select \"{many}\""),
            format!("select 1 -- {many}"),
            format!("select 1 /* {many} */"),
            format!("select $x${many}$x$"),
            format!("select E'\\'{many}'"),
            format!("select E'a''\\'{many}'"),
        ] {
            assert_eq!(parse(text.as_bytes()).err(), None, "{}", &text[..20]);
        }
        assert!(
            matches!(refused(&format!("select '\\', {many}'")), Refusal::Limit(_)),
            "a backslash ends nothing"
        );
    }

    #[test]
    fn depth_is_a_refusal_and_never_the_end() {
        for n in [900, 5_000, 100_000] {
            for text in [
                format!("select {}1{}", "(".repeat(n), ")".repeat(n)),
                format!("select {}1{}", "array[".repeat(n), "]".repeat(n)),
                format!("select 1 {}", "+1".repeat(n)),
                format!("select 'a' {}", "||'b'".repeat(n)),
                format!("select 1 where {} true", "not ".repeat(n)),
                format!("select {} 1", "- ".repeat(n)),
                format!("select 1 in (1{})", ",1".repeat(n)),
                format!("select {} 1 {}", "case when true then ".repeat(n), " end".repeat(n)),
                format!("select 1 {}", "union select 1 ".repeat(n)),
                format!("select * from a {}", "join a on true ".repeat(n)),
                format!("select 1{}", "::int".repeat(n)),
                format!("select a{}", ".b".repeat(n)),
                format!("select {}1{}", "f(".repeat(n), ")".repeat(n)),
                format!("{} select 1", "explain ".repeat(n)),
                format!("select 1 {}", ";select 1".repeat(n)),
                format!("select {}1{}", "(select ".repeat(n), ")".repeat(n)),
                format!("select 1 where a {}", "and b ".repeat(n)),
                format!("select 1 where a {}", "or (b) ".repeat(n)),
                format!("with {} select 1", "a as (select 1), ".repeat(n)),
                "/*".repeat(n),
            ] {
                let _ = parse(text.as_bytes());
            }
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_refused() {
        assert!(matches!(parse(b"select 1\0"), Err(Refusal::Unclear(_))));
        assert!(matches!(parse(b"select '\xff'"), Err(Refusal::Unclear(_))));
        assert!(matches!(parse(br"select E'\xff'"), Err(Refusal::Unclear(_))));
        assert!(matches!(parse(br"select E'\377'"), Err(Refusal::Unclear(_))));
        assert!(matches!(refused("selec 1"), Refusal::Syntax(_)));
        assert!(matches!(refused(&"x ".repeat(600_000)), Refusal::Limit(_)));
    }
}
