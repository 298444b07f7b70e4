//! The normal form of a statement: its tokens, written one way, with `?` for every literal and `$n` for every parameter. What an
//! allow-list is made of.
//!
//! Not a judgement, and not a parser: it knows PostgreSQL's tokens (scan.l, with `standard_conforming_strings = on`), and returns
//! `None` for what servers of different versions, or we, could cut otherwise. Invariant: two statements of one normal form have the same
//! tokens up to the values of literals, the numbers of parameters, and how often an element of a list behind IN, or a row of VALUES,
//! repeats.

use std::collections::HashSet;
use std::ops::Range;

use memchr::memchr;

use crate::sql::BULK_BYTES_MAX;

/// Open brackets.
const DEPTH_MAX: usize = 1_000;
/// PostgreSQL refuses operators of 64 bytes.
const OPERATOR_BYTES_MAX: usize = 64;

/// The normal form of a text as a client sends it; several statements are joined by `; `. `None`: it cannot be read.
///
/// ```
/// use policy::shape::normal;
/// let shape = normal(b"SELECT id FROM Orders -- mine\n WHERE item='pen' AND id IN (1, 2, 3);");
/// assert_eq!(shape.as_deref(), Some("select id from orders where item = ? and id in (?)"));
/// ```
pub fn normal(text: &[u8]) -> Option<String> {
    statements(text).map(|all| all.join("; "))
}

/// The normal form of each statement of a text.
pub fn statements(text: &[u8]) -> Option<Vec<String>> {
    Writer::read(text, Question::Operator)
}

/// The normal form of a statement as a rule lists it: there a `?` stands for a literal. What [`normal`] returns stays as it is.
pub(crate) fn listed(text: &str) -> Option<String> {
    let all = Writer::read(text.as_bytes(), Question::Literal)?;
    let [one] = all.as_slice() else { return None };
    Some(one.clone())
}

/// What a `?` by itself is: in a client's text the operator of jsonb, in a list a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Operator,
    Literal,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t [u8]),
    /// `"…"`, quotes and all.
    Name(&'t [u8]),
    Literal,
    /// `$1`.
    Parameter,
    Operator(&'t [u8]),
    /// `,`, `.`, `::`, `:`, `:=`, `[`, `]`, `(`, `)`, `;`
    Sign(&'t str),
}

use Token::{Literal, Name, Operator, Parameter, Sign, Word};

/// Takes a text apart. `None` ends it: unreadable.
struct Lexer<'t> {
    rest: &'t [u8],
    question: Question,
}

impl<'t> Lexer<'t> {
    /// The next token; `Some(None)` at the end.
    fn token(&mut self) -> Option<Option<Token<'t>>> {
        loop {
            let Some((&byte, tail)) = self.rest.split_first() else { return Some(None) };
            let token = match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                    self.rest = tail;
                    continue;
                }
                b'-' if tail.first() == Some(&b'-') => {
                    self.rest = after_line(tail);
                    continue;
                }
                b'/' if tail.first() == Some(&b'*') => {
                    self.rest = after_comment(tail.get(1..)?)?;
                    continue;
                }
                b'\'' => {
                    self.rest = after_string(tail, false)?;
                    Literal
                }
                b'"' => Name(self.name(tail)?),
                b'$' => self.dollar(tail)?,
                b'0'..=b'9' => self.number()?,
                b'.' if tail.first().is_some_and(u8::is_ascii_digit) => self.number()?,
                // `1..2` is read in several ways, and means nothing in SQL.
                b'.' if tail.first() == Some(&b'.') => return None,
                b'.' => self.sign(1, "."),
                b':' if tail.first() == Some(&b':') => self.sign(2, "::"),
                b':' if tail.first() == Some(&b'=') => self.sign(2, ":="),
                b':' => self.sign(1, ":"),
                b',' => self.sign(1, ","),
                b'(' => self.sign(1, "("),
                b')' => self.sign(1, ")"),
                b'[' => self.sign(1, "["),
                b']' => self.sign(1, "]"),
                b';' => self.sign(1, ";"),
                b if operates(b) => self.operator()?,
                b if begins_word(b) => self.word()?,
                _ => return None,
            };
            return Some(Some(token));
        }
    }

    fn sign(&mut self, bytes: usize, text: &'static str) -> Token<'t> {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
        Sign(text)
    }

    /// Takes `bytes` of the text.
    fn take(&mut self, bytes: usize) -> Option<&'t [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<Token<'t>> {
        let end = self.rest.iter().position(|b| !continues_word(*b)).unwrap_or(self.rest.len());
        let word = self.take(end)?;
        // E'…', B'…', X'…', N'…', U&'…': a letter and a quote, and nothing between them.
        match (word, self.rest) {
            ([b'e' | b'E'], [b'\'', rest @ ..]) => self.rest = after_string(rest, true)?,
            ([b'b' | b'B' | b'x' | b'X' | b'n' | b'N'], [b'\'', rest @ ..]) => {
                self.rest = after_string(rest, false)?;
            }
            ([b'u' | b'U'], [b'&', b'\'', rest @ ..]) => self.rest = after_string(rest, false)?,
            // What this names may depend on the literal behind UESCAPE.
            ([b'u' | b'U'], [b'&', b'"', ..]) => return None,
            _ => return Some(Word(word)),
        }
        Some(Literal)
    }

    fn name(&mut self, mut tail: &'t [u8]) -> Option<&'t [u8]> {
        loop {
            let end = memchr(b'"', tail)?;
            tail = tail.get(end + 1..)?;
            match tail.first() {
                Some(b'"') => tail = tail.get(1..)?,
                _ => return self.take(self.rest.len() - tail.len()),
            }
        }
    }

    /// `$1`, `$$…$$`, `$tag$…$tag$`.
    fn dollar(&mut self, tail: &'t [u8]) -> Option<Token<'t>> {
        let digits = digits(tail);
        if digits > 0 {
            self.take(digits + 1)?;
            return ends_number(self.rest).then_some(Parameter);
        }
        let end = tail.iter().position(|b| !continues_word(*b) || *b == b'$').unwrap_or(tail.len());
        if tail.get(end) != Some(&b'$') {
            // As a list says it; no server reads it.
            let listed = self.question == Question::Literal && tail.get(..end) == Some(b"n");
            return listed.then(|| self.take(2)).flatten().map(|_| Parameter);
        }
        let tag = self.take(end + 2)?;
        let at = memchr::memmem::find(self.rest, tag)?;
        self.take(at + tag.len())?;
        Some(Literal)
    }

    /// What every server reads alike: `1`, `1.5`, `.5`, `1.`, with an exponent. Not `0x1f`, `1_000`, `1a`: a number and an alias before 16.
    fn number(&mut self) -> Option<Token<'t>> {
        self.take(digits(self.rest))?;
        if self.rest.first() == Some(&b'.') {
            self.take(1)?;
            self.take(digits(self.rest))?;
        }
        if let [b'e' | b'E', rest @ ..] = self.rest {
            let exponent = rest.strip_prefix(b"+").or_else(|| rest.strip_prefix(b"-")).unwrap_or(rest);
            let digits = digits(exponent);
            if digits == 0 {
                return None;
            }
            self.take(1 + rest.len() - exponent.len() + digits)?;
        }
        (ends_number(self.rest) && self.rest.first() != Some(&b'.')).then_some(Literal)
    }

    /// As scan.l cuts them: not into a comment, and without a sign at the end unless it holds a character that SQL's own have not.
    fn operator(&mut self) -> Option<Token<'t>> {
        let run = self.rest.get(..self.rest.len().min(OPERATOR_BYTES_MAX + 2))?;
        let mut end = run.iter().position(|b| !operates(*b)).unwrap_or(run.len());
        if let Some(comment) = run.get(..end)?.windows(2).position(|two| matches!(two, b"--" | b"/*")) {
            end = comment;
        }
        if end >= OPERATOR_BYTES_MAX {
            return None;
        }
        let foreign = run.get(..end)?.iter().any(|b| b"~!@#^&|`?%".contains(b));
        while !foreign && end > 1 && matches!(run.get(end - 1), Some(b'+' | b'-')) {
            end -= 1;
        }
        Some(Operator(self.take(end)?))
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len())
}

fn ends_number(rest: &[u8]) -> bool {
    !rest.first().is_some_and(|b| continues_word(*b))
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// `op_chars` of scan.l.
fn operates(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

/// At the end of the line; the line break is left.
fn after_line(text: &[u8]) -> &[u8] {
    memchr::memchr2(b'\n', b'\r', text).and_then(|end| text.get(end..)).unwrap_or_default()
}

/// After the end of a comment whose beginning was read; comments nest.
fn after_comment(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    let mut depth = 1usize;
    while depth > 0 {
        let at = memchr::memchr2(b'*', b'/', rest)?;
        rest = match rest.get(at..)? {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            other => other.get(1..)?,
        };
    }
    Some(rest)
}

/// After a string whose quote was read: all of its parts, on however many lines (scan.l, `quotecontinue`).
fn after_string(text: &[u8], escapes: bool) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        let at = if escapes { memchr::memchr2(b'\'', b'\\', rest)? } else { memchr(b'\'', rest)? };
        let found = rest.get(at);
        rest = rest.get(at + 1..)?;
        match (found, rest.first()) {
            (Some(b'\\'), _) => rest = rest.get(1..)?,
            (_, Some(b'\'')) => rest = rest.get(1..)?,
            _ => match next_part(rest) {
                Some(part) => rest = part,
                None => return Some(rest),
            },
        }
    }
}

/// Behind the quote that goes on with a string: after space with a line break in it, and comments to the end of a line.
fn next_part(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    let mut broken = false;
    loop {
        match rest {
            [b'\n' | b'\r', tail @ ..] => {
                broken = true;
                rest = tail;
            }
            [b' ' | b'\t' | 0x0c, tail @ ..] => rest = tail,
            [b'-', b'-', tail @ ..] => rest = after_line(tail),
            [b'\'', tail @ ..] if broken => return Some(tail),
            _ => return None,
        }
    }
}

/// An open bracket.
#[derive(Default)]
struct Level {
    /// It is the list of an IN.
    list: Option<List>,
    /// So far the list holds only literals, signs and commas.
    plain: bool,
    /// It is a row of VALUES.
    row: bool,
    /// It holds the rows of a VALUES, and nothing came after them yet.
    rows: Option<Rows>,
}

struct List {
    /// Where what it holds begins in the text, the comma before the current element, and that element.
    begin: usize,
    comma: usize,
    element: usize,
    seen: HashSet<String>,
    /// The element that was written last: most are like the one before.
    last: Range<usize>,
}

struct Rows {
    seen: HashSet<String>,
    /// The row that was written last: most are like the one before.
    last: Range<usize>,
    /// Where the comma before this row is, and the row.
    comma: usize,
    begin: usize,
}

impl List {
    fn at(begin: usize) -> List {
        List { begin, comma: begin, element: begin, seen: HashSet::new(), last: begin..begin }
    }

    /// Takes the current element back when it was there before.
    fn element_ends(&mut self, out: &mut String) -> Option<()> {
        let element = out.get(self.element..)?;
        let start = out.len() - element.trim_start().len();
        let element = out.get(start..)?;
        if *element == *out.get(self.last.clone())? || !self.seen.insert(element.to_owned()) {
            out.truncate(self.comma);
        } else {
            self.last = start..out.len();
        }
        Some(())
    }
}

/// What a query in brackets begins with.
const QUERIES: &[&str] = &["select", "values", "with", "table"];

/// Writes tokens down.
struct Writer<'t> {
    question: Question,
    out: String,
    done: Vec<String>,
    before: Option<Token<'t>>,
    /// The word before is a keyword wherever it may be one: no `.` stands before it.
    free: bool,
    levels: Vec<Level>,
}

impl<'t> Writer<'t> {
    fn read(text: &'t [u8], question: Question) -> Option<Vec<String>> {
        if text.len() > BULK_BYTES_MAX || memchr(0, text).is_some() {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let mut lexer = Lexer { rest: text.as_bytes(), question };
        let mut writer = Writer {
            question,
            out: String::new(),
            done: Vec::new(),
            before: None,
            free: true,
            levels: vec![Level::default()],
        };
        while let Some(token) = lexer.token()? {
            writer.token(token)?;
        }
        if writer.levels.len() != 1 {
            return None;
        }
        writer.end();
        Some(writer.done)
    }

    fn end(&mut self) {
        if !self.out.is_empty() {
            self.done.push(std::mem::take(&mut self.out));
        }
        self.before = None;
        self.free = true;
        self.levels.truncate(1);
        if let Some(level) = self.levels.first_mut() {
            *level = Level::default();
        }
    }

    fn is_keyword(&self, keyword: &[u8]) -> bool {
        self.free && matches!(self.before, Some(Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    fn token(&mut self, token: Token<'t>) -> Option<()> {
        let token = match token {
            Operator(b"?") if self.question == Question::Literal => Literal,
            token => token,
        };
        if token == Sign(";") && self.levels.len() == 1 {
            self.end();
            return Some(());
        }
        // A literal that nothing stands before: `operator(pg_catalog.?)` keeps its operator.
        if token == Operator(b"?") && self.before != Some(Sign(".")) {
            for part in [Word(b"operator"), Sign("("), Word(b"pg_catalog"), Sign("."), token, Sign(")")] {
                self.token(part)?;
            }
            return Some(());
        }
        let opens_list = token == Sign("(") && self.is_keyword(b"in");
        let opens_row = self.opens_row(token);
        let closes = matches!(token, Sign(")" | "]"));
        if let Some(level) = self.levels.last_mut() {
            level.plain &= closes || matches!(token, Literal | Sign(",") | Operator(b"+" | b"-"));
            // `IN (SELECT …)` is no list.
            let query = |w: &[u8]| QUERIES.iter().any(|q| w.eq_ignore_ascii_case(q.as_bytes()));
            if matches!(token, Word(word) if query(word)) {
                level.list.take_if(|list| list.begin == self.out.len());
            }
            if let (Some(list), true) = (&mut level.list, closes || token == Sign(",")) {
                list.element_ends(&mut self.out)?;
            }
        }
        let (free, begin) = (self.before != Some(Sign(".")), self.write(token)?);
        (self.before, self.free) = (Some(token), free);
        match token {
            Sign("(" | "[") => {
                if self.levels.len() > DEPTH_MAX {
                    return None;
                }
                if opens_row && let Some(Level { rows: Some(rows), .. }) = self.levels.last_mut() {
                    rows.begin = begin;
                }
                let list = opens_list.then(|| List::at(self.out.len()));
                self.levels.push(Level { list, plain: true, row: opens_row, rows: None });
            }
            Sign(")" | "]") => self.close()?,
            Sign(",") => {
                if let Some(Level { rows: Some(rows), .. }) = self.levels.last_mut() {
                    rows.comma = begin;
                }
                if let Some(Level { list: Some(list), .. }) = self.levels.last_mut() {
                    (list.comma, list.element) = (begin, self.out.len());
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Whether `token` opens a row of VALUES. Between rows there is a comma; anything else ends them.
    fn opens_row(&mut self, token: Token<'t>) -> bool {
        let (first, before, at) = (self.is_keyword(b"values"), self.before, self.out.len());
        let Some(level) = self.levels.last_mut() else { return false };
        match token {
            Sign("(") if first => {
                level.rows = Some(Rows { seen: HashSet::new(), last: at..at, comma: at, begin: at })
            }
            Sign("(") if before == Some(Sign(",")) => {}
            Sign(",") if before == Some(Sign(")")) => return false,
            _ => level.rows = None,
        }
        level.rows.is_some()
    }

    fn close(&mut self) -> Option<()> {
        let level = self.levels.pop().filter(|_| !self.levels.is_empty())?;
        if let Some(list) = &level.list
            && level.plain
            && self.out.get(list.begin..)? != ")"
        {
            self.out.truncate(list.begin);
            self.out.push_str("?)");
        }
        if level.row
            && let Some(Level { rows: Some(rows), .. }) = self.levels.last_mut()
        {
            let row = self.out.get(rows.begin..)?;
            if *row == *self.out.get(rows.last.clone())? || !rows.seen.insert(row.to_owned()) {
                self.out.truncate(rows.comma);
            } else {
                rows.last = rows.begin..self.out.len();
            }
        }
        Some(())
    }

    /// Appends a token, with the space that belongs before it; where it begins.
    fn write(&mut self, token: Token<'t>) -> Option<usize> {
        if self.spaced(token) {
            self.out.push(' ');
        }
        let begin = self.out.len();
        match token {
            Word(word) => {
                // As the server folds them: only ASCII, in UTF-8.
                self.out.push_str(std::str::from_utf8(word).ok()?);
                self.out.get_mut(begin..)?.make_ascii_lowercase();
            }
            Name(text) | Operator(text) => self.out.push_str(std::str::from_utf8(text).ok()?),
            Literal => self.out.push('?'),
            Parameter => self.out.push_str("$n"),
            Sign(sign) => self.out.push_str(sign),
        }
        Some(begin)
    }

    /// By the two tokens only, so that the form says which tokens there are. Two that would be one without a space always get it.
    fn spaced(&self, token: Token<'_>) -> bool {
        let Some(before) = self.before else { return false };
        match (before, token) {
            (Sign("(" | "[" | "." | "::"), _) | (_, Sign("," | ")" | "]" | "." | "::" | ";")) => false,
            (Word(_) | Name(_), Sign("[")) | (Sign(")" | "]"), Sign("[")) => false,
            (Word(word), Sign("(")) => {
                self.free && SPACED.iter().any(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes()))
            }
            (Name(_), Sign("(")) => false,
            _ => true,
        }
    }
}

/// Words that are no function's name before a bracket.
const SPACED: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "between",
    "by",
    "case",
    "conflict",
    "distinct",
    "else",
    "except",
    "exists",
    "filter",
    "from",
    "having",
    "ilike",
    "in",
    "intersect",
    "is",
    "join",
    "key",
    "like",
    "limit",
    "materialized",
    "not",
    "offset",
    "on",
    "or",
    "over",
    "references",
    "returning",
    "select",
    "set",
    "some",
    "then",
    "union",
    "unique",
    "using",
    "values",
    "when",
    "where",
    "with",
    "within",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<String> {
        let form = normal(sql.as_bytes());
        if let Some(form) = &form
            && statements(sql.as_bytes()).is_some_and(|all| all.len() == 1)
        {
            assert_eq!(listed(form).as_ref(), Some(form), "a form in a list stays as it is: {sql}");
        }
        form
    }

    fn same(forms: &[&str]) {
        for form in forms {
            assert_eq!(of(form), of(forms[0]), "{form}");
            assert!(of(form).is_some(), "{form}");
        }
    }

    #[test]
    fn literals_of_every_form_become_marks() {
        same(&[
            "select 'a' from t",
            "select 'a''b' from t",
            "select '' from t",
            "SELECT E'a\\'b''c\\\\' FROM t",
            "select b'01' from t",
            "select X'1f' from t",
            "select n'a' from t",
            "select U&'\\0061' from t",
            "select $$a'$$ from t",
            "select $x$ a $$ b $x$ from t",
            "select 1 from t",
            "select 1.5 from t",
            "select .5 from t",
            "select 1. from t",
            "select 1e-10 from t",
            "select 1.5E+3 from t",
            "select 'a'\n'b' from t",
            "select 'a' -- x\n  \t'b'\r\n'c' from t",
            "select E'a'\n'b\\'' from t",
            "select\n/* a /* nested */ 'x' */ 1 --'\nfrom T;",
            ";; select 7 from \tt ; ;",
        ]);
        assert_eq!(of("select 1 from t").as_deref(), Some("select ? from t"));
    }

    #[test]
    fn tokens_are_written_one_way() {
        for (sql, want) in [
            (
                "SELECT a.B, count( * ) FROM \"T \"\"x\" AS t WHERE a.b=$1::INT",
                "select a.b, count(*) from \"T \"\"x\" as t where a.b = $n::int",
            ),
            ("select x [ 1 : 2 ] , - 3 , 4-5", "select x[? : ?], - ?, ? - ?"),
            ("select a=-1, a@-1, b->>'k', c#>>'{a}'", "select a = - ?, a @- ?, b ->> ?, c #>> ?"),
            ("select tags ? 'a', tags ?| $1", "select tags operator(pg_catalog.?) ?, tags ?| $n"),
            (
                "select f(x), x in (select 1), coalesce (null,true)",
                "select f(x), x in (select ?), coalesce(null, true)",
            ),
            ("begin; SELECT 1; commit;", "begin; select ?; commit"),
            ("", ""),
            (" -- nothing", ""),
            ("select 'a' 'b'", "select ? ?"),
            (
                "create rule r as on insert to t do (select 1; select 2)",
                "create rule r as on insert to t do(select ?; select ?)",
            ),
            ("select ÄB, 'ä' from Tä", "select Äb, ? from tä"),
        ] {
            assert_eq!(of(sql).as_deref(), Some(want), "{sql}");
        }
    }

    #[test]
    fn lists_of_any_length_are_one_shape() {
        same(&["select 2 where a IN(1)", "select 3 where a in ( 'a' , -2, $$c$$ )"]);
        same(&["insert into t (a, b) values (1, 'x')", "INSERT INTO t(a,b) VALUES (2,'y'),(3,'z'),\n(4,'')"]);
        for (sql, want) in [
            (
                "insert into t values (1, now()), (2, null), (3, now()), (4, null) returning a, (1)",
                "insert into t values (?, now()), (?, null) returning a, (?)",
            ),
            ("values (1) union select a, (1), (1)", "values (?) union select a, (?), (?)"),
            (
                "select * from (values (1), (2)) x, (values (3)) y",
                "select * from (values (?)) x, (values (?)) y",
            ),
            (
                "select a in (1, b, 2, b), s.in (1, 2), \"in\" (1, 2), a in ($1, $2) and b = $3",
                "select a in (?, b), s.in(?, ?), \"in\"(?, ?), a in ($n) and b = $n",
            ),
            ("select (a, b) in ((1, 2), (3, 4))", "select (a, b) in ((?, ?))"),
            ("select a in ($1::int, $2::int, $3::text)", "select a in ($n::int, $n::text)"),
            ("select a in (f(1, 1), f(2, 3), (4), (5))", "select a in (f(?, ?), (?))"),
            (
                "select (a, b) in (select b, b, b from t where c in ($1, $2))",
                "select (a, b) in (select b, b, b from t where c in ($n))",
            ),
            ("select a in ((select b, b from t))", "select a in ((select b, b from t))"),
            ("insert into t values ($1, $2), ($3, $4)", "insert into t values ($n, $n)"),
            (
                "insert into t values ((values (1), (2)), 3), ((values (1)), 4)",
                "insert into t values ((values (?)), ?)",
            ),
        ] {
            assert_eq!(of(sql).as_deref(), Some(want), "{sql}");
        }
    }

    #[test]
    fn what_is_not_a_value_makes_another_shape() {
        for (a, b) in [
            ("select a from t", "select b from t"),
            ("select a from t", "select \"A\" from t"),
            ("select a from t where b = 1", "select a from t where b = $1"),
            ("select 'a'from t", "select a from t"),
            ("select 'a' from t -- '", "select 'a' from t -- x\n, u"),
            ("select - 1", "select 1"),
            ("select true", "select false"),
            ("select a from t where b = 'x'", "select a from t where b = 'x' or true --'"),
            ("select a ? b from t", "select a 1 b from t"),
            ("select a<b", "select a< =b"),
        ] {
            assert!(of(a).is_some() && of(b).is_some(), "{a} | {b}");
            assert_ne!(of(a), of(b));
        }
    }

    #[test]
    fn what_can_be_cut_otherwise_has_no_form() {
        for sql in [
            "select 'open",
            "select \"open",
            "select E'a\\'",
            "select $$open",
            "select $x$ $y$",
            "select /* open",
            "select 1a",
            "select 0x1f",
            "select 1_000",
            "select 1e",
            "select 1..2",
            "select $1a",
            "select $",
            "select U&\"a\" uescape '!'",
            "select \0",
            "select \u{b}1",
            "select {fn x}",
            "select (1",
            "select 1)",
            "select a \\ b",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
        assert_eq!(normal(b"select '\xff'"), None);
        assert_eq!(of(&format!("select {}", "(".repeat(100_000))), None);
        assert_eq!(of(&format!("select 1 {} 2", "*".repeat(64))), None);
        assert_eq!(listed("select 1; select 2"), None);
        assert_eq!(listed(""), None);
    }

    #[test]
    fn what_shares_a_cached_decision_has_one_form() {
        // Decisions are cached by the other kind of shape: it must never join texts of two forms.
        let parts = [
            "select ", "a", "1", "'x'", "'y'", "22", " ", ",", "(", ")", " in ", "values", "\"q\"", "$1",
            ".", "\n", "-", "=", "?", ";",
        ];
        let mut forms: std::collections::HashMap<Vec<u8>, (String, Option<String>)> = Default::default();
        let mut seed = 42u64;
        let mut met = 0;
        for _ in 0..200_000 {
            let mut text = String::new();
            for _ in 0..5 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text += parts[(seed >> 33) as usize % parts.len()];
                text.push(' ');
            }
            let mut key = Vec::new();
            if !crate::shape::shape(text.as_bytes(), &mut key) {
                continue;
            }
            let form = normal(text.as_bytes());
            let (first, known) = forms.entry(key).or_insert_with(|| (text.clone(), form.clone()));
            met += usize::from(*first != text);
            assert_eq!(*known, form, "{first:?} and {text:?}");
        }
        assert!(met > 1_000, "{met}");
    }

    /// The same text, its constants replaced by PostgreSQL's own lexer and grammar: where a literal ends we and the server agree.
    #[test]
    fn literals_end_where_the_servers_lexer_says() {
        let pick = |seed: &mut u64, from: &[&'static str]| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            from[(*seed >> 33) as usize % from.len()]
        };
        let values = [
            "'a'",
            "'a''b'",
            "''",
            r"'\'",
            r"E'\''",
            r"e'a''b\\'",
            "$$a'$$",
            "$x$'$$$x$",
            "1",
            "1.5",
            ".5",
            "2.",
            "1e5",
            "b'01'",
            "x'1f'",
            r"u&'\0061'''",
            "\"a\"\"b'\"",
            "a",
            "e",
            "t.b",
            "$1",
            "ä",
            "a$b$",
            "-1",
            "e.x",
        ];
        let spaces = [" ", "", "\n", "--'\n", "/*'*/", "/*/*'*/'*/", "\n--x'\r", "\t", " \n '", "\n"];
        // No minus before space: their measure of a negative constant is off there.
        let operators =
            [",", "||", "+", "@-", "=", "<>+", "*", "/", "", "<", "::text", "::text||", "as", "%-+"];
        let (mut seed, mut read) = (7u64, 0);
        // What they make of a literal is a parameter, and a minus before a number is theirs to take.
        let marks = |form: Option<String>| {
            let form = form?.replace("$n", "?");
            // Behind a word it belongs to the word: `as$1`.
            let mut form = (1..12).rev().fold(form, |form, n| form.replace(&format!("${n}"), "?"));
            // They put a parameter where no space was needed around the literal.
            form.retain(|c| c != ' ');
            while form.contains("-?") {
                form = form.replace("-?", "?");
            }
            Some(form)
        };
        for _ in 0..100_000 {
            let mut text = "select ".to_owned();
            for _ in 0..3 {
                for from in [&values[..], &spaces, &operators, &spaces] {
                    text += pick(&mut seed, from);
                }
            }
            text += pick(&mut seed, &values);
            let Ok(theirs) = pg_raw_parse::normalize::normalize(&text) else { continue };
            // `$1as`, for the same reason.
            let (ours, Some(theirs)) = (marks(normal(text.as_bytes())), marks(normal(theirs.as_bytes())))
            else {
                continue;
            };
            read += 1;
            assert_eq!(ours, Some(theirs), "{text:?}");
        }
        assert!(read > 5_000, "{read}");
    }

    #[test]
    fn long_texts_cost_little() {
        for part in [
            "(",
            "(1),",
            "in (1,",
            "in ($1, a,",
            "+-",
            "/**/",
            "-- \n",
            "'a'\n",
            "$a$ ",
            "$a$b$a$",
            "values (1,2),(3,4) ",
            "values (a",
            "?",
            "a.",
        ] {
            let began = std::time::Instant::now();
            let _ = normal(part.repeat((1 << 20) / part.len()).as_bytes());
            assert!(began.elapsed().as_secs() < 5, "{part}");
        }
    }
}
