//! Walking DataRow cells and putting masks in their place.
//!
//! A row that fits a buffer is rewritten in one pass: runs between masked cells are copied, masks written, the length patched. A
//! longer one is never held: its masked cells are overwritten byte for byte as they stream by (same length, see
//! [`policy::mask::Cell::fill`]).

use flow::{Fault, Side};
use policy::Plan;
use policy::mask::Masked;

use crate::frame::HEADER;

fn fault(what: &'static str) -> Fault {
    Fault::Protocol { side: Side::Server, what }
}

/// Appends the DataRow with this `body`, masked by `plan`, to `out`; returns how many cells were masked.
pub(crate) fn mask(body: &[u8], plan: &Plan, out: &mut Vec<u8>) -> Result<u64, Fault> {
    let start = out.len();
    out.reserve(body.len() + HEADER + 16);
    out.extend_from_slice(&[b'D', 0, 0, 0, 0]);
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(|| fault("DataRow: column count"))?;
    if usize::from(u16::from_be_bytes(*count)) != plan.columns.len() {
        return Err(fault("DataRow: more or fewer columns than described"));
    }
    out.extend_from_slice(count);
    let mut masked = 0;
    // What is not masked is copied in runs: `run` is where the current one began.
    let mut run = rest;
    for column in &plan.columns {
        let here = rest;
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| fault("DataRow: cell length"))?;
        let length = i32::from_be_bytes(*length);
        let Ok(size) = usize::try_from(length) else {
            if length != -1 {
                return Err(fault("DataRow: negative cell length"));
            }
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(size).ok_or_else(|| fault("DataRow: cell"))?;
        rest = after;
        if let Some(cell) = column {
            let before = run.len() - here.len();
            out.extend_from_slice(run.get(..before).unwrap_or_default());
            let at = out.len();
            out.extend_from_slice(&[0xff; 4]);
            if cell.apply(value, out) == Masked::Written {
                let length = out.len() - at - 4;
                patch(out, at, length);
            } else {
                out.truncate(at + 4);
            }
            masked += 1;
            run = rest;
        }
    }
    if !rest.is_empty() {
        return Err(fault("DataRow: trailing bytes"));
    }
    out.extend_from_slice(run);
    let length = out.len() - start - 1;
    patch(out, start + 1, length);
    Ok(masked)
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
    /// Bytes left of the cell being copied, and what replaces them.
    cell: usize,
    fill: Option<u8>,
    counted: bool,
}

impl Stream {
    pub(crate) fn new(body: usize) -> Stream {
        Stream { left: body, column: 0, cell: 0, fill: None, counted: false }
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
                    Some(byte) => out.resize(out.len() + part.len(), byte),
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
