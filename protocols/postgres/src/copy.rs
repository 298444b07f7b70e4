//! Masking COPY … TO STDOUT: one CopyData message is one row (protocol chapter, "COPY Operations": the backend sends a message per
//! row), in text or csv. Source of the formats: `src/backend/commands/copyto.c`.

use policy::mask::{Cell, Masked};
use policy::plan::CopyRows;

/// Appends the CopyData row with this `body` (line end included), masked by `plan`, to `out`, without a message header. Returns how
/// many cells were masked, or `None` when the row does not have the shape that was planned for.
pub(crate) fn mask(body: &[u8], plan: &CopyRows, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<u64> {
    let (line, end) = split_line_end(body);
    // Nothing escaped: every delimiter separates, and a vector search finds them all.
    if !plan.csv
        && plan.every.is_none()
        && memchr::memchr(b'\\', line).is_none()
        && plan.null.starts_with(b"\\")
    {
        return plain(line, end, plan, scratch, out);
    }
    let mut rest = line;
    let mut masked = 0;
    let mut index = 0;
    loop {
        let field = if plan.csv { csv_field(rest, plan) } else { text_field(rest, plan.delimiter) };
        let (field, after) = rest.split_at_checked(field)?;
        let cell = match (&plan.every, plan.columns.get(index)) {
            (Some(every), _) => Some(every),
            (None, Some(cell)) => cell.as_ref(),
            // More fields than columns: not what was planned.
            (None, None) => return None,
        };
        match cell {
            Some(cell) if field != plan.null => {
                put(field, cell, plan, scratch, out);
                masked += 1;
            }
            _ => out.extend_from_slice(field),
        }
        index += 1;
        match after.split_first() {
            Some((delimiter, after)) => {
                out.push(*delimiter);
                rest = after;
            }
            None => break,
        }
    }
    if plan.every.is_none() && index != plan.columns.len() {
        return None;
    }
    out.extend_from_slice(end);
    Some(masked)
}

/// A text row without a backslash: no NULL (its text has one) and no escapes.
fn plain(line: &[u8], end: &[u8], plan: &CopyRows, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<u64> {
    let mut masked = 0;
    let mut columns = plan.columns.iter();
    // What is not masked is copied in runs: `run` is where the current one began, `field` where the field did.
    let (mut run, mut field) = (0, 0);
    for stop in memchr::memchr_iter(plan.delimiter, line).chain([line.len()]) {
        if let Some(cell) = columns.next()? {
            out.extend_from_slice(line.get(run..field)?);
            put(line.get(field..stop)?, cell, plan, scratch, out);
            masked += 1;
            run = stop;
        }
        field = stop + 1;
    }
    if columns.next().is_some() {
        return None;
    }
    out.extend_from_slice(line.get(run..)?);
    out.extend_from_slice(end);
    Some(masked)
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
fn csv_field(row: &[u8], plan: &CopyRows) -> usize {
    let mut quoted = false;
    let mut bytes = row.iter().enumerate();
    while let Some((at, b)) = bytes.next() {
        if quoted && *b == plan.escape && plan.escape != plan.quote {
            bytes.next();
        } else if *b == plan.quote {
            // A doubled quote leaves and enters at once: the state comes out right.
            quoted = !quoted;
        } else if *b == plan.delimiter && !quoted {
            return at;
        }
    }
    row.len()
}

/// Writes what stands for `field`, escaped for the format.
fn put(field: &[u8], cell: &Cell, plan: &CopyRows, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
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
    if masked == Masked::Null {
        out.extend_from_slice(&plan.null);
        return;
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
        mask(row.as_bytes(), &plan(csv, columns), &mut Vec::new(), &mut out)?;
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
