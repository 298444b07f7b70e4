//! Prepared statements and portals as the *server* has them: entries appear when it says ParseComplete or BindComplete, not when
//! the client asks, because a pipeline that fails leaves the old ones in force.

use std::sync::Arc;

use flow::budget::Meter;
use flow::limits::PREPARED_MAX;
use policy::{Decision, Kept, Mentions};

use crate::name::{ByName, Name, Named};

/// A prepared statement.
#[derive(Clone)]
pub(crate) struct Prepared {
    /// The number of the record entry that holds its text.
    pub(crate) number: u64,
    /// `None`: no rule touched the session when it was prepared.
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    /// Its text, kept where a later policy may have to judge it again.
    pub(crate) text: Option<Arc<[u8]>>,
    /// The types its parameters were declared to have, where it has a name and there are any.
    pub(crate) types: Option<Box<Types>>,
    /// Which judgement it was decided under.
    pub(crate) stamp: u64,
}

/// Object ids, as Parse has them.
#[derive(Clone)]
pub(crate) struct Types(pub(crate) Box<[u8]>);

impl Prepared {
    /// How much of [`flow::limits::PREPARED_BYTES_MAX`] it takes.
    fn bytes(&self) -> u32 {
        let bytes = self.text.as_ref().map_or(0, |t| t.len()) + self.types.as_ref().map_or(0, |t| t.0.len());
        // Each is of one message, and all of them are bounded.
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// A portal made by Bind.
pub(crate) struct Portal {
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    pub(crate) number: u64,
    /// Of a portal that was suspended with rows left: what its limits still allow.
    pub(crate) meter: Option<Box<Meter>>,
    /// Likewise: a line of its plan was not understood.
    pub(crate) torn: bool,
}

/// Which names a statement may give to something else behind the protocol's back (SQL's PREPARE, DEALLOCATE, DECLARE, CLOSE, …). Never
/// the empty one: SQL has no such name, and plpgsql makes one up for it (`SPI_cursor_open`, spi.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disturbs {
    pub(crate) statements: bool,
    pub(crate) portals: bool,
    /// It runs on what was called before ([`policy::Mentions::resumes`]): what that may do, it may do.
    pub(crate) resumes: bool,
}

impl Disturbs {
    pub(crate) const ALL: Disturbs = Disturbs { statements: true, portals: true, resumes: true };

    pub(crate) fn of(decision: Option<&Decision>) -> Disturbs {
        let Some(decision) = decision else { return Disturbs::ALL };
        let (does, code) = (decision.mentions, decision.code());
        Disturbs {
            statements: does.statements || code.statements,
            portals: does.portals || code.portals,
            resumes: does.resumes,
        }
    }

    pub(crate) fn or(self, other: Disturbs) -> Disturbs {
        Disturbs {
            statements: self.statements || other.statements,
            portals: self.portals || other.portals,
            resumes: self.resumes || other.resumes,
        }
    }

    /// With what code that waits behind a cursor may do, where this goes on with it.
    pub(crate) fn with(self, lurking: Mentions) -> Disturbs {
        Disturbs {
            statements: self.statements || (self.resumes && lurking.statements),
            portals: self.portals || (self.resumes && lurking.portals),
            resumes: self.resumes,
        }
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
    /// What statements the client prepared take, lost ones too ([`Prepared::bytes`]).
    pub(crate) bytes: u32,
    /// In a box: most sessions never use them.
    sql: Option<Box<SqlNames>>,
}

/// What SQL, or code of users, did to names.
///
/// What SQL keeps under names is remembered as what was decided when it was made: a FETCH or an EXECUTE says nothing of what it reads.
/// It is forgotten at the first sign that a name may stand for something else (see [`policy::Kept`]).
#[derive(Default)]
struct SqlNames {
    /// Cursors of this transaction, and those held over the ends of others.
    cursors: Vec<Arc<Decision>>,
    /// Prepared statements, oldest first.
    prepared: Vec<Arc<Decision>>,
    /// A name that is in no table may stand for something all the same: what was known of some is void.
    unknown: Disturbs,
    /// Statements the client prepared whose names code of users may have given to others. They are prepared again before they are bound.
    lost: ByName<Prepared>,
    /// What code may do that the open transaction has called, or a cursor was made of: it runs when they are gone on with.
    lurking: Mentions,
}

/// Of SQL's PREPARE and DECLARE, that are remembered.
const SQL_PREPARED_MAX: usize = 64;
const SQL_CURSORS_MAX: usize = 16;

impl Tables {
    /// What was decided of the DECLARE or PREPARE that a FETCH or EXECUTE names.
    pub(crate) fn kept(&self, decision: Option<&Arc<Decision>>) -> Option<&Arc<Decision>> {
        let sql = self.sql.as_deref()?;
        let used = decision?.kept.as_ref()?;
        let serves = |d: &&Arc<Decision>| d.kept.as_ref().is_some_and(|made| made.serves(used));
        sql.cursors.iter().chain(&sql.prepared).find(serves)
    }

    pub(crate) fn forget_cursors(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.cursors.clear();
        }
    }

    /// A transaction ended.
    pub(crate) fn forget_cursors_not_held(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.cursors.retain(|d| matches!(d.kept, Some(Kept::Declared { hold: true, .. })));
        }
    }

    pub(crate) fn forget_prepared(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.prepared.clear();
        }
    }

    /// The judgement changed: what was decided before is void.
    pub(crate) fn forget_kept(&mut self) {
        self.forget_cursors();
        self.forget_prepared();
    }

    /// The client prepared this statement.
    pub(crate) fn prepared(&mut self, name: Name, prepared: Prepared) {
        self.renamed(&name);
        let bytes = prepared.bytes();
        let before = self.statements.insert(name, prepared);
        self.bytes = self.bytes.saturating_add(bytes).saturating_sub(before.map_or(0, |p| p.bytes()));
    }

    /// The client closed this one.
    pub(crate) fn closed(&mut self, name: &[u8]) {
        let closed = self.statements.remove(name);
        self.bytes = self.bytes.saturating_sub(closed.map_or(0, |p| p.bytes()));
        self.renamed(name);
    }

    /// The protocol made or closed a statement of this name.
    pub(crate) fn renamed(&mut self, name: &[u8]) {
        if let Some(sql) = &mut self.sql {
            sql.prepared.retain(|d| !prepares(d, name));
            self.bytes = self.bytes.saturating_sub(sql.lost.remove(name).map_or(0, |p| p.bytes()));
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
            // It succeeded, so the name was free.
            Some(d) if matches!(does, Some(Kept::Declared { .. })) && !d.code().portals => {
                let cursors = &mut self.sql.get_or_insert_default().cursors;
                cursors.retain(|known| known.kept.as_ref().map(Kept::name) != does.map(Kept::name));
                if cursors.len() >= SQL_CURSORS_MAX {
                    cursors.remove(0);
                }
                cursors.push(d.clone());
            }
            Some(_) if matches!(does, Some(Kept::Fetched(_))) && known.is_some() => {}
            Some(d)
                if d.clean
                    && !d.withhold
                    && !d.code().portals
                    && !d.mentions.portals
                    && !command.starts_with(b"ROLLBACK") => {}
            Some(d) if !d.code().portals && command == b"COMMIT\0" => self.forget_cursors_not_held(),
            _ => self.forget_cursors(),
        }
        match decision {
            // It succeeded, so the name was free.
            Some(d) if matches!(does, Some(Kept::Prepared { .. })) && !d.code().statements => {
                let prepared = &mut self.sql.get_or_insert_default().prepared;
                if prepared.len() >= SQL_PREPARED_MAX {
                    prepared.remove(0);
                }
                prepared.push(d.clone());
            }
            // What it ran is known.
            Some(_)
                if matches!(does, Some(Kept::Executed { .. }))
                    && known.is_some_and(|k| !k.code().statements) => {}
            _ if Disturbs::of(decision.map(AsRef::as_ref)).statements => self.forget_prepared(),
            _ => {}
        }
    }

    /// A statement ran that may have made, replaced or dropped what names stand for: what we know of them is void, and a later use of
    /// such a name is one of something unknown. The record keeps the texts.
    ///
    /// `gone`: not only may names stand for something else, the client cannot expect its own to be there.
    #[cold]
    pub(crate) fn void(&mut self, disturbs: Disturbs, gone: bool) {
        let sql = self.sql.get_or_insert_default();
        sql.unknown = sql.unknown.or(disturbs);
        if disturbs.statements {
            let named = self.statements.take_named();
            if gone || sql.lost.len() + named.as_ref().map_or(0, |n| n.len()) > PREPARED_MAX {
                sql.lost.clear();
                let left = self.statements.get(b"").into_iter().chain(named.iter().flat_map(|n| n.values()));
                self.bytes = left.map(Prepared::bytes).sum();
            }
            for (name, prepared) in named.into_iter().flat_map(|named| *named) {
                if gone {
                    self.bytes = self.bytes.saturating_sub(prepared.bytes());
                } else if let Some(before) = sql.lost.insert(name, prepared) {
                    self.bytes = self.bytes.saturating_sub(before.bytes());
                }
            }
        }
        if disturbs.portals {
            self.portals.clear_named();
        }
    }

    /// Code that may do this waits behind what the transaction made.
    pub(crate) fn lurks(&mut self, code: Mentions) {
        if code != Mentions::default() {
            let sql = self.sql.get_or_insert_default();
            sql.lurking = sql.lurking.or(code);
        }
    }

    pub(crate) fn lurking(&self) -> Mentions {
        self.sql.as_ref().map_or(Mentions::default(), |sql| sql.lurking)
    }

    /// No transaction is open: what outlives it is read already.
    pub(crate) fn forget_lurking(&mut self) {
        if let Some(sql) = &mut self.sql {
            sql.lurking = Mentions::default();
        }
    }

    /// The statement of this name may be one we know nothing of.
    pub(crate) fn statement_unknown(&self, name: &[u8]) -> bool {
        let unknown = self.sql.as_ref().is_some_and(|sql| sql.unknown.statements);
        unknown && !name.is_empty() && self.statements.get(name).is_none()
    }

    /// What SQL's PREPARE made under this name.
    pub(crate) fn prepared_by_sql(&self, name: &[u8]) -> Option<&Arc<Decision>> {
        self.sql.as_ref()?.prepared.iter().find(|d| prepares(d, name))
    }

    /// The portal of this name, likewise.
    pub(crate) fn portal_unknown(&self, name: &[u8]) -> bool {
        let unknown = self.sql.as_ref().is_some_and(|sql| sql.unknown.portals);
        unknown && !name.is_empty() && self.portals.get(name).is_none()
    }

    /// What the client prepared under a name that may stand for something else now.
    pub(crate) fn lost(&self, name: &[u8]) -> Option<&Prepared> {
        let lost = &self.sql.as_ref()?.lost;
        if lost.is_empty() || self.statements.get(name).is_some() { None } else { lost.get(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(bytes: usize) -> Prepared {
        let (text, types) = (Some(vec![b'x'; bytes].into()), Some(Box::new(Types(vec![0; 4].into()))));
        Prepared { number: 1, decision: None, disturbs: Disturbs::default(), text, types, stamp: 0 }
    }

    #[test]
    fn what_texts_take_is_known_whatever_becomes_of_them() {
        let mut tables = Tables::default();
        let name = |n: u8| Name::new(&[n]);
        for n in 0..4 {
            tables.prepared(name(n), prepared(100));
        }
        assert_eq!(tables.bytes, 416);
        tables.prepared(name(0), prepared(10));
        tables.closed(&[1]);
        tables.closed(b"nobody");
        assert_eq!(tables.bytes, 222);
        let statements = Disturbs { statements: true, ..Disturbs::default() };
        tables.void(statements, false);
        assert_eq!(tables.bytes, 222);
        tables.prepared(name(2), prepared(1));
        assert_eq!(tables.bytes, 14 + 5 + 104);
        tables.prepared(Name::new(b""), prepared(6));
        tables.void(statements, true);
        assert_eq!(tables.bytes, 10);
    }
}
