//! The shape of a statement: its text with number and plain string literals replaced by a mark. What people list is the
//! [`normal`] form of it.
//!
//! Not a parser: it knows just enough of scan.l (with `standard_conforming_strings = on`) to be certain, and says "take the exact
//! text" for everything else. Invariant: two texts of one shape differ in the values of literals only, so they parse to the same
//! tree up to those values. Marks are control bytes; a text that holds one is never given a shape.

mod normal;

use memchr::{memchr, memchr2};

pub(crate) use normal::listed;
pub use normal::{normal, statements};

use crate::sql;
use crate::sql::facts::{self, Name};

/// Stands for a number.
const NUMBER: u8 = 1;
/// Stands for `'…'`.
const STRING: u8 = 2;

/// The relations each statement of a text names, by name; nothing of a text that cannot be read. For people to look
/// at: what a view reads is not followed.
pub fn tables(text: &[u8]) -> Vec<Vec<String>> {
    let Ok(tree) = sql::parse(text) else { return Vec::new() };
    let named = |statement| {
        let mut out = Vec::new();
        let Ok(facts) = facts::read(statement) else { return out };
        for Name { schema, name } in &facts.names {
            let name = schema.map_or_else(|| (*name).to_owned(), |schema| format!("{schema}.{name}"));
            if !out.contains(&name) {
                out.push(name);
            }
        }
        out.sort_unstable();
        out
    };
    tree.stmts().map(named).collect()
}

/// Appends the shape of `sql` to `out`. False: there is none, and what was appended is worthless.
pub(crate) fn shape(sql: &[u8], out: &mut Vec<u8>) -> bool {
    let mut rest = sql;
    // What was read since the last literal; copied in one piece.
    let mut run = sql;
    // Whether the last thing seen could be the left part of a longer token with a digit, a dot or a quote.
    let mut after_word = false;
    while let Some((&byte, tail)) = rest.split_first() {
        match kind(byte) {
            Kind::Word => {
                let end = tail
                    .iter()
                    .position(|b| !matches!(kind(*b), Kind::Word | Kind::Digit))
                    .unwrap_or(tail.len());
                let more = tail.get(end..).unwrap_or_default();
                // E'…', B'…', X'…', N'…', U&'…', and names with a $ inside.
                if matches!(more.first(), Some(b'\'' | b'$' | b'&')) {
                    return false;
                }
                rest = more;
                after_word = true;
                continue;
            }
            Kind::Digit => {
                if after_word {
                    return false;
                }
                let Some(more) = number(rest) else { return false };
                out.extend_from_slice(run.get(..run.len() - rest.len()).unwrap_or_default());
                out.push(NUMBER);
                run = more;
                rest = more;
                after_word = true;
                continue;
            }
            Kind::Plain => {
                rest = tail;
            }
            Kind::Quote => {
                if after_word {
                    return false;
                }
                let Some(more) = string(tail) else { return false };
                out.extend_from_slice(run.get(..run.len() - rest.len()).unwrap_or_default());
                out.push(STRING);
                run = more;
                rest = more;
                after_word = true;
                continue;
            }
            Kind::Name => {
                let Some(end) = memchr(b'"', tail) else { return false };
                // The marks must mean one thing, also to whoever reads a key.
                if memchr2(NUMBER, STRING, tail.get(..end).unwrap_or_default()).is_some() {
                    return false;
                }
                rest = tail.get(end + 1..).unwrap_or_default();
            }
            Kind::Twin => {
                // Comments begin with a twin; so do some operators, whose exact text is no loss.
                if matches!(tail.first(), Some(b'-' | b'*')) {
                    return false;
                }
                rest = tail;
            }
            Kind::Dot => {
                // `.5` and `1.` are numbers; a dot between names is not.
                if matches!(tail.first(), Some(b'0'..=b'9')) {
                    return false;
                }
                rest = tail;
            }
            Kind::Dollar => {
                let end = tail.iter().position(|b| !b.is_ascii_digit()).unwrap_or(tail.len());
                if end == 0
                    || after_word
                    || tail.get(end).is_some_and(|b| matches!(kind(*b), Kind::Word | Kind::Dollar))
                {
                    return false;
                }
                rest = tail.get(end..).unwrap_or_default();
            }
            Kind::Hard => return false,
        }
        after_word = false;
    }
    out.extend_from_slice(run);
    true
}

/// After `123`, `1.5`, `1e10`; `None` for everything less plain.
fn number(text: &[u8]) -> Option<&[u8]> {
    let digits = |t: &[u8]| t.iter().position(|b| !b.is_ascii_digit()).unwrap_or(t.len());
    let mut rest = text.get(digits(text)..)?;
    if rest.first() == Some(&b'.') {
        let fraction = rest.get(1..)?;
        let n = digits(fraction);
        if n == 0 {
            return None;
        }
        rest = fraction.get(n..)?;
    }
    let clean = !rest.first().is_some_and(|b| matches!(kind(*b), Kind::Word | Kind::Dot | Kind::Dollar));
    clean.then_some(rest)
}

/// After the closing quote; doubled quotes belong to the string.
fn string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        let end = memchr(b'\'', rest)?;
        // Another byte order or encoding of the same string could hide a quote from us.
        if !rest.get(..end)?.is_ascii() {
            return None;
        }
        rest = rest.get(end + 1..)?;
        match rest.first() {
            Some(b'\'') => rest = rest.get(1..)?,
            _ => return Some(rest),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Digit,
    Plain,
    Quote,
    Name,
    Twin,
    Dot,
    Dollar,
    Hard,
}

#[expect(clippy::indexing_slicing, reason = "a byte cannot lie outside of 256 entries")]
fn kind(byte: u8) -> Kind {
    KIND[usize::from(byte)]
}

const KIND: [Kind; 256] = {
    let mut kinds = [Kind::Hard; 256];
    let mut b = 0u8;
    while b < 128 {
        #[expect(
            clippy::indexing_slicing,
            reason = "a const evaluation that would not compile out of bounds"
        )]
        {
            kinds[b as usize] = match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => Kind::Word,
                b'0'..=b'9' => Kind::Digit,
                b'\'' => Kind::Quote,
                b'"' => Kind::Name,
                b'-' | b'/' => Kind::Twin,
                b'.' => Kind::Dot,
                b'$' => Kind::Dollar,
                b' ' | b'\t' | b'\n' | b'\r' => Kind::Plain,
                0..=31 | 127 | b'\\' | b'`' => Kind::Hard,
                _ => Kind::Plain,
            };
        }
        b += 1;
    }
    kinds
};

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<String> {
        let mut out = Vec::new();
        shape(sql.as_bytes(), &mut out)
            .then(|| String::from_utf8(out).expect("UTF-8").replace('\u{1}', "#").replace('\u{2}', "?"))
    }

    #[test]
    fn literals_become_marks() {
        for (sql, want) in [
            ("select a1 from t where b = 12 and c='x''y'", "select a1 from t where b = # and c=?"),
            ("select 1.5, 2, -3, (4)", "select #, #, -#, (#)"),
            ("select $1::int, \"Odd '5' name\"", "select $1::int, \"Odd '5' name\""),
            ("select a.b, t2.c3", "select a.b, t2.c3"),
            ("values (1,'a'),(2,'b')", "values (#,?),(#,?)"),
        ] {
            assert_eq!(of(sql).as_deref(), Some(want));
        }
    }

    #[test]
    fn the_tables_of_each_statement_are_named() {
        let text = "begin; with x as (select 1) insert into a.t select * from u, x, u v";
        assert_eq!(tables(text.as_bytes()), [vec![], vec!["a.t".to_owned(), "u".to_owned()]]);
        assert_eq!(tables(b"selec 1"), Vec::<Vec<String>>::new());
    }

    #[test]
    fn what_is_hard_has_no_shape() {
        for sql in [
            "select E'a\\'b'",
            "select U&'a'",
            "select x'1f'",
            "select $$a$$",
            "select $a$b$a$",
            "select 1 -- c",
            "select 1 /* c */",
            "select 'ä'",
            "select ä",
            "select 1e5",
            "select 1_000",
            "select 0x1f",
            "select .5",
            "select 1.",
            "select 1..2",
            "select 1a",
            "select 'open",
            "select \"open",
            "select a$1",
            "select $1a",
            "select 'a'1",
            "select 1'a'",
            "select \u{1}",
            "select \"\u{1}\"",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
