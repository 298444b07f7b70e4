//! A [`Scope`](crate::Scope) bound to a catalogue: answers what may run and what must be masked.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::facts::Column;
use crate::plan::{CopyPlan, Plan};
use crate::rule::Scope;
use crate::verdict::Verdict;

/// Judges statements and result shapes for one scope against one catalogue snapshot.
pub struct Judge {
    pub(crate) scope: Arc<Scope>,
    pub(crate) catalog: Arc<Catalog>,
}

/// What was decided about one statement text (a simple-query string may hold several statements).
#[derive(Debug, Clone)]
pub struct Decision {
    pub verdict: Verdict,
    /// Names of rules in observe mode that would have blocked or masked.
    pub observed: Vec<String>,
    /// Proved: no output of any statement can derive from a masked column, so its rows pass unseen. False when in doubt.
    pub clean: bool,
    /// The statement reads a masked column, or nobody could prove that it does not: error and notice texts are withheld.
    pub withhold: bool,
    /// For the n-th COPY … TO STDOUT of the text (in order): how to mask it.
    pub copies: Vec<CopyPlan>,
    /// It creates, alters or drops something: the catalogue is stale after it.
    pub ddl: bool,
}

impl Judge {
    pub fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Judges a statement text. `sql` is what the server will parse (without the terminating NUL). Never panics; cost bounded.
    pub fn statement(&self, _sql: &[u8]) -> Arc<Decision> {
        Arc::new(Decision {
            verdict: Verdict::Pass,
            observed: Vec::new(),
            clean: true,
            withhold: false,
            copies: Vec::new(),
            ddl: false,
        })
    }

    /// Judges a function-call message: the function's OID is all that is known.
    pub fn function_call(&self, _function: u32) -> Verdict {
        Verdict::Pass
    }

    /// True when a column's table is newer than the catalogue: load a new one before planning.
    pub fn unknown_table(&self, _columns: &[Column<'_>]) -> bool {
        false
    }

    /// What to do with each column of a result of a statement that is not [`Decision::clean`].
    pub fn plan(&self, _columns: &[Column<'_>]) -> Plan {
        Plan::default()
    }
}
