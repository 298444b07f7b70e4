//! Prepared statements and portals as the *server* has them: entries appear when it says ParseComplete or BindComplete, not when
//! the client asks, because a pipeline that fails leaves the old ones in force.

use std::sync::Arc;

use flow::budget::Meter;
use policy::{Cursor, Decision};

use crate::name::Named;

/// A prepared statement.
pub(crate) struct Prepared {
    /// The number of the record entry that holds its text.
    pub(crate) number: u64,
    /// `None`: no rule touched the session when it was prepared.
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    /// Its text, kept where a later policy may have to judge it again.
    pub(crate) text: Option<Arc<[u8]>>,
    /// Which judgement it was decided under.
    pub(crate) stamp: u64,
}

/// A portal made by Bind.
pub(crate) struct Portal {
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    pub(crate) number: u64,
    /// Of a portal that was suspended with rows left: what its limits still allow.
    pub(crate) meter: Option<Box<Meter>>,
}

/// Which names a statement may give to something else behind the protocol's back (SQL's PREPARE, DEALLOCATE, DECLARE, CLOSE, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disturbs {
    pub(crate) statements: bool,
    pub(crate) portals: bool,
}

impl Disturbs {
    pub(crate) const ALL: Disturbs = Disturbs { statements: true, portals: true };

    pub(crate) fn of(decision: Option<&Decision>) -> Disturbs {
        let Some(decision) = decision else { return Disturbs::ALL };
        Disturbs {
            statements: decision.strangers || decision.mentions.statements,
            portals: decision.strangers || decision.mentions.portals,
        }
    }

    pub(crate) fn or(self, other: Disturbs) -> Disturbs {
        Disturbs { statements: self.statements || other.statements, portals: self.portals || other.portals }
    }

    pub(crate) fn any(self) -> bool {
        self.statements || self.portals
    }
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) statements: Named<Prepared>,
    pub(crate) portals: Named<Portal>,
    /// The cursor SQL declared last in this transaction, as what was decided of its DECLARE: a FETCH says nothing of what it reads.
    /// Forgotten at the first sign that a name may stand for something else (see [`policy::Cursor`]).
    cursor: Option<Arc<Decision>>,
}

impl Tables {
    /// What was decided of the DECLARE of the cursor a FETCH names.
    pub(crate) fn declared(&self, fetched: &str) -> Option<&Arc<Decision>> {
        self.cursor.as_ref().filter(|d| matches!(&d.cursor, Some(Cursor::Declared(name)) if name == fetched))
    }

    pub(crate) fn forget_cursor(&mut self) {
        self.cursor = None;
    }

    /// A statement ended well: keeps what is known of SQL's cursors in step.
    pub(crate) fn completed(&mut self, decision: Option<&Arc<Decision>>, command: &[u8]) {
        match decision {
            Some(d) if matches!(&d.cursor, Some(Cursor::Fetched(name)) if self.declared(name).is_some()) => {}
            Some(d) if matches!(d.cursor, Some(Cursor::Declared(_))) && !d.strangers => {
                self.cursor = Some(d.clone());
            }
            Some(d)
                if d.clean
                    && !d.withhold
                    && !d.strangers
                    && !d.mentions.portals
                    && !command.starts_with(b"ROLLBACK") => {}
            _ => self.cursor = None,
        }
    }

    /// A statement ran that may have made, replaced or dropped what names stand for: what we know of them is void, and a later use of
    /// such a name is one of something unknown. The record keeps the texts.
    pub(crate) fn void(&mut self, disturbs: Disturbs) {
        if disturbs.statements {
            self.statements.clear();
        }
        if disturbs.portals {
            self.portals.clear();
        }
    }
}
