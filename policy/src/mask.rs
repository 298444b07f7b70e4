//! The masks. Each documents `before -> after`.

/// A mask made ready for one column: its type and wire format are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {}

/// What became of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masked {
    /// The bytes were appended to the output.
    Written,
    /// The cell becomes NULL; nothing was appended.
    Null,
}

impl Cell {
    /// Appends what stands for `value` to `out`. Never fails; valid for the column's type and format.
    pub fn apply(&self, _value: &[u8], _out: &mut Vec<u8>) -> Masked {
        Masked::Null
    }

    /// One byte to repeat for a value too long to be held: the result has the same length and is valid for the type; `None`: this
    /// type has no such fill and the value cannot be streamed.
    pub fn fill(&self) -> Option<u8> {
        None
    }
}
