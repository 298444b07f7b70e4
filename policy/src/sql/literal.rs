//! Reading the value of a literal, and that it was read.
//!
//! Decisions are kept by a statement's shape, in which every literal of a kind is the same. What the analysis says for one must hold for
//! all of the shape, unless it is marked ([`crate::Decision::literals_matter`]). Not left to whoever looks at a literal: looking is what
//! marks it, whatever comes of it.

use std::cell::Cell;

use pg_raw_parse::{ConstValue, nodes};

thread_local! {
    static READ: Cell<bool> = const { Cell::new(false) };
}

/// The value of a literal.
pub(crate) fn value(literal: &nodes::A_Const) -> Option<ConstValue<'_>> {
    READ.set(true);
    literal.val()
}

/// Whether a literal was read since this was asked last, on this thread.
pub(crate) fn take_read() -> bool {
    READ.take()
}
