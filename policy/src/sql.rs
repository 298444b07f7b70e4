//! SQL text → parse tree of the real PostgreSQL grammar, behind guards.
//!
//! Not a judgement: what the tree means is read by [`facts`] and [`lineage`]. Invariant: whatever arrives here, the process lives:
//! every quantity the C library or a walk of ours could choke on is bounded before it is asked, and a panic inside the library's
//! typed accessors becomes [`Refusal::Unclear`]. Source: PostgreSQL's scan.l and gram.y, through `pg_raw_parse` (grammar of 18).

pub(crate) mod children;
pub(crate) mod facts;
pub(crate) mod known;
pub(crate) mod lineage;
pub mod mentions;

use memchr::{memchr, memchr2};
use pg_raw_parse::ParseResult;

/// Longest text looked at; the same number as `flow::limits::STATEMENT_BYTES_MAX`, which this crate may not import.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Nested comments are quadratic in the lexer: 80 kB of `/*` took seconds.
const COMMENT_DEPTH_MAX: usize = 16;
/// Open parentheses and brackets. bison's stack ends at 10,000 symbols; a level costs up to three of them.
const BRACKET_DEPTH_MAX: usize = 1_000;
/// Tokens of a statement; at about 60 ns each the parse stays in the low tens of milliseconds.
const TOKENS_MAX: usize = 250_000;

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

/// Checks the bounds and parses.
pub(crate) fn parse(text: &[u8]) -> Result<ParseResult, Refusal> {
    let text = guard(text)?;
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

/// One pass that knows where strings, quoted names and comments begin and end (scan.l, with `standard_conforming_strings = on`).
fn guard(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(Refusal::Limit("it is longer than 1 MiB"));
    }
    if memchr(0, bytes).is_some() {
        return Err(Refusal::Unclear("it contains a NUL byte"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Unclear("it is not valid UTF-8"))?;
    let mut rest = bytes;
    let (mut depth, mut tokens) = (0usize, 0usize);
    // The byte before an opening quote decides how the string reads: E'…' has backslashes, and so has what continues it: a
    // doubled quote, or another part on the next line (scan.l, `quotecontinue`).
    let mut before = 0u8;
    let mut escapes = false;
    while let Some((&byte, tail)) = rest.split_first() {
        let mut next = tail;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                before = byte;
                rest = next;
                continue;
            }
            b'(' | b'[' => {
                depth += 1;
                if depth > BRACKET_DEPTH_MAX {
                    return Err(Refusal::Limit("it is nested too deeply"));
                }
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            b'\'' if escapes || matches!(before, b'e' | b'E') => {
                next = after_escape_string(tail)?;
                escapes = true;
                before = byte;
                rest = next;
                continue;
            }
            b'\'' => next = after(tail, b'\''),
            b'"' => next = after(tail, b'"'),
            b'-' if tail.first() == Some(&b'-') => {
                let end = memchr2(b'\n', b'\r', tail).unwrap_or(tail.len());
                before = byte;
                rest = tail.get(end..).unwrap_or_default();
                continue;
            }
            b'/' if tail.first() == Some(&b'*') => next = after_comment(tail.get(1..).unwrap_or_default())?,
            b'$' => next = after_dollar(tail),
            _ if word(byte) => {
                let dollars = !byte.is_ascii_digit();
                let end =
                    tail.iter().position(|b| !(word(*b) || dollars && *b == b'$')).unwrap_or(tail.len());
                escapes = false;
                before = if end == 0 { byte } else { 0 };
                rest = tail.get(end..).unwrap_or_default();
                tokens += 1;
                if tokens > TOKENS_MAX {
                    return Err(Refusal::Limit("it has too many tokens"));
                }
                continue;
            }
            _ => {}
        }
        tokens += 1;
        if tokens > TOKENS_MAX {
            return Err(Refusal::Limit("it has too many tokens"));
        }
        escapes = false;
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

fn after_comment(text: &[u8]) -> Result<&[u8], Refusal> {
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
