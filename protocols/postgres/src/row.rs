//! Walking DataRow cells and putting masks in their place.
//!
//! A row is rewritten in one pass: runs between masked cells are copied, masks written, the length patched. Of
//! one that does not fit a buffer, what comes in front of its last masked cell is held: a row's length comes first, and that of the row
//! as the server sent it would tell how long its masked cells are.

use std::rc::Rc;

use flow::limits::MASKED_ROW_BYTES_MAX;
use flow::{Fault, Side};
use policy::Plan;
use policy::mask::{Cell, LOOKED_INTO_MAX, Masked};

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
    /// The same, and for NULL.
    Always(Box<[u8]>),
    Apply(Cell),
    /// A line of a plan, which may stand inside of what an earlier one began.
    Line(Cell),
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
                    if cell.masks_nulls() { Step::Always(bytes.into()) } else { Step::Constant(bytes.into()) }
                }
                Some(cell) if cell.looks_inside() => Step::Look(cell.clone()),
                Some(cell) if cell.is_line() => Step::Line(cell.clone()),
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

    /// Appends the DataRow with this `body`, masked, to `out`; returns how many cells were masked. `torn`: of this result
    /// ([`Cell::apply_line`]).
    pub(crate) fn mask(&self, body: &[u8], torn: &mut bool, out: &mut Vec<u8>) -> Result<u64, Fault> {
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
            if let Step::Always(bytes) = step {
                out.extend_from_slice(run.get(..run.len() - rest.len()).unwrap_or_default());
                out.extend_from_slice(bytes);
                run = after;
            } else if let Some(value) = value {
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
                    Step::Skip(_) | Step::Always(_) => {}
                    Step::Apply(mask) | Step::Look(mask) | Step::Line(mask) => {
                        let at = out.len();
                        out.extend_from_slice(&[0xff; 4]);
                        let became = match step {
                            Step::Line(_) => mask.apply_line(value, torn, out),
                            _ => mask.apply(value, out),
                        };
                        match became {
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

/// A row that does not fit a buffer, on its way.
pub(crate) struct Held {
    /// Body bytes still to come.
    left: usize,
    part: Part,
    /// The columns passed so far, and how many there are up to the last that is masked.
    column: usize,
    last: usize,
    /// The message so far, masked.
    row: Vec<u8>,
    /// A value its mask looks into.
    value: Vec<u8>,
    masked: u64,
    plan: Rc<Plan>,
}

/// What comes next.
enum Part {
    Count,
    Length,
    /// So many bytes of a cell that passes, is masked unseen, or is looked into.
    Pass(usize),
    Drop(usize),
    Look(usize),
}

impl Held {
    pub(crate) fn new(body: usize, plan: Rc<Plan>) -> Held {
        let last = plan.columns.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let row = vec![b'D', 0, 0, 0, 0];
        Held { left: body, part: Part::Count, column: 0, last, row, value: Vec::new(), masked: 0, plan }
    }

    /// Takes from `input` what it can; returns how much that was.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<usize, Fault> {
        let offered = input.get(..self.left).unwrap_or(input);
        let mut rest = offered;
        while !self.passed() {
            match &mut self.part {
                Part::Count => {
                    let Some((count, after)) = rest.split_first_chunk::<2>() else { break };
                    if usize::from(u16::from_be_bytes(*count)) != self.plan.columns.len() {
                        return Err(fault("DataRow: more or fewer columns than described"));
                    }
                    self.row.extend_from_slice(count);
                    (rest, self.part) = (after, Part::Length);
                }
                Part::Length => {
                    let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
                    rest = after;
                    self.begin(*length)?;
                }
                Part::Pass(left) | Part::Drop(left) | Part::Look(left) => {
                    let (now, after) = rest.split_at(rest.len().min(*left));
                    if now.is_empty() && *left > 0 {
                        break;
                    }
                    (rest, *left) = (after, *left - now.len());
                    let over = *left == 0;
                    match self.part {
                        Part::Pass(_) => self.row.extend_from_slice(now),
                        Part::Look(_) => self.value.extend_from_slice(now),
                        _ => {}
                    }
                    if over {
                        self.end();
                    }
                }
            }
        }
        let taken = offered.len() - rest.len();
        self.left -= taken;
        if self.left == 0 && !self.passed() {
            return Err(fault("DataRow: cells and length disagree"));
        }
        Ok(taken)
    }

    /// The next cell has this length.
    fn begin(&mut self, length: [u8; 4]) -> Result<(), Fault> {
        let mask = self.plan.columns.get(self.column).and_then(Option::as_ref);
        let size = match i32::from_be_bytes(length) {
            -1 if mask.is_some_and(Cell::masks_nulls) => 0,
            // NULL stays NULL.
            -1 => {
                self.row.extend_from_slice(&length);
                self.column += 1;
                return Ok(());
            }
            length => usize::try_from(length).map_err(|_| fault("DataRow: negative cell length"))?,
        };
        self.part = match mask {
            None if self.row.len() + size > MASKED_ROW_BYTES_MAX => {
                return Err(Fault::Limit {
                    side: Side::Server,
                    what: "over 16 MiB in front of a masked cell",
                });
            }
            None => {
                self.row.extend_from_slice(&length);
                Part::Pass(size)
            }
            Some(mask) if mask.ignores_value() || size > LOOKED_INTO_MAX => Part::Drop(size),
            Some(_) => Part::Look(size),
        };
        if size == 0 {
            self.end();
        }
        Ok(())
    }

    /// The cell is here, or gone.
    fn end(&mut self) {
        let part = std::mem::replace(&mut self.part, Part::Length);
        if let Some(mask) = self.plan.columns.get(self.column).and_then(Option::as_ref) {
            let at = self.row.len();
            self.row.extend_from_slice(&[0xff; 4]);
            let masked = match part {
                Part::Drop(_) => mask.unseen(&mut self.row),
                _ => mask.apply(&self.value, &mut self.row),
            };
            self.masked += u64::from(masked != Masked::Kept);
            match masked {
                Masked::Null => {}
                Masked::Written => {
                    let length = self.row.len() - at - 4;
                    patch(&mut self.row, at, length);
                }
                Masked::Kept => {
                    patch(&mut self.row, at, self.value.len());
                    self.row.extend_from_slice(&self.value);
                }
            }
            self.value.clear();
        }
        self.column += 1;
    }

    /// All that is masked is.
    pub(crate) fn passed(&self) -> bool {
        self.column >= self.last && matches!(self.part, Part::Length)
    }

    /// Appends what came so far to `out`; returns how many bytes are still to come, which pass, and how many cells were masked.
    pub(crate) fn write(mut self, out: &mut Vec<u8>) -> (usize, u64) {
        let length = self.row.len() - 1 + self.left;
        patch(&mut self.row, 1, length);
        out.extend_from_slice(&self.row);
        (self.left, self.masked)
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
            let masked = walker(&plan).mask(&body, &mut false, &mut out).unwrap();
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
    fn null_is_masked_where_it_is_computed() {
        let columns = [Some(Cell::computed(25)), None, Some(Cell::redact(25)), Some(Cell::computed(23))];
        let walker = Walker::new(Rc::new(Plan { columns: columns.into() }));
        for computed in [None, Some(&b"x"[..])] {
            let mut out = Vec::new();
            let masked =
                walker.mask(&row(&[computed, Some(b"a"), None, computed]), &mut false, &mut out).unwrap();
            assert_eq!(out[5..], row(&[Some(b"***"), Some(b"a"), None, None]));
            assert_eq!(masked, 2);
        }
        // The same where the row is too long to be held.
        let body = row(&[None, Some(b"a"), None, None]);
        let mut held = Held::new(body.len(), walker.plan.clone());
        assert_eq!(held.take(&body).unwrap(), body.len());
        let mut out = Vec::new();
        assert_eq!(held.write(&mut out), (0, 2));
        assert_eq!(out[5..], row(&[Some(b"***"), Some(b"a"), None, None]));
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
        assert_eq!(walker.mask(&body, &mut false, &mut out).unwrap(), 2);
        assert_eq!(out[5..], want);
    }

    #[test]
    fn a_row_longer_than_a_buffer_is_masked_as_any_other_wherever_it_is_cut() {
        let masked = |oid, format| Some(cell(r#""mask": "redact""#, oid, format));
        let detect = || Some(cell(r#""detect": ["email"]"#, 25, Format::Text));
        let columns =
            [detect(), None, masked(3802, Format::Text), masked(25, Format::Text), detect(), None, None];
        let plan = Rc::new(Plan { columns: columns.into() });
        for (long, none) in [(&b"needle"[..], None), (b"", Some(&b""[..]))] {
            let body = row(&[
                Some(b"<ana@x.io>"),
                Some(b"passes"),
                Some(long),
                Some(long),
                Some(b"nothing"),
                none,
                Some(b"passes too"),
            ]);
            let (mut want, mut cells) = (Vec::new(), 0);
            cells += Walker::new(plan.clone()).mask(&body, &mut false, &mut want).unwrap();
            for cut in 0..=body.len() {
                let mut held = Held::new(body.len(), plan.clone());
                let taken = held.take(&body[..cut]).unwrap();
                let taken = taken + held.take(&body[taken..]).unwrap();
                assert!(held.passed());
                let mut out = Vec::new();
                assert_eq!(held.write(&mut out), (body.len() - taken, cells));
                out.extend_from_slice(&body[taken..]);
                assert_eq!(out, want, "cut at {cut}");
            }
        }
        // The lengths lie.
        let body = row(&[Some(b"a")]);
        assert!(Held::new(body.len(), plan.clone()).take(&body).is_err());
        let plan = Rc::new(Plan { columns: [masked(25, Format::Text)].into() });
        assert!(Held::new(8, plan.clone()).take(&[0, 1, 0, 0, 0, 9, 1, 1]).is_err());
        assert!(Held::new(7, plan).take(&[0, 1, 0xff, 0xff, 0xff, 0xfe, 0]).is_err());
    }

    #[test]
    fn a_row_of_another_shape_is_a_fault() {
        let mut out = Vec::new();
        assert!(walker(&[true]).mask(&row(&[Some(b"a"), Some(b"b")]), &mut false, &mut out).is_err());
        assert!(walker(&[true, true]).mask(&[0, 2, 0, 0, 0, 9, 1], &mut false, &mut out).is_err());
        assert!(walker(&[true]).mask(&[0, 1, 0xff, 0xff, 0xff, 0xfe], &mut false, &mut out).is_err());
    }
}
