//! Masking COPY … TO STDOUT. In text and csv one CopyData message is one row (protocol chapter, "COPY Operations": the backend sends
//! a message per row); binary is a stream, read wherever it is cut. Source of the formats: `src/backend/commands/copyto.c`.

use flow::limits::FRAME_BYTES_MAX;
use policy::mask::{Cell, Masked};
use policy::plan::{CopyBinary, CopyPlan, CopyRows};

/// A plan made ready to walk what the server sends.
pub(crate) enum Walker {
    Lines(Lines),
    Binary(Binary),
}

impl Walker {
    /// `None`: nothing is masked.
    pub(crate) fn new(plan: &CopyPlan) -> Option<Walker> {
        match plan {
            CopyPlan::Pass => None,
            CopyPlan::Rows(rows) => Some(Walker::Lines(Lines::new(rows.clone()))),
            CopyPlan::Binary(binary) => Some(Walker::Binary(Binary::new(binary))),
        }
    }

    /// True when the server begins (CopyOutResponse) what was planned: the format and the number of columns.
    pub(crate) fn fits(&self, begin: &[u8]) -> bool {
        let Some(([format, high, low], _)) = begin.split_first_chunk() else { return false };
        let columns = usize::from(u16::from_be_bytes([*high, *low]));
        match self {
            Walker::Lines(lines) => *format == 0 && (lines.every.is_some() || lines.columns.len() == columns),
            Walker::Binary(binary) => {
                *format == 1 && binary.columns.as_ref().is_none_or(|known| known.len() == columns)
            }
        }
    }

    pub(crate) fn header(&self) -> bool {
        matches!(self, Walker::Lines(lines) if lines.plan.header)
    }

    /// Appends the content of one CopyData message, masked, to `out`, without a message header. Returns how many cells were masked, or
    /// `None` when it does not have the shape that was planned for.
    pub(crate) fn mask(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        match self {
            Walker::Lines(lines) => lines.mask(body, out),
            Walker::Binary(binary) => binary.mask(body, out),
        }
    }
}

/// Rows of text: a mask that does not look at the value is its bytes, escaped.
pub(crate) struct Lines {
    plan: CopyRows,
    columns: Box<[Column]>,
    every: Option<Column>,
    /// Reused from line to line.
    scratch: Vec<u8>,
    /// No value is written as NULL is.
    null_told: bool,
}

enum Column {
    Pass,
    /// Stands for any value but NULL.
    Constant(Box<[u8]>),
    Apply(Cell),
}

impl Lines {
    fn new(plan: CopyRows) -> Lines {
        let mut scratch = Vec::new();
        let mut column = |cell: &Option<Cell>| match cell {
            None => Column::Pass,
            Some(cell) if cell.ignores_value() => {
                let mut bytes = Vec::new();
                write(cell, &[], &plan, &mut scratch, &mut bytes);
                Column::Constant(bytes.into())
            }
            Some(cell) => Column::Apply(cell.clone()),
        };
        let columns = plan.columns.iter().map(&mut column).collect();
        let every = plan.every.as_ref().map(|cell| column(&Some(cell.clone())));
        // Csv quotes a value that looks like NULL. Text does not, so only what no value can be written as is NULL for sure: a
        // statement may say NULL '4711' to learn whose value that is.
        let null_told = plan.csv
            || matches!(plan.null.as_slice(), [b'\\', b, ..] if b.is_ascii_alphabetic() && !b"bfnrtv".contains(b) && *b != plan.delimiter);
        Lines { columns, every, scratch, null_told, plan }
    }

    /// One row, with its line end.
    fn mask(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        let (line, end) = split_line_end(body);
        let CopyRows { delimiter, quote, escape, csv, .. } = self.plan;
        // In text without escapes every delimiter separates, in csv those outside quotes, where a doubled quote leaves and enters
        // at once.
        let masked = if csv && escape == quote {
            self.fields(line, Separators::new(line, delimiter, quote), out)
        } else if !csv && memchr::memchr(b'\\', line).is_none() {
            self.fields(line, memchr::memchr_iter(delimiter, line), out)
        } else {
            let stops = Stops { line, at: 0, marks: Marks::of(&self.plan) };
            self.fields(line, stops, out)
        }?;
        out.extend_from_slice(end);
        Some(masked)
    }

    /// Walks the fields of `line`; `stops` are the places of the delimiters between them.
    fn fields(&mut self, line: &[u8], stops: impl Iterator<Item = usize>, out: &mut Vec<u8>) -> Option<u64> {
        let mut masked = 0;
        let mut columns = self.columns.iter();
        // What is not masked is copied in runs: `run` is where the current one began, `field` where the field did.
        let (mut run, mut field) = (0, 0);
        for stop in stops.chain([line.len()]) {
            let column = match &self.every {
                Some(every) => every,
                // More fields than columns: not what was planned.
                None => columns.next()?,
            };
            if let Column::Constant(_) | Column::Apply(_) = column {
                let value = line.get(field..stop)?;
                if !(self.null_told && value == self.plan.null) {
                    out.extend_from_slice(line.get(run..field)?);
                    run = field;
                    let written = match column {
                        Column::Constant(bytes) => {
                            out.extend_from_slice(bytes);
                            true
                        }
                        Column::Apply(cell) => write(cell, value, &self.plan, &mut self.scratch, out),
                        Column::Pass => false,
                    };
                    if written {
                        masked += 1;
                        run = stop;
                    }
                }
            }
            field = stop + 1;
        }
        if self.every.is_none() && columns.next().is_some() {
            return None;
        }
        out.extend_from_slice(line.get(run..)?);
        Some(masked)
    }
}

/// The delimiters of a line outside quotes, eight bytes compared at once: fewer instructions than a vector search for both, begun anew
/// behind each.
struct Separators<'a> {
    words: std::slice::Iter<'a, [u8; 8]>,
    /// What is left of the line, NULs behind it: no server takes NUL for a delimiter or a quote.
    tail: Option<[u8; 8]>,
    /// Where the word after the current one is, and the bits of the current one's delimiters and quotes still to come.
    next: usize,
    hits: u64,
    quotes: u64,
    delimiter: u64,
    quote: u64,
    quoted: bool,
}

impl<'a> Separators<'a> {
    fn new(line: &'a [u8], delimiter: u8, quote: u8) -> Separators<'a> {
        let (words, rest) = line.as_chunks();
        let mut tail = [0; 8];
        for (to, from) in tail.iter_mut().zip(rest) {
            *to = *from;
        }
        Separators {
            words: words.iter(),
            tail: Some(tail),
            next: 0,
            hits: 0,
            quotes: 0,
            delimiter: u64::from_le_bytes([delimiter; 8]),
            quote: u64::from_le_bytes([quote; 8]),
            quoted: false,
        }
    }
}

/// The top bit of each byte that is the same in both.
fn same(a: u64, b: u64) -> u64 {
    const LOW: u64 = u64::from_le_bytes([0x7f; 8]);
    let differ = a ^ b;
    !(((differ & LOW) + LOW) | differ | LOW)
}

impl Iterator for Separators<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        loop {
            while self.hits != 0 {
                let hit = self.hits & self.hits.wrapping_neg();
                self.hits ^= hit;
                if self.quotes & hit != 0 {
                    self.quoted = !self.quoted;
                } else if !self.quoted {
                    return Some(self.next - 8 + hit.trailing_zeros() as usize / 8);
                }
            }
            let word = match self.words.next() {
                Some(word) => *word,
                None => self.tail.take()?,
            };
            let word = u64::from_le_bytes(word);
            self.next += 8;
            self.quotes = same(word, self.quote);
            self.hits = same(word, self.delimiter) | self.quotes;
        }
    }
}

/// The delimiters of a line that has escapes.
struct Stops<'a> {
    line: &'a [u8],
    at: usize,
    marks: Marks,
}

/// What separates and protects.
#[derive(Clone, Copy)]
struct Marks {
    csv: bool,
    delimiter: u8,
    quote: u8,
    escape: u8,
}

impl Marks {
    fn of(plan: &CopyRows) -> Marks {
        Marks { csv: plan.csv, delimiter: plan.delimiter, quote: plan.quote, escape: plan.escape }
    }
}

impl Iterator for Stops<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let rest = self.line.get(self.at..)?;
        let field =
            if self.marks.csv { csv_field(rest, self.marks) } else { text_field(rest, self.marks.delimiter) };
        let stop = self.at + field;
        self.at = stop + 1;
        (stop < self.line.len()).then_some(stop)
    }
}

fn split_line_end(body: &[u8]) -> (&[u8], &[u8]) {
    let end = match body {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    body.split_at(body.len() - end)
}

/// Length of the field at the start of a text-format row: up to the next delimiter that no backslash protects.
fn text_field(row: &[u8], delimiter: u8) -> usize {
    let mut at = 0;
    while let Some(found) = row.get(at..).and_then(|r| memchr::memchr2(delimiter, b'\\', r)) {
        at += found;
        if row.get(at) == Some(&delimiter) {
            return at;
        }
        at += 2;
    }
    row.len()
}

/// Length of the field at the start of a csv row whose escape is not the quote: up to the next delimiter outside quotes.
fn csv_field(row: &[u8], marks: Marks) -> usize {
    let mut quoted = false;
    let mut bytes = row.iter().enumerate();
    while let Some((at, b)) = bytes.next() {
        if quoted && *b == marks.escape {
            bytes.next();
        } else if *b == marks.quote {
            quoted = !quoted;
        } else if *b == marks.delimiter && !quoted {
            return at;
        }
    }
    row.len()
}

/// Writes what stands for `field`, escaped for the format; false, and nothing: the field stays as it is.
fn write(cell: &Cell, field: &[u8], plan: &CopyRows, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    scratch.clear();
    let masked = if cell.ignores_value() {
        cell.apply(&[], scratch)
    } else {
        // The value is unescaped behind the output, and what stands for it is written to the scratch.
        let at = out.len();
        unescape(field, plan, out);
        let masked = cell.apply(out.get(at..).unwrap_or_default(), scratch);
        out.truncate(at);
        masked
    };
    match masked {
        Masked::Written => {}
        Masked::Kept => return false,
        Masked::Null => {
            out.extend_from_slice(&plan.null);
            return true;
        }
    }
    if plan.csv {
        // Quoted whatever it holds: a masked value can never be taken for NULL or for two fields.
        out.push(plan.quote);
        for b in scratch.iter() {
            if *b == plan.quote || *b == plan.escape {
                out.push(plan.escape);
            }
            out.push(*b);
        }
        out.push(plan.quote);
    } else {
        for b in scratch.iter() {
            match b {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b if *b == plan.delimiter => out.extend_from_slice(&[b'\\', *b]),
                b => out.push(*b),
            }
        }
    }
    true
}

fn unescape(field: &[u8], plan: &CopyRows, out: &mut Vec<u8>) {
    if plan.csv {
        let inner = match field {
            [first, inner @ .., last] if *first == plan.quote && *last == plan.quote => inner,
            _ => return out.extend_from_slice(field),
        };
        let mut bytes = inner.iter();
        while let Some(b) = bytes.next() {
            out.extend(if *b == plan.escape { bytes.next() } else { Some(b) });
        }
        return;
    }
    let mut bytes = field.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => match bytes.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b'r') => out.push(b'\r'),
                Some(b't') => out.push(b'\t'),
                Some(b'b') => out.push(8),
                Some(b'f') => out.push(12),
                Some(b'v') => out.push(11),
                Some(other) => out.push(*other),
                None => {}
            },
            b => out.push(*b),
        }
    }
}

/// A stream in binary format: a header, tuples (a count, then each field behind its length), and -1.
pub(crate) struct Binary {
    /// Absent: any number, each `every`.
    columns: Option<Box<[Field]>>,
    every: Field,
    state: State,
    /// What came of a number so far, or of a value whose mask looks at it.
    held: Vec<u8>,
}

enum Field {
    Pass,
    /// Stands for any value, length first.
    Constant(Box<[u8]>),
    Apply(Cell),
}

/// What comes next.
#[derive(Clone, Copy)]
enum State {
    Header,
    Count,
    Length { column: usize, of: usize },
    Value { column: usize, of: usize, left: usize },
    End,
}

/// Signature, flags, and the length of the header's extension.
const HEADER: usize = 19;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const NULL: [u8; 4] = [0xff; 4];

impl Binary {
    fn new(plan: &CopyBinary) -> Binary {
        let field = |cell: &Option<Cell>| match cell {
            None => Field::Pass,
            Some(cell) if cell.ignores_value() => {
                let mut bytes = Vec::new();
                put(cell, &[], &mut bytes);
                Field::Constant(bytes.into())
            }
            Some(cell) => Field::Apply(cell.clone()),
        };
        Binary {
            columns: plan.columns.as_ref().map(|columns| columns.iter().map(field).collect()),
            every: Field::Constant(NULL.into()),
            state: State::Header,
            held: Vec::new(),
        }
    }

    fn mask(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        let Binary { columns, every, state, held } = self;
        let (columns, every) = (columns.as_deref(), &*every);
        let field = |column: usize| match columns {
            Some(columns) => columns.get(column),
            None => Some(every),
        };
        let next = |column, of| if column == of { State::Count } else { State::Length { column, of } };
        let mut masked = 0;
        // What is not masked is copied in runs: `run` is where the current one began.
        let (mut at, mut run) = (0, 0);
        while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
            match *state {
                State::Header => {
                    let Some(header) = gather(held, rest, HEADER, &mut at) else { break };
                    // No flag and no extension has a meaning today; one that had could change what follows.
                    if header.strip_prefix(SIGNATURE) != Some(&[0; 8]) {
                        return None;
                    }
                    held.clear();
                    *state = State::Count;
                }
                State::Count => {
                    let Some(count) = gather(held, rest, 2, &mut at) else { break };
                    let count = i16::from_be_bytes(*count.first_chunk()?);
                    held.clear();
                    *state = match usize::try_from(count) {
                        Ok(of) if columns.is_none_or(|c| c.len() == of) => next(0, of),
                        Err(_) if count == -1 => State::End,
                        _ => return None,
                    };
                }
                State::Length { column, of } => {
                    let field = field(column)?;
                    let passes = matches!(field, Field::Pass);
                    if !passes {
                        // The length that will stand here is not this one.
                        out.extend_from_slice(body.get(run..at)?);
                    }
                    let length = gather(held, rest, 4, &mut at).and_then(|l| l.first_chunk()).copied();
                    if !passes {
                        run = at;
                    }
                    let Some(length) = length else { break };
                    held.clear();
                    let left = match i32::from_be_bytes(length) {
                        -1 => None,
                        length => Some(usize::try_from(length).ok()?),
                    };
                    *state = match left {
                        None | Some(0) => next(column + 1, of),
                        Some(left) => State::Value { column, of, left },
                    };
                    match (field, left) {
                        (Field::Pass, _) => {}
                        (_, None) => out.extend_from_slice(&NULL),
                        (Field::Constant(bytes), _) => {
                            out.extend_from_slice(bytes);
                            masked += 1;
                        }
                        (Field::Apply(cell), Some(0)) => masked += put(cell, &[], out),
                        (Field::Apply(_), Some(left)) if left > FRAME_BYTES_MAX => return None,
                        (Field::Apply(_), _) => {}
                    }
                }
                State::Value { column, of, left } => {
                    let (part, over) = (rest.get(..left.min(rest.len()))?, rest.len() >= left);
                    at += part.len();
                    *state = if over {
                        next(column + 1, of)
                    } else {
                        State::Value { column, of, left: left - part.len() }
                    };
                    let field = field(column)?;
                    if !matches!(field, Field::Pass) {
                        run = at;
                    }
                    if let Field::Apply(cell) = field {
                        if over && held.is_empty() {
                            masked += put(cell, part, out);
                        } else {
                            held.extend_from_slice(part);
                            if over {
                                masked += put(cell, held, out);
                                held.clear();
                            }
                        }
                    }
                }
                // Nothing comes behind the end.
                State::End => return None,
            }
        }
        out.extend_from_slice(body.get(run..at)?);
        Some(masked)
    }
}

/// A piece of this length, once all of it has come; `at` moves over what `rest` has of it.
fn gather<'a>(held: &'a mut Vec<u8>, rest: &'a [u8], need: usize, at: &mut usize) -> Option<&'a [u8]> {
    let missing = need.saturating_sub(held.len()).min(rest.len());
    *at += missing;
    let part = rest.get(..missing)?;
    if part.len() == need {
        return Some(part);
    }
    held.extend_from_slice(part);
    (held.len() == need).then_some(held)
}

/// Writes a field: what stands for `value`, behind its length. Returns how many cells were masked.
fn put(cell: &Cell, value: &[u8], out: &mut Vec<u8>) -> u64 {
    let at = out.len();
    out.extend_from_slice(&NULL);
    let masked = cell.apply(value, out);
    match masked {
        Masked::Null => return 1,
        Masked::Written => {}
        Masked::Kept => out.extend_from_slice(value),
    }
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&length);
    }
    u64::from(masked == Masked::Written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::cell;
    use policy::Format;

    fn plan(csv: bool, columns: &[bool]) -> CopyRows {
        CopyRows {
            csv,
            delimiter: if csv { b',' } else { b'\t' },
            quote: b'"',
            escape: b'"',
            null: if csv { Vec::new() } else { b"\\N".to_vec() },
            header: false,
            columns: columns.iter().map(|m| m.then(|| Cell::redact(25))).collect(),
            every: None,
        }
    }

    fn run(csv: bool, columns: &[bool], row: &str) -> Option<String> {
        let mut out = Vec::new();
        Lines::new(plan(csv, columns)).mask(row.as_bytes(), &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn text_rows_with_and_without_escapes() {
        assert_eq!(run(false, &[false, true, false], "1\tana@x\tz\n").as_deref(), Some("1\t***\tz\n"));
        assert_eq!(run(false, &[true, true], "a\tb\n").as_deref(), Some("***\t***\n"));
        assert_eq!(run(false, &[false, true], "1\t\\N\n").as_deref(), Some("1\t\\N\n"));
        assert_eq!(run(false, &[true, false], "a\\\tb\tc\n").as_deref(), Some("***\tc\n"));
        assert_eq!(run(false, &[false, false, true], "\t\t\n").as_deref(), Some("\t\t***\n"));
    }

    #[test]
    fn csv_rows() {
        assert_eq!(run(true, &[false, true], "1,\"a,\"\"b\n\"\n").as_deref(), Some("1,\"***\"\n"));
        assert_eq!(run(true, &[true, false], ",x\n").as_deref(), Some(",x\n"), "an empty field is NULL");
    }

    #[test]
    fn separators_are_found_wherever_they_stand_in_a_word() {
        let mut state = 5u64;
        for round in 0..5_000 {
            let mut line = Vec::new();
            for _ in 0..round % 41 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                line.push(b",\",-.\x00\xac\xff\x80a"[(state >> 33) as usize % 10]);
            }
            let mut quoted = false;
            let outside = line.iter().enumerate().filter(|(_, b)| {
                quoted ^= **b == b'"';
                **b == b',' && !quoted
            });
            let outside: Vec<usize> = outside.map(|(i, _)| i).collect();
            assert_eq!(Separators::new(&line, b',', b'"').collect::<Vec<_>>(), outside, "{line:?}");
        }
    }

    #[test]
    fn another_number_of_fields_is_not_the_plan() {
        for row in ["1\n", "1\t2\t3\n", "1\\t2\n", "1\\\\\t2\t3\n"] {
            assert_eq!(run(false, &[true, true], row), None, "{row:?}");
        }
    }

    #[test]
    fn quotes_and_escapes_protect_what_separates() {
        let mut other = plan(true, &[false, true, false]);
        (other.quote, other.escape, other.delimiter) = (b'\'', b'\\', b';');
        for (plan, row, want) in [
            (plan(true, &[false, true, false]), "\"a,\"\"\",x,\",\"\n", Some("\"a,\"\"\",\"***\",\",\"\n")),
            (plan(true, &[false, true, false]), "a,\"x\"\"\",\"\"\n", Some("a,\"***\",\"\"\n")),
            (plan(true, &[false, true, false]), "\"a,b,c\n", None),
            (plan(true, &[false, true, false]), "\"\",\"\",\n", Some("\"\",\"***\",\n")),
            (other.clone(), "'a\\';b';'x;';','\n", Some("'a\\';b';'***';','\n")),
            (other, "a\\;x;y\n", Some("a\\;'***';y\n")),
        ] {
            let mut out = Vec::new();
            let masked = Lines::new(plan).mask(row.as_bytes(), &mut out);
            assert_eq!(masked.map(|_| String::from_utf8(out).unwrap()).as_deref(), want, "{row}");
        }
    }

    /// A statement chooses the text that stands for NULL; a masked value must not be told by being that text.
    #[test]
    fn only_what_no_value_is_written_as_is_null() {
        for (null, row, want) in [
            ("\\N", "\\N\n", "\\N\n"),
            ("4711", "4711\n", "***\n"),
            ("", "\n", "***\n"),
            ("\\\\N", "\\\\N\n", "***\n"),
            ("\\n", "\\n\n", "***\n"),
        ] {
            let mut plan = plan(false, &[true]);
            plan.null = null.into();
            let mut out = Vec::new();
            assert_eq!(Lines::new(plan).mask(row.as_bytes(), &mut out), Some(u64::from(want == "***\n")));
            assert_eq!(String::from_utf8(out).unwrap(), want, "NULL {null:?}");
        }
    }

    type Tuple = Vec<Option<Vec<u8>>>;

    fn stream(tuples: &[Tuple]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0; 8]].concat();
        for tuple in tuples {
            bytes.extend_from_slice(&(tuple.len() as i16).to_be_bytes());
            for field in tuple {
                bytes.extend_from_slice(&field.as_ref().map_or(-1, |f| f.len() as i32).to_be_bytes());
                bytes.extend_from_slice(field.as_deref().unwrap_or_default());
            }
        }
        bytes.extend_from_slice(&[0xff, 0xff]);
        bytes
    }

    fn binary(columns: Option<Vec<Option<Cell>>>, parts: &[&[u8]]) -> Option<(Vec<u8>, u64)> {
        let mut walker = Walker::new(&CopyPlan::Binary(CopyBinary { columns }))?;
        let (mut out, mut masked) = (Vec::new(), 0);
        for part in parts {
            masked += walker.mask(part, &mut out)?;
        }
        Some((out, masked))
    }

    fn tuple(fields: &[Option<&str>]) -> Tuple {
        fields.iter().map(|f| f.map(|f| f.as_bytes().to_vec())).collect()
    }

    /// A mask that looks at the value, one that does not, NULL, and what passes.
    fn masks() -> Vec<Option<Cell>> {
        let partial = cell(r#""mask": {"partial": {"keep_last": 2}}"#, 25, Format::Binary);
        vec![None, Some(partial), Some(Cell::redact(25)), Some(Cell::redact(20)), None]
    }

    #[test]
    fn what_detectors_leave_stays_as_it_was_written() {
        let find = |oid, format| Some(cell(r#""detect": ["email"]"#, oid, format));
        for (csv, row, want, count) in [
            (false, "a\tb\tana@x.io\n", "a\tb\t***\n", 1),
            (false, "a\\tb\tx@y\\n\tc\n", "a\\tb\tx@y\\n\tc\n", 0),
            (false, "\\nana@x.io\t\\N\tc\n", "\\n***\t\\N\tc\n", 1),
            (
                true,
                "\"a,\"\"b\",\"plain\",\"ana@x.io, \"\"bo\"\"\"\n",
                "\"a,\"\"b\",\"plain\",\"***, \"\"bo\"\"\"\n",
                1,
            ),
        ] {
            let mut plan = plan(csv, &[]);
            plan.columns = vec![find(25, Format::Text); 3];
            let mut out = Vec::new();
            assert_eq!(Lines::new(plan).mask(row.as_bytes(), &mut out), Some(count), "{row}");
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
        let jsonb = r#"X{"a": "ana@x.io", "b": [1, "bo"]}"#.replace('X', "\u{1}");
        let input =
            stream(&[tuple(&[Some("x ana@x.io"), Some(&jsonb)]), tuple(&[Some("x"), Some("\u{1}[]")])]);
        let jsonb = jsonb.replace("ana@x.io", "***");
        let want = stream(&[tuple(&[Some("x ***"), Some(&jsonb)]), tuple(&[Some("x"), Some("\u{1}[]")])]);
        let columns = vec![find(25, Format::Binary), find(3802, Format::Binary)];
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(binary(Some(columns.clone()), &[a, b]), Some((want.clone(), 2)), "cut at {cut}");
        }
    }

    #[test]
    fn binary_rows_wherever_they_are_cut() {
        let input = stream(&[
            tuple(&[Some("keep"), Some("4711-0815"), Some("x"), Some("12345678"), None]),
            tuple(&[None, None, None, None, Some("")]),
            tuple(&[Some(""), Some(""), Some(""), Some(""), Some("keep")]),
        ]);
        let want = stream(&[
            tuple(&[Some("keep"), Some("*******15"), Some("***"), None, None]),
            tuple(&[None, None, None, None, Some("")]),
            tuple(&[Some(""), Some("***"), Some("***"), None, Some("keep")]),
        ]);
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(binary(Some(masks()), &[a, b]), Some((want.clone(), 6)), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(binary(Some(masks()), &bytes), Some((want, 6)));
        // Of unknown columns nothing is left but how many there are.
        let nothing = stream(&[vec![None; 5], vec![None; 5], vec![None; 5]]);
        assert_eq!(binary(None, &bytes), Some((nothing, 10)));
    }

    #[test]
    fn a_binary_stream_of_another_shape_is_not_the_plan() {
        let good = stream(&[tuple(&[Some("a")])]);
        let cell = || Some(vec![Some(Cell::redact(25))]);
        assert!(binary(cell(), &[&good]).is_some());
        assert!(binary(Some(vec![None, None]), &[&good]).is_none(), "another number of columns");
        assert!(binary(cell(), &[&good, b"x"]).is_none(), "bytes behind the end");
        for (at, byte) in [(0, b'p'), (11, 1), (14, 1), (18, 4), (19, 0x80), (20, 2), (21, 0x80)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(binary(cell(), &[&bad]).is_none(), "{byte} at {at}");
        }
        let begin = |format: u8, columns: u16| [&[format][..], &columns.to_be_bytes(), &[0; 4]].concat();
        let walker = Walker::new(&CopyPlan::Binary(CopyBinary { columns: cell() })).unwrap();
        assert!(walker.fits(&begin(1, 1)) && !walker.fits(&begin(0, 1)) && !walker.fits(&begin(1, 2)));
        let walker = Walker::new(&CopyPlan::Rows(plan(true, &[true, false]))).unwrap();
        assert!(
            walker.fits(&begin(0, 2))
                && !walker.fits(&begin(1, 2))
                && !walker.fits(&begin(0, 1))
                && !walker.fits(&[])
        );
    }
}
