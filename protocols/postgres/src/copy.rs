//! Masking COPY … TO STDOUT. In text and csv one CopyData message is one row (protocol chapter, "COPY Operations": the backend sends
//! a message per row); binary is a stream, read wherever it is cut. Source of the formats: `src/backend/commands/copyto.c`.

use flow::limits::FRAME_BYTES_MAX;
use policy::mask::{Cell, Masked};
use policy::plan::{CopyBinary, CopyPlan, CopyRows};
use wide::u8x16;

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
            Walker::Lines(lines) => *format == 0 && (lines.every || lines.plan.columns.len() == columns),
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
    /// The columns that are masked, in order.
    masked: Box<[Column]>,
    /// How many pass behind the last of them.
    behind: usize,
    /// There is one column, and it stands for as many as come.
    every: bool,
    /// Reused from line to line.
    scratch: Vec<u8>,
    /// No value is written as NULL is.
    null_told: bool,
}

struct Column {
    /// How many pass between the one that is masked before it and this one.
    skip: usize,
    mask: Mask,
    /// NULL is masked too.
    nulls: bool,
}

enum Mask {
    /// Stands for any value but NULL.
    Constant(Box<[u8]>),
    Apply(Cell),
}

impl Lines {
    fn new(plan: CopyRows) -> Lines {
        let mut scratch = Vec::new();
        let mut mask = |cell: &Cell| {
            if !cell.ignores_value() {
                return Mask::Apply(cell.clone());
            }
            let mut bytes = Vec::new();
            write(cell, &[], &plan, &mut scratch, &mut bytes);
            Mask::Constant(bytes.into())
        };
        let (mut masked, mut behind) = (Vec::new(), 0);
        if let Some(every) = &plan.every {
            masked.push(Column { skip: 0, mask: mask(every), nulls: every.masks_nulls() });
        } else {
            for cell in &plan.columns {
                match cell {
                    Some(cell) => masked.push(Column {
                        skip: std::mem::take(&mut behind),
                        mask: mask(cell),
                        nulls: cell.masks_nulls(),
                    }),
                    None => behind += 1,
                }
            }
        }
        // Csv quotes a value that looks like NULL. Text does not, so only what no value can be written as is NULL for sure: a
        // statement may say NULL '4711' to learn whose value that is.
        let null_told = plan.csv
            || matches!(plan.null.as_slice(), [b'\\', b, ..] if b.is_ascii_alphabetic() && !b"bfnrtv".contains(b) && *b != plan.delimiter);
        Lines { masked: masked.into(), behind, every: plan.every.is_some(), scratch, null_told, plan }
    }

    /// One row, with its line end.
    fn mask(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        let line = match body {
            [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
            line => line,
        };
        let CopyRows { delimiter, quote, escape, csv, .. } = self.plan;
        if csv && escape != quote {
            self.fields(body, line, Stops { line, at: 0, delimiter, quote, escape }, out)
        } else {
            let guard = if csv { Guard::Quote(quote) } else { Guard::Backslash };
            self.fields(body, line, Separators::new(line, delimiter, guard), out)
        }
    }

    /// Walks the fields of `line`, which is `body` without its end; `stops` are the places of the delimiters between them. Behind the
    /// last field that is masked they are only counted.
    fn fields(
        &mut self,
        body: &[u8],
        line: &[u8],
        mut stops: impl Iterator<Item = usize>,
        out: &mut Vec<u8>,
    ) -> Option<u64> {
        let mut columns = self.masked.iter();
        // Whatever stays as it is is taken off.
        let mut masked = self.masked.len() as u64;
        // What is not masked is copied in runs: `run` is where the current one began, `field` where the field did.
        let (mut run, mut field, mut more) = (0, 0, true);
        loop {
            let Some(column) = columns.next() else {
                if self.every && more {
                    masked += 1;
                    columns = self.masked.iter();
                    continue;
                }
                break;
            };
            for _ in 0..column.skip {
                field = stops.next()? + 1;
            }
            let stop = stops.next().unwrap_or(line.len());
            // `None` behind the end: fewer fields than columns.
            let value = line.get(field..stop)?;
            more = stop < line.len();
            if self.null_told && !column.nulls && value == self.plan.null {
                masked -= 1;
            } else {
                match line.get(run..field)? {
                    // Between two that are masked.
                    [delimiter] => out.push(*delimiter),
                    passed => out.extend_from_slice(passed),
                }
                run = stop;
                match &column.mask {
                    Mask::Constant(bytes) => out.extend_from_slice(bytes),
                    Mask::Apply(cell) => {
                        if !write(cell, value, &self.plan, &mut self.scratch, out) {
                            masked -= 1;
                            run = field;
                        }
                    }
                }
            }
            field = stop + 1;
        }
        let behind = if more { stops.count() + 1 } else { 0 };
        // Another number of fields than of columns is not what was planned.
        if !self.every && behind != self.behind {
            return None;
        }
        out.extend_from_slice(body.get(run..)?);
        Some(masked)
    }
}

/// What protects a delimiter.
#[derive(Clone, Copy)]
enum Guard {
    /// The byte behind it.
    Backslash,
    /// What is between two of them; a doubled one leaves and enters at once.
    Quote(u8),
}

/// How many bytes are compared at once: one bit each.
const BLOCK: usize = 64;

/// The delimiters of a line that nothing protects (as simdjson finds the structure of a text: Langdale and Lemire, "Parsing Gigabytes
/// of JSON per Second").
struct Separators<'a> {
    line: &'a [u8],
    /// Where the current block begins, its delimiters still to come, and what is behind it.
    block: usize,
    hits: u64,
    rest: &'a [u8],
    delimiter: u8,
    guard: u8,
    quotes: bool,
    /// With quotes all ones: the next block begins inside of them. Else 1: its first byte is behind a backslash.
    open: u64,
}

impl<'a> Separators<'a> {
    fn new(line: &'a [u8], delimiter: u8, guard: Guard) -> Separators<'a> {
        let (guard, quotes) = match guard {
            Guard::Backslash => (b'\\', false),
            Guard::Quote(quote) => (quote, true),
        };
        Separators { line, block: 0, hits: 0, rest: line, delimiter, guard, quotes, open: 0 }
    }

    /// Reads the next block.
    fn advance(&mut self) {
        let rest = self.rest;
        self.block = self.line.len() - rest.len();
        self.rest = rest.get(BLOCK..).unwrap_or_default();
        let (delimiters, guards) = if let Some(block) = rest.first_chunk() {
            same(block, self.delimiter, self.guard)
        } else if let Some(block) = self.line.last_chunk() {
            // The last bytes of the line; those seen before are shifted out.
            let (delimiters, guards) = same(block, self.delimiter, self.guard);
            (delimiters >> (BLOCK - rest.len()), guards >> (BLOCK - rest.len()))
        } else {
            // No server takes NUL for a delimiter or a quote.
            let mut block = [0; BLOCK];
            for (to, from) in block.iter_mut().zip(rest) {
                *to = *from;
            }
            same(&block, self.delimiter, self.guard)
        };
        self.hits = delimiters & !self.protected(guards);
    }

    /// Bits of what the guards of the current block, and an open one before it, protect.
    fn protected(&mut self, mut guards: u64) -> u64 {
        if self.quotes {
            // Each bit becomes that of how many quotes there are up to it, odd or even.
            if guards != 0 {
                for by in [1, 2, 4, 8, 16, 32] {
                    guards ^= guards << by;
                }
            }
            let quoted = guards ^ self.open;
            self.open = 0u64.wrapping_sub(quoted >> 63);
            return quoted;
        }
        let mut protected = std::mem::take(&mut self.open);
        guards &= !protected;
        while guards != 0 {
            let escape = guards & guards.wrapping_neg();
            protected |= escape << 1;
            guards &= !(escape | escape << 1);
            self.open = escape >> 63;
        }
        protected
    }
}

/// Which bytes are `a`, and which are `b`.
fn same(block: &[u8; BLOCK], a: u8, b: u8) -> (u64, u64) {
    let (a, b) = (u8x16::splat(a), u8x16::splat(b));
    let (parts, _) = block.as_chunks();
    parts.iter().rev().fold((0, 0), |(is_a, is_b), part| {
        let part = u8x16::new(*part);
        let bits = |of: u8x16| u64::from(part.simd_eq(of).to_bitmask());
        (is_a << 16 | bits(a), is_b << 16 | bits(b))
    })
}

impl Iterator for Separators<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.hits == 0 {
            if self.rest.is_empty() {
                return None;
            }
            self.advance();
        }
        let at = self.hits.trailing_zeros() as usize;
        self.hits &= self.hits - 1;
        Some(self.block + at)
    }

    fn count(mut self) -> usize {
        let mut count = self.hits.count_ones() as usize;
        while !self.rest.is_empty() {
            self.advance();
            count += self.hits.count_ones() as usize;
        }
        count
    }
}

/// The delimiters outside quotes of a csv line whose escape is not its quote.
struct Stops<'a> {
    line: &'a [u8],
    at: usize,
    delimiter: u8,
    quote: u8,
    escape: u8,
}

impl Iterator for Stops<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut quoted = false;
        let mut bytes = self.line.iter().enumerate().skip(self.at);
        while let Some((at, b)) = bytes.next() {
            if quoted && *b == self.escape {
                bytes.next();
            } else if *b == self.quote {
                quoted = !quoted;
            } else if *b == self.delimiter && !quoted {
                self.at = at + 1;
                return Some(at);
            }
        }
        self.at = self.line.len();
        None
    }
}

/// Writes what stands for `field`, escaped for the format; false, and nothing: the field stays as it is.
#[inline(never)] // or lines of constants pay for it
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

    /// Where delimiters stand that nothing protects, byte by byte.
    fn unprotected(line: &[u8], delimiter: u8, quote: Option<u8>) -> Vec<usize> {
        let (mut quoted, mut escaped, mut found) = (false, false, Vec::new());
        for (at, b) in line.iter().enumerate() {
            if quote == Some(*b) {
                quoted = !quoted;
            } else if std::mem::take(&mut escaped) {
            } else if quote.is_none() && *b == b'\\' {
                escaped = true;
            } else if *b == delimiter && !quoted {
                found.push(at);
            }
        }
        found
    }

    #[test]
    fn separators_are_found_wherever_they_stand_in_a_block() {
        let mut state = 5u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..20_000 {
            // From hardly any of them to nothing else.
            let common = 1 + random(30);
            let line: Vec<u8> = (0..round % 261)
                .map(|_| {
                    if random(30) < common { b",\"\\"[random(3)] } else { b"-.\x00\xac\xff\x80a]"[random(8)] }
                })
                .collect();
            for quote in [None, Some(b'"')] {
                let guard = quote.map_or(Guard::Backslash, Guard::Quote);
                let want = unprotected(&line, b',', quote);
                let new = || Separators::new(&line, b',', guard);
                assert_eq!(new().collect::<Vec<_>>(), want, "{line:?}");
                let mut begun = new();
                let skipped = begun.by_ref().take(round % 7).count();
                assert_eq!(skipped + begun.count(), want.len(), "{line:?}");
            }
        }
    }

    /// Lines of every length up to some blocks, whichever columns are masked; a line of another number of fields is refused.
    #[test]
    fn masked_wherever_fields_end() {
        for length in 0..70 {
            for columns in 1..5 {
                let fields: Vec<String> =
                    (0..columns).map(|i| "x".repeat(length / (i + 1)) + "\\\t\\\\").collect();
                for set in 0..1 << columns {
                    let masked: Vec<bool> = (0..columns).map(|i| set >> i & 1 == 1).collect();
                    for end in ["", "\n", "\r\n"] {
                        let row = fields.join("\t") + end;
                        let want: Vec<&str> =
                            fields.iter().zip(&masked).map(|(f, m)| if *m { "***" } else { f }).collect();
                        assert_eq!(run(false, &masked, &row), Some(want.join("\t") + end), "{row:?}");
                        assert_eq!(run(false, &[&masked[..], &[true]].concat(), &row), None, "{row:?}");
                        assert_eq!(run(false, &[&masked[..], &[false]].concat(), &row), None, "{row:?}");
                        if columns > 1 {
                            assert_eq!(run(false, &masked[1..], &row), None, "{row:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn columns_nobody_counted_are_masked_one_and_all() {
        for (row, want, count) in [
            ("a\n", "***\n", 1),
            ("\n", "***\n", 1),
            ("a\t\\N\tb\\\tc\t", "***\t\\N\t***\t***", 3),
            ("\t\t", "***\t***\t***", 3),
        ] {
            let mut plan = plan(false, &[]);
            plan.every = Some(Cell::redact(25));
            let mut out = Vec::new();
            assert_eq!(Lines::new(plan).mask(row.as_bytes(), &mut out), Some(count), "{row:?}");
            assert_eq!(String::from_utf8(out).unwrap(), want);
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

    #[test]
    fn null_is_masked_where_it_is_computed() {
        for (csv, line, want) in [(false, "\\N\t\\N\n", "***\t\\N\n"), (true, ",\n", "\"***\",\n")] {
            let mut plan = plan(csv, &[true, true]);
            plan.delimiter = if csv { b',' } else { b'\t' };
            plan.columns[0] = Some(Cell::computed(25));
            let mut out = Vec::new();
            assert_eq!(Lines::new(plan).mask(line.as_bytes(), &mut out), Some(1));
            assert_eq!(String::from_utf8(out).unwrap(), want);
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
