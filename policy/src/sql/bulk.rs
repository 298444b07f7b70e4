//! Rows of constants: `INSERT INTO t (…) VALUES (1, 'a'), (2, 'b'), …` is judged by its first two rows.
//!
//! Not a parser: a lexer that knows one shape and gives up on everything else, so that megabytes of rows need not be parsed.
//! Invariant: what is left out is a run of `, (constant, …)` after two rows of constants, reached by words, names, commas and
//! parentheses only; the grammar makes nothing of it but more lists of constants, and no judgement looks at those.
//! Source: scan.l with `standard_conforming_strings = on`; gram.y, `values_clause`.

use memchr::memchr;

/// Shorter texts are cheap to parse whole.
pub(super) const BYTES_MIN: usize = 2 << 10;
/// Longest part before VALUES that is looked at.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// What is left out may cost this many nanoseconds: two for a byte, a quarter for a byte of a string, some for each constant.
const WORK_MAX: usize = 4_800_000;
const CONSTANT: usize = 10;

/// `bytes` without its third and later rows of constants, and what finding them has cost; `None` when there are none to leave out.
pub(super) fn shorten(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    if bytes.len() < BYTES_MIN {
        return None;
    }
    let head = head(bytes.get(..bytes.len().min(HEAD_BYTES_MAX))?)?;
    let mut work = 0;
    let first = row(bytes.get(head..)?, &mut work)?;
    // The second stays too: that there are more than one may matter.
    let tail = skip(first).strip_prefix(b",").and_then(|r| row(skip(r), &mut work))?;
    let mut rest = tail;
    // Whatever ends the run, a row with an expression or what comes after the rows, is judged as it stands.
    while work < WORK_MAX
        && let Some(more) = skip(rest).strip_prefix(b",").and_then(|r| row(skip(r), &mut work))
    {
        rest = more;
    }
    let gone = tail.len() - rest.len();
    if gone == 0 {
        return None;
    }
    // Nothing was looked at for the two that are refused everywhere.
    let ours = bytes.get(..bytes.len() - rest.len())?;
    if memchr(0, ours).is_some() || std::str::from_utf8(ours).is_err() {
        return None;
    }
    let first = bytes.get(..bytes.len() - tail.len())?;
    let judged = [first, rest].concat();
    debug_assert!(judged.len() < bytes.len());
    Some((judged, work))
}

fn skip(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(text.len());
    text.get(end..).unwrap_or_default()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A word that begins with a letter or `_`, and what follows it.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = text.first()?;
    if !(first.is_ascii_alphabetic() || *first == b'_') {
        return None;
    }
    let end = text.iter().position(|b| !is_word(*b)).unwrap_or(text.len());
    // A quote would make it E'…' or U&'…', `$` belongs to names, and so do letters beyond ASCII.
    match text.get(end) {
        Some(b'\'' | b'"' | b'&' | b'$' | 0x80..) => None,
        _ => Some((text.get(..end)?, text.get(end..)?)),
    }
}

fn keyword<'a>(text: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let (found, rest) = word(text)?;
    found.eq_ignore_ascii_case(wanted.as_bytes()).then_some(rest)
}

/// Where `INSERT INTO … VALUES` ends.
fn head(text: &[u8]) -> Option<usize> {
    let mut rest = keyword(skip(keyword(skip(text), "insert")?), "into")?;
    let mut depth = 0usize;
    loop {
        rest = skip(rest);
        match rest.first()? {
            b'"' => rest = rest.get(memchr(b'"', rest.get(1..)?)? + 2..)?,
            b'.' | b',' => rest = rest.get(1..)?,
            b'(' => {
                depth += 1;
                rest = rest.get(1..)?;
            }
            b')' => {
                depth = depth.checked_sub(1)?;
                rest = rest.get(1..)?;
            }
            _ => {
                let (found, more) = word(rest)?;
                rest = more;
                if depth == 0 && found.eq_ignore_ascii_case(b"values") {
                    return Some(text.len() - skip(rest).len());
                }
            }
        }
    }
}

/// What follows `(constant, …)`.
fn row<'t>(text: &'t [u8], work: &mut usize) -> Option<&'t [u8]> {
    let mut rest = text.strip_prefix(b"(")?;
    let mut strings = 0;
    loop {
        rest = skip(rest);
        let more = constant(rest)?;
        *work += CONSTANT;
        // A cast after it is not as cheap.
        if rest.first() == Some(&b'\'') && text.get(text.len() - more.len() - 1) == Some(&b'\'') {
            strings += rest.len() - more.len();
        }
        rest = skip(more);
        match rest.first()? {
            b',' => rest = rest.get(1..)?,
            b')' => break,
            _ => return None,
        }
    }
    let rest = rest.get(1..)?;
    *work += 2 * (text.len() - rest.len()).saturating_sub(strings) + strings / 4;
    Some(rest)
}

fn constant(text: &[u8]) -> Option<&[u8]> {
    let digits = |t: &[u8]| t.iter().position(|b| !b.is_ascii_digit()).unwrap_or(t.len());
    let mut rest = match text.first()? {
        b'\'' => string(text.get(1..)?)?,
        b'$' => {
            let more = text.get(1..)?;
            let n = digits(more);
            if n == 0 {
                return None;
            }
            more.get(n..)?
        }
        b'-' | b'+' | b'0'..=b'9' => {
            let mut more = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
            let n = digits(more);
            if n == 0 {
                return None;
            }
            more = more.get(n..)?;
            if let Some(fraction) = more.strip_prefix(b".") {
                more = fraction.get(digits(fraction)..)?;
            }
            more
        }
        _ => {
            let (found, more) = word(text)?;
            if ![&b"null"[..], b"true", b"false", b"default"].iter().any(|k| found.eq_ignore_ascii_case(k)) {
                return None;
            }
            more
        }
    };
    // `1e5`, `1a`, `'a'b`: left to the parser.
    if rest.first().is_some_and(|b| is_word(*b) || *b >= 0x80) {
        return None;
    }
    // `'2026-01-01'::timestamp without time zone`, as ORMs write parameters.
    if let Some(cast) = rest.strip_prefix(b"::") {
        rest = word(cast)?.1;
        loop {
            let after = skip(rest);
            match word(after) {
                Some((w, more))
                    if [&b"precision"[..], b"varying", b"with", b"without", b"time", b"zone"]
                        .iter()
                        .any(|k| w.eq_ignore_ascii_case(k)) =>
                {
                    rest = more;
                }
                _ => break,
            }
        }
    }
    Some(rest)
}

/// What follows the closing quote; doubled quotes belong to the string.
fn string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        rest = rest.get(memchr(b'\'', rest)? + 1..)?;
        match rest.strip_prefix(b"'") {
            Some(more) => rest = more,
            None => return Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pads with rows, so that the text is long enough to be looked at.
    fn short(head: &str, row: &str, tail: &str) -> Option<String> {
        let text = format!("{head}{row}{}{tail}", format!(", {row}").repeat(3_000 / row.len().max(1)));
        shorten(text.as_bytes()).map(|(s, _)| String::from_utf8(s).expect("UTF-8"))
    }

    #[test]
    fn rows_of_constants_are_left_out() {
        for (head, row, tail) in [
            ("INSERT INTO t VALUES ", "(1)", ""),
            ("insert\ninto public.t (a, \"B c\", values) values", "(1, 'x''y', NULL)", " RETURNING id;"),
            (
                "INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES\n",
                "( -1.5 , true, DEFAULT, '' )",
                " ON CONFLICT DO NOTHING",
            ),
            (
                "INSERT INTO t AS x (a) VALUES ",
                "($1, $22::int, '1'::timestamp without time zone)",
                ", (now())",
            ),
            ("INSERT INTO t (a) VALUES ", "('\\', '(ä--/*')", "; SELECT 1"),
        ] {
            assert_eq!(short(head, row, tail), Some(format!("{head}{row}, {row}{tail}")));
        }
    }

    #[test]
    fn what_is_not_a_constant_is_left_to_the_parser() {
        for row in [
            "(a)",
            "(f())",
            "(1+1)",
            "(E'\\'')",
            "(e'a')",
            "(U&'a')",
            "('a' 'b')",
            "('a'\n'b')",
            "(1e5)",
            "(1a)",
            "('a'b)",
            "(--1\n1)",
            "(/**/1)",
            "($a$x$a$)",
            "((SELECT 1))",
            "()",
            "(1,)",
            "($1::a.b)",
            "('a'::text COLLATE x)",
            "(NULL IS NULL)",
            "(- 1)",
            "(x'1f')",
            "(current_user)",
            "(1::numeric(1))",
            "(1.a)",
            "('a'||'b')",
            "(\"a\")",
        ] {
            assert_eq!(short("INSERT INTO t VALUES ", row, ""), None, "{row}");
        }
        for head in [
            "INSERT INTO t SELECT 1 -- VALUES ",
            "INSERT INTO t /* */ VALUES ",
            "WITH x AS (SELECT 1) INSERT INTO t VALUES ",
            "SELECT 1; INSERT INTO t VALUES ",
            "INSERT INTO U&\"t\" VALUES ",
            "INSERT INTO t$a VALUES ",
            "INSERT INTO ä VALUES ",
            "INSERT INTO t (a = ",
            "VALUES ",
        ] {
            assert_eq!(short(head, "(1)", ""), None, "{head}");
        }
        assert_eq!(short("INSERT INTO t VALUES ", "('\0')", ""), None);
        let mixed = short("INSERT INTO t VALUES ", "(1)", ", (ssn), (2)").expect("short");
        assert_eq!(mixed, "INSERT INTO t VALUES (1), (1), (ssn), (2)");
    }
}
