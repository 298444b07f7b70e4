//! What was decided. Only this crate can make a [`Pass`], and only a `Pass` moves bytes.

/// Evidence that these bytes were judged and may cross. Not `Clone`: one judgement, one crossing.
#[derive(Debug)]
#[must_use]
pub struct Pass(());

impl Pass {
    pub(crate) fn judged() -> Pass {
        Pass(())
    }

    /// For messages that carry neither a statement nor data (Sync, Flush, ReadyForQuery, …). A test lists the callers; that list
    /// is what a security reviewer reads.
    pub fn housekeeping() -> Pass {
        Pass(())
    }
}

/// The answer for one statement (a whole simple-query string counts as one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// May be sent, with the plans of the [`crate::Decision`].
    Pass,
    /// Must not reach the database.
    Block(Block),
}

/// A refusal, in full. The texts hold no data from any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Rule name, or `not-understood` when nothing could be proved.
    pub rule: String,
    /// `policy/shop.yaml:12`; empty for built-in refusals.
    pub place: String,
    /// `DROP TABLE is not allowed on shop for group support`
    pub message: String,
    /// SQLSTATE: 42501, or 0A000 / 54000 / 22023 where the reason is another.
    pub sqlstate: &'static str,
    /// Schema, table and column that fired, when one did.
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    /// What to do next.
    pub hint: String,
}
