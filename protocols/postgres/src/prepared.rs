//! Prepared statements and portals as the *server* has them: entries appear when it says ParseComplete or BindComplete, not when
//! the client asks, because a pipeline that fails leaves the old ones in force.

use std::sync::Arc;

use flow::budget::Meter;
use policy::{Decision, Kept};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

fn prepares(decision: &Decision, wanted: &[u8]) -> bool {
    matches!(&decision.kept, Some(Kept::Prepared { name, .. }) if name.as_bytes() == wanted)
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) statements: Named<Prepared>,
    pub(crate) portals: Named<Portal>,
    /// Names that are in no table may stand for something all the same: what was known of some is void.
    pub(crate) unknown: Disturbs,
    /// In a box: most sessions never use them.
    sql: Option<Box<SqlNames>>,
}

/// What SQL keeps under names, as what was decided when it was made: a FETCH or an EXECUTE says nothing of what it reads. Forgotten at
/// the first sign that a name may stand for something else (see [`policy::Kept`]).
#[derive(Default)]
struct SqlNames {
    /// The cursor declared last in this transaction.
    cursor: Option<Arc<Decision>>,
    /// Prepared statements, oldest first.
    prepared: Vec<Arc<Decision>>,
}

/// Of SQL's PREPARE, that are remembered.
const SQL_PREPARED_MAX: usize = 64;

impl Tables {
    /// What was decided of the DECLARE or PREPARE that a FETCH or EXECUTE names.
    pub(crate) fn kept(&self, decision: Option<&Arc<Decision>>) -> Option<&Arc<Decision>> {
        let sql = self.sql.as_deref()?;
        let used = decision?.kept.as_ref()?;
        let serves = |d: &&Arc<Decision>| d.kept.as_ref().is_some_and(|made| made.serves(used));
        sql.cursor.iter().chain(&sql.prepared).find(serves)
    }

    pub(crate) fn forget_cursor(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.cursor = None;
        }
    }

    pub(crate) fn forget_prepared(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.prepared.clear();
        }
    }

    /// The judgement changed: what was decided before is void.
    pub(crate) fn forget_kept(&mut self) {
        self.sql = None;
    }

    /// The protocol made or closed a statement of this name.
    pub(crate) fn renamed(&mut self, name: &[u8]) {
        if let Some(sql) = &mut self.sql {
            sql.prepared.retain(|d| !prepares(d, name));
        }
    }

    /// A statement ended well: keeps what is known of SQL's cursors and prepared statements in step.
    pub(crate) fn completed(&mut self, decision: Option<&Arc<Decision>>, command: &[u8]) {
        let does = decision.and_then(|d| d.kept.as_ref());
        if does.is_none() && self.sql.is_none() {
            return;
        }
        let known = self.kept(decision).cloned();
        match decision {
            Some(d) if matches!(does, Some(Kept::Declared(_))) && !d.strangers => {
                self.sql.get_or_insert_default().cursor = Some(d.clone());
            }
            Some(_) if matches!(does, Some(Kept::Fetched(_))) && known.is_some() => {}
            Some(d)
                if d.clean
                    && !d.withhold
                    && !d.strangers
                    && !d.mentions.portals
                    && !command.starts_with(b"ROLLBACK") => {}
            _ => self.forget_cursor(),
        }
        match decision {
            // It succeeded, so the name was free.
            Some(d) if matches!(does, Some(Kept::Prepared { .. })) && !d.strangers => {
                let prepared = &mut self.sql.get_or_insert_default().prepared;
                if prepared.len() >= SQL_PREPARED_MAX {
                    prepared.remove(0);
                }
                prepared.push(d.clone());
            }
            // What it ran is known.
            Some(_) if matches!(does, Some(Kept::Executed { .. })) && known.is_some_and(|k| !k.strangers) => {
            }
            _ if Disturbs::of(decision.map(AsRef::as_ref)).statements => self.forget_prepared(),
            _ => {}
        }
    }

    /// A statement ran that may have made, replaced or dropped what names stand for: what we know of them is void, and a later use of
    /// such a name is one of something unknown. The record keeps the texts.
    pub(crate) fn void(&mut self, disturbs: Disturbs) {
        self.unknown = self.unknown.or(disturbs);
        if disturbs.statements {
            self.statements.clear();
        }
        if disturbs.portals {
            self.portals.clear();
        }
    }
}
