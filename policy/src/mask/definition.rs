//! Texts that define things (defaults, checks, views, bodies of functions, comments, labels): what in them could be somebody's value is
//! replaced, so that what they say of the structure stays readable.
//!
//! Not a parser of SQL: tokens are told apart as PostgreSQL's lexer does, no more. Invariants: one pass over the text, nothing is kept
//! but what this page lists; a text that ends inside a quote, or holds what no definition does, gives `None`, and the caller masks it
//! whole. An identifier is structure, and stays. Source: scan.l of PostgreSQL 18 with `standard_conforming_strings = on`.

use super::{REDACTED, is_text};
use crate::facts::Format;

/// What kind of text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// SQL as the server prints it, or the source of a function: its constants are replaced.
    Sql,
    /// Words for people, or a label: it stays when it is nothing but words, else all of it is replaced.
    Words,
    /// What EXPLAIN answers: as SQL, with its own counts and times.
    Plan,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Text,
    /// An enum: only one of its own labels is valid.
    Label,
    /// An array of texts, as text.
    Array,
    /// A plan in JSON.
    Json,
}

impl Holder {
    /// `None`: such a text is not written in this type, or not in a way that is followed.
    pub(super) fn of(type_oid: u32, format: Format) -> Option<Holder> {
        const ENUMS_FROM: u32 = 16_384;
        match type_oid {
            super::CHAR => None,
            _ if is_text(type_oid) => Some(Holder::Text),
            // name[], text[], varchar[]
            1003 | 1009 | 1015 => (format == Format::Text).then_some(Holder::Array),
            super::JSON => Some(Holder::Json),
            ENUMS_FROM.. => Some(Holder::Label),
            _ => None,
        }
    }
}

/// What becomes of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scrubbed {
    Kept,
    Written,
    Whole,
}

/// Appends what stands for `value`; nothing, when it stays or is to be masked whole.
pub(super) fn scrub(text: Text, holder: Holder, value: &[u8], out: &mut Vec<u8>) -> Scrubbed {
    let before = out.len();
    let changed = match holder {
        Holder::Text => one(text, value, out),
        Holder::Label => words(value).then_some(false),
        Holder::Array => array(text, value, out),
        Holder::Json => (text == Text::Plan).then(|| json(value, out)).flatten(),
    };
    match changed {
        Some(true) => return Scrubbed::Written,
        Some(false) => out.truncate(before),
        None => out.truncate(before),
    }
    if changed.is_some() { Scrubbed::Kept } else { Scrubbed::Whole }
}

/// Whether anything was replaced; `None`: it is not understood.
fn one(text: Text, value: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    match text {
        Text::Sql | Text::Plan => {
            Lexer { text: value, at: 0, out, changed: false, plan: text == Text::Plan }.run()
        }
        Text::Words if words(value) => Some(false),
        Text::Words => {
            out.extend_from_slice(REDACTED);
            Some(true)
        }
    }
}

/// `{a,"b c",NULL}` (array_out): each element by itself.
fn array(text: Text, value: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let (b'{', rest) = value.split_first()? else { return None };
    let (mut at, mut changed) = (0, false);
    let (mut element, mut scratch) = (Vec::new(), Vec::new());
    out.push(b'{');
    if rest == b"}" {
        return Some(false);
    }
    loop {
        element.clear();
        let quoted = rest.get(at) == Some(&b'"');
        at += usize::from(quoted);
        loop {
            match (*rest.get(at)?, quoted) {
                (b'\\', _) => {
                    element.push(*rest.get(at + 1)?);
                    at += 2;
                }
                (b'"', true) => {
                    at += 1;
                    break;
                }
                (b',' | b'}', false) => break,
                // An array in an array is not followed.
                (b'{' | b'"', false) => return None,
                (byte, _) => {
                    element.push(byte);
                    at += 1;
                }
            }
        }
        if !quoted && element.eq_ignore_ascii_case(b"null") {
            out.extend_from_slice(b"NULL");
        } else {
            scratch.clear();
            let new = one(text, &element, &mut scratch)?;
            changed |= new;
            let shown = if new { &scratch } else { &element };
            out.push(b'"');
            for byte in shown {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
            out.push(b'"');
        }
        match rest.get(at)? {
            b',' => out.push(b','),
            b'}' if at + 1 == rest.len() => break,
            _ => return None,
        }
        at += 1;
    }
    out.push(b'}');
    Some(changed)
}

/// The strings of a plan in JSON, each by itself; its numbers are counts and times.
fn json(value: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let (mut at, mut changed, mut scratch) = (0, false, Vec::new());
    while let Some(open) = memchr::memchr(b'"', value.get(at..)?) {
        out.extend_from_slice(value.get(at..=at + open)?);
        at += open + 1;
        let mut end = at;
        loop {
            match *value.get(end)? {
                b'\\' => end += 2,
                b'"' => break,
                _ => end += 1,
            }
        }
        let content = value.get(at..end)?;
        scratch.clear();
        let kept = if memchr::memchr(b'\\', content).is_some() {
            None
        } else {
            one(Text::Plan, content, &mut scratch)
        };
        match kept {
            Some(false) => out.extend_from_slice(content),
            Some(true) => out.extend_from_slice(&scratch),
            None => out.extend_from_slice(REDACTED),
        }
        changed |= kept != Some(false);
        out.push(b'"');
        at = end + 1;
    }
    out.extend_from_slice(value.get(at..)?);
    Some(changed)
}

/// Digits of one number, or of a text for people altogether.
const DIGITS_MAX: usize = 4;
/// Bytes of a word for people.
const WORD_MAX: usize = 24;
/// Bytes of a quoted word: states, modes, languages.
const QUOTED_MAX: usize = 31;
/// No name is longer than NAMEDATALEN; a name in several parts is several.
const NAME_MAX: usize = 128;

/// Nothing but words, punctuation and up to four digits; no name of a person as it is usually written, and nothing with `@`.
fn words(text: &[u8]) -> bool {
    let (mut at, mut digits, mut name_before) = (0, 0, false);
    while let Some(byte) = text.get(at) {
        let run = |is: fn(&u8) -> bool| text.iter().skip(at).take_while(|b| is(b)).count();
        if letter(byte) {
            let length = run(letter);
            let word = text.get(at..at + length).unwrap_or_default();
            let name = word.len() > 1
                && word.first().is_some_and(u8::is_ascii_uppercase)
                && word.iter().skip(1).all(|b| !b.is_ascii_uppercase());
            // A letter of a script may take up to four bytes.
            let long = if word.is_ascii() { WORD_MAX } else { 2 * WORD_MAX };
            if length > long || (name && name_before) {
                return false;
            }
            at += length;
            if text.get(at).is_some_and(u8::is_ascii_digit) {
                return false;
            }
            name_before = name && text.get(at) == Some(&b' ');
            at += usize::from(name_before);
            continue;
        }
        name_before = false;
        if byte.is_ascii_digit() {
            let length = run(u8::is_ascii_digit);
            digits += length;
            at += length;
            if digits > DIGITS_MAX || text.get(at).is_some_and(letter) {
                return false;
            }
            continue;
        }
        if !b" \n\r\t,;:.!?(){}[]\"'_-/&+%*=#|<>~`".contains(byte) {
            return false;
        }
        at += 1;
    }
    true
}

fn letter(byte: &u8) -> bool {
    byte.is_ascii_alphabetic() || *byte >= 0x80
}

fn name_start(byte: u8) -> bool {
    letter(&byte) || byte == b'_'
}

fn name_byte(byte: u8) -> bool {
    name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    changed: bool,
    plan: bool,
}

impl Lexer<'_> {
    fn run(mut self) -> Option<bool> {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\'' => self.literal(0)?,
                b'"' => self.quoted_name()?,
                b'$' => self.dollar()?,
                b'-' if self.peek(1) == Some(b'-') => {
                    let end = memchr::memchr(b'\n', self.rest()).unwrap_or(self.rest().len());
                    self.replace(end, b"-- ***");
                }
                b'/' if self.peek(1) == Some(b'*') => self.comment()?,
                b'@' if self.address() => return None,
                0 => return None,
                _ if name_start(byte) => self.name()?,
                _ if byte.is_ascii_digit() => self.number(),
                _ => self.keep(1),
            }
        }
        Some(self.changed)
    }

    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn keep(&mut self, length: usize) {
        let kept = self.text.get(self.at..self.at + length).unwrap_or_default();
        self.out.extend_from_slice(kept);
        self.at += length;
    }

    fn replace(&mut self, length: usize, with: &[u8]) {
        self.out.extend_from_slice(with);
        self.at += length;
        self.changed = true;
    }

    /// `a@b`: no operator of a definition is written so.
    fn address(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|i| self.text.get(i));
        before.is_some_and(|b| name_byte(*b) || matches!(b, b'"' | b'\''))
            && self.peek(1).is_some_and(|b| name_byte(b) || matches!(b, b'"' | b'\''))
    }

    /// A string with `prefix` bytes before its quote: E, B, X, N or U&.
    fn literal(&mut self, prefix: usize) -> Option<()> {
        let escapes = prefix == 1 && self.peek(0).is_some_and(|b| b.eq_ignore_ascii_case(&b'e'));
        let mut end = prefix + 1;
        let body = loop {
            match self.peek(end)? {
                b'\\' if escapes => end += 2,
                b'\'' if self.peek(end + 1) == Some(b'\'') => end += 2,
                b'\'' => break prefix + 1..end,
                _ => end += 1,
            }
        };
        let content = self.rest().get(body).unwrap_or_default();
        let after = self.rest().get(end + 1..).unwrap_or_default();
        let before = self.text.get(..self.at).unwrap_or_default();
        let named = NAMES_BEHIND.iter().any(|call| before.ends_with(call))
            && content.split(|b| *b == b'.').all(name_part);
        let bound = self.text.starts_with(b"FOR VALUES FROM (") && on_the_hour(content);
        if named || bound || harmless(content, after) {
            self.keep(end + 1);
        } else {
            self.replace(end + 1, b"'***'");
        }
        Some(())
    }

    fn quoted_name(&mut self) -> Option<()> {
        let mut end = 1;
        loop {
            match self.peek(end)? {
                b'"' if self.peek(end + 1) == Some(b'"') => end += 2,
                b'"' => break,
                _ => end += 1,
            }
        }
        let content = self.rest().get(1..end).unwrap_or_default();
        // In other languages it is a string.
        let digits = content.iter().filter(|b| b.is_ascii_digit()).count();
        if content.first().is_some_and(|b| name_start(*b))
            && content.iter().all(|b| name_byte(*b))
            && digits <= DIGITS_MAX
            && content.len() <= NAME_MAX
        {
            self.keep(end + 1);
        } else {
            self.replace(end + 1, b"\"***\"");
        }
        Some(())
    }

    fn dollar(&mut self) -> Option<()> {
        let tag = self.rest().iter().skip(1).take_while(|b| name_byte(**b) && **b != b'$').count();
        if self.peek(1 + tag) != Some(b'$') || self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
            self.keep(1);
            return Some(());
        }
        let quote = self.rest().get(..tag + 2).unwrap_or_default();
        // What pg_get_functiondef puts around a body: looked into.
        let word = quote.get(1..=tag).unwrap_or_default();
        let word = word.get(..word.iter().rposition(|b| *b != b'x').map_or(0, |i| i + 1)).unwrap_or_default();
        if matches!(word, b"function" | b"procedure") {
            self.keep(tag + 2);
            return Some(());
        }
        let body = self.rest().get(tag + 2..).unwrap_or_default();
        let length = memchr::memmem::find(body, quote)?;
        let content = body.get(..length).unwrap_or_default();
        let whole = length + 2 * (tag + 2);
        if harmless(content, body.get(length + tag + 2..).unwrap_or_default()) {
            self.keep(whole);
        } else {
            self.replace(whole, b"'***'");
        }
        Some(())
    }

    fn comment(&mut self) -> Option<()> {
        let (mut end, mut depth) = (2, 1usize);
        while depth > 0 {
            match (self.peek(end)?, self.peek(end + 1)) {
                (b'/', Some(b'*')) => (end, depth) = (end + 2, depth + 1),
                (b'*', Some(b'/')) => (end, depth) = (end + 2, depth - 1),
                _ => end += 1,
            }
        }
        self.replace(end, b"/* *** */");
        Some(())
    }

    fn name(&mut self) -> Option<()> {
        let length = self.rest().iter().take_while(|b| name_byte(**b)).count();
        let word = self.rest().get(..length).unwrap_or_default();
        let next = self.peek(length);
        if next == Some(b'\'') && matches!(word, [b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N']) {
            return self.literal(1);
        }
        if matches!(word, b"u" | b"U") && next == Some(b'&') && self.peek(2) == Some(b'\'') {
            return self.literal(2);
        }
        if length > NAME_MAX {
            return None;
        }
        self.keep(length);
        Some(())
    }

    fn counts(&self) -> bool {
        let before = self.text.get(..self.at).unwrap_or_default();
        COUNTED.iter().any(|word| before.ends_with(word))
    }

    /// Digits, and what belongs to them in numbers, dates, times and the like: `12.50`, `123-45-6789`, `10:30`, `1e9`.
    fn number(&mut self) {
        let is_digit = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_digit());
        let mut end = 0;
        while let Some(byte) = self.peek(end) {
            let joins = matches!(byte, b'.' | b'-' | b':' | b'/') && is_digit(self.peek(end + 1));
            if !name_byte(byte) && !joins {
                break;
            }
            end += 1;
        }
        let number = self.rest().get(..end).unwrap_or_default();
        let counts = self.plan && self.counts();
        let counted = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let number = if counts { number.strip_suffix(b"kB").unwrap_or(number) } else { number };
        if counts && number.iter().all(counted) || short(number) {
            self.keep(end);
        } else {
            self.replace(end, b"0");
        }
    }
}

/// Before the numbers EXPLAIN counts itself, other than `rows=25000` and `0.29..12345.60`: what a condition compares stands in parentheses,
/// and an operator of SQL has spaces around it.
const COUNTED: &[&[u8]] = &[
    b"=",
    b"..",
    b" Filter: ",
    b" Recheck: ",
    b" Fetches: ",
    b" Time: ",
    b" Memory: ",
    b" Usage: ",
    b" Disk: ",
    b"Buckets: ",
    b" Batches: ",
    b"Workers Planned: ",
    b"Workers Launched: ",
    b"Planned Partitions: ",
];

/// A number of up to four digits, with up to three behind the point; a range of such.
fn short(number: &[u8]) -> bool {
    let digits = number.iter().filter(|b| b.is_ascii_digit()).count();
    if digits <= DIGITS_MAX {
        return number.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'/'));
    }
    let mut parts = number.split(|b| *b == b'.');
    let (Some(whole), Some(fraction), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    whole.len() <= DIGITS_MAX && fraction.len() <= 3 && whole.iter().chain(fraction).all(u8::is_ascii_digit)
}

/// Whether the content of a string is one that stands in definitions of anybody's: a word, a small number, the name of an object,
/// punctuation.
fn harmless(content: &[u8], after: &[u8]) -> bool {
    if content
        .iter()
        .all(|b| matches!(b, b'{' | b'}' | b'[' | b']' | b' ' | b',' | b';' | b'.' | b'-' | b'_' | b'%'))
    {
        return content.len() <= 8;
    }
    let cast = after.strip_prefix(b"::").unwrap_or_default();
    let cast = cast.get(..cast.iter().take_while(|b| name_byte(**b)).count()).unwrap_or_default();
    match cast {
        b"regclass" | b"regproc" | b"regprocedure" | b"regtype" | b"regnamespace" | b"regconfig"
        | b"regdictionary" | b"regcollation" | b"regoper" | b"regoperator" | b"regrole" => {
            return content.split(|b| *b == b'.').all(name_part);
        }
        b"interval" => {
            let digits = content.iter().take_while(|b| b.is_ascii_digit()).count();
            let unit = content.get(digits..).unwrap_or_default();
            return (1..=DIGITS_MAX).contains(&digits)
                && unit
                    .strip_prefix(b" ")
                    .is_some_and(|u| u.len() <= 8 && u.iter().all(u8::is_ascii_lowercase));
        }
        _ => {}
    }
    let number = content.strip_prefix(b"-").unwrap_or(content);
    if number.first().is_some_and(u8::is_ascii_digit) {
        return !number.contains(&b'-')
            && !number.contains(&b':')
            && !number.contains(&b'/')
            && short(number);
    }
    // `pending`, `EUR`, `en_US`, `in-progress`, `utc`.
    content.len() <= QUOTED_MAX
        && content.split(|b| matches!(b, b'_' | b'-')).all(|part| {
            !part.is_empty()
                && (part.iter().all(u8::is_ascii_lowercase) || part.iter().all(u8::is_ascii_uppercase))
        })
}

/// Functions whose first argument is the name of a relation; in a function's body nothing else says so.
const NAMES_BEHIND: &[&[u8]] = &[b"nextval(", b"currval(", b"setval(", b"to_regclass("];

/// `2024-01-01`, `2024-01-01 05:00:00+00`: where a partition begins. Somebody's own date of birth is no bound.
fn on_the_hour(content: &[u8]) -> bool {
    let form: Vec<u8> = content.iter().map(|b| if b.is_ascii_digit() { b'0' } else { *b }).collect();
    let time = content.get(10..).unwrap_or_default();
    form.starts_with(b"0000-00-00")
        && match form.get(10..).unwrap_or_default() {
            b"" => true,
            b" 00:00:00" | b" 00:00:00+00" | b" 00:00:00-00" | b" 00:00:00+00:00" | b" 00:00:00-00:00" => {
                time.get(3..9) == Some(b":00:00")
            }
            _ => false,
        }
}

/// `orders_id_seq`, `"Order_id_seq"`.
fn name_part(part: &[u8]) -> bool {
    let bare = part.strip_prefix(b"\"").and_then(|p| p.strip_suffix(b"\"")).unwrap_or(part);
    bare.len() <= NAME_MAX
        && bare.first().is_some_and(|b| name_start(*b))
        && bare.iter().all(|b| name_byte(*b))
}

/// The body of a fuzz target: any bytes as a definition. Panics when a promise of this page is broken, and only then.
#[expect(clippy::panic, reason = "this is how a fuzz target says that something is wrong")]
pub fn fuzz_definition(value: &[u8]) {
    for text in [Text::Sql, Text::Words, Text::Plan] {
        for holder in [Holder::Text, Holder::Label, Holder::Array, Holder::Json] {
            let mut out = b"x".to_vec();
            let scrubbed = scrub(text, holder, value, &mut out);
            if out.first() != Some(&b'x') || (scrubbed != Scrubbed::Written && out.len() != 1) {
                panic!("more was written than was said");
            }
            let shown = match scrubbed {
                Scrubbed::Kept => value,
                Scrubbed::Written => out.get(1..).unwrap_or_default(),
                Scrubbed::Whole => continue,
            };
            // Names aside, no more than four digits stand together, and an address never.
            if holder != Holder::Text || text == Text::Plan {
                continue;
            }
            let mut again = Vec::new();
            match scrub(text, holder, shown, &mut again) {
                Scrubbed::Kept => {}
                Scrubbed::Written if again == shown => {}
                // `***` beside something else may read as something else, never as less hidden.
                Scrubbed::Written | Scrubbed::Whole => {}
            }
            let mut run = 0;
            for (i, byte) in shown.iter().enumerate() {
                run = if byte.is_ascii_digit() { run + 1 } else { 0 };
                let start = i.checked_sub(run).and_then(|i| shown.get(i));
                if run > DIGITS_MAX && !start.is_some_and(|b| name_byte(*b)) {
                    panic!("a long number was left");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: Text, holder: Holder, value: &str) -> String {
        let mut out = Vec::new();
        match scrub(text, holder, value.as_bytes(), &mut out) {
            Scrubbed::Kept => "=".into(),
            Scrubbed::Whole => "whole".into(),
            Scrubbed::Written => String::from_utf8(out).expect("UTF-8"),
        }
    }

    #[test]
    fn structure_stays_and_constants_go() {
        for (sql, want) in [
            ("nextval('public.orders_id_seq'::regclass)", "="),
            ("nextval('\"Order_id_seq\"'::regclass)", "="),
            ("'pending'::text", "="),
            ("'ADMIN'::public.\"Role\"", "="),
            ("'{}'::jsonb", "="),
            ("''::text", "="),
            ("timezone('utc'::text, now())", "="),
            ("(now() + '30 days'::interval)", "="),
            ("CURRENT_TIMESTAMP", "="),
            ("0.00", "="),
            ("'-12.5'::numeric", "="),
            ("CHECK ((amount > (0)::numeric))", "="),
            (
                "CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))",
                "=",
            ),
            ("CREATE UNIQUE INDEX \"Order_pkey\" ON public.\"Order\" USING btree (id, events_20240101)", "="),
            ("'123-45-6789'::text", "'***'::text"),
            ("'ana@example.org'::text", "'***'::text"),
            ("'Alice Johnson'::text", "'***'::text"),
            ("'Alice'::text", "'***'::text"),
            ("'it''s'::text", "'***'::text"),
            ("'a''123-45-6789'", "'***'"),
            ("E'a\\'123-45-6789'", "'***'"),
            ("U&'\\0031'", "'***'"),
            ("B'10101010'", "'***'"),
            ("x'ff'", "="),
            ("'\\x00ff'::bytea", "'***'::bytea"),
            ("'2024-01-01'::date", "'***'::date"),
            ("'12:30'::time", "'***'::time"),
            ("'1 day 02:03:04'::interval", "'***'::interval"),
            ("FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)", "="),
            ("FOR VALUES FROM ('2024-01-01 05:00:00+00') TO ('2025-01-01 00:00:00+00')", "="),
            (
                "FOR VALUES FROM ('2024-01-01 05:12:00+00') TO (MAXVALUE)",
                "FOR VALUES FROM ('***') TO (MAXVALUE)",
            ),
            ("FOR VALUES IN ('ana@example.org')", "FOR VALUES IN ('***')"),
            ("return 'C' || nextval('app.orders_id_seq');", "="),
            ("select setval('app.s', 123456)", "select setval('app.s', 0)"),
            ("select nextval('Alice Johnson')", "select nextval('***')"),
            ("select f('app.orders')", "select f('***')"),
            ("(salary > 123456.78)", "(salary > 0)"),
            ("1234567890", "0"),
            ("1e9", "0"),
            ("'1234567890'::bigint", "'***'::bigint"),
            ("123-45-6789", "0"),
            ("-- 123-45-6789\nselect 1", "-- ***\nselect 1"),
            ("select /* a /* b */ c */ 1", "select /* *** */ 1"),
            ("AS $function$ select 'Alice B', 12 $function$", "AS $function$ select '***', 12 $function$"),
            ("select $x$Alice B$x$", "select '***'"),
            ("select $$ok$$, $1", "="),
            ("return \"123-45-6789\"", "return \"***\""),
            ("-- ana@example.org", "-- ***"),
            ("# ana@example.org", "whole"),
            ("'open", "whole"),
            ("\"open", "whole"),
            ("/* open", "whole"),
            ("$a$ open", "whole"),
            ("E'open\\'", "whole"),
            ("a\0b", "whole"),
            ("'regclass 123456'::regclass", "'***'::regclass"),
            ("'123456789'::regclass", "'***'::regclass"),
        ] {
            assert_eq!(shown(Text::Sql, Holder::Text, sql), want, "{sql}");
        }
        assert_eq!(shown(Text::Sql, Holder::Text, &"a".repeat(200)), "whole");
    }

    #[test]
    fn words_stay_and_all_else_goes() {
        for text in [
            "",
            "where they live",
            "Orders of customers (since 2019).",
            "ACTIVE",
            "in_progress",
            "Größe",
            "a, b; c",
            "Customer name",
            "ID of the row",
        ] {
            assert_eq!(shown(Text::Words, Holder::Text, text), "=", "{text}");
        }
        for text in [
            "123-45-6789",
            "ana@example.org",
            "Alice Johnson",
            "born 1951-02-03",
            "x9f3",
            "4111 1111",
            "a\0",
            "abcdefghijklmnopqrstuvwxyz",
            "\\x00",
        ] {
            assert_eq!(shown(Text::Words, Holder::Text, text), "***", "{text}");
            assert_eq!(shown(Text::Words, Holder::Label, text), "whole", "{text}");
        }
    }

    #[test]
    fn elements_of_arrays_are_looked_at_one_by_one() {
        for (text, value, want) in [
            (Text::Words, "{a,b}", "="),
            (Text::Words, "{}", "="),
            (Text::Words, "{a,NULL,\"123-45-6789\"}", "{\"a\",NULL,\"***\"}"),
            (Text::Sql, "{\"CHECK ((VALUE > 0))\"}", "="),
            (Text::Sql, "{\"CHECK ((VALUE = 'a \\\"x\\\" b'))\"}", "{\"CHECK ((VALUE = '***'))\"}"),
            (Text::Words, "{{a},{b}}", "whole"),
            (Text::Words, "{a,b", "whole"),
            (Text::Words, "{a}b", "whole"),
            (Text::Words, "{a\"b}", "whole"),
            (Text::Words, "[0:1]={a,b}", "whole"),
            (Text::Words, "a", "whole"),
            (Text::Words, "{\"a", "whole"),
        ] {
            assert_eq!(shown(text, Holder::Array, value), want, "{value}");
        }
    }

    #[test]
    fn plans_keep_their_counts() {
        for (line, want) in [
            (
                "Seq Scan on orders  (cost=0.00..123456.70 rows=1270000 width=36) (actual time=0.010..0.011 rows=1 loops=1)",
                "=",
            ),
            ("Planning Time: 12.345 ms", "="),
            ("  Filter: (v = '123-45-6789'::text)", "  Filter: (v = '***'::text)"),
            ("  Filter: (v > 123456789)", "  Filter: (v > 0)"),
            ("  Index Cond: (id = 4)", "="),
            ("  Rows Removed by Filter: 25000", "="),
            ("Execution Time: 12345.678 ms", "="),
            ("Sort Method: external merge  Disk: 123456kB", "="),
            ("  Output: 123456789, k", "  Output: 0, k"),
        ] {
            assert_eq!(shown(Text::Plan, Holder::Text, line), want);
        }
        let json = r#"[{"Plan": {"Node Type": "Seq Scan", "Total Cost": 123456.78, "Filter": "(v = '123-45-6789'::text)", "A": "\"x\""}}]"#;
        let want = r#"[{"Plan": {"Node Type": "Seq Scan", "Total Cost": 123456.78, "Filter": "(v = '***'::text)", "A": "***"}}]"#;
        assert_eq!(shown(Text::Plan, Holder::Json, json), want);
        assert_eq!(shown(Text::Plan, Holder::Json, "{\"a"), "whole");
        assert_eq!(shown(Text::Sql, Holder::Json, "{}"), "whole");
    }

    #[test]
    fn hostile_texts_take_linear_time() {
        for piece in
            ["'", "''", "E'\\", "\"", "$a$", "$", "/*", "*/", "--", "1-", "@", "a@", "u&'", "((", "x'", "\\"]
        {
            let long = piece.repeat(400_000 / piece.len());
            let mut out = Vec::new();
            for text in [Text::Sql, Text::Words, Text::Plan] {
                scrub(text, Holder::Json, long.as_bytes(), &mut out);
                scrub(text, Holder::Text, long.as_bytes(), &mut out);
                scrub(text, Holder::Array, long.as_bytes(), &mut out);
            }
            assert!(out.len() <= 16 * 400_000, "{piece}: {}", out.len());
        }
    }

    #[test]
    fn pieces_of_definitions_in_any_order_keep_the_promise() {
        let pieces = [
            "'",
            "123456",
            "a",
            "\"",
            "$$",
            "$function$",
            "--",
            "/*",
            "*/",
            "\n",
            "@",
            "E",
            "\\",
            " ",
            "-",
            "::regclass",
            ".",
            "é",
            "{",
            "}",
            ",",
        ];
        for i in 0..60_000usize {
            let mut seed = i.wrapping_mul(0x9e37_79b9) as u64;
            let mut text = String::new();
            for _ in 0..10 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            fuzz_definition(text.as_bytes());
        }
    }
}
