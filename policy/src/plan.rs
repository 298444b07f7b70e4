//! Column → mask, worked out once per result; rows only follow it.

use crate::mask::Cell;
use crate::verdict::Pass;

/// What to do with the columns of one result.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// One per column; `None` passes.
    pub columns: Box<[Option<Cell>]>,
}

impl Plan {
    /// Every column passes: rows need not be looked at.
    pub fn passes_all(&self) -> bool {
        self.columns.iter().all(Option::is_none)
    }

    /// Evidence for a run of bytes that this plan lets through.
    pub fn pass(&self) -> Pass {
        Pass::judged()
    }
}

/// How a COPY … TO STDOUT is masked.
#[derive(Debug, Clone)]
pub enum CopyPlan {
    /// Nothing in it is masked.
    Pass,
    /// Text or CSV rows, one CopyData message each.
    Rows(CopyRows),
    /// Binary format.
    Binary(CopyBinary),
}

/// A COPY in binary format.
#[derive(Debug, Clone)]
pub struct CopyBinary {
    /// One per output column; `None` passes. Absent: how many there are is not known, and all become NULL.
    pub columns: Option<Vec<Option<Cell>>>,
}

#[derive(Debug, Clone)]
pub struct CopyRows {
    pub csv: bool,
    pub delimiter: u8,
    pub quote: u8,
    pub escape: u8,
    /// The text that stands for NULL.
    pub null: Vec<u8>,
    /// First line is a header and passes.
    pub header: bool,
    /// One per output column; `None` passes. Empty: every column of the row is masked with `every`.
    pub columns: Vec<Option<Cell>>,
    pub every: Option<Cell>,
}
