//! Masking COPY … TO STDOUT: one CopyData message is one row (protocol chapter, "COPY Operations": the backend sends a message per
//! row), in text or csv. Source of the formats: `src/backend/commands/copyto.c`.

use policy::mask::{Cell, Masked};
use policy::plan::CopyRows;

/// A plan made ready to walk lines: a mask that does not look at the value is its bytes, escaped.
pub(crate) struct Walker {
    plan: CopyRows,
    columns: Box<[Column]>,
    every: Option<Column>,
    /// Reused from line to line.
    scratch: Vec<u8>,
    /// NULL's text has a backslash: a line without one has no NULL and no escapes.
    plain: bool,
}

enum Column {
    Pass,
    /// Stands for any value but NULL.
    Constant(Box<[u8]>),
    Apply(Cell),
}

impl Walker {
    pub(crate) fn new(plan: CopyRows) -> Walker {
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
        let plain = !plan.csv && plan.null.starts_with(b"\\");
        Walker { columns, every, scratch, plain, plan }
    }

    pub(crate) fn header(&self) -> bool {
        self.plan.header
    }

    /// Appends the CopyData row with this `body` (line end included), masked, to `out`, without a message header. Returns how many
    /// cells were masked, or `None` when the row does not have the shape that was planned for.
    pub(crate) fn mask(&mut self, body: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        let (line, end) = split_line_end(body);
        let masked = if self.plain && memchr::memchr(b'\\', line).is_none() {
            // Nothing escaped: every delimiter separates, and a vector search finds them all.
            let delimiter = self.plan.delimiter;
            self.fields(line, memchr::memchr_iter(delimiter, line), out)
        } else {
            let stops = Stops { line, at: 0, format: Format::of(&self.plan) };
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
                if value != self.plan.null {
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

/// The delimiters of a line that has quotes or escapes.
struct Stops<'a> {
    line: &'a [u8],
    at: usize,
    format: Format,
}

/// What separates and protects.
#[derive(Clone, Copy)]
struct Format {
    csv: bool,
    delimiter: u8,
    quote: u8,
    escape: u8,
}

impl Format {
    fn of(plan: &CopyRows) -> Format {
        Format { csv: plan.csv, delimiter: plan.delimiter, quote: plan.quote, escape: plan.escape }
    }
}

impl Iterator for Stops<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let rest = self.line.get(self.at..)?;
        let field = if self.format.csv {
            csv_field(rest, self.format)
        } else {
            text_field(rest, self.format.delimiter)
        };
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

/// Length of the field at the start of a csv row: up to the next delimiter outside quotes.
fn csv_field(row: &[u8], format: Format) -> usize {
    let mut quoted = false;
    let mut bytes = row.iter().enumerate();
    while let Some((at, b)) = bytes.next() {
        if quoted && *b == format.escape && format.escape != format.quote {
            bytes.next();
        } else if *b == format.quote {
            // A doubled quote leaves and enters at once: the state comes out right.
            quoted = !quoted;
        } else if *b == format.delimiter && !quoted {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        Walker::new(plan(csv, columns)).mask(row.as_bytes(), &mut out)?;
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
    fn another_number_of_fields_is_not_the_plan() {
        for row in ["1\n", "1\t2\t3\n", "1\\t2\n", "1\\\\\t2\t3\n"] {
            assert_eq!(run(false, &[true, true], row), None, "{row:?}");
        }
    }
}
