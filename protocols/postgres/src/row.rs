//! Walking DataRow cells and putting masks in their place.
//!
//! A row that fits a buffer is rewritten in one pass: runs between masked cells are copied, masks written, the length patched. A
//! longer one is never held: its masked cells are overwritten byte for byte as they stream by (same length, see
//! [`policy::mask::Cell::fill`]).

use std::rc::Rc;

use flow::{Fault, Side};
use policy::Plan;
use policy::mask::{Cell, Fill, Masked};

fn fault(what: &'static str) -> Fault {
    Fault::Protocol { side: Side::Server, what }
}

/// A plan made ready to walk rows: runs of columns that pass are one step, a mask that does not look at the value is its bytes.
pub(crate) struct Walker {
    pub(crate) plan: Rc<Plan>,
    steps: Box<[Step]>,
    masked: u64,
}

enum Step {
    /// So many columns pass.
    Skip(usize),
    /// Stands for any value, length first.
    Constant(Box<[u8]>),
    Apply(Cell),
    /// Looks into the value, and leaves most as they are.
    Look(Cell),
}

impl Walker {
    pub(crate) fn new(plan: Rc<Plan>) -> Walker {
        let mut steps = Vec::new();
        let mut masked = 0;
        for column in &plan.columns {
            let step = match column {
                None => {
                    if let Some(Step::Skip(n)) = steps.last_mut() {
                        *n += 1;
                    } else {
                        steps.push(Step::Skip(1));
                    }
                    continue;
                }
                Some(cell) if cell.ignores_value() => {
                    let mut bytes = vec![0xff; 4];
                    if cell.apply(&[], &mut bytes) == Masked::Written {
                        let length = bytes.len() - 4;
                        patch(&mut bytes, 0, length);
                    }
                    Step::Constant(bytes.into())
                }
                Some(cell) if cell.looks_inside() => Step::Look(cell.clone()),
                Some(cell) => Step::Apply(cell.clone()),
            };
            masked += 1;
            steps.push(step);
        }
        // Behind the last masked cell nothing needs to be looked at.
        if let Some(Step::Skip(_)) = steps.last() {
            steps.pop();
        }
        Walker { plan, steps: steps.into(), masked }
    }

    /// Appends the DataRow with this `body`, masked, to `out`; returns how many cells were masked.
    pub(crate) fn mask(&self, body: &[u8], out: &mut Vec<u8>) -> Result<u64, Fault> {
        let start = out.len();
        let (count, mut rest) =
            body.split_first_chunk::<2>().ok_or_else(|| fault("DataRow: column count"))?;
        if usize::from(u16::from_be_bytes(*count)) != self.plan.columns.len() {
            return Err(fault("DataRow: more or fewer columns than described"));
        }
        out.extend_from_slice(&[b'D', 0, 0, 0, 0, count[0], count[1]]);
        let mut masked = self.masked;
        // What is not masked is copied in runs: `run` is where the current one began.
        let mut run = rest;
        for step in &self.steps {
            if let Step::Skip(columns) = step {
                for _ in 0..*columns {
                    rest = cell(rest)?.1;
                }
                continue;
            }
            let (value, after) = cell(rest)?;
            if let Some(value) = value {
                if let Step::Look(mask) = step
                    && mask.leaves(value)
                {
                    masked -= 1;
                    rest = after;
                    continue;
                }
                out.extend_from_slice(run.get(..run.len() - rest.len()).unwrap_or_default());
                match step {
                    Step::Constant(bytes) => out.extend_from_slice(bytes),
                    Step::Skip(_) => {}
                    Step::Apply(mask) | Step::Look(mask) => {
                        let at = out.len();
                        out.extend_from_slice(&[0xff; 4]);
                        match mask.apply(value, out) {
                            Masked::Written => {
                                let length = out.len() - at - 4;
                                patch(out, at, length);
                            }
                            Masked::Null => {}
                            Masked::Kept => {
                                masked -= 1;
                                patch(out, at, value.len());
                                out.extend_from_slice(value);
                            }
                        }
                    }
                }
                run = after;
            } else {
                // NULL stays NULL: nothing to hide.
                masked -= 1;
            }
            rest = after;
        }
        out.extend_from_slice(run);
        let length = out.len() - start - 1;
        patch(out, start + 1, length);
        Ok(masked)
    }
}

/// The cell at the start of `row`, and what follows it.
#[inline]
fn cell(row: &[u8]) -> Result<(Option<&[u8]>, &[u8]), Fault> {
    let (length, after) = row.split_first_chunk::<4>().ok_or_else(|| fault("DataRow: cell length"))?;
    match i32::from_be_bytes(*length) {
        -1 => Ok((None, after)),
        length => {
            let size = usize::try_from(length).map_err(|_| fault("DataRow: negative cell length"))?;
            let (value, after) = after.split_at_checked(size).ok_or_else(|| fault("DataRow: cell"))?;
            Ok((Some(value), after))
        }
    }
}

/// Writes a length (a signed 32-bit number, big-endian) at `at`.
fn patch(out: &mut [u8], at: usize, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&length);
    }
}

/// A row on its way that is too long to be held.
pub(crate) struct Stream {
    /// Body bytes still to come.
    left: usize,
    column: usize,
    /// Bytes left of the cell being copied, how many it has, and what replaces them.
    cell: usize,
    length: usize,
    fill: Option<Fill>,
    counted: bool,
}

impl Stream {
    pub(crate) fn new(body: usize) -> Stream {
        Stream { left: body, column: 0, cell: 0, length: 0, fill: None, counted: false }
    }

    /// Takes from `input` what it can, appending to `out`; returns how much was taken and how many cells were masked in it.
    pub(crate) fn advance(
        &mut self,
        input: &[u8],
        plan: &Plan,
        out: &mut Vec<u8>,
    ) -> Result<(usize, u64), Fault> {
        let mut rest = input.get(..self.left.min(input.len())).unwrap_or_default();
        let offered = rest.len();
        let mut masked = 0;
        loop {
            if !self.counted {
                let Some((count, after)) = rest.split_first_chunk::<2>() else { break };
                if usize::from(u16::from_be_bytes(*count)) != plan.columns.len() {
                    return Err(fault("DataRow: more or fewer columns than described"));
                }
                out.extend_from_slice(count);
                self.counted = true;
                rest = after;
            } else if self.cell > 0 {
                let (part, after) = rest.split_at(self.cell.min(rest.len()));
                if part.is_empty() {
                    break;
                }
                match self.fill {
                    Some(fill) => {
                        let at = self.length - self.cell;
                        fill.write(at..at + part.len(), self.length, out);
                    }
                    None => out.extend_from_slice(part),
                }
                self.cell -= part.len();
                rest = after;
            } else if let Some(column) = plan.columns.get(self.column) {
                let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
                self.column += 1;
                out.extend_from_slice(length);
                rest = after;
                let length = i32::from_be_bytes(*length);
                self.cell = usize::try_from(length).unwrap_or(0);
                self.length = self.cell;
                self.fill = None;
                if length < -1 {
                    return Err(fault("DataRow: negative cell length"));
                }
                if let Some(cell) = column
                    && length >= 0
                {
                    masked += 1;
                    self.fill = cell.fill();
                    if self.fill.is_none() && self.cell > 0 {
                        return Err(Fault::Limit {
                            side: Side::Server,
                            what: "a row too long to be held, with a masked cell that cannot be masked in place",
                        });
                    }
                }
            } else {
                break;
            }
        }
        let taken = offered - rest.len();
        self.left -= taken;
        if self.column == plan.columns.len() && self.cell == 0 && self.counted && self.left > 0 {
            return Err(fault("DataRow: trailing bytes"));
        }
        Ok((taken, masked))
    }

    pub(crate) fn done(&self) -> bool {
        self.left == 0
    }

    /// True when the row's bytes are used up but a cell is not: the lengths lied.
    pub(crate) fn broken(&self, plan: &Plan) -> bool {
        self.done() && (self.cell > 0 || self.column != plan.columns.len() || !self.counted)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use policy::{Column, Format};

    /// What `action` of a rule becomes for a column of this type.
    pub(crate) fn cell(action: &str, type_oid: u32, format: Format) -> Cell {
        let rules = format!(r#"{{"rules": [{{"name": "m", "on": {{"columns": ["t.c"]}}, {action}}}]}}"#);
        let catalogue = r#"{"database": "d", "server_version": 150000, "search_path": ["public"], "functions": [],
            "tables": [{"oid": 20000, "schema": "public", "name": "t", "kind": "r",
                "columns": [{"number": 1, "name": "c", "type_oid": 25, "type_name": "text"}]}]}"#;
        let source =
            policy::rule::Source { file: serde_json::from_str(&rules).unwrap(), ..Default::default() };
        let subject = policy::Subject { identity: "ana".into(), groups: Vec::new() };
        let scope = policy::compile(&[source], None).unwrap().scope(&subject, "d");
        let judge = scope.bind(std::sync::Arc::new(serde_json::from_str(catalogue).unwrap()));
        let plan = judge.plan(&[Column { name: b"c", table: 20_000, attribute: 1, type_oid, format }]);
        plan.columns[0].clone().expect("it is masked")
    }

    fn row(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = (cells.len() as u16).to_be_bytes().to_vec();
        for c in cells {
            body.extend_from_slice(&c.map_or(-1, |c| c.len() as i32).to_be_bytes());
            body.extend_from_slice(c.unwrap_or_default());
        }
        body
    }

    fn walker(columns: &[bool]) -> Walker {
        let columns = columns.iter().map(|m| m.then(|| Cell::redact(25))).collect();
        Walker::new(Rc::new(Plan { columns }))
    }

    #[test]
    fn masks_where_the_plan_says_and_keeps_the_rest() {
        let body = row(&[Some(b"1"), Some(b"secret"), None, Some(b"tail"), Some(b"secret2"), Some(b"")]);
        for plan in
            [[false, true, true, false, true, false], [true; 6], [false, false, false, false, false, true]]
        {
            let mut out = Vec::new();
            let masked = walker(&plan).mask(&body, &mut out).unwrap();
            let expected: Vec<Option<&[u8]>> =
                [Some(&b"1"[..]), Some(b"secret"), None, Some(b"tail"), Some(b"secret2"), Some(b"")]
                    .iter()
                    .zip(plan)
                    .map(|(c, m)| if m { c.map(|_| &b"***"[..]) } else { *c })
                    .collect();
            let expected = row(&expected);
            assert_eq!(out[0], b'D');
            assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, expected.len() + 4);
            assert_eq!(out[5..], expected);
            assert_eq!(masked, plan.iter().enumerate().filter(|(i, m)| **m && *i != 2).count() as u64);
        }
    }

    #[test]
    fn detectors_replace_what_they_find_and_count_it() {
        let email = || Some(cell(r#""detect": ["email"]"#, 25, Format::Text));
        let json = Some(cell(r#""detect": ["email"]"#, 114, Format::Text));
        let columns = [email(), None, email(), json, Some(Cell::redact(25))].into();
        let walker = Walker::new(Rc::new(Plan { columns }));
        let body =
            row(&[Some(b"nothing"), Some(b"ana@x.io"), Some(b"<ana@x.io>"), Some(b"[\"a\\n\"]"), Some(b"x")]);
        let want =
            row(&[Some(b"nothing"), Some(b"ana@x.io"), Some(b"<***>"), Some(b"[\"a\\n\"]"), Some(b"***")]);
        let mut out = Vec::new();
        assert_eq!(walker.mask(&body, &mut out).unwrap(), 2);
        assert_eq!(out[5..], want);
    }

    #[test]
    fn a_row_that_cannot_be_held_is_overwritten_in_place() {
        let masked = |oid, format| Some(cell(r#""mask": "redact""#, oid, format));
        let columns = [
            Some(cell(r#""detect": ["email"]"#, 25, Format::Text)),
            None,
            masked(3802, Format::Text),
            masked(3802, Format::Binary),
            masked(20, Format::Binary),
            masked(17, Format::Text),
            masked(1700, Format::Binary),
        ];
        let plan = Plan { columns: columns.into() };
        let body = row(&[
            Some(b"nothing"),
            Some(b"x"),
            Some(b"{\"a\":1}"),
            Some(b"\x01[123]"),
            Some(&[7; 8]),
            Some(b"\\x4711"),
            None,
        ]);
        let want = row(&[
            Some(b"*******"),
            Some(b"x"),
            Some(b"\"*****\""),
            Some(b"\x01\"***\""),
            Some(&[0; 8]),
            Some(b"\\x0000"),
            None,
        ]);
        for cut in 0..=body.len() {
            let (mut stream, mut out, mut masked) = (Stream::new(body.len()), Vec::new(), 0);
            let mut taken = 0;
            for end in [cut, body.len()] {
                let (more, cells) = stream.advance(&body[taken..end], &plan, &mut out).unwrap();
                (taken, masked) = (taken + more, masked + cells);
            }
            assert!(stream.done() && !stream.broken(&plan));
            assert_eq!((out, masked), (want.clone(), 5), "cut at {cut}");
        }
        // Some types have no value for every length.
        let body = row(&[Some(b"47")]);
        let plan = Plan { columns: [masked(1700, Format::Binary)].into() };
        assert!(Stream::new(body.len()).advance(&body, &plan, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_row_of_another_shape_is_a_fault() {
        let mut out = Vec::new();
        assert!(walker(&[true]).mask(&row(&[Some(b"a"), Some(b"b")]), &mut out).is_err());
        assert!(walker(&[true, true]).mask(&[0, 2, 0, 0, 0, 9, 1], &mut out).is_err());
        assert!(walker(&[true]).mask(&[0, 1, 0xff, 0xff, 0xff, 0xfe], &mut out).is_err());
    }
}
