//! What is asked and answered, in words every protocol shares.

/// Format of a cell on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Text,
    Binary,
}

/// One output column as the server describes it (the second witness).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a [u8],
    /// Table OID; 0: not a plain column.
    pub table: u32,
    /// Attribute number in that table; 0: whole row or none.
    pub attribute: i16,
    /// Type OID.
    pub type_oid: u32,
    pub format: Format,
}
